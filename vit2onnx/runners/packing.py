"""Run a packed graph on probes, and on wrong inputs at every optimisation level."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from vit2onnx.files import sha256_of
from vit2onnx.packing import pack
from vit2onnx.packing.probes import Probed, Run, noise, probe, refusals
from vit2onnx.parity.floors import ROUNDOFF, error, noise_floors
from vit2onnx.parity.packing import PackingComparison, mixed, rows_of
from vit2onnx.runners.session import session_of
from vit2onnx.spec.case import GOLDEN, Case
from vit2onnx.spec.interface import cases_in
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.subject import TRUTH
from vit2onnx.spec.variant import VariantSpec

LEVELS = {
    "as written": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
Arrays = Mapping[str, np.ndarray]


def run_of(session: ort.InferenceSession) -> Run:
    """How a session is run on a pack."""
    names = [port.name for port in session.get_outputs()]

    def run(pixel_values: np.ndarray, grid_thw: np.ndarray) -> dict[str, np.ndarray]:
        outputs = session.run(names, {"pixel_values": pixel_values, "grid_thw": grid_thw})
        return dict(zip(names, outputs, strict=True))

    return run


def probe_graph(
    spec: VariantSpec,
    recipe: Recipe,
    graph: Path,
    inputs: Arrays,
    reference: Arrays,
    equinox: Arrays,
    threads: int,
) -> PackingComparison:
    """What all probes show of a packed graph, on photographs of `inputs` and on noise.

    `reference` and `equinox` have features by kind and case, from which the truth and its noise floors come.
    """
    interface = spec.interface(recipe.interface)
    cases = mixed([case for case in cases_in(inputs) if Case.parse(case) != GOLDEN])
    images = {case: inputs[case] for case in cases} | noise(interface.patch_size)
    floors = {}
    for case in cases:
        pairs = [(one[f"float32/{case}"], one[f"float64/{case}"]) for one in (reference, equinox)]
        floors[case] = ROUNDOFF[recipe.precision] * noise_floors(
            reference[f"float64/{case}"], [error(*pair) for pair in pairs]
        )
    run = run_of(session_of(graph, threads=threads))
    found = list(probe(run, images, interface.patch_size))
    # In every probe, what an image is compared with is what all images together gave for it.
    together = {one.image: one.expected for one in found}
    exact = [Probed(TRUTH, case, together[case], reference[f"float64/{case}"]) for case in cases]
    first = [Probed("reference", case, together[case], reference[f"float32/{case}"]) for case in cases]
    rows = rows_of([*first, *exact, *found], floors)
    refusals = list(refusals_of(graph, pack(images.values(), interface.patch_size)))
    return PackingComparison(spec.name, recipe.name, sha256_of(graph), list(images), list(rows), refusals)


def refusals_of(graph: Path, inputs: Arrays) -> Iterator[dict[str, Any]]:
    """Whether a graph refuses each of `wrong_inputs`, at every optimisation level."""
    for level, optimised in LEVELS.items():
        run = run_of(session_of(graph, optimised, threads=1, quiet=True))
        for wrong, message in refusals(run, inputs):
            yield {"wrong": wrong, "level": level, "refused": message is not None, "message": (message or "")[:300]}
