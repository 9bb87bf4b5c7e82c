"""Which values of a graph float16 may hold, for all images by its weights, or else by photographs."""

from vit2onnx.job import snakemake

from pathlib import Path

from vit2onnx.exporting.ranges import plan_of_graph
from vit2onnx.files import open_arrays, write_json
from vit2onnx.precision.ranges import Ranges
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec


def plan_precision(
    spec: VariantSpec, recipe: Recipe, model: Path, inputs: Path, ranges: Path, plan: Path, *, least: float
) -> None:
    with open_arrays(inputs) as arrays:
        write_json(plan, plan_of_graph(spec, recipe, model, arrays, Ranges.read(ranges), least))


if __name__ == "__main__":
    plan_precision(
        VariantSpec.from_mapping(snakemake.wildcards.variant, snakemake.params.spec),
        Recipe.from_mapping(snakemake.wildcards.export, snakemake.params.recipe),
        *(Path(snakemake.input[name]) for name in ("model", "inputs", "ranges")),
        Path(snakemake.output.plan),
        least=snakemake.params.least,
    )
