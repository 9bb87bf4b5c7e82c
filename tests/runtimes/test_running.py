"""Whatever a runtime does to a graph is a result: a refusal, a crash, a hang, and an exit without numbers."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from vit2onnx.runtimes.comparing import Row, row_of
from vit2onnx.runtimes.register import OWN, Runtime
from vit2onnx.runtimes.running import Run, run_in

SETS = [{"x": np.array([[1, -2]], np.float32)}, {"x": np.array([[3, 4], [5, 7]], np.float32)}]
WANTED = [{"y": 2 * one["x"]} for one in SETS]


def run(does: str, graph: Path, **options) -> Run:
    known = {"does": does, "told": options.pop("told", "")}
    runtime = Runtime("fake", "a fake", "tests.runtimes.fake_runtime", OWN, known)
    return run_in(runtime, graph, SETS, ["y"], **options)


def row(does: str, graph: Path, **options) -> Row:
    return row_of("model/doubling", "fake", run(does, graph, **options), WANTED, SETS)


def test_what_computes_the_same_is_equal(doubling: Path) -> None:
    made = run("right", doubling)
    found = row_of("model/doubling", "fake", made, WANTED, SETS)
    assert (found.verdict, found.cell, found.largest) == ("equal", "0.0e+00", 0.0)
    assert found.cosine == pytest.approx(1)
    assert (found.version, found.placement) == ("0.1", "1 Here")
    assert found.seconds_to_open >= 0 and found.seconds_to_run >= 0
    assert made.log.startswith("opening doubling.onnx")


@pytest.mark.parametrize(
    ("does", "verdict", "cell"),
    [
        ("refuses", "refused", "not supported: Mul"),
        ("crashes opening", "refused", "SIGABRT while opening"),
        ("leaves", "refused", "ended without outputs while opening"),
        ("crashes running", "failed", "opens, then SIGABRT"),
        ("takes one size", "failed", "runs 1 of 2 sizes, then RuntimeError: a batch of 2"),
        ("is not finite", "wrong", "wrong: y is not finite"),
        ("is another shape", "wrong", "wrong: y is [1, 1, 2] instead of [1, 2]"),
        ("is wrong", "wrong", "wrong: 2.8e+01"),
        ("lacks an output", "wrong", "wrong: no y"),
    ],
)
def test_what_goes_wrong_is_a_result(does: str, verdict: str, cell: str, doubling: Path) -> None:
    found = row(does, doubling)
    assert (found.verdict, found.cell) == (verdict, cell)
    assert (found.operator == "Mul") == (does == "refuses")


def test_what_hangs_is_ended_with_all_that_it_has_started(doubling: Path, tmp_path: Path) -> None:
    told = tmp_path / "pid"
    found = row("hangs", doubling, told=str(told), seconds=3)
    assert (found.verdict, found.cell) == ("refused", "no answer within 3 s while opening")
    deadline = time.monotonic() + 5
    while is_running(int(told.read_text())) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(int(told.read_text()))


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # What has ended stays in the list of processes until someone asks for its status.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_runtime_that_is_not_here_is_no_failure(doubling: Path, tmp_path: Path) -> None:
    absent = Runtime("absent", "absent", "tests.runtimes.fake_runtime", "absent")
    without = Runtime("without", "without", "tests.runtimes.fake_runtime", OWN, needs=("no-such-program",))
    for runtime, reason in ((absent, "not installed"), (without, "no no-such-program here")):
        found = row_of("graph", runtime.name, run_in(runtime, doubling, SETS, ["y"], folder=tmp_path), WANTED, SETS)
        assert (found.verdict, found.cell) == ("absent", reason)
