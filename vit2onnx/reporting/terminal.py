"""The summary at the end of a run, for terminals and for logs."""

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from vit2onnx.reporting.evidence import LimitsByGate
from vit2onnx.reporting.page import cosine, counted, megabytes, number
from vit2onnx.reporting.summary import (
    Measured,
    failed_graphs,
    faults_by_gate,
    self_test_line,
    stages_line,
    summarise,
    verdict_line,
)

# What the columns of the table are.
LEGEND = (
    "A noise floor is the rounding error of the reference or of the Equinox model in single precision. Errors are"
    " distances from double precision, in such floors. Differences and cosines are against the reference."
)


def measured_by(dag: Any) -> Measured:
    """What was measured and is up to date when a run ends, in whatever way; graphs whose file is gone are left out.

    `dag` is Snakemake's. A file that is merely there may be left from an earlier run, so its jobs are asked.
    """

    def finished(rule: str) -> list[Any]:
        return [job for job in dag.jobs if job.rule.name == rule and dag.noneedrun_finished(job)]

    jobs = finished("compare_outputs")
    graphs = {Path(job.output.comparison): Path(job.input.graph) for job in jobs}
    return Measured(
        {comparison: graphs[comparison] for comparison in sorted(graphs) if graphs[comparison].exists()},
        [Path(job.output.comparison) for job in finished("compare_preprocessing")],
        [Path(job.output.ledger) for job in finished("compare_stages")],
        next((Path(job.output.result) for job in finished("plant_faults")), None),
        missing=sum(job.rule.name == "compare_outputs" for job in dag.jobs) - len(jobs),
    )


def page_to_open(folder: Path) -> Path | None:
    """The page with everything in a folder of results: the report, unless it is older than the summary."""
    pages = [page for page in (folder / "summary.html", folder / "report.html") if page.exists()]
    return max(pages, key=lambda page: page.stat().st_mtime_ns, default=None)


def print_summary(measured: Measured, limits: LimitsByGate, weights: str, *, complete: bool = True) -> None:
    """Print the summary, why graphs failed if they did, the page to open, and the verdict as the last line.

    `complete` says whether the run came to its end, which it does not if a gate fails. Prints nothing if it is complete
    and nothing was measured.
    """
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        # The logs of continuous integration are wider than what rich takes for granted.
        console.width = 100
    summary = summarise(measured, limits, weights)
    faults = faults_by_gate(measured, limits, summary)
    if not measured.graphs:
        _print_faults(console, faults)
        if not (complete or faults):
            console.print("\nThe run did not finish. No graph was compared.", style="red")
        _print_lines(console, [stages_line(measured, limits), self_test_line(measured)])
        return
    failed = failed_graphs(summary)
    if not complete:
        missing = f" {counted(measured.missing, 'graph')} not compared." if measured.missing else ""
        judged = "A verdict failed the run." if faults or not failed.empty else ""
        why = judged or "The run did not finish: it was stopped, or a job failed."
        console.print(f"\n{why}{missing}", style="red")
    console.print(terminal_table(summary))
    console.print(f"\n{LEGEND}")
    _print_faults(console, faults)
    for row in failed.itertuples():
        _print_faults(console, {f"{row.variant}/{row.export}.onnx": row.told})
        if row.diagnosis:
            console.print(row.diagnosis, style="red")
    _print_lines(console, [stages_line(measured, limits), self_test_line(measured)])
    # A comparison is `{variant}/parity/{export}.json` in the folder of results.
    results = next(iter(measured.graphs)).absolute().parents[2]
    pages = [results / variant / "parity.html" for variant in dict.fromkeys(failed["variant"])]
    _print_lines(console, [f"More in {os.path.relpath(page)}" for page in pages if page.exists()])
    if page := page_to_open(results):
        console.print(f"\nOpen {os.path.relpath(page)}", soft_wrap=True)
    style = "bold green" if complete and failed.empty else "bold red"
    console.print(f"\n{verdict_line(summary, complete=complete)}", style=style)


def _print_faults(console: Console, faults: Mapping[str, Iterable[str]]) -> None:
    for what, sentences in faults.items():
        console.print(f"\n{what} failed, because", style="red")
        for sentence in sentences:
            console.print(Padding(sentence, (0, 0, 0, 2)), style="red")


def _print_lines(console: Console, lines: Iterable[str]) -> None:
    """What there is of some lines, after an empty one."""
    if said := "\n".join(filter(None, lines)):
        console.print(f"\n{said}", soft_wrap=True)


def _floors(value: float) -> str:
    return f"{number(value)} floors" if math.isfinite(value) else number(value)


def terminal_table(summary: pd.DataFrame) -> Table:
    """The summary as a table that fits 100 columns."""
    table = Table(box=None, padding=(1, 2, 0, 0), pad_edge=False)
    for name in (
        "graph",
        "verdict",
        "error of the\nworst token",
        "in double\nprecision",
        "largest diff.,\nlowest cosine",
    ):
        table.add_column(Text(name, "bold"), overflow="fold", no_wrap=name == "graph")
    for row in summary.itertuples():
        compared = f"compared on {counted(row.images, 'image')} at {counted(row.sizes, 'size')}"
        table.add_row(
            f"{row.variant}\n{row.export}.onnx, {megabytes(row.bytes)}\n{compared}",
            Text(row.verdict, "bold red" if row.faults else "green"),
            f"{_floors(row.floors)} (limit {row.limit:g})\n" + row.worst_at.replace(", batch", "\nbatch"),
            f"{_floors(row.floors_double)}\n(limit {row.limit_double:g})",
            f"{number(row.max_abs)}\n{cosine(row.cosine)}",
        )
    return table
