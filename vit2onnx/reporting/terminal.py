"""The summary at the end of a run, for terminals and for logs."""

import math
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from vit2onnx.errors import InputError, first_few
from vit2onnx.files import read_json
from vit2onnx.parity.dense_comparison import DENSE
from vit2onnx.parity.metrics import worst
from vit2onnx.parity.verdict import Verdict, numbers_of
from vit2onnx.reporting.page import compared, cosine, megabytes, number
from vit2onnx.reporting.self_test import self_test_section
from vit2onnx.reporting.summary import failed_graphs, summarise, verdict_line

# Explains the columns of the table.
LEGEND = (
    "A noise floor is the rounding error of the reference or of the Equinox model in single precision. Errors are"
    " distances from double precision, in such floors. Differences and cosines are against the reference."
)

# Gates that a config turns on or off.
OPTIONAL = ("stages", "self_test")


def current_verdicts(
    paths: Mapping[Path, Mapping[str, Any]], asked: Mapping[str, bool], maps: Collection[Path] = ()
) -> dict[Path, Verdict]:
    """Those verdicts that are there and up to date, by path.

    `paths` has the limits of each. One is stale that is older than a file that it judges, or from a run with other
    limits, or in which other gates were asked for (`stages`, `self_test`). `maps` are those that judge dense maps. The
    stages of graphs of small precision are not compared.
    """
    verdicts = {}
    for path, limits in paths.items():
        if path.is_file():
            try:
                verdict = Verdict.read(path)
            except InputError:
                # A damaged one is as good as none here; the rules that read it name it.
                continue
            evidence = [path.parent / name for name in verdict.evidence]
            is_newest = all(file.exists() and file.stat().st_mtime_ns <= path.stat().st_mtime_ns for file in evidence)
            has = {gate: asked[gate] for gate in OPTIONAL} | (
                {} if verdict.precision == "float32" else {"stages": False}
            )
            is_asked = all((gate in verdict.asked) == has[gate] for gate in OPTIONAL)
            is_asked &= (DENSE in verdict.asked) == (path in maps)
            if is_newest and is_asked and verdict.limits == limits:
                verdicts[path] = verdict
    return verdicts


def stages_line(verdicts: Iterable[Verdict]) -> str:
    """How far the stages of all graphs are apart, in one sentence; nothing if they fail or were not compared."""
    compared = [verdict for verdict in verdicts if verdict.of("stages")]
    findings = [finding for verdict in compared for finding in verdict.of("stages")]
    if not findings or not all(finding.passed for finding in findings):
        return ""
    count = sum(verdict.figures["stages"] for verdict in compared)
    graphs = f" in {len(compared)} graphs" if len(compared) > 1 else ""
    apart = [finding for finding in findings if finding.limit_name == "floors"]
    most = number(worst(finding.measured for finding in apart))
    return f"Stages: {count} compared{graphs}, at most {most} noise floors apart (limit {apart[0].limit:g})."


def self_test_line(result: Path, limits: Mapping[str, Any]) -> str:
    """What became of planted faults, in one sentence, and the page to open; nothing if none were, by these limits."""
    data = _record(result)
    if not data or data["limits"] | data["preprocessing_limits"] != numbers_of(limits):
        return ""
    tested, page = self_test_section(data), result.with_suffix(".html")
    where = os.path.relpath(page if page.exists() else result)
    told = f"{tested['caught']} planted faults caught, {tested['named']} located, {tested['flagged']} flagged."
    return f"Self-test: {told if tested['passed'] else 'FAILED. ' + tested['sentence']} See {where}"


def page_to_open(folder: Path, variants: Collection[str]) -> Path | None:
    """The page to begin with in a folder of results: that of the only variant, or else the summary."""
    page = folder / next(iter(variants)) / "parity.html" if len(variants) == 1 else folder / "summary.html"
    verdicts = [path for name in variants for path in (folder / name).glob("*.verdict.json")]
    # That of an earlier run tells of other files.
    is_new = page.exists() and all(path.stat().st_mtime_ns <= page.stat().st_mtime_ns for path in verdicts)
    return page if is_new else None


def print_summary(
    results: Path,
    paths: Mapping[Path, Mapping[str, Any]],
    limits: Mapping[str, Any],
    asked: Mapping[str, bool],
    *,
    maps: Collection[Path] = (),
    pages: Iterable[Path] = (),
    complete: bool = True,
) -> None:
    """Print the verdicts at `paths` that are up to date, why graphs failed if they did, the page to open, and the
    verdict on all as the last line.

    `results` is the folder of all results. `paths` has the limits of each verdict, `limits` are those of the self-test.
    `maps` are those verdicts that judge dense maps, and `pages` the pages on these, of which the ones that are there
    are named. `complete` says whether the run came to its end, which it does not if a graph fails.
    """
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        # The logs of continuous integration are wider than what rich takes for granted.
        console.width = 100
    verdicts = current_verdicts(paths, asked, maps)
    lines = [stages_line(verdicts.values()), self_test_line(results / "self_test.json", limits)]
    on_maps = [f"Dense maps: {os.path.relpath(page)}" for page in pages if _is_new(page)]
    if not verdicts:
        if not complete:
            console.print("\nThe run did not finish. No graph was judged.", style="red")
        _print_lines(console, lines)
        _print_lines(console, on_maps)
        return
    summary = summarise(verdicts.values())
    failed = failed_graphs(summary)
    if not complete:
        lacking = [
            f"{path.parent.name}/{path.name.removesuffix('.verdict.json')}.onnx"
            for path in paths
            if path not in verdicts
        ]
        missing = f" Not judged: {first_few(lacking)}." if lacking else ""
        stopped = "The run did not finish: it was stopped, or a job failed."
        console.print(f"\n{stopped if failed.empty else 'A verdict failed the run.'}{missing}", style="red")
    console.print(terminal_table(summary))
    console.print(f"\n{LEGEND}")
    for row in failed.itertuples():
        _print_faults(console, f"{row.variant}/{row.export}.onnx", row.told)
        if row.diagnosis:
            console.print(row.diagnosis, style="red")
    _print_lines(console, lines)
    _print_lines(console, [line for name in dict.fromkeys(summary["variant"]) for line in _told(results / name)])
    pages = [results / variant / "parity.html" for variant in dict.fromkeys(failed["variant"])]
    _print_lines(console, [f"More in {os.path.relpath(page)}" for page in pages if page.exists()])
    _print_lines(console, on_maps)
    if page := page_to_open(results, set(summary["variant"])):
        console.print(f"\nOpen {os.path.relpath(page)}", soft_wrap=True)
    style = "bold green" if complete and failed.empty else "bold red"
    console.print(f"\n{verdict_line(summary, complete=complete)}", style=style)


def _told(folder: Path) -> list[str]:
    """What an own checkpoint was recognised as, and all assumptions, in sentences."""
    return [f"{folder.name}: {sentence}" for sentence in _record(folder / "checkpoint.json").get("told", [])]


def _is_new(page: Path) -> bool:
    """Whether a page on dense maps is there, and shows the figures that are."""
    figures = page.with_name("figures.json")
    return page.exists() and figures.exists() and figures.stat().st_mtime_ns <= page.stat().st_mtime_ns


def _record(path: Path) -> dict[str, Any]:
    """A record, or nothing if it is not there or damaged, which its own job tells."""
    try:
        data: dict[str, Any] = read_json(path)
    except InputError:
        return {}
    return data


def _print_faults(console: Console, what: str, sentences: Iterable[str]) -> None:
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
        # Short, because the column is narrow.
        on = compared(row.kind, row.images, row.sizes).replace("up to ", "")
        table.add_row(
            f"{row.variant}\n{row.export}.onnx, {megabytes(row.bytes)}\ncompared on {on}",
            Text(row.verdict, "bold red" if row.faults else "green"),
            f"{_floors(row.floors)} (limit {row.limit:g})\n" + row.worst_at.replace(", batch", "\nbatch"),
            f"{_floors(row.floors_double)}\n(limit {row.limit_double:g})"
            if row.precision == "float32"
            else row.precision,
            f"{number(row.max_abs)}\n{cosine(row.cosine)}",
        )
    return table
