"""Summarise the verdicts on all graphs, as a table and as a page."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit2onnx.files import atomic
from vit2onnx.logs import logging_to
from vit2onnx.reporting.summary import summarise, summary_csv, summary_page

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def summarise_parity(
    graphs: Mapping[Path, Path], limits: Mapping[str, Mapping[str, Any]], weights: str, table: Path, page: Path
) -> None:
    """Write both; `graphs` maps each comparison to its graph."""
    summary = summarise(graphs, limits, weights)
    for path, text in ((table, summary_csv(summary)), (page, summary_page(summary))):
        with atomic(path) as new:
            new.write_text(text)


if __name__ == "__main__":
    with logging_to(snakemake.log[0]):
        summarise_parity(
            dict(zip(map(Path, snakemake.input.comparisons), map(Path, snakemake.input.graphs), strict=True)),
            snakemake.params.limits,
            snakemake.params.weights,
            Path(snakemake.output.table),
            Path(snakemake.output.page),
        )
