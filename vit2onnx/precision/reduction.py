"""Bring a graph in float32 to the precision of its recipe."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

from vit2onnx.errors import InputError, InternalError
from vit2onnx.files import read_json
from vit2onnx.precision.float16 import to_float16
from vit2onnx.precision.int8 import to_int8
from vit2onnx.precision.ranges import Ranges
from vit2onnx.spec.recipe import Recipe
from vit2onnx.weights.keytable import LazyTensor


@dataclass(frozen=True)
class Basis:
    """What the reduction of a graph is based on: how large its values become in float32, and, for float16, which of
    them stay there, each with the reason.
    """

    ranges: Ranges
    float32: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, ranges: Path, plan: Path | None) -> "Basis":
        """Read both from their files; only a graph in float16 has a plan."""
        return cls(Ranges.read(ranges), read_json(plan)["float32"] if plan else {})


def reduced(
    graph: ir.Model,
    tensors: Mapping[str, LazyTensor],
    inputs: Collection[str],
    recipe: Recipe,
    basis: Basis | None,
) -> Mapping[str, LazyTensor]:
    """Rewrite a graph for its recipe, in place; returns its parameters, which are inputs of the graph besides `inputs`.

    A graph in float32 is left as it is, and needs no `basis`. Raises `InputError` if the recipe is in int8, and does
    not say how activations are quantised.
    """
    if not recipe.is_small:
        return tensors
    if basis is None:
        raise InternalError(f"{recipe.name} is in {recipe.precision}, and its ranges were not measured")
    if recipe.precision == "float16":
        made = to_float16(graph, tensors, inputs, basis.float32)
    elif recipe.activations is None:
        raise InputError(f"The recipe {recipe.name} is in int8; give its activations, dynamic or static.")
    else:
        made = to_int8(graph, tensors, inputs, basis.ranges, recipe.activations)
    # Constants of which there is another in the small precision now.
    for name in [name for name, value in graph.graph.initializers.items() if not value.uses()]:
        del graph.graph.initializers[name]
    return made
