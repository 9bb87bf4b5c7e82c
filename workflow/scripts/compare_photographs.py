"""Measure how far a graph that prepares photographs itself is from our preprocessing."""

from vit2onnx.job import snakemake

from collections.abc import Mapping
from pathlib import Path

from vit2onnx.files import sha256_of, write_json, write_text
from vit2onnx.images import load_image
from vit2onnx.onnx_file import check_file
from vit2onnx.parity.tables import csv_of
from vit2onnx.runners.photographs import compare_graph
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec


def compare(
    spec: VariantSpec,
    recipe: Recipe,
    graph: Path,
    images: Mapping[str, Path],
    comparison: Path,
    table: Path,
    *,
    threads: int,
) -> None:
    check_file(graph)
    loaded = ((name, load_image(path)) for name, path in images.items())
    rows = compare_graph(graph, spec, recipe, loaded, threads)
    about = {"variant": spec.name, "export": recipe.name, "graph_sha256": sha256_of(graph)}
    write_json(comparison, about | {"differences": rows})
    write_text(table, csv_of(rows))


if __name__ == "__main__":
    compare(
        VariantSpec.from_mapping(snakemake.wildcards.variant, snakemake.params.spec),
        Recipe.from_mapping(snakemake.wildcards.export, snakemake.params.recipe),
        Path(snakemake.input.graph),
        dict(zip(snakemake.params.names, map(Path, snakemake.input.images), strict=True)),
        Path(snakemake.output.comparison),
        Path(snakemake.output.table),
        threads=snakemake.threads,
    )
