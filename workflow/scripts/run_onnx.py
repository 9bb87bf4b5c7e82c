"""All outputs of an exported graph, in single and in double precision."""

from vit2onnx.job import snakemake

from collections.abc import Sequence
from pathlib import Path

from vit2onnx.files import open_arrays, write_arrays
from vit2onnx.onnx_file import check_file
from vit2onnx.runners.onnx import run_graph
from vit2onnx.spec.case import Case
from vit2onnx.spec.interface import cases_in, of_cases
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec


def run_onnx(
    spec: VariantSpec,
    recipe: Recipe,
    graph: Path,
    inputs: Path,
    outputs: Path,
    *,
    batch_sizes: Sequence[int],
    threads: int,
) -> None:
    check_file(graph)
    interface = spec.interface_of(recipe)
    with open_arrays(inputs) as arrays:
        chosen_by = interface.compared_recipe(recipe)
        cases = {case for case in cases_in(arrays) if interface.compared_as.accepts(Case.parse(case), chosen_by)}
        accepted = of_cases(arrays, cases)
    write_arrays(outputs, run_graph(graph, interface, recipe, accepted, batch_sizes, threads))


if __name__ == "__main__":
    run_onnx(
        VariantSpec.from_mapping(snakemake.wildcards.variant, snakemake.params.spec),
        Recipe.from_mapping(snakemake.wildcards.export, snakemake.params.recipe),
        Path(snakemake.input.graph),
        Path(snakemake.input.inputs),
        Path(snakemake.output.outputs),
        batch_sizes=snakemake.params.batch_sizes,
        threads=snakemake.threads,
    )
