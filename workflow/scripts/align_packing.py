"""Measure whether the images of a pack depend on each other, and whether the graph refuses wrong inputs."""

from vit2onnx.job import snakemake

from pathlib import Path

from vit2onnx.files import open_arrays, write_text
from vit2onnx.onnx_file import check_file
from vit2onnx.parity.tables import csv_of
from vit2onnx.runners.packing import probe_graph
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec


def align_packing(
    spec: VariantSpec,
    recipe: Recipe,
    graph: Path,
    inputs: Path,
    reference: Path,
    equinox: Path,
    comparison: Path,
    table: Path,
    *,
    threads: int,
) -> None:
    check_file(graph)
    with open_arrays(inputs) as given, open_arrays(reference) as first, open_arrays(equinox) as second:
        result = probe_graph(spec, recipe, graph, given, first, second, threads)
    result.write(comparison)
    write_text(table, csv_of(result.rows))


if __name__ == "__main__":
    align_packing(
        VariantSpec.from_mapping(snakemake.wildcards.variant, snakemake.params.spec),
        Recipe.from_mapping(snakemake.wildcards.export, snakemake.params.recipe),
        *(Path(snakemake.input[name]) for name in ("graph", "inputs", "reference", "equinox")),
        **{name: Path(path) for name, path in snakemake.output.items()},
        threads=snakemake.threads,
    )
