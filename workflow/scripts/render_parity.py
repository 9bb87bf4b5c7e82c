"""Render the page on the parity of a variant's graphs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit2onnx.files import atomic
from vit2onnx.logs import logging_to
from vit2onnx.reporting.parity_page import parity_page

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def render_parity(
    comparisons: Sequence[Path],
    record: Path,
    ledger: Path,
    preprocessing: Path,
    limits: Mapping[str, Mapping[str, Mapping[str, Any]]],
    page: Path,
) -> None:
    html = parity_page(
        [json.loads(path.read_text()) for path in comparisons],
        json.loads(record.read_text()),
        ledger.read_text().splitlines(),
        limits["limits"],
        json.loads(preprocessing.read_text())["differences"],
        limits["preprocessing"],
    )
    with atomic(page) as new:
        new.write_text(html)


if __name__ == "__main__":
    with logging_to(snakemake.log[0]):
        render_parity(
            [Path(path) for path in snakemake.input.comparisons],
            Path(snakemake.input.record),
            Path(snakemake.input.ledger),
            Path(snakemake.input.preprocessing),
            snakemake.params.limits,
            Path(snakemake.output.page),
        )
