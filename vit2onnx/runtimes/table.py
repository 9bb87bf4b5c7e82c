"""The table of graphs and runtimes: made, and written as CSV and Markdown."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np

from vit2onnx.errors import InputError, printable
from vit2onnx.runtimes.comparing import ABSENT, REFUSED, Row, row_of
from vit2onnx.runtimes.feeds import ports_of, sets_for
from vit2onnx.runtimes.register import BASELINE, RUNTIMES, Runtime
from vit2onnx.runtimes.running import Run

Arrays = Mapping[str, np.ndarray]
# Runs a graph in a runtime on sets of inputs, for the outputs of these names.
Runner = Callable[[Runtime, Path, Sequence[Arrays], Sequence[str]], Run]
# In the names of diagnostic copies, as in static.stages.onnx.
STAGES = ".stages"
TITLES = {one.name: one.title for one in RUNTIMES}


def graphs_in(given: Iterable[Path]) -> dict[str, Path]:
    """The ONNX files that files and folders name, and those of a folder's own folders if it has none itself.

    They are called by folder and name. In folders, diagnostic copies are left out. Raises `InputError` if one names
    none.
    """
    found: dict[str, Path] = {}
    for path in given:
        listed = [path] if path.is_file() else _graphs_of(path, "*.onnx") or _graphs_of(path, "*/*.onnx")
        if not listed:
            raise InputError(f"{path}: there is no ONNX file; name files, or a folder with some.")
        found |= {printable(f"{one.resolve().parent.name}/{one.stem}"): one for one in listed}
    return found


def _graphs_of(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if STAGES not in path.suffixes)


def rows_of(
    name: str, graph: Path, runtimes: Iterable[Runtime], run: Runner, keep: Callable[[str, str, str], None]
) -> Iterable[Row]:
    """The rows of a graph, each when it is done; the baseline's is the first, whether it is asked for or not.

    If the baseline does not run the graph, there is no other row. `keep` is given the graph, the runtime and all that
    the runtime printed.
    """
    try:
        inputs, outputs = ports_of(graph)
    except InputError as error:
        # A file that is broken is a result like any other.
        yield Row(name, BASELINE.name, REFUSED, f"no ONNX file: {error}")
        return
    sets, names = sets_for(graph, inputs), [port.name for port in outputs]
    baseline = run(BASELINE, graph, sets, names)
    keep(name, BASELINE.name, baseline.log)
    # Without outputs there is nothing to compare with, not even itself.
    yield row_of(name, BASELINE.name, baseline, baseline.outputs if baseline.is_done else sets, sets)
    for runtime in runtimes if baseline.is_done else ():
        if runtime != BASELINE:
            made = run(runtime, graph, sets, names)
            keep(name, runtime.name, made.log)
            yield row_of(name, runtime.name, made, baseline.outputs, sets)


def as_csv(rows: Iterable[Row]) -> str:
    """All that is known, a line for each graph in each runtime."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return stream.getvalue()


def grid_of(rows: Iterable[Row]) -> tuple[list[str], dict[str, dict[str, Row]]]:
    """The runtimes that are here, in order, and the rows by graph and runtime."""
    by_graph: dict[str, dict[str, Row]] = {}
    for row in rows:
        by_graph.setdefault(row.graph, {})[row.runtime] = row
    seen = {row.runtime for found in by_graph.values() for row in found.values() if row.verdict != ABSENT}
    return [one.name for one in RUNTIMES if one.name in seen], by_graph


def as_markdown(rows: Iterable[Row]) -> str:
    """A table with a line for each graph and a column for each runtime but the baseline."""
    names, by_graph = grid_of(rows)
    shown = [name for name in names if name != BASELINE.name]
    lines = [["graph", *(TITLES[name] for name in shown)], ["---"] * (1 + len(shown))]
    for graph, found in by_graph.items():
        lines.append([f"`{graph}`", *(_plain(found[name].cell) if name in found else "" for name in shown)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _plain(text: str) -> str:
    return text.replace("|", "\\|")
