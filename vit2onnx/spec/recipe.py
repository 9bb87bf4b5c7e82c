"""How a model is exported."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """One export recipe. A dimension of `None` is free in the graph."""

    name: str
    batch: int | None
    height: int | None
    width: int | None
    opset: int

    @classmethod
    def from_mapping(cls, name: str, mapping: Mapping[str, Any]) -> "Recipe":
        def size(key: str) -> int | None:
            return None if mapping[key] == "dynamic" else mapping[key]

        return cls(name, size("batch"), size("height"), size("width"), mapping["opset"])

    def accepts(self, height: int, width: int) -> bool:
        """Whether an image of this size fits the graph."""
        return self.height in (None, height) and self.width in (None, width)
