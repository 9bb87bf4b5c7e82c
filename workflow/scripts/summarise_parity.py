"""Summarise the verdicts on all graphs: as tables, as a page, and for the report's front page."""

from vit2onnx.job import snakemake

from collections.abc import Iterable
from pathlib import Path

from vit2onnx.files import write_text
from vit2onnx.parity.verdict import Verdict
from vit2onnx.reporting.summary import summarise, summary_csv, summary_json, summary_page, verdict_rst


def summarise_parity(verdicts: Iterable[Path], table: Path, data: Path, page: Path, verdict: Path) -> None:
    summary = summarise(map(Verdict.read, verdicts))
    for path, write in ((table, summary_csv), (data, summary_json), (page, summary_page), (verdict, verdict_rst)):
        write_text(path, write(summary))


if __name__ == "__main__":
    outputs = {name: Path(path) for name, path in snakemake.output.items()}
    summarise_parity(map(Path, snakemake.input.verdicts), **outputs)
