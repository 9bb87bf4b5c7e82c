"""Dense features of an exported graph."""

from vit2onnx.job import snakemake

from collections.abc import Sequence
from pathlib import Path

from vit2onnx.files import open_arrays, write_arrays
from vit2onnx.onnx_file import check_file
from vit2onnx.runners.onnx_dense import dense_features
from vit2onnx.spec.interface import of_cases
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec


def run_dense_onnx(
    spec: VariantSpec,
    recipe: Recipe,
    graph: Path,
    stages: Path,
    inputs: Path,
    output: Path,
    *,
    cases: Sequence[str],
    layers: Sequence[int],
    threads: int,
) -> None:
    check_file(graph)
    check_file(stages)
    with open_arrays(inputs) as arrays:
        given = of_cases(arrays, cases)
    interface = spec.interface(recipe.interface)
    write_arrays(output, dense_features(graph, stages, interface, recipe, given, layers, threads))


if __name__ == "__main__":
    run_dense_onnx(
        VariantSpec.from_mapping(snakemake.wildcards.variant, snakemake.params.spec),
        Recipe.from_mapping(snakemake.wildcards.export, snakemake.params.recipe),
        *(Path(snakemake.input[name]) for name in ("graph", "stages", "inputs")),
        Path(snakemake.output.features),
        cases=snakemake.params.cases,
        layers=snakemake.params.layers,
        threads=snakemake.threads,
    )
