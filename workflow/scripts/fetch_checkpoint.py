"""Put a variant's checkpoint in its place and record what it is."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vit2onnx.checkpoints.fetch import fetch_official, fetch_own, fetch_synthetic
from vit2onnx.checkpoints.sources import FOLDER, LINKS_FILE, locate
from vit2onnx.files import write_json
from vit2onnx.logs import logging_to
from vit2onnx.spec.variant import VariantSpec


def fetch_checkpoint(
    spec: VariantSpec,
    checkpoint: Path,
    record: Path,
    *,
    synthetic: Mapping[str, Any] | None,
    configured: str | None,
    check_hash: bool,
) -> None:
    if synthetic is not None:
        description = fetch_synthetic(spec, checkpoint, **synthetic)
    elif spec.own:
        description = fetch_own(spec, checkpoint)
    else:
        source = locate(
            spec,
            configured=Path(configured) if configured else None,
            folder=FOLDER,
            links_file=LINKS_FILE,
            environ=os.environ,
        )
        description = fetch_official(spec, source, checkpoint, folder=FOLDER, check_hash=check_hash)
    write_json(record, description)


if __name__ == "__main__":
    with logging_to(snakemake.log[0]):
        fetch_checkpoint(
            VariantSpec.from_mapping(snakemake.wildcards.variant, snakemake.params.spec),
            Path(snakemake.output.checkpoint),
            Path(snakemake.output.record),
            synthetic=snakemake.params.synthetic,
            configured=snakemake.params.configured,
            check_hash=snakemake.params.check_hash,
        )
