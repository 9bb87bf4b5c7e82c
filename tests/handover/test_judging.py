"""A verdict that was edited after it was judged, or evidence that was, is named."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.handover.conftest import change_json
from tests.limits import BY_PRECISION
from vit2onnx.errors import InputError
from vit2onnx.files import sha256_of, write_json
from vit2onnx.handover.judging import check_verdict, judge_files
from vit2onnx.parity.comparison import Comparison
from vit2onnx.parity.verdict import Verdict

LIMITS = BY_PRECISION["float32"] | BY_PRECISION["preprocessing"]


@pytest.fixture
def evidence(tmp_path: Path) -> dict[str, Path]:
    """That of a graph of which nothing was compared, so that it fails on all legs."""
    names = {"graph": "static.onnx", "record": "checkpoint.json", "preprocessing": "preprocessing.json"}
    files = {name: tmp_path / file for name, file in names.items()}
    files["graph"].write_text("a graph")
    write_json(files["record"], {"weights": "synthetic", "official_file": None})
    write_json(files["preprocessing"], {"differences": []})
    found = Comparison("tiny", "static", sha256_of(files["graph"]), {"threads": 1}, ["transformers"], *[[]] * 9)
    comparison = tmp_path / "parity" / "static.json"
    found.write(comparison)
    return files | {"comparison": comparison}


@pytest.fixture
def written(evidence: dict[str, Path]) -> Path:
    path = evidence["graph"].with_suffix(".verdict.json")
    write_json(path, judge_files(evidence, LIMITS).as_data())
    return path


def test_a_verdict_is_judged_the_same_again(evidence: dict[str, Path], written: Path):
    own = judge_files(evidence, LIMITS)
    assert own.faults and set(own.evidence) == {
        *("static.onnx", "checkpoint.json", "preprocessing.json"),
        "parity/static.json",
    }
    check_verdict(written, own)


def measured_zero(data: dict[str, Any]) -> None:
    for finding in data["findings"]:
        finding["measured"] = 0.0


EDITED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "figures": (measured_zero, "findings"),
    "limit": (lambda data: data["findings"][0].update(limit=1e9), "findings"),
    "no finding": (lambda data: data["findings"].pop(), "findings"),
    "no gate": (lambda data: data["asked"].remove("preprocessing"), "asked"),
    "weights": (lambda data: data.update(is_release=True), "is_release"),
}


@pytest.mark.parametrize(("edit", "told"), EDITED.values(), ids=EDITED)
def test_an_edited_verdict_is_named(evidence: dict[str, Path], written: Path, edit, told: str):
    change_json(written, edit)
    sentence = rf"static\.verdict\.json or parity/static\.json was edited: the features give other {told}\. Delete both"
    with pytest.raises(InputError, match=sentence):
        check_verdict(written, judge_files(evidence, LIMITS))


@pytest.mark.parametrize(("share", "agrees"), [(0.009, True), (0.011, False)])
def test_rounding_of_another_processor_is_no_edit(evidence: dict[str, Path], written: Path, share: float, agrees: bool):
    own = judge_files(evidence, LIMITS)
    findings = [replace(one, measured=one.limit) for one in own.findings]
    write_json(written, replace(own, findings=tuple(findings)).as_data())
    moved = replace(own, findings=tuple(replace(one, measured=(1 + share) * one.limit) for one in findings))
    if agrees:
        check_verdict(written, moved)
    else:
        with pytest.raises(InputError, match="other findings"):
            check_verdict(written, moved)


@pytest.mark.parametrize("name", ["record", "preprocessing", "comparison"])
def test_evidence_that_changed_is_named(evidence: dict[str, Path], written: Path, name: str):
    evidence[name].write_text(evidence[name].read_text() + "\n")
    with pytest.raises(
        InputError, match=rf"{re.escape(evidence[name].name)} changed after .*static\.verdict\.json was"
    ):
        check_verdict(written, judge_files(evidence, LIMITS))


def test_a_comparison_of_another_graph_is_refused(evidence: dict[str, Path]):
    evidence["graph"].write_text("another graph")
    with pytest.raises(InputError, match=r"static\.json is of another static\.onnx; delete features/static\.onnx\.npz"):
        judge_files(evidence, LIMITS)


def test_a_comparison_that_was_made_anew_is_judged_instead_of_the_files(evidence: dict[str, Path]):
    made = replace(
        Comparison.read(evidence["comparison"]),
        checks=[{"name": "x", "passed": False, "subject": "", "detail": "seen"}],
    )
    assert "x: seen" in judge_files(evidence, LIMITS, made).faults
    assert isinstance(judge_files(evidence, LIMITS), Verdict)
