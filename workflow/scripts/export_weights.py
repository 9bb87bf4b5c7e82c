"""Write the weights of a graph in a small precision to a file beside it."""

from vit2onnx.job import snakemake

from pathlib import Path

from vit2onnx.exporting.graph import export_weights
from vit2onnx.precision.reduction import Basis
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec

if __name__ == "__main__":
    export_weights(
        VariantSpec.from_mapping(snakemake.wildcards.variant, snakemake.params.spec),
        Recipe.from_mapping(snakemake.wildcards.export, snakemake.params.recipe),
        Path(snakemake.input.model),
        Path(snakemake.output.data),
        # A plan is of float16 alone.
        Basis.read(Path(snakemake.input.ranges), Path(snakemake.input.plan) if snakemake.input.plan else None),
    )
