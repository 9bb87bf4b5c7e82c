"""The way from a checkpoint to ONNX files in Python, without Snakemake."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vit2onnx.checkpoints.convert import convert_checkpoint
from vit2onnx.exporting.graph import trace, write
from vit2onnx.exporting.metadata import metadata_of
from vit2onnx.files import atomic
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec
from vit2onnx.weights.archive import read_archive
from vit2onnx.weights.model_file import map_model, open_model, write_model


def convert(spec: VariantSpec, checkpoint: Path, folder: Path) -> Path:
    """Convert a checkpoint to `model.eqx` in a folder, beside archive and ledger; returns its path.

    Raises `InputError` with every tensor that is missing, unknown or misshapen.
    """
    archive, model = folder / "archive.tar.lz4", folder / "model.eqx"
    convert_checkpoint(spec, checkpoint, archive, folder / "ledger.csv")
    with atomic(model) as new:
        write_model(new, spec, map_model(spec, read_archive(archive, spec)))
    return model


def export(
    spec: VariantSpec,
    recipe: Recipe,
    model: Path,
    graph: Path,
    record: Mapping[str, Any],
    *,
    ledger_sha256: str = "",
    external: bool = False,
) -> Path:
    """Export `model.eqx` by a recipe; returns the path of the graph.

    `record` says what the checkpoint is, as `checkpoints.fetch.describe` does. If `external`, the weights stay in
    `model`, beside which the graph must lie.
    """
    skeleton, tensors = open_model(model)
    traced = trace(skeleton, spec, recipe)
    metadata, interface = metadata_of(spec, recipe, record, ledger_sha256), spec.interface(recipe.interface)
    write(traced, graph, interface, recipe, metadata, tensors, weights=model, external=external)
    return graph
