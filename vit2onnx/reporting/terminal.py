"""The summary at the end of a run, for terminals and for logs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from vit2onnx.reporting.page import cosine, counted, megabytes, number
from vit2onnx.reporting.summary import summarise, verdict_line


def compared_graphs(dag: Any) -> dict[Path, Path]:
    """The comparisons that are up to date when a run ends, in whatever way, and the graph of each.

    `dag` is Snakemake's. A file that is merely there may be left from an earlier run, so its jobs are asked.
    """
    jobs = [job for job in dag.jobs if job.rule.name == "compare_outputs" and dag.noneedrun_finished(job)]
    graphs = {Path(job.output.comparison): Path(job.input.graph) for job in jobs}
    return {comparison: graphs[comparison] for comparison in sorted(graphs) if graphs[comparison].exists()}


def print_summary(
    graphs: Mapping[Path, Path], limits: Mapping[str, Mapping[str, Any]], weights: str, *, complete: bool = True
) -> None:
    """Print the summary, why graphs failed if they did, and the verdict as the last line.

    `complete` is whether the run came to its end. Prints nothing if it did and no graph was asked for.
    """
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        # The logs of continuous integration are wider than what rich takes for granted.
        console.width = 100
    if not complete:
        console.print(
            f"\nThe run did not finish. {'Compared until then:' if graphs else 'No graph was compared.'}", style="red"
        )
    if not graphs:
        return
    summary = summarise(graphs, limits, weights)
    failed = summary[summary["verdict"] != "passed"]
    console.print(terminal_table(summary))
    for row in failed.itertuples():
        console.print(f"\n{row.variant}/{row.export}.onnx failed, because", style="red")
        for fault in row.faults:
            console.print(Padding(fault, (0, 0, 0, 2)), style="red")
    console.print(f"\n{verdict_line(summary)}", style="bold green" if failed.empty else "bold red")


def terminal_table(summary: pd.DataFrame) -> Table:
    """The summary as a table that fits 100 columns."""
    table = Table(box=None, padding=(1, 2, 0, 0), pad_edge=False)
    for name in ("graph", "verdict", "max |difference|", "lowest\ncosine", "float64 error,\nx reference's"):
        table.add_column(Text(name, "bold"), overflow="fold", no_wrap=name == "graph")
    for row in summary.itertuples():
        compared = f"compared on {counted(row.images, 'image')} at {counted(row.sizes, 'size')}"
        table.add_row(
            f"{row.variant}\n{row.export}.onnx, {megabytes(row.bytes)}\n{compared}",
            Text(row.verdict, "green" if row.verdict == "passed" else "bold red"),
            f"{number(row.max_abs)} at\n" + row.worst_at.replace(", batch", "\nbatch"),
            cosine(row.cosine),
            number(row.truth_ratio),
        )
    return table
