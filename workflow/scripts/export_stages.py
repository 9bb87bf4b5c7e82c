"""Write the graphs that show every stage of an exported one."""

from pathlib import Path
from typing import TYPE_CHECKING

from vit2onnx.archive import open_model
from vit2onnx.exporting.stages import write_stages
from vit2onnx.logs import logging_to
from vit2onnx.variants import ExportSpec, VariantSpec

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def export_stages(
    spec: VariantSpec, export: ExportSpec, model: Path, exported: Path, accumulated: Path, injected: Path
) -> None:
    skeleton, tensors = open_model(model)
    graphs = {"accumulated": accumulated, "injected": injected}
    write_stages(skeleton, spec, export, tensors, exported=exported, weights=model, **graphs)


if __name__ == "__main__":
    with logging_to(snakemake.log[0]):
        export_stages(
            VariantSpec.from_mapping(snakemake.wildcards.variant, snakemake.params.spec),
            ExportSpec.from_mapping(snakemake.wildcards.export, snakemake.params.recipe),
            Path(snakemake.input.model),
            Path(snakemake.input.graph),
            Path(snakemake.output.accumulated),
            Path(snakemake.output.injected),
        )
