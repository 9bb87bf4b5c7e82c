"""The table at the end of a run: it fits a log, says why a graph failed, and ends with the verdict."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vit2onnx.reporting.summary import Measured
from vit2onnx.reporting.terminal import measured_by, print_summary

Comparison = dict[str, Any]
Limits = dict[str, dict[str, dict[str, Any]]]
Written = Callable[..., Measured]


def test_terminal_ends_with_the_verdict(
    written: Written, healthy: Comparison, beyond: Comparison, limits: Limits, capsys: pytest.CaptureFixture[str]
) -> None:
    print_summary(written(healthy, beyond), limits, "synthetic")
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[-1] == "FAILED: 1 of 2 graphs is not at parity with transformers (synthetic weights)"
    told = "\n".join(lines)
    assert "dinov3_tiny/static.onnx failed, because" in told
    assert "1.00e-03 > 1.00e-05" in told
    assert "dinov3_tiny/dynamic.onnx failed" not in told


def test_terminal_after_a_run_that_compared_nothing(limits: Limits, capsys: pytest.CaptureFixture[str]) -> None:
    print_summary(Measured({}), limits, "synthetic")
    assert capsys.readouterr().out == ""
    print_summary(Measured({}), limits, "synthetic", complete=False)
    assert capsys.readouterr().out.strip() == "The run did not finish. No graph was compared."


def test_a_verdict_that_failed_is_no_run_that_did_not_finish(
    written: Written, healthy: Comparison, beyond: Comparison, limits: Limits, capsys: pytest.CaptureFixture[str]
) -> None:
    print_summary(written(healthy, beyond), limits, "synthetic", complete=False)
    assert capsys.readouterr().out.startswith("\nA verdict failed the run.\n")
    print_summary(replace(written(healthy, beyond), missing=1), limits, "synthetic", complete=False)
    assert capsys.readouterr().out.startswith("\nA verdict failed the run. 1 graph not compared.\n")
    print_summary(replace(written(healthy), missing=2), limits, "synthetic", complete=False)
    told = capsys.readouterr().out
    assert told.startswith("\nThe run did not finish: it was stopped, or a job failed. 2 graphs not compared.\n")
    assert told.splitlines()[-1].startswith("NOT FINISHED: so far 1 of 1 graph is at parity with transformers")


def test_a_self_test_that_failed_is_red_whatever_else_passed(
    written: Written,
    healthy: Comparison,
    tested: Comparison,
    limits: Limits,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    tested["faults"][0] |= {"caught": False, "passed": False}
    path = tmp_path / "self_test.json"
    path.write_text(json.dumps(tested))
    print_summary(replace(written(healthy), self_test=path), limits, "synthetic", complete=False)
    told = capsys.readouterr().out
    assert told.startswith("\nA verdict failed the run.\n")
    assert "dinov3_tiny/dynamic.onnx failed, because\n  self-test: The checks caught 2 of 3 planted faults" in told
    assert told.splitlines()[-1].startswith("FAILED: 1 of 1 graph is not at parity")
    # Where nothing but the self-test was asked for.
    print_summary(Measured({}, self_test=path), limits, "synthetic", complete=False)
    assert capsys.readouterr().out.startswith("\nThe self-test failed. The checks caught 2 of 3 planted faults")


def test_the_page_to_open_is_named(
    healthy: Comparison,
    limits: Limits,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    results = Path("results/synthetic")
    (results / "dinov3_tiny/parity").mkdir(parents=True)
    comparison, graph = results / "dinov3_tiny/parity/dynamic.json", results / "dinov3_tiny/dynamic.onnx"
    comparison.write_text(json.dumps(healthy))
    graph.touch()
    named = []
    for seconds, page in enumerate(("report.html", "summary.html", "report.html")):
        (results / page).touch()
        os.utime(results / page, (seconds, seconds))
        print_summary(Measured({comparison: graph}), limits, "synthetic")
        named += [line for line in capsys.readouterr().out.splitlines() if line.startswith("Open ")]
    # A report of an earlier run is not what to read.
    pages = ("report.html", "summary.html", "report.html")
    assert named == [f"Open results/synthetic/{page}" for page in pages]


def test_only_measurements_of_this_run_are_shown(tmp_path: Path) -> None:
    def job(rule: str, name: str) -> SimpleNamespace:
        output = SimpleNamespace(
            comparison=str(tmp_path / f"{name}.json"),
            ledger=str(tmp_path / f"{name}.stages.json"),
            result=str(tmp_path / f"{name}.json"),
        )
        graph = str(tmp_path / f"{name}.onnx")
        return SimpleNamespace(rule=SimpleNamespace(name=rule), output=output, input=SimpleNamespace(graph=graph))

    jobs = [job("compare_outputs", export) for export in ("static", "dynamic", "stale", "deleted")]
    jobs += [job(rule, name) for rule in ("compare_preprocessing", "compare_stages") for name in ("new", "stale")]
    jobs.append(job("plant_faults", "self_test"))
    for export in ("static", "dynamic", "stale"):
        (tmp_path / f"{export}.onnx").touch()
    dag = SimpleNamespace(
        jobs=[*jobs, job("judge_parity", "static")], noneedrun_finished=lambda job: "stale" not in job.input.graph
    )
    assert measured_by(dag) == Measured(
        {tmp_path / f"{export}.json": tmp_path / f"{export}.onnx" for export in ("dynamic", "static")},
        preprocessing=[tmp_path / "new.json"],
        stages=[tmp_path / "new.stages.json"],
        self_test=tmp_path / "self_test.json",
        missing=1,
    )
