"""The table at the end of a run: it fits a log, says why a graph failed, and ends with the verdict."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vit2onnx.files import write_json
from vit2onnx.parity.comparison import Comparison
from vit2onnx.parity.dense_comparison import DenseComparison
from vit2onnx.parity.divergence import StageComparison
from vit2onnx.parity.verdict import Verdict
from vit2onnx.reporting.terminal import current_verdicts, print_summary
from vit2onnx.self_test.verdict import judge_self_test

Plain = dict[str, Any]
RESULTS = Path("results/synthetic")
NOTHING = {"stages": False, "self_test": False}
# What a run prints of verdicts, and whether it came to its end.
Printed = Callable[..., str]


@pytest.fixture
def printed(
    limits: dict[str, Plain], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Printed:
    """Puts verdicts where a run leaves them, and gives what is printed of them."""
    monkeypatch.chdir(tmp_path)

    def run(*verdicts: Verdict, missing: int = 0, complete: bool = True, **asked: bool) -> str:
        paths = [RESULTS / f"dinov3_tiny/{verdict.export}.verdict.json" for verdict in verdicts]
        for path, verdict in zip(paths, verdicts, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, verdict.as_data())
        others = [RESULTS / f"dinov3_tiny/other{i}.verdict.json" for i in range(missing)]
        print_summary(RESULTS, dict.fromkeys([*paths, *others], limits), limits, NOTHING | asked, complete=complete)
        return capsys.readouterr().out

    return run


def write_self_test(tested: Plain) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    write_json(RESULTS / "self_test.json", tested | {"wrong": judge_self_test(tested)})


def test_terminal_ends_with_the_verdict(
    healthy: Comparison, beyond: Comparison, judged: Callable[..., Verdict], printed: Printed
) -> None:
    told = printed(judged(healthy), judged(beyond))
    lines = told.splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[-1] == "FAILED: 1 of 2 graphs is not at parity with transformers (synthetic weights)"
    assert "dinov3_tiny/static.onnx failed, because" in told
    assert "ONNX, not optimised against float64, error of a token (root mean square) in noise floors" in told
    assert "304, limit 10" in told
    # What the columns are.
    assert "1.5 floors (limit 10)" in told and "1.25 floors" in told and "(limit 100)" in told
    assert "A noise floor is the rounding error of the reference" in " ".join(told.split())
    assert "dinov3_tiny/dynamic.onnx failed" not in told


def test_terminal_after_a_run_that_judged_nothing(printed: Printed) -> None:
    assert printed() == ""
    assert printed(missing=1, complete=False).strip() == "The run did not finish. No graph was judged."


def test_a_verdict_that_failed_is_no_run_that_did_not_finish(
    healthy: Comparison, beyond: Comparison, judged: Callable[..., Verdict], printed: Printed
) -> None:
    both = judged(healthy), judged(beyond)
    assert printed(*both, complete=False).startswith("\nA verdict failed the run.\n")
    assert printed(*both, missing=1, complete=False).startswith(
        "\nA verdict failed the run. Not judged: dinov3_tiny/other0.onnx.\n"
    )
    told = printed(judged(healthy), missing=2, complete=False)
    assert told.startswith(
        "\nThe run did not finish: it was stopped, or a job failed. Not judged: dinov3_tiny/other0.onnx,"
    )
    assert told.splitlines()[-1].startswith("NOT FINISHED: so far 1 of 1 graph is at parity with transformers")


def test_a_self_test_that_failed_is_red_whatever_else_passed(
    healthy: Comparison, tested: Plain, judged: Callable[..., Verdict], printed: Printed
) -> None:
    tested["faults"][0] |= {"caught": False, "passed": False}
    write_self_test(tested)
    told = printed(judged(healthy, self_test=tested), complete=False, self_test=True)
    assert told.startswith("\nA verdict failed the run.\n")
    assert "dinov3_tiny/dynamic.onnx failed, because\n  self-test: w1 and w2 exchanged" in told
    assert told.splitlines()[-1].startswith("FAILED: the checks fail their own test")
    # Where nothing but the self-test was asked for.
    assert "\nSelf-test: FAILED. w1 and w2 exchanged" in printed(complete=False)


def test_stages_and_self_test_are_told_of_where_they_pass(
    healthy: Comparison, stages: StageComparison, tested: Plain, judged: Callable[..., Verdict], printed: Printed
) -> None:
    write_self_test(tested)
    (RESULTS / "self_test.html").touch()
    of_self_test = (
        "Self-test: 3 of 3 planted faults caught, 2 of 2 located, none of 2 healthy models flagged."
        " See results/synthetic/self_test.html"
    )
    told = printed(judged(healthy, stages=stages, self_test=tested), stages=True, self_test=True)
    lines = told.splitlines()
    assert "Stages: 10 compared, at most 1.7 noise floors apart (limit 10)." in lines
    assert of_self_test in lines
    assert lines[-1].startswith("Passed")
    # Where nothing else was asked for; one by other limits is none of this run.
    assert printed().split("\n") == ["", of_self_test, ""]
    write_self_test(tested | {"limits": tested["limits"] | {"floors": 5.0}})
    assert printed() == ""


def test_a_failure_names_what_is_at_fault_and_the_page_with_more(
    beyond: Comparison, judged: Callable[..., Verdict], printed: Printed
) -> None:
    (RESULTS / "dinov3_tiny").mkdir(parents=True)
    (RESULTS / "dinov3_tiny/parity.html").touch()
    told = " ".join(printed(judged(beyond)).split())
    assert "the graph is right, so onnxruntime is at fault. `make proof` names the first stage that is wrong." in told
    assert "More in results/synthetic/dinov3_tiny/parity.html" in told


def test_the_page_to_open_is_named(healthy: Comparison, judged: Callable[..., Verdict], printed: Printed) -> None:
    (RESULTS / "dinov3_tiny").mkdir(parents=True)
    for page in ("report.html", "summary.html"):
        (RESULTS / page).touch()
    assert "Open " not in printed(judged(healthy))
    page = RESULTS / "dinov3_tiny" / "parity.html"
    page.touch()
    # That of an earlier run is none.
    os.utime(page, (1, 1))
    assert "Open " not in printed(judged(healthy))
    for one in (page, RESULTS / "summary.html"):
        os.utime(one, (4e9, 4e9))
    assert "\nOpen results/synthetic/dinov3_tiny/parity.html\n" in printed(judged(healthy))
    # Of several variants, the page on all of them.
    told = printed(judged(healthy), judged(replace(healthy, variant="other", export="other")))
    assert "\nOpen results/synthetic/summary.html\n" in told


def test_only_verdicts_on_what_is_there_are_shown(
    healthy: Comparison, judged: Callable[..., Verdict], limits: dict[str, Plain], tmp_path: Path
) -> None:
    path, graph = tmp_path / "dynamic.verdict.json", tmp_path / "dynamic.onnx"
    verdict = replace(judged(healthy), evidence={"dynamic.onnx": "0123abcd"})
    write_json(path, verdict.as_data())

    def shown(limits: dict[str, Plain] = limits, **asked: bool) -> bool:
        return list(
            current_verdicts(dict.fromkeys([path, tmp_path / "static.verdict.json"], limits), NOTHING | asked)
        ) == [path]

    assert not shown()
    graph.touch()
    os.utime(path, ns=(graph.stat().st_mtime_ns,) * 2)
    assert shown()
    assert not shown(stages=True)
    assert not shown(limits | {"floors": limits["floors"] | {"limit": 5.0}})
    # Made anew since.
    os.utime(path, ns=(graph.stat().st_mtime_ns - 1,) * 2)
    assert not shown()


def test_verdicts_of_a_run_with_or_without_dense_maps_are_told_apart(
    healthy: Comparison,
    dense: DenseComparison,
    judged: Callable[..., Verdict],
    limits: dict[str, Plain],
    tmp_path: Path,
) -> None:
    path = tmp_path / "dynamic.verdict.json"

    def shown(verdict: Verdict, *, asked: bool) -> bool:
        write_json(path, verdict.as_data())
        return path in current_verdicts({path: limits}, NOTHING, [path] if asked else [])

    without, with_maps = judged(healthy), judged(healthy, dense=dense)
    assert shown(without, asked=False) and not shown(without, asked=True)
    assert shown(with_maps, asked=True) and not shown(with_maps, asked=False)


def test_pages_on_dense_maps_that_are_there_are_named(
    limits: dict[str, Plain],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    pages = [tmp_path / name / "dense.html" for name in ("a/dense", "dense/a-b")]
    pages[1].parent.mkdir(parents=True)
    pages[1].with_name("figures.json").touch()
    pages[1].touch()
    print_summary(tmp_path, {}, limits, NOTHING, pages=pages)
    assert capsys.readouterr().out == "\nDense maps: dense/a-b/dense.html\n"
    # Of another run.
    os.utime(pages[1], ns=(0, 0))
    print_summary(tmp_path, {}, limits, NOTHING, pages=pages)
    assert capsys.readouterr().out == ""
