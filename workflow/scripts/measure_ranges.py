"""How large the values of a graph become, by which it is brought to a smaller precision."""

from vit2onnx.job import snakemake

from pathlib import Path

from vit2onnx.exporting.ranges import ranges_of_graph
from vit2onnx.files import open_arrays
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec


def measure_ranges(spec: VariantSpec, recipe: Recipe, model: Path, inputs: Path, ranges: Path) -> None:
    with open_arrays(inputs) as arrays:
        ranges_of_graph(spec, recipe, model, arrays).write(ranges)


if __name__ == "__main__":
    measure_ranges(
        VariantSpec.from_mapping(snakemake.wildcards.variant, snakemake.params.spec),
        Recipe.from_mapping(snakemake.wildcards.export, snakemake.params.recipe),
        Path(snakemake.input.model),
        Path(snakemake.input.inputs),
        Path(snakemake.output.ranges),
    )
