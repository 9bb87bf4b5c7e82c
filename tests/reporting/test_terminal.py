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
RESULTS = Path("results/synthetic")


def test_terminal_ends_with_the_verdict(
    written: Written, healthy: Comparison, beyond: Comparison, limits: Limits, capsys: pytest.CaptureFixture[str]
) -> None:
    print_summary(written(healthy, beyond), limits, "synthetic")
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[-1] == "FAILED: 1 of 2 graphs is not at parity with transformers (synthetic weights)"
    told = "\n".join(lines)
    assert "dinov3_tiny/static.onnx failed, because" in told
    assert "ONNX, not optimised against float64, error of a token (root mean square) in noise floors" in told
    assert "304, limit 10" in told
    # What the columns are.
    assert "1.5 floors (limit 10)" in told and "1.25 floors" in told and "(limit 100)" in told
    assert "A noise floor is the rounding error of the reference" in " ".join(told.split())
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
    assert "dinov3_tiny/dynamic.onnx failed, because\n  self-test: w1 and w2 exchanged" in told
    assert told.splitlines()[-1].startswith("FAILED: the checks fail their own test")
    # Where nothing but the self-test was asked for.
    print_summary(Measured({}, self_test=path), limits, "synthetic", complete=False)
    told = capsys.readouterr().out
    assert told.startswith("\nThe self-test failed, because\n  w1 and w2 exchanged")
    assert "did not finish" not in told


def test_stages_and_self_test_are_told_of_where_they_pass(
    written: Written,
    healthy: Comparison,
    stages: Comparison,
    tested: Comparison,
    limits: Limits,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    files = {"self_test.json": tested, "stages.json": stages}
    for name, content in files.items():
        Path(name).write_text(json.dumps(content))
    Path("self_test.html").touch()
    of_self_test = (
        "Self-test: 3 of 3 planted faults caught, 2 of 2 located, none of 2 healthy models flagged. See self_test.html"
    )
    measured = replace(written(healthy), stages=[Path("stages.json")], self_test=Path("self_test.json"))
    print_summary(measured, limits, "synthetic")
    lines = capsys.readouterr().out.splitlines()
    assert "Stages: 10 compared, at most 1.7 noise floors apart (limit 10)." in lines
    assert of_self_test in lines
    assert lines[-1].startswith("Passed")
    # Where nothing else was asked for.
    print_summary(Measured({}, self_test=Path("self_test.json")), limits, "synthetic")
    assert capsys.readouterr().out.split("\n") == ["", of_self_test, ""]


def test_a_gate_that_fails_without_a_graph_is_named(
    diverging: Comparison,
    prepared: list[Comparison],
    limits: Limits,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    differences = [row | {"differing_share": 0.5} for row in prepared]
    found = {"preprocessing": {"variant": "dinov3_tiny", "differences": differences}, "stages": diverging}
    for name, content in found.items():
        (tmp_path / name).write_text(json.dumps(content))
    measured = Measured({}, [tmp_path / "preprocessing"], [tmp_path / "stages"])
    print_summary(measured, limits, "synthetic", complete=False)
    told = capsys.readouterr().out
    assert "did not finish" not in told
    assert (
        "The preprocessing of dinov3_tiny failed, because\n  ours against the publisher's transform, share of" in told
    )
    assert "A stage of dinov3_tiny/dynamic.onnx failed, because\n  first divergence: blocks.1.mlp_raw" in told


@pytest.fixture
def in_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Comparison], Measured]:
    """Puts a comparison and its graph where a run leaves them."""
    monkeypatch.chdir(tmp_path)

    def put(comparison: Comparison) -> Measured:
        folder, export = RESULTS / "dinov3_tiny", comparison["export"]
        (folder / "parity").mkdir(parents=True)
        path, graph = folder / f"parity/{export}.json", folder / f"{export}.onnx"
        path.write_text(json.dumps(comparison))
        graph.touch()
        return Measured({path: graph})

    return put


def test_a_failure_names_what_is_at_fault_and_the_page_with_more(
    beyond: Comparison,
    limits: Limits,
    capsys: pytest.CaptureFixture[str],
    in_results: Callable[[Comparison], Measured],
) -> None:
    measured = in_results(beyond)
    (RESULTS / "dinov3_tiny/parity.html").touch()
    print_summary(measured, limits, "synthetic")
    told = " ".join(capsys.readouterr().out.split())
    assert "the graph is right, so onnxruntime is at fault. `make proof` names the first stage that is wrong." in told
    assert "More in results/synthetic/dinov3_tiny/parity.html" in told


def test_the_page_to_open_is_named(
    healthy: Comparison,
    limits: Limits,
    capsys: pytest.CaptureFixture[str],
    in_results: Callable[[Comparison], Measured],
) -> None:
    measured = in_results(healthy)
    named = []
    for seconds, page in enumerate(("report.html", "summary.html", "report.html")):
        (RESULTS / page).touch()
        os.utime(RESULTS / page, (seconds, seconds))
        print_summary(measured, limits, "synthetic")
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


def test_a_gate_that_fails_before_its_graph_is_compared_is_named_beside_others(
    written: Written,
    healthy: Comparison,
    prepared: list[Comparison],
    limits: Limits,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    differences = [row | {"differing_share": 0.5} for row in prepared]
    paths = [tmp_path / name for name in ("own", "other")]
    for path, variant, found in zip(paths, ("dinov3_tiny", "dinov3_other"), (prepared, differences), strict=True):
        path.write_text(json.dumps({"variant": variant, "differences": found}))
    measured = replace(written(healthy), preprocessing=paths, missing=1)
    print_summary(measured, limits, "synthetic", complete=False)
    told = capsys.readouterr().out
    assert told.startswith("\nA verdict failed the run. 1 graph not compared.\n")
    assert (
        "The preprocessing of dinov3_other failed, because\n  ours against the publisher's transform, share of" in told
    )
    assert "The preprocessing of dinov3_tiny" not in told
