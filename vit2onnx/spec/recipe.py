"""How a model is exported. Standard library only, because the Snakefile imports this module."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """One way to export a model: `sizes` has a number for each axis of its interface, or `None` if that is free."""

    name: str
    opset: int
    sizes: Mapping[str, int | None]
    interface: str = "images"

    @classmethod
    def from_mapping(cls, name: str, mapping: Mapping[str, Any]) -> "Recipe":
        """Build a recipe from its part of the config."""
        own = dict(mapping)
        opset, interface = own.pop("opset"), own.pop("interface", "images")
        return cls(name, opset, {axis: None if size == "dynamic" else size for axis, size in own.items()}, interface)

    @property
    def batch(self) -> int | None:
        """How many inputs a graph takes at once; `None` if that is free."""
        return self.sizes.get("batch")
