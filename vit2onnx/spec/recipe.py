"""How a model is exported. Standard library only, because the Snakefile imports this module."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Ways to keep the attention of packed images apart, each with the first operator set that has it: one image after the
# other, or all at once, padded to the longest.
ATTENTION = {"loop": 23, "padded": 24}
DEFAULT_ATTENTION = "loop"


@dataclass(frozen=True)
class Recipe:
    """One way to export a model: `sizes` has a number for each axis of its interface, or `None` if that is free.

    `attention` says how a graph of packed images keeps their attention apart, as one of `ATTENTION`; other graphs have
    none.
    """

    name: str
    opset: int
    sizes: Mapping[str, int | None]
    interface: str = "images"
    attention: str | None = None

    @classmethod
    def from_mapping(cls, name: str, mapping: Mapping[str, Any]) -> "Recipe":
        """Build a recipe from its part of the config."""
        own = dict(mapping)
        opset, interface, attention = own.pop("opset"), own.pop("interface", "images"), own.pop("attention", None)
        sizes = {axis: None if size == "dynamic" else size for axis, size in own.items()}
        return cls(name, opset, sizes, interface, attention)

    @property
    def batch(self) -> int | None:
        """How many inputs a graph takes at once; `None` if that is free."""
        return self.sizes.get("batch")
