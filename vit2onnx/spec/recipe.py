"""How a model is exported. Standard library only, because the Snakefile imports this module."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Ways to keep the attention of packed images apart, each with the first operator set that has it: one image after the
# other, or all at once, padded to the longest.
ATTENTION = {"loop": 23, "padded": 24}
DEFAULT_ATTENTION = "loop"
# The precision of weights and of the values between nodes, with the bytes of a weight. Inputs and outputs are always in
# single precision. In a small precision some weights are as well, for which there is a quarter more.
PRECISIONS = {"float32": 4, "float16": 2.5, "int8": 1.25}
SINGLE = "float32"
# Operators of their own for attention, rotation and GELU, or plain ones; and the first operator set that has them.
OPERATORS = {"native": 23, "portable": 17}
# How int8 files scale what goes into a matrix product: by each input as it comes, or by photographs seen before.
ACTIVATIONS = ("dynamic", "static")
# Parameters that nodes of a graph multiply into weights. A runtime computes these once, when it loads the file.
FOLDS = ("layer_scale",)


@dataclass(frozen=True)
class Recipe:
    """One way to export a model: `sizes` has a number for each axis of its interface, or `None` if that is free.

    `attention` says how a graph of packed images keeps their attention apart, as one of `ATTENTION`; other graphs have
    none. `activations`, one of `ACTIVATIONS`, is of graphs in int8 alone. `outputs` names earlier layers that come out
    besides what the interface gives by itself. `folds`, of `FOLDS`, are of graphs in float32 alone.
    """

    name: str
    opset: int
    sizes: Mapping[str, int | None]
    interface: str = "images"
    attention: str | None = None
    precision: str = SINGLE
    operators: str = "native"
    activations: str | None = None
    outputs: tuple[str, ...] = ()
    folds: tuple[str, ...] = ()

    @classmethod
    def from_mapping(cls, name: str, mapping: Mapping[str, Any]) -> "Recipe":
        """Build a recipe from its part of the config."""
        own = dict(mapping)
        given = {key: own.pop(key) for key in ("interface", "attention", "precision", "operators") if key in own}
        opset, activations = own.pop("opset"), own.pop("activations", None)
        outputs, folds = (tuple(own.pop(key, ())) for key in ("outputs", "folds"))
        if given.get("precision") == "int8":
            activations = activations or ACTIVATIONS[0]
        sizes = {axis: None if size == "dynamic" else size for axis, size in own.items()}
        return cls(name, opset, sizes, activations=activations, outputs=outputs, folds=folds, **given)

    @property
    def is_small(self) -> bool:
        """Whether the graph is in a smaller precision than the model."""
        return self.precision != SINGLE

    @property
    def bytes_per_weight(self) -> float:
        """How large a weight is on average, at most."""
        return PRECISIONS[self.precision]

    @property
    def batch(self) -> int | None:
        """How many inputs a graph takes at once; `None` if that is free."""
        return self.sizes.get("batch")
