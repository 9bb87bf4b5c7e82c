"""Write the copies of a graph that also output every stage."""

from vit2onnx.job import snakemake

from pathlib import Path

from vit2onnx.exporting.stages import write_stages
from vit2onnx.onnx_file import check_file
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec
from vit2onnx.weights.model_file import open_model


def export_stages(
    spec: VariantSpec, export: Recipe, model: Path, exported: Path, accumulated: Path, injected: Path
) -> None:
    check_file(exported)
    skeleton, tensors = open_model(model)
    graphs = {"accumulated": accumulated, "injected": injected}
    write_stages(skeleton, spec, export, tensors, exported=exported, weights=model, **graphs)


if __name__ == "__main__":
    export_stages(
        VariantSpec.from_mapping(snakemake.wildcards.variant, snakemake.params.spec),
        Recipe.from_mapping(snakemake.wildcards.export, snakemake.params.recipe),
        Path(snakemake.input.model),
        Path(snakemake.input.graph),
        Path(snakemake.output.accumulated),
        Path(snakemake.output.injected),
    )
