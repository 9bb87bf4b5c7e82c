"""The whole way in Python, without Snakemake: a checkpoint becomes an ONNX file with a verdict."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vit2onnx.checkpoints.convert import convert_checkpoint
from vit2onnx.checkpoints.identity import describe
from vit2onnx.errors import InputError
from vit2onnx.exporting.graph import export, export_weights
from vit2onnx.exporting.ranges import plan_of_graph, ranges_of_graph
from vit2onnx.exporting.weights import MOST_BYTES
from vit2onnx.files import atomic
from vit2onnx.images import load_image, preprocess
from vit2onnx.inputs import inputs_of
from vit2onnx.onnx_file import bytes_of, data_beside
from vit2onnx.parity.comparison import Comparison
from vit2onnx.parity.outputs import compare_outputs
from vit2onnx.parity.preprocessing import compare_preprocessing
from vit2onnx.parity.verdict import Verdict, judge_graph
from vit2onnx.precision.reduction import Basis
from vit2onnx.runners import equinox, torch
from vit2onnx.runners.onnx import run_graph
from vit2onnx.runners.photographs import compare_graph
from vit2onnx.spec.cases import cases_of, sizes_of
from vit2onnx.spec.family import part
from vit2onnx.spec.interface import cases_in
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec
from vit2onnx.weights.archive import read_archive
from vit2onnx.weights.model_file import map_model, open_model, write_model

Arrays = Mapping[str, np.ndarray]


def prove(
    spec: VariantSpec,
    recipe: Recipe,
    checkpoint: Path,
    folder: Path,
    photographs: Mapping[str, Path],
    limits: Mapping[str, Mapping[str, Any]],
    *,
    texts: Mapping[str, Sequence[int]] | None = None,
    sizes: Sequence[tuple[int, int]] = ((224, 224), (160, 288)),
    pairs: Sequence[tuple[int, int]] = ((3, 5),),
    batch_sizes: Sequence[int] = (1, 3),
    weights: str = "official",
    threads: int = 2,
) -> Verdict:
    """Convert a checkpoint to `{recipe}.onnx` in a folder, and judge it on photographs or texts, all in memory.

    `limits` are those of `config/limits.yaml` for the recipe's precision, as `limits_of` gives them. What is compared
    are those `sizes` that the recipe accepts, its own if it is fixed, and those that the family adds. `texts` are token
    ids by name, and `pairs` numbers of images and texts. `weights` says whose they are: `official`, `own` or
    `synthetic`. Weights of more than 1.9 GB are in a file beside the graph, which in single precision is `model.eqx`.
    The reference is transformers. Raises `InputError` if the checkpoint is not the variant's, or if the recipe accepts
    nothing of what is given.
    """
    interface = spec.interface_of(recipe)
    if unset := interface.minimum.keys() - interface.of_recipe(recipe).keys():
        raise InputError(
            f"The recipe {recipe.name} sets no {', '.join(sorted(unset))}; give a number, or None for any."
        )
    given = {"photographs": photographs, "texts": texts, "pairs": pairs}
    needed = {"image": ["photographs"], "text": ["texts"], "pair": list(given)}[interface.kind]
    if lacking := [name for name in needed if not given[name]]:
        raise InputError(f"The recipe {recipe.name} is compared on {', '.join(needed)}; give some {lacking[0]}.")
    sizes = [*sizes, *spec.architecture.telling_sizes]
    single, chosen_by = interface.compared_as, interface.compared_recipe(recipe)
    cases = cases_of(single, [chosen_by], images=list(photographs), texts=list(texts or {}), sizes=sizes, pairs=pairs)
    cases = [case for case in cases if single.accepts(case, chosen_by)]
    if not cases:
        raise InputError(f"The recipe {recipe.name} accepts none of the sizes; give one that it accepts.")
    record = describe(spec, checkpoint, origin={"kind": "file", "name": checkpoint.name}, weights=weights)
    model = convert(spec, checkpoint, folder)
    # With room for the nodes.
    external = recipe.bytes_per_weight * spec.parameters_of(interface) > 0.9 * MOST_BYTES
    inputs = inputs_of(spec, single, cases, photographs, texts or {})
    basis = basis_of(spec, recipe, model, inputs, limits)
    graph = export(spec, recipe, model, folder / f"{recipe.name}.onnx", record, external=external, basis=basis)
    if external and basis:
        export_weights(spec, recipe, model, data_beside(graph), basis)
    reference = torch.reference_of(spec, "transformers", checkpoint)
    references = {"transformers": torch.features(reference, inputs, single)}
    features = equinox.features(*open_model(model), inputs, single)
    comparison = compare(spec, recipe, graph, inputs, references, features, batch_sizes, threads)
    pictured = [] if interface.kind == "text" else sizes_of(single, [chosen_by], sizes)
    prepared = _prepared(spec, pictured, photographs)
    if interface.prepares:
        opened = ((name, load_image(path)) for name, path in photographs.items())
        prepared += compare_graph(graph, spec, recipe, opened, threads)
    return judge_graph(comparison, limits, record, prepared, bytes=bytes_of(graph))


def basis_of(
    spec: VariantSpec, recipe: Recipe, model: Path, inputs: Arrays, limits: Mapping[str, Mapping[str, Any]]
) -> Basis | None:
    """What the reduction of a graph to its precision is based on; nothing if that is float32."""
    if not recipe.is_small:
        return None
    ranges = ranges_of_graph(spec, recipe, model, inputs)
    if recipe.precision == "int8":
        return Basis(ranges)
    return Basis(ranges, plan_of_graph(spec, recipe, model, inputs, ranges, limits["cosine"]["limit"])["float32"])


def _prepared(
    spec: VariantSpec, sizes: Sequence[tuple[int, int]], photographs: Mapping[str, Path]
) -> list[dict[str, Any]]:
    """How far the preparation of photographs is from that of others."""
    opened = {name: load_image(path) for name, path in photographs.items()}
    return compare_preprocessing(opened.items(), sizes, spec, part(spec.family, "references"), preprocess)


def convert(spec: VariantSpec, checkpoint: Path, folder: Path) -> Path:
    """Convert a checkpoint to `model.eqx` in a folder, beside archive and ledger; returns its path.

    Raises `InputError` with every tensor that is missing, unknown or misshapen.
    """
    archive, model = folder / "archive.tar.lz4", folder / "model.eqx"
    convert_checkpoint(spec, checkpoint, archive, folder / "ledger.csv")
    with atomic(model) as new:
        write_model(new, spec, map_model(spec, read_archive(archive, spec)))
    return model


def compare(
    spec: VariantSpec,
    recipe: Recipe,
    graph: Path,
    inputs: Arrays,
    references: Mapping[str, Arrays],
    features: Arrays,
    batch_sizes: Sequence[int],
    threads: int,
) -> Comparison:
    """Run a graph on inputs and compare it with what references and the Equinox model give."""
    interface = spec.interface_of(recipe)
    outputs = dict(run_graph(graph, interface, recipe, inputs, batch_sizes, threads))
    return compare_outputs(spec, recipe, cases_in(inputs), references, features, outputs, batch_sizes)
