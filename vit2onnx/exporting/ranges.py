"""How large the values of a graph become, and what float16 may hold of them, before its precision is reduced."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vit2onnx.exporting.graph import folded
from vit2onnx.precision.bounds import bounds
from vit2onnx.precision.calibration import more_of
from vit2onnx.precision.float16_plan import plan_float16, refined, with_logits
from vit2onnx.precision.parts import places_of, summary
from vit2onnx.precision.ranges import Ranges, measure
from vit2onnx.precision.simulation import lowest_cosine, simulate
from vit2onnx.runners.batches import batches_of
from vit2onnx.spec.case import Case
from vit2onnx.spec.interface import cases_in
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec

Inputs = Mapping[str, np.ndarray]


def ranges_of_graph(spec: VariantSpec, recipe: Recipe, weights: Path, inputs: Inputs) -> Ranges:
    """The ranges of the values of the graph of `weights`, a `model.eqx`, by a recipe, on every second input.

    `inputs` are of the interface on whose cases graphs are compared, called as `key_of` says. The other half stays
    unseen, so that a comparison on all of them shows whether the ranges hold for it as well.
    """
    return measure(*folded(spec, recipe, weights), more_of(_batches(spec, recipe, inputs)))


def plan_of_graph(
    spec: VariantSpec, recipe: Recipe, weights: Path, inputs: Inputs, ranges: Ranges, least: float
) -> dict[str, Any]:
    """What float16 may hold of the graph, as data: `float32` has the values that it may not, each with the reason.

    `blocks` has the bound on each part of each block for all inputs, and the largest value that was seen. `least` is
    the lowest cosine of a token with double precision that the verdict demands; the plan must reach a third of that
    distance, on the inputs of `ranges`.
    """
    ports = [port.name for port in spec.interface_of(recipe).inputs]
    graph, tensors = folded(spec, recipe, weights)
    found = bounds(graph, tensors, _limits_of_inputs(spec))
    largest, places = with_logits(graph, ports, ranges.largest), places_of(graph.graph)
    batches = list(_batches(spec, recipe, inputs))
    exact = simulate(graph, tensors, ports, [*found], batches)

    def accuracy(in_float32: Collection[str]) -> float:
        return lowest_cosine(simulate(graph, tensors, ports, in_float32, batches), exact)

    # Nearer than the verdict demands, because other photographs and other kernels round differently.
    aim = 1 - (1 - least) / 3
    chosen = refined(plan_float16(found, largest), places, accuracy, aim)
    return chosen.as_json() | {"blocks": summary(found, places, ranges.largest)}


def every_second(cases: Collection[str]) -> list[str]:
    """The cases of every second photograph, text or pair, at all their sizes."""
    names = [*dict.fromkeys(Case.parse(case).name for case in cases)][::2]
    return [case for case in cases if Case.parse(case).name in names]


def _batches(spec: VariantSpec, recipe: Recipe, inputs: Inputs) -> Iterator[Inputs]:
    interface = spec.interface_of(recipe)
    single, chosen_by = interface.compared_as, interface.compared_recipe(recipe)
    accepted = [case for case in cases_in(inputs) if single.accepts(Case.parse(case), chosen_by)]
    cases = {case: single.inputs_of(inputs, case) for case in every_second(accepted)}
    batch = (recipe.batch or 1) if interface.is_batched else 0
    return (values for _, values in batches_of(cases, len(cases) if interface.packs else batch, interface))


def _limits_of_inputs(spec: VariantSpec) -> dict[str, float]:
    """The largest value of a normalised pixel, by the inputs that hold pixels, or photographs that become such."""
    constants = zip(spec.preprocessing.mean, spec.preprocessing.std, strict=True)
    most = max(max(mean, 1 - mean) / std for mean, std in constants)
    return {"pixel_values": most, "photographs": most}
