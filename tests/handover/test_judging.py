"""A verdict that was edited after it was judged, or evidence that was, is named."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper

from tests.handover.conftest import change_json
from tests.limits import BY_PRECISION
from vit2onnx.errors import InputError
from vit2onnx.files import sha256_of, write_json
from vit2onnx.handover.judging import check_verdict, judge_files, lacking_dense, lacking_packing
from vit2onnx.packing import pack
from vit2onnx.packing.probes import EXACT, EXCHANGED, ROUNDED, noise, wrong_inputs
from vit2onnx.parity.comparison import Comparison
from vit2onnx.parity.dense_comparison import IMPLEMENTATIONS, DenseComparison, keys_of
from vit2onnx.parity.divergence import StageComparison
from vit2onnx.parity.packing import PackingComparison
from vit2onnx.parity.verdict import Verdict
from vit2onnx.runners.packing import LEVELS
from vit2onnx.spec.case import MODES, Case
from vit2onnx.spec.subject import TRUTH

LIMITS = BY_PRECISION["float32"] | BY_PRECISION["preprocessing"]


@pytest.fixture
def evidence(tmp_path: Path) -> dict[str, Path]:
    """That of a graph of which nothing was compared, so that it fails on all legs."""
    names = {"graph": "static.onnx", "record": "checkpoint.json", "preprocessing": "preprocessing.json"}
    files = {name: tmp_path / file for name, file in names.items()}
    onnx.save(helper.make_model(helper.make_graph([], "nothing", [], [])), files["graph"])
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


CASES = ["cat@48x64", "dog@48x64"]
ROWS = [
    {"other": other, "image": name, "height": 48, "width": 64, "grey_levels": 0.0, "differing_share": 0.0}
    | {"residual": 0.0, "enlarged": 1.0}
    for other in ("publisher", "transformers")
    for name in ("cat", "dog")
]
STAGES = [
    {"mode": mode, "stage": stage, "subject": subject, "other": other, "floors": 0.1, "max_abs": 0.0}
    for mode in MODES
    for stage in ("patch_embed", "norm")
    for subject, other in (("onnx", "equinox"), ("equinox_float64", "truth"))
]
TESTED = {
    "faults": [
        {"fault": "x", "planted_in": "model", "model": "ViT", "caught": True, "not_told": [], "tripped": ["floors"]}
    ],
    "healthy": [{"model": "ViT", "seed": 0, "flagged": []}],
    "healthy_preprocessing": {"flagged": []},
    "tripped": {"floors": 1},
    "wrong": [],
}
TESTED["faults"][0] |= {"tripped": ["floors"], "passed": True, "stage": "norm", "named_stage": "norm", "between": ""}


@pytest.fixture
def records(evidence: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    """Evidence of all gates, with rows."""
    change_json(evidence["comparison"], lambda data: data.update(cases=CASES))
    write_json(evidence["preprocessing"], {"differences": ROWS})
    files = evidence | {"stages": tmp_path / "static.stages.json", "self_test": tmp_path / "self_test.json"}
    StageComparison("tiny", "static", CASES[0], ["equinox", "onnx"], STAGES).write(files["stages"])
    write_json(files["self_test"], TESTED)
    return files


def test_whole_records_are_judged(records: dict[str, Path]):
    verdict = judge_files(records, LIMITS)
    # Nothing but what was not compared at all.
    assert not [finding for finding in verdict.findings if finding.leg == "preprocessing" and not finding.passed]
    assert not [
        finding for finding in verdict.findings if finding.leg in ("stages", "self_test") and not finding.passed
    ]


FORGED: dict[str, tuple[str, Callable[[dict[str, Any]], Any], str]] = {
    "no preparation": ("preprocessing", lambda data: data["differences"].clear(), "cat@48x64 as publisher prepares it"),
    "one preparation": ("preprocessing", lambda data: data["differences"].pop(), "dog@48x64 as transformers prepares"),
    "no stages": ("stages", lambda data: data["stages"].clear(), "any stage"),
    "one stage": ("stages", lambda data: data["stages"].pop(), "norm of equinox_float64 and truth, injected"),
    "no faults": ("self_test", lambda data: data["faults"].clear(), "nothing was tested"),
    "no healthy models": ("self_test", lambda data: data["healthy"].clear(), "nothing was tested"),
    "fault that passes": ("self_test", lambda data: data["faults"][0].update(caught=False), r"x \(model, ViT\) passes"),
    "no limit is tripped": ("self_test", lambda data: data["tripped"].update(floors=0), "no fault is beyond floors"),
    "nothing wrong": ("self_test", lambda data: data.update(wrong=["x"]), "what it says is wrong"),
}


@pytest.mark.parametrize(("name", "edit", "told"), FORGED.values(), ids=FORGED)
def test_rows_that_are_missing_are_told_of(records: dict[str, Path], name: str, edit, told: str):
    change_json(records[name], edit)
    file = re.escape(records[name].name)
    with pytest.raises(InputError, match=rf"{file} was edited: its rows do not bear out .*{told}.*; delete it and run"):
        judge_files(records, LIMITS)


@pytest.mark.parametrize("how", ["edited", "flipped", "truncated", "empty", "deep", "missing"])
@pytest.mark.parametrize("name", ["record", "preprocessing", "comparison", "stages", "self_test"])
def test_a_damaged_record_is_named(records: dict[str, Path], name: str, how: str):
    path = records[name]
    content = path.read_bytes()
    changed = {
        "edited": content.replace(b"0.0", b"0.5").replace(b'"synthetic"', b'"official"').replace(b"ViT", b"CNN"),
        "flipped": bytes([*content[:40], content[40] ^ 4, *content[41:]]),
        "truncated": content[: len(content) // 2],
        "empty": b"",
        "deep": b"[" * 100_000,
    }
    if how == "missing":
        path.unlink()
    else:
        assert changed[how] != content or name == "comparison"
        path.write_bytes(changed[how] if changed[how] != content else content.replace(b"tiny", b"huge"))
    with pytest.raises(InputError, match=rf"{re.escape(path.name)} (was edited|is damaged|is missing)"):
        judge_files(records, LIMITS)


@pytest.mark.parametrize("how", [b"", b"{}", b'{"findings": 3}', b"[" * 100_000])
def test_a_broken_verdict_is_one_sentence(evidence: dict[str, Path], written: Path, how: bytes):
    written.write_bytes(how)
    with pytest.raises(InputError, match=r"static\.verdict\.json is damaged"):
        check_verdict(written, judge_files(evidence, LIMITS))


PHOTOGRAPH = "cat@32x64"


def packed_rows() -> PackingComparison:
    """Probes of one photograph that are complete."""
    images = [PHOTOGRAPH, *noise(16)]
    of_all = [(probe, image) for probe in (*EXACT, *ROUNDED) for image in images]
    of_all += [("reference", PHOTOGRAPH), (TRUTH, PHOTOGRAPH)]
    of_all += [(EXCHANGED, image) for image in images if image not in ("noise@16x16", "noise@80x80")]
    inputs = pack([*noise(16).values()], 16)
    wrong = [wrong for wrong, *_ in wrong_inputs(inputs["pixel_values"], inputs["grid_thw"])]
    return PackingComparison(
        *("tiny", "packed", "ab", images),
        [{"probe": probe, "image": image, "judged": image == PHOTOGRAPH} for probe, image in of_all],
        [{"wrong": one, "level": level, "refused": True} for one in wrong for level in LEVELS],
    )


@pytest.mark.parametrize(
    ("change", "lacking"),
    [
        (lambda found: {}, []),
        (lambda found: {"export": "other"}, ["export"]),
        (lambda found: {"images": found.images[:-1]}, ["all images"]),
        (lambda found: {"rows": found.rows[:-1]}, ["each image in each probe once"]),
        (lambda found: {"rows": [*found.rows, found.rows[0]]}, ["each image in each probe once"]),
        (lambda found: {"rows": [row | {"judged": False} for row in found.rows]}, ["the noise floors of photographs"]),
        (lambda found: {"refusals": found.refusals[1:]}, ["each wrong input at each level"]),
    ],
)
def test_probes_that_were_left_out_are_named(change, lacking: list[str]):
    found = packed_rows()
    about = Comparison("tiny", "packed", "ab", {}, ["transformers"], [PHOTOGRAPH], *[[]] * 8)
    assert lacking_packing(replace(found, **change(found)), about, 16) == lacking


MAPPED = ["cat@32x32", "dog@32x32"]
MAPS = ["patches", "before_norm", "norms.0", "norms.1"]


def dense_rows(sha256: str = "ab") -> DenseComparison:
    """Dense maps of two photographs that are complete, and all of them equal."""
    rows = [
        {"subject": subject, "image": Case.parse(case).name, "height": 32, "width": 32, "map": name}
        | dict.fromkeys(keys_of(name), 0.0)
        for case in MAPPED
        for name in MAPS
        for subject in IMPLEMENTATIONS
    ]
    return DenseComparison("tiny", "static", sha256, MAPPED, MAPS, rows)


def without(key: str, value: str) -> Callable[[DenseComparison], dict[str, Any]]:
    """Leaves out all of a photograph or a map."""
    return lambda found: {"rows": [row for row in found.rows if row[key] != value]}


@pytest.mark.parametrize(
    ("change", "lacking"),
    [
        (lambda found: {}, []),
        (lambda found: {"export": "other"}, ["export"]),
        (lambda found: {"rows": found.rows[:-1]}, ["each map of each photograph and implementation once"]),
        (lambda found: {"rows": [*found.rows, found.rows[0]]}, ["each map of each photograph and implementation once"]),
        (without("subject", "onnx"), ["each map of each photograph and implementation once"]),
        (
            lambda found: {"cases": MAPPED[:1]} | without("image", "dog")(found),
            ["each photograph once, all at one size"],
        ),
        (lambda found: {"cases": []}, ["each photograph once, all at one size", "each map of each photograph and"]),
        (lambda found: {"maps": MAPS[1:]} | without("map", "patches")(found), ["all maps"]),
        (lambda found: {"maps": MAPS[:3:2]} | without("map", "before_norm")(found), ["all maps", "each map of each"]),
        (lambda found: {"maps": [*MAPS[:2], MAPS[3]]} | without("map", "norms.0")(found), ["all maps"]),
        (
            lambda found: {"rows": [{k: v for k, v in row.items() if k != "gram"} for row in found.rows]},
            ["all figures of each map"],
        ),
    ],
)
def test_dense_maps_that_were_left_out_are_named(change, lacking: list[str]):
    found = dense_rows()
    about = Comparison("tiny", "static", "ab", {}, ["transformers"], CASES, *[[]] * 8)
    told = lacking_dense(replace(found, **change(found)), about)
    assert len(told) == len(lacking) and all(map(str.startswith, told, lacking))


def test_dense_maps_are_judged(records: dict[str, Path], tmp_path: Path):
    path = tmp_path / "parity" / "static.dense.json"
    evidence = records | {"dense": path}
    dense_rows(sha256_of(records["graph"])).write(path)
    verdict = judge_files(evidence, LIMITS)
    assert "dense" in verdict.asked and "parity/static.dense.json" in verdict.evidence
    assert [one for one in verdict.of("dense") if not one.passed] == []
    assert "dense" not in judge_files(records, LIMITS).asked
    change_json(path, lambda data: data["rows"].pop())
    with pytest.raises(InputError, match=r"static\.dense\.json was edited: its rows do not bear out each map of each"):
        judge_files(evidence, LIMITS)
    dense_rows("of another").write(path)
    with pytest.raises(InputError, match=r"static\.dense\.json is of another static\.onnx; delete it and run again"):
        judge_files(evidence, LIMITS)
    change_json(path, lambda data: data.update(further=[]))
    with pytest.raises(InputError, match=r"static\.dense\.json was edited: it has other keys"):
        judge_files(evidence, LIMITS)
