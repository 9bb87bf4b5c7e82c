"""Measure how far an exported graph is from references, Equinox model and truth."""

from vit2onnx.job import snakemake

from collections.abc import Mapping, Sequence
from pathlib import Path

from vit2onnx.files import write_text
from vit2onnx.parity.outputs import compare_files
from vit2onnx.parity.tables import csv_of, flat_semantics
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec


def compare(
    spec: VariantSpec,
    recipe: Recipe,
    arrays: Mapping[str, Path],
    references: Mapping[str, Path],
    batch_sizes: Sequence[int],
    comparison: Path,
    differences: Path,
    semantics: Path,
) -> None:
    """Write the comparison as JSON and its rows as tables; `arrays` are the files of all but the references."""
    result = compare_files(spec, recipe, arrays, references, batch_sizes)
    result.write(comparison)
    for path, rows in ((differences, result.differences), (semantics, flat_semantics(result.semantics))):
        write_text(path, csv_of(rows))


if __name__ == "__main__":
    compare(
        VariantSpec.from_mapping(snakemake.wildcards.variant, snakemake.params.spec),
        Recipe.from_mapping(snakemake.wildcards.export, snakemake.params.recipe),
        {name: Path(snakemake.input[name]) for name in ("inputs", "equinox", "onnx")},
        dict(zip(snakemake.params.references, map(Path, snakemake.input.references), strict=True)),
        snakemake.params.batch_sizes,
        **{name: Path(path) for name, path in snakemake.output.items()},
    )
