"""Bring a graph in single precision to the precision of its recipe."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from vit2onnx.errors import InternalError
from vit2onnx.files import read_json
from vit2onnx.precision.half import to_half
from vit2onnx.precision.int8 import to_int8
from vit2onnx.precision.ranges import Ranges
from vit2onnx.spec.recipe import ACTIVATIONS, Recipe
from vit2onnx.weights.keytable import LazyTensor


@dataclass(frozen=True)
class Measured:
    """What was found of a graph in single precision: how large its values become, and which of them half precision may
    not hold.
    """

    ranges: Ranges
    wide: Collection[str] = ()

    @classmethod
    def read(cls, ranges: Path, plan: Path | None) -> "Measured":
        """Read both from their files; only a graph in half precision has a plan."""
        return cls(Ranges.read(ranges), read_json(plan)["all_wide"] if plan else ())


def reduced(
    graph: ir.Model,
    tensors: Mapping[str, LazyTensor],
    inputs: Collection[str],
    recipe: Recipe,
    measured: Measured | None,
) -> Mapping[str, LazyTensor]:
    """Rewrite a graph for its recipe, in place; returns its parameters, which are inputs of the graph besides `inputs`.

    A graph in single precision is left as it is, and needs nothing `measured`.
    """
    if recipe.precision == "float32":
        return tensors
    if measured is None:
        raise InternalError(f"{recipe.name} is in {recipe.precision}, and its ranges were not measured")
    if recipe.precision == "int8":
        made = to_int8(graph, tensors, inputs, measured.ranges, recipe.activations or ACTIVATIONS[0])
    else:
        made = to_half(graph, tensors, inputs, measured.wide)
    # Constants of which there is another in the small precision now.
    for name in [name for name, value in graph.graph.initializers.items() if not value.uses()]:
        del graph.graph.initializers[name]
    return made
