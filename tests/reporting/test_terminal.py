"""The table at the end of a run: it fits a log, says why a graph failed, and ends with the verdict."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vit2onnx.reporting.terminal import compared_graphs, print_summary

Comparison = dict[str, Any]
Limits = dict[str, dict[str, Any]]
Written = Callable[..., dict[Path, Path]]


def test_terminal_ends_with_the_verdict(
    written: Written, healthy: Comparison, beyond: Comparison, limits: Limits, capsys: pytest.CaptureFixture[str]
) -> None:
    print_summary(written(healthy, beyond), limits, "synthetic")
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[-1] == "1 of 2 graphs is at parity with transformers (synthetic weights)"
    told = "\n".join(lines)
    assert "dinov3_tiny/static.onnx failed, because" in told
    assert "1.00e-03 > 1.00e-05" in told
    assert "dinov3_tiny/dynamic.onnx failed" not in told


def test_terminal_after_a_run_that_compared_nothing(limits: Limits, capsys: pytest.CaptureFixture[str]) -> None:
    print_summary({}, limits, "synthetic")
    assert capsys.readouterr().out == ""
    print_summary({}, limits, "synthetic", complete=False)
    assert capsys.readouterr().out.strip() == "The run did not finish. No graph was compared."


def test_only_comparisons_of_this_run_are_shown(tmp_path: Path) -> None:
    def job(rule: str, export: str) -> SimpleNamespace:
        output, graph = SimpleNamespace(comparison=str(tmp_path / f"{export}.json")), tmp_path / f"{export}.onnx"
        return SimpleNamespace(rule=SimpleNamespace(name=rule), output=output, input=SimpleNamespace(graph=str(graph)))

    jobs = [job("compare_outputs", export) for export in ("static", "dynamic", "stale", "deleted")]
    for export in ("static", "dynamic", "stale"):
        (tmp_path / f"{export}.onnx").touch()
    dag = SimpleNamespace(
        jobs=[*jobs, job("judge_parity", "static")], noneedrun_finished=lambda job: "stale" not in job.input.graph
    )
    assert compared_graphs(dag) == {tmp_path / f"{e}.json": tmp_path / f"{e}.onnx" for e in ("dynamic", "static")}
