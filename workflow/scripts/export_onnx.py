"""Export the inference model of a variant by one recipe."""

import json
from pathlib import Path

from vit2onnx.exporting.graph import trace, write
from vit2onnx.exporting.metadata import metadata_of
from vit2onnx.files import sha256_of
from vit2onnx.logs import logging_to
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec
from vit2onnx.weights.model_file import open_model


def export_onnx(
    spec: VariantSpec, export: Recipe, model: Path, record: Path, ledger: Path, graph: Path, *, external: bool
) -> None:
    skeleton, tensors = open_model(model)
    traced = trace(skeleton, spec, export)
    metadata = metadata_of(spec, export, json.loads(record.read_text()), sha256_of(ledger))
    write(traced, graph, spec.interface(export.interface), export, metadata, tensors, weights=model, external=external)


if __name__ == "__main__":
    with logging_to(snakemake.log[0]):
        export_onnx(
            VariantSpec.from_mapping(snakemake.wildcards.variant, snakemake.params.spec),
            Recipe.from_mapping(snakemake.wildcards.export, snakemake.params.recipe),
            Path(snakemake.input.model),
            Path(snakemake.input.record),
            Path(snakemake.input.ledger),
            Path(snakemake.output.graph),
            external=snakemake.params.external,
        )
