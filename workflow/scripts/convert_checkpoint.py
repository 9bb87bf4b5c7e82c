"""Convert a checkpoint of any layout to the Equinox archive."""

from pathlib import Path
from typing import TYPE_CHECKING

from vit2onnx.checkpoints.convert import convert_checkpoint
from vit2onnx.logs import logging_to
from vit2onnx.variants import VariantSpec

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

if __name__ == "__main__":
    with logging_to(snakemake.log[0]):
        convert_checkpoint(
            VariantSpec.from_mapping(snakemake.wildcards.variant, snakemake.params.spec),
            Path(snakemake.input.checkpoint),
            Path(snakemake.output.archive),
            Path(snakemake.output.ledger),
        )
