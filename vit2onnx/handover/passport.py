"""The passport of an ONNX file: what it is, whose its weights are, and how far it was found to be from the original."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx.numpy_helper import to_array

from vit2onnx.checkpoints.convert import sha256
from vit2onnx.checkpoints.detect import detect
from vit2onnx.checkpoints.reading import open_checkpoint
from vit2onnx.errors import InputError
from vit2onnx.files import sha256_of
from vit2onnx.onnx_file import FLOORS, PASSPORT_FORMAT, initializers, metadata
from vit2onnx.parity.floors import error, noise_floors
from vit2onnx.parity.verdict import Verdict
from vit2onnx.provenance import versions
from vit2onnx.runners.onnx_constants import computed_constants, origin_of_constants
from vit2onnx.spec.case import Case, of_first_image
from vit2onnx.spec.interface import Interface
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec
from vit2onnx.weights.archive import archive_skeleton
from vit2onnx.weights.keytable import assign, raise_faults, value_of
from vit2onnx.weights.leaves import array_shapes
from vit2onnx.weights.model_file import model_table, skeleton_of


def weights_of(spec: VariantSpec, checkpoint: Path, graph: Path) -> dict[str, Any]:
    """Every initializer of a graph: those that are the checkpoint's tensors, with the way from there, and constants.

    Nothing is taken on trust from the steps between: each tensor is read from the checkpoint once more, brought through
    the declared transforms and compared by hash with what the graph holds. Of tensors that are folded, only constants
    are left: these are proved to be computed from what the graph says, and that to be the checkpoint's. Raises
    `InputError` with every weight that differs.
    """
    tensors = open_checkpoint(checkpoint)
    table = detect(str(checkpoint), spec, tensors)
    leaves = {one.target: one for one in assign(table, array_shapes(archive_skeleton(spec)))}
    found, recorded = initializers(graph), origin_of_constants(graph)
    origins = {one.name: to_array(one) for one in recorded.graph.initializer} if recorded else {}
    weights: dict[str, Any] = {}
    folded: dict[str, Any] = {}
    faults = []
    for assignment in assign(model_table(spec), array_shapes(skeleton_of(spec.family, spec.architecture))):
        name = assignment.target
        (leaf,) = (leaves[source] for source in assignment.sources)
        sources = [tensors[key].read() for key in leaf.sources]
        digest = sha256(value_of(assignment, [value_of(leaf, sources)]))
        way = {
            "shape": assignment.shape,
            "sha256": digest,
            "sources": {key: sha256(array) for key, array in zip(leaf.sources, sources, strict=True)},
            "transforms": [one.transform.name for one in (leaf, assignment) if one.transform.name != "copy"],
        }
        held, origin = found.get(name), origins.get(name)
        proven = held is not None or origin is not None
        proven &= held is None or (held.shape, held.sha256()) == (assignment.shape, digest)
        proven &= origin is None or sha256(origin) == digest
        if not proven:
            where = f"{name} in {held.file.name}" if held else name
            faults.append(
                f"{where} is not what the checkpoint's {', '.join(leaf.sources) or leaf.transform.name} gives"
            )
        (weights if held else folded)[name] = way
    raise_faults(f"{graph}; delete the file that differs and run again", faults)
    constants = {name: one.sha256() for name, one in found.items() if name not in weights}
    computed_constants(graph)
    return {"weights": weights, "constants": constants, "folded": folded}


def passport_of(
    spec: VariantSpec,
    graph: Path,
    checkpoint: Path,
    record: Mapping[str, Any],
    ledger: Path,
    comparison: Mapping[str, Any],
    verdict: Verdict,
    sample: Path,
    limit: float,
) -> dict[str, Any]:
    """The passport of a graph that passed.

    `record` is the content of `checkpoint.json`, `comparison` and `verdict` what was found on the graph, `sample` the
    file of its recorded inputs, outputs and noise floors, `limit` how many of the latter an output may be off. Raises
    `InputError` if the graph is not the one that was compared, or a weight in it not the checkpoint's.
    """
    digest = sha256_of(graph)
    if digest != comparison["graph_sha256"]:
        raise InputError(f"{graph} was changed after it was compared; delete it and run again.")
    own = metadata(graph)
    if sha256_of(ledger) != own["ledger_sha256"]:
        raise InputError(f"{ledger} is not the one from which {graph} was made; delete both and run again.")
    if not verdict.passed:
        raise InputError(f"{graph} did not pass, so that it gets no passport.")
    described = {key: json.loads(own[key]) for key in ("licence", "preprocessing", "tokens", "outputs")}
    return {
        "passport": PASSPORT_FORMAT,
        "file": {
            "name": graph.name,
            "bytes": graph.stat().st_size,
            "sha256": digest,
            "external": sorted({one.file.name for one in initializers(graph).values()} - {graph.name}),
        },
        **{key: own[key] for key in ("variant", "family", "export")},
        "checkpoint": record,
        "ledger_sha256": sha256_of(ledger),
        **described,
        "rope_periods": own["rope_periods"],
        "parity": {
            "references": comparison["references"],
            "runtime": comparison["runtime"],
            "findings": [finding.as_data() for finding in verdict.findings],
        },
        "sample": {"sha256": sha256_of(sample), "limit_in_floors": limit},
        "versions": json.loads(own["versions"]) | versions(["equimo", "numpy", "torch"]) | {"vit2onnx": own["version"]},
        **weights_of(spec, checkpoint, graph),
    }


def sample_of(
    interface: Interface,
    recipe: Recipe,
    pixel_values: Mapping[str, np.ndarray],
    reference: Mapping[str, np.ndarray],
    equinox: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """The first image at all sizes that a graph accepts, its features in double precision, rounded to single, and the
    noise floors of its tokens.

    `pixel_values` are by case; the features of reference and Equinox model are too, with the kind before it.
    """
    sizes = {case: Case.parse(case) for case in of_first_image(pixel_values)}
    sample = {}
    for case in (case for case, one in sizes.items() if recipe.accepts(one.sizes)):
        truth, single = reference[f"float64/{case}"], f"float32/{case}"
        own = error(equinox[single], equinox[f"float64/{case}"])
        sample[f"{interface.inputs[0].name}/{case}"] = pixel_values[case]
        sample[f"{interface.features.name}/{case}"] = truth.astype(np.float32)
        sample[f"{FLOORS}/{case}"] = noise_floors(truth, [error(reference[single], truth), own])
    return sample
