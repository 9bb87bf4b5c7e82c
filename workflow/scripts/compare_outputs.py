"""Measure how far an exported graph is from references, Equinox model and truth."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vit2onnx.files import read_arrays, write_json, write_text
from vit2onnx.logs import logging_to
from vit2onnx.parity.comparison import by_kind, compare_outputs
from vit2onnx.parity.tables import csv_of, flat_semantics
from vit2onnx.spec.case import Case
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def compare(
    spec: VariantSpec,
    export: Recipe,
    graph: Path,
    pixel_values: Path,
    references: Mapping[str, Path],
    equinox: Path,
    comparison: Path,
    differences: Path,
    semantics: Path,
    *,
    batch_sizes: Sequence[int],
    threads: int,
) -> None:
    cases = {Case.parse(key): array for key, array in read_arrays(pixel_values).items()}
    named = {name: by_kind(read_arrays(path)) for name, path in references.items()}
    own = by_kind(read_arrays(equinox))
    found = compare_outputs(spec, export, graph, cases, named, own, batch_sizes, threads)
    write_json(comparison, found)
    for path, rows in ((differences, found["differences"]), (semantics, flat_semantics(found["semantics"]))):
        write_text(path, csv_of(rows))


if __name__ == "__main__":
    with logging_to(snakemake.log[0]):
        compare(
            VariantSpec.from_mapping(snakemake.wildcards.variant, snakemake.params.spec),
            Recipe.from_mapping(snakemake.wildcards.export, snakemake.params.recipe),
            Path(snakemake.input.graph),
            Path(snakemake.input.pixel_values),
            dict(zip(snakemake.params.references, map(Path, snakemake.input.references), strict=True)),
            Path(snakemake.input.equinox),
            Path(snakemake.output.comparison),
            Path(snakemake.output.differences),
            Path(snakemake.output.semantics),
            batch_sizes=snakemake.params.batch_sizes,
            threads=snakemake.threads,
        )
