"""What the programs of all runtimes share: the files that they read and write. Needs numpy only.

A program is run as `python -m vit2onnx.runtimes.programs.NAME GRAPH INPUTS FOLDER OPTIONS`. INPUTS is an .npz in which
the input `port` of the first set of inputs is called `0/port`. OPTIONS are JSON: the names of the graph's `inputs` and
`outputs`, the number of `threads`, and the runtime's own. The program writes FOLDER/outputs.npz, with outputs called
likewise, and FOLDER/facts.json, anew at each step. So a program that is killed has said how far it came.
"""

import json
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Arrays = Mapping[str, np.ndarray]
# Runs one set of inputs, by name.
Run = Callable[[Arrays], Arrays]
# How far a program came. Opening includes the conversion to the runtime's own format.
STARTING, OPENING, RUNNING, DONE = "starting", "opening", "running", "done"


class RefusedError(Exception):
    """The runtime does not take the graph; `operator` is the first that it lacks, if it says so."""

    def __init__(self, message: str, operator: str | None = None):
        super().__init__(message)
        self.operator = operator


def how_it_ended(status: int) -> str:
    """How a process ended, by its status: empty for 0, a signal's name for a negative one."""
    return signal.Signals(-status).name if status < 0 else f"status {status}" if status else ""


class Report:
    """What a program says of itself, written to a file whenever something is added."""

    def __init__(self, path: Path):
        self._path = path
        self._facts: dict[str, Any] = {"step": STARTING}

    def add(self, **facts: Any) -> None:
        """Add facts, and write all."""
        self._facts |= facts
        self._path.write_text(json.dumps(self._facts, indent=1), encoding="utf-8")


# Takes the graph, the sets of inputs, the report and the options; returns what runs one set.
Open = Callable[[Path, list[Arrays], Report, Mapping[str, Any]], Run]


def main(open_graph: Open) -> None:
    """Open a graph, run it on all sets of inputs, and write what comes out; status 1 if any of it fails."""
    graph, inputs, folder = map(Path, sys.argv[1:4])
    report = Report(folder / "facts.json")
    try:
        options, sets = json.loads(sys.argv[4]), sets_of(inputs)
        report.add(step=OPENING)
        before = time.perf_counter()
        run = open_graph(graph, sets, report, options)
        report.add(step=RUNNING, seconds_to_open=time.perf_counter() - before)
        _run_all(run, sets, folder / "outputs.npz", report)
        report.add(step=DONE)
    # Any exception, because a runtime raises what it likes, and that is what is to be told.
    except Exception as problem:
        operator = getattr(problem, "operator", None)
        report.add(message=f"{type(problem).__name__}: {problem}", operator=operator)
        traceback.print_exc()
        sys.exit(1)


def _run_all(run: Run, sets: list[Arrays], path: Path, report: Report) -> None:
    """Run all sets of inputs. All outputs so far are written, so that it shows which size is not taken."""
    found: dict[str, Any] = {}
    seconds: list[float] = []
    for number, one in enumerate(sets):
        before = time.perf_counter()
        outputs = run(one)
        seconds.append(time.perf_counter() - before)
        found |= {f"{number}/{name}": np.asarray(values) for name, values in outputs.items()}
        np.savez(path, **found)
        report.add(seconds_to_run=seconds)


def sets_of(path: Path, count: int = 0) -> list[Arrays]:
    """The sets of arrays in a file, each by the names of the ports; `count` at least, some of which may be empty."""
    found: dict[int, dict[str, np.ndarray]] = {number: {} for number in range(count)}
    with np.load(path) as arrays:
        for key in arrays:
            number, _, port = key.partition("/")
            found.setdefault(int(number), {})[port] = arrays[key]
    return [found[number] for number in sorted(found)]
