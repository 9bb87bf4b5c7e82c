"""Summarise the verdicts on all graphs: as tables, as a page, and for the report's front page."""

from pathlib import Path
from typing import TYPE_CHECKING

from vit2onnx.files import write_text
from vit2onnx.logs import logging_to
from vit2onnx.reporting.evidence import LimitsByGate
from vit2onnx.reporting.summary import Measured, summarise, summary_csv, summary_json, summary_page, verdict_rst

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def summarise_parity(
    measured: Measured, limits: LimitsByGate, weights: str, table: Path, data: Path, page: Path, verdict: Path
) -> None:
    summary = summarise(measured, limits, weights)
    for path, write in ((table, summary_csv), (data, summary_json), (page, summary_page), (verdict, verdict_rst)):
        write_text(path, write(summary))


if __name__ == "__main__":
    with logging_to(snakemake.log[0]):
        files = snakemake.input
        summarise_parity(
            Measured(
                dict(zip(map(Path, files.comparisons), map(Path, files.graphs), strict=True)),
                list(map(Path, files.preprocessing)),
                list(map(Path, files.stages)),
                Path(files.self_test) if files.get("self_test") else None,
            ),
            snakemake.params.limits,
            snakemake.params.weights,
            Path(snakemake.output.table),
            Path(snakemake.output.data),
            Path(snakemake.output.page),
            Path(snakemake.output.verdict),
        )
