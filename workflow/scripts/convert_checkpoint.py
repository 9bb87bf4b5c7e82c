"""Convert a checkpoint of any layout to the Equinox archive."""

from vit2onnx.job import snakemake

from pathlib import Path

from vit2onnx.checkpoints.convert import convert_checkpoint
from vit2onnx.checkpoints.reading import checksum
from vit2onnx.errors import InputError
from vit2onnx.files import read_json
from vit2onnx.spec.variant import VariantSpec


def check_record(checkpoint: Path, record: Path) -> None:
    """Raise `InputError` if a file is no longer the one that was fetched, as a link's target may change."""
    if checksum(checkpoint) != read_json(record)["sha256"]:
        raise InputError(
            f"{checkpoint} has changed since it was fetched, so {record} tells of another file; run once with"
            " --forcerun fetch_checkpoint."
        )


if __name__ == "__main__":
    check_record(Path(snakemake.input.checkpoint), Path(snakemake.input.record))
    convert_checkpoint(
        VariantSpec.from_mapping(snakemake.wildcards.variant, snakemake.params.spec),
        Path(snakemake.input.checkpoint),
        Path(snakemake.output.archive),
        Path(snakemake.output.ledger),
    )
