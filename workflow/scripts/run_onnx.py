"""All outputs of an exported graph, in single and in double precision."""

from vit2onnx.job import snakemake

from collections.abc import Sequence
from pathlib import Path

from vit2onnx.files import open_arrays, write_arrays
from vit2onnx.onnx_file import check_file
from vit2onnx.runners.onnx import run_graph
from vit2onnx.spec.case import accepted
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec


def run_onnx(
    spec: VariantSpec,
    recipe: Recipe,
    graph: Path,
    pixel_values: Path,
    outputs: Path,
    *,
    batch_sizes: Sequence[int],
    threads: int,
) -> None:
    check_file(graph)
    with open_arrays(pixel_values) as arrays:
        images = {str(case): arrays[str(case)] for case in accepted(arrays, recipe)}
    interface = spec.interface(recipe.interface)
    write_arrays(outputs, run_graph(graph, interface, recipe, images, batch_sizes, threads))


if __name__ == "__main__":
    run_onnx(
        VariantSpec.from_mapping(snakemake.wildcards.variant, snakemake.params.spec),
        Recipe.from_mapping(snakemake.wildcards.export, snakemake.params.recipe),
        Path(snakemake.input.graph),
        Path(snakemake.input.pixel_values),
        Path(snakemake.output.outputs),
        batch_sizes=snakemake.params.batch_sizes,
        threads=snakemake.threads,
    )
