"""The parity page: the verdict on top, the reason for each limit, and nothing loaded from elsewhere."""

import base64
import math
import re
from collections.abc import Callable
from copy import deepcopy
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from vit2onnx.parity.verdict import LEGS, PUBLISHED, numbers_of
from vit2onnx.reporting.evidence import Evidence, Judgement, is_confirmed
from vit2onnx.reporting.figures import heat_table
from vit2onnx.reporting.parity_page import (
    QUESTIONS,
    diagnosis,
    faults_section,
    grown_limits,
    headline,
    judgements,
    leg_section,
    parity_page,
)
from vit2onnx.reporting.sections import ledger_section, photograph_section
from vit2onnx.reporting.semantics import distribution_section

Comparison = dict[str, Any]
Limits = dict[str, dict[str, dict[str, Any]]]
Make = Callable[..., Evidence]
Text = Callable[..., str]
Judged = Callable[..., dict[str, Judgement]]
VOID = {"meta", "img", "br", "link"}
INLINE = {"code"}


class Page(HTMLParser):
    """What a page is made of; raises where a tag is closed that is not open."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        # What begins a cell or a line is apart from what was before.
        self.text += "" if tag in INLINE else " "
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.links += [value for name, value in attrs if name in ("src", "href", "data", "srcset") and value]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["style"], ["script"]):
            self.text += data


@pytest.fixture
def text_of(evidence_of: Make, limits: Limits) -> Text:
    """The words of the page on some comparisons."""

    def render(*comparisons: Comparison, **other: Any) -> str:
        return " ".join(Page(parity_page(evidence_of(*comparisons, **other), limits)).text.split())

    return render


@pytest.fixture
def judged(evidence_of: Make, limits: Limits) -> Judged:
    """What all gates say of some comparisons."""

    def judge(*comparisons: Comparison, **other: Any) -> dict[str, Judgement]:
        return judgements(evidence_of(*comparisons, **other), limits)

    return judge


@pytest.fixture
def official(evidence_of: Make, healthy: Comparison) -> Comparison:
    return evidence_of(healthy).record | {
        "official_file": "dinov3_tiny-feedbeef.pth",
        "weights": "official",
        "origin": {"kind": "huggingface", "name": "facebook/dinov3-tiny"},
        "identity": "the publisher's dinov3_tiny-feedbeef.pth",
    }


def test_headline_of_graphs_that_pass(healthy: Comparison, judged: Judged) -> None:
    one, two = judged(healthy), judged(healthy, healthy | {"export": "static"})
    assert headline(one) == "Passed: dynamic.onnx gives what the original PyTorch model gives."
    assert headline(two) == "Passed: dynamic.onnx and static.onnx give what the original PyTorch model gives."
    assert faults_section(two) == []


def test_every_failed_graph_is_named_with_its_faults(
    healthy: Comparison, beyond: Comparison, not_finite: Comparison, judged: Judged
) -> None:
    found = judged(healthy, beyond, not_finite | {"export": "large"})
    assert headline(found) == "FAILED: 2 of 3 ONNX files do not give what the original PyTorch model gives."
    static, large = faults_section(found)
    assert (static["title"], large["title"]) == ("static.onnx, outputs", "large.onnx, outputs")
    assert "1.00e-03 > 1.00e-05" in static["sentences"][0]
    assert "finite: NaN or infinity in an output" in large["sentences"]
    assert headline(judged(healthy, beyond)).startswith("FAILED: 1 of 2 ONNX files does not give")


def test_page_of_a_graph_that_passes(healthy: Comparison, text_of: Text) -> None:
    text = text_of(healthy)
    for words in (
        "Passed: dynamic.onnx gives what the original PyTorch model gives.",
        "SYNTHETIC WEIGHTS",
        "0.5 x the ONNX file's rounding error, against the original's limit 1.5 x",
        "2 photographs at up to 2 sizes went through",
        "dynamic.onnx photographs findings on dynamic.onnx preprocessing self-test what the files are",
        "cat 5.0e-06 2.0e-13 dynamic.onnx, 48x112, batch 1, patch 1,2 48x112, 224x224",
        "ONNX, not optimised against Hugging Face transformers, max |difference| (worst at cat 48x112, batch 1",
        # Where stages were not compared.
        "Stages inside the network were not asked for in this run; make proof compares them",
        "The self-test was not asked for in this run; make proof",
        # Distributions of the reference and of the graph.
        "Hugging Face transformers against float64 1.0e-06",
        "ONNX, batch 3 against Hugging Face transformers 1.0e-06",
        # What people do with features, with margins.
        "patches 2048 1536 99.95 % 99.99 % of 10 5.0e-08 1.0e-07 2.0e-08",
        "between 6 pairs of photographs: 99.9 % of 6144 are the same (largest swap margin 3.0e-08)",
        "the first 3 principal components of the patches turned by 1.0e-05° (relative gap behind them 0.034)",
        "did so by 3.0e-05°: cat 48x112, token 9",
        "the publisher's transform 1 99 % 0.017",
        # The file tells of itself, and of the checkpoint.
        "licence none: random numbers",
        "float32 RGB; bilinear, antialiased; times 1/255; mean 0.485, 0.456, 0.406; std 0.229, 0.224, 0.225",
        "RoPE periods bfloat16",
        # Not the model alone is what is meant.
        "ONNX against Hugging Face transformers, distance from float64 (root mean square)",
        "operators ONNX opset 23",
        "dynamic.passport.json has the hash of every single weight",
        "1 copied, 1 reshaped or masked, 1 left out; 1 that it lacks restored",
    ):
        assert words in text
    assert "FAILED" not in text


def test_page_on_which_everything_fails(
    not_finite: Comparison, diverging: Comparison, tested: Comparison, prepared: list[Comparison], text_of: Text
) -> None:
    tested["faults"][0] |= {"caught": False, "passed": False}
    prepared = [row | {"differing_share": 0.5} for row in prepared]
    text = text_of(not_finite, stages={"dynamic": diverging}, preprocessing=prepared, self_test=tested)
    assert text.count("FAILED:") == 1
    assert "Passed" not in text
    assert "dynamic.onnx FAILED" in text
    assert "First divergence: blocks.1.mlp_raw, onnx and equinox, 3.1e-03, 400 x the noise floor." in text
    assert "No stage goes wrong" not in text
    assert "tree not finite not finite dynamic.onnx, 48x112" in text
    # But for the words of a check.
    assert not re.search(r"\b(nan|NaN)\b(?! or infinity)", text)


def test_graph_without_any_number_still_has_a_page(healthy: Comparison, text_of: Text) -> None:
    for row in healthy["differences"]:
        row |= {"max_abs": None, "cosine": None}
    for one in healthy["error_maps"]:
        one["max_abs"] = [[None] * 7] * 3
    assert "FAILED: dynamic.onnx does not give" in text_of(healthy)


@pytest.mark.parametrize("emptied", [{"references": []}, {"differences": [], "error_maps": [], "semantics": []}])
def test_graph_without_any_comparison_still_has_a_page(healthy: Comparison, text_of: Text, emptied: Comparison) -> None:
    text = text_of(healthy | emptied)
    assert "FAILED: dynamic.onnx does not give" in text
    assert "Nothing was compared." in text


def test_weights_are_told_apart(healthy: Comparison, text_of: Text, official: Comparison) -> None:
    text = text_of(healthy, record=official)
    assert not re.search("SYNTHETIC|NOT CONFIRMED", text)
    assert "the publisher's dinov3_tiny-feedbeef.pth huggingface, name facebook/dinov3-tiny" in text
    assert "NOT CONFIRMED" in text_of(healthy, record=official | {"official_file": None})


def with_published(comparison: Comparison, max_abs: float) -> Comparison:
    row = next(row for row in comparison["differences"] if row["other"] == "transformers")
    published = row | {"subject": "equinox", "other": "published", "max_abs": max_abs}
    return comparison | {"differences": [*comparison["differences"], published]}


def test_weights_are_confirmed_by_their_hash_or_by_published_features_that_they_give(
    healthy: Comparison, judged: Judged, official: Comparison
) -> None:
    unknown = official | {"official_file": None}
    right, wrong = with_published(healthy, 1e-3), with_published(healthy, 0.5) | {"export": "static"}
    assert is_confirmed(judged(healthy).values(), official)
    assert not is_confirmed(judged(healthy).values(), unknown)
    assert is_confirmed(judged(right).values(), unknown)
    # That they were compared is not enough.
    assert not is_confirmed(judged(wrong).values(), unknown)
    assert not is_confirmed(judged(right, wrong).values(), unknown)


def test_features_that_are_not_the_published_ones_speak_of_the_checkpoint(healthy: Comparison, judged: Judged) -> None:
    found = headline(judged(with_published(healthy, 0.5)))
    assert found == "FAILED: the checkpoint or the photograph is not the one whose features are published."


def test_every_limit_is_explained(healthy: Comparison, stages: Comparison, text_of: Text, limits: Limits) -> None:
    assert tuple(QUESTIONS) == (*LEGS, PUBLISHED)
    shown = {name for _, names in QUESTIONS.values() for name in names}
    # Stages have a verdict of their own.
    assert shown == set(limits["limits"]) - {"noise_floors"}
    text = text_of(with_published(healthy, 1e-3), stages={"dynamic": stages})
    assert all(limit["why"] in text for limit in (*limits["limits"].values(), *limits["preprocessing"].values()))
    told = "No stage goes wrong: of 10 stages, none is more than 1.7 noise floors apart (limit 5), on cat at 48x112"
    assert told in text


def test_nothing_is_said_of_published_features_that_were_not_compared(
    healthy: Comparison, judged: Judged, limits: Limits
) -> None:
    (without,) = judged(healthy).values()
    (compared,) = judged(with_published(healthy, 1e-3)).values()
    legs = [leg_section(one, limits["limits"]) for one in (without, compared)]
    assert [len(found) for found in legs] == [3, 4]
    (finding,) = legs[1][-1]["findings"]
    assert (finding.what, finding.passed) == ("equinox, max |difference| from the published features", True)


def test_why_limits_grew_is_said(healthy: Comparison, stages: Comparison, text_of: Text, limits: Limits) -> None:
    numbers = numbers_of(limits["limits"])
    assert grown_limits(healthy, numbers) == {"rounding": [], "scale": []}
    for row in healthy["differences"]:
        if row["other"] == "truth":
            row["max_abs"] = 1e-4
    said = (
        "These weights amplify rounding: single precision alone takes Hugging Face transformers and our Equinox model"
        " up to 1.0e-04 from float64. So max_abs, truth_agreement, neighbour_margin and subspace_angle are up to 49"
    )
    assert text_of(healthy, stages={"dynamic": stages}).count(said) == 2
    # Limits grow only where every layer is proven by itself.
    assert said not in text_of(healthy)
    for row in healthy["differences"]:
        row["scale"] = 5.0
    of_scale = grown_limits(healthy, numbers)["scale"]
    assert "is 5, and max_abs and truth_agreement are as many times as large here" in of_scale[0]


def test_all_gates_make_one_verdict(
    beyond: Comparison, diverging: Comparison, tested: Comparison, prepared: list[Comparison], judged: Judged
) -> None:
    tested["faults"][0] |= {"caught": False, "passed": False}
    prepared = [row | {"differing_share": 0.5} for row in prepared]
    found = judged(beyond, stages={"static": diverging}, preprocessing=prepared, self_test=tested)
    assert headline(found) == (
        "FAILED: static.onnx does not give what the original PyTorch model gives; in static.onnx a stage goes wrong;"
        " photographs are not prepared as the publisher prepares them; these checks cannot be relied on."
    )
    told = {fault["title"]: fault["sentences"][0] for fault in faults_section(found)}
    assert list(told) == ["static.onnx, outputs", "static.onnx, stage by stage", "preprocessing", "self-test"]
    _, stages, preprocessing, self_test = told.values()
    assert stages == "first divergence: blocks.1.mlp_raw, onnx and equinox, 3.1e-03, 400 x the noise floor"
    assert preprocessing.startswith(
        "ours against the publisher's transform, share of values at another grey level (worst at"
    )
    assert self_test == (
        "w1 and w2 exchanged (weights, ViT with SwiGLU) passes. The checks caught 2 of 3 planted faults, named the"
        " stage of 2 of 2 in weights, model and graph, and flagged none of 2 healthy models."
    )


def test_preprocessing_fails_all_graphs_and_is_told_once(
    healthy: Comparison, prepared: list[Comparison], judged: Judged
) -> None:
    prepared = [row | {"differing_share": 0.5} for row in prepared]
    found = judged(healthy, healthy | {"export": "static"}, preprocessing=prepared)
    assert headline(found) == "FAILED: photographs are not prepared as the publisher prepares them."
    assert len(faults_section(found)) == 1
    assert not any(judgement.passed for judgement in found.values())


def test_other_faults_of_the_stages_are_shown(healthy: Comparison, stages: Comparison, text_of: Text) -> None:
    for row in stages["stages"]:
        if row["subject"] == "equinox_float64":
            row["relative"] = 1e-3
    text = text_of(healthy, stages={"dynamic": stages})
    assert "Equinox_float64 - truth, first apart at patch_embed: 1.00e-03 >" in text
    assert "No stage goes wrong" not in text


def test_photographs_are_shown_with_the_worst_first(
    healthy: Comparison, beyond: Comparison, not_finite: Comparison
) -> None:
    cat, tree = photograph_section([healthy], {})
    assert (cat["name"], cat["max_abs"], cat["sizes"]) == ("cat", 5e-6, "48x112, 224x224")
    assert (tree["name"], tree["max_abs"]) == ("tree", 2.5e-6)
    tree, cat = photograph_section([healthy, beyond], {})
    assert (tree["name"], tree["max_abs"], tree["place"]) == ("tree", 1e-3, "static.onnx, 224x224, batch 3, cls 0")
    tree, cat = photograph_section([not_finite], {})
    assert tree["name"] == "tree"
    assert math.isnan(tree["max_abs"]) and math.isnan(tree["distance"])


def test_same_input_gives_the_same_bytes(
    healthy: Comparison, beyond: Comparison, stages: Comparison, evidence_of: Make, limits: Limits
) -> None:
    evidence = evidence_of(healthy, beyond, stages={"dynamic": stages})
    assert parity_page(evidence, limits) == parity_page(evidence, limits)


def test_page_loads_nothing(
    healthy: Comparison,
    beyond: Comparison,
    diverging: Comparison,
    tested: Comparison,
    evidence_of: Make,
    limits: Limits,
    tmp_path: Path,
) -> None:
    html = parity_page(evidence_of(healthy, beyond, stages={"static": diverging}, self_test=tested), limits)
    page = Page(html)
    # Error over the photographs and distances from float64 of each, stages of one, and two thumbnails.
    held = [link for link in page.links if link.startswith("data:")]
    assert len(held) == 2 * 2 + 1 + 2
    others = set(page.links) - set(held)
    # Sections of the page, and files that the same run makes.
    assert {link[1:] for link in others if link.startswith("#")} <= set(page.ids)
    assert {link for link in others if not link.startswith("#")} == {
        *(f"parity/{export}.{kind}" for export in ("dynamic", "static") for kind in ("csv", "json")),
        *("parity/static.stages.csv", "../summary.html", "../self_test.html"),
        # The other failed, and so has none.
        "dynamic.passport.json",
    }
    assert not re.search(r"https?:|@import|url\(|<script[^>]|<link", re.sub(r"base64,[^\"]*", "", html))
    assert str(tmp_path) not in html
    for link in held:
        kind, _, content = link.partition(";base64,")
        assert kind in ("data:image/svg+xml", "data:image/png", "data:image/jpeg")
        if kind == "data:image/svg+xml":
            svg = base64.b64decode(content).decode()
            assert not re.search(r"href=\"(?!#)|@import|url\((?!#)|<script", svg)
    assert len(set(page.ids)) == len(page.ids)


def test_text_is_escaped(healthy: Comparison, text_of: Text) -> None:
    healthy["checks"][0]["detail"] = "<script>alert(1)</script>"
    assert "<script>alert(1)</script>" in text_of(healthy)


def test_names_of_photographs_are_escaped(healthy: Comparison, evidence_of: Make, limits: Limits) -> None:
    for row in healthy["differences"]:
        row["image"] = row["image"].replace("cat", "<script>alert(1)</script>")
    assert "<script>alert" not in heat_table(healthy, numbers_of(limits["limits"]))
    assert "<script>alert" not in parity_page(evidence_of(healthy), limits)


@pytest.mark.parametrize(("fixture", "red"), [("healthy", 0), ("beyond", 1), ("not_finite", 4)])
def test_what_fails_is_red(fixture: str, red: int, limits: Limits, request: pytest.FixtureRequest) -> None:
    table = heat_table(request.getfixturevalue(fixture), numbers_of(limits["limits"]))
    style = re.search(r"([^{}]*)\{[^{}]*background: #b3261e[^{}]*\}", table)
    assert (style[1].count("#") if style else 0) == red


def test_distributions_are_of_the_reference_and_the_graph(healthy: Comparison) -> None:
    assert not [row for row in distribution_section(healthy) if row["subject"] == "equinox"]


def test_semantics_that_are_not_known_are_said(healthy: Comparison, text_of: Text) -> None:
    nothing = {"finite": False, "neighbours": [], "matches": None, "subspaces": [], "worst_token": None}
    for row in healthy["semantics"]:
        row |= nothing
    text = text_of(healthy)
    assert "Features are missing or not finite." in text
    assert "FAILED: dynamic.onnx does not give" in text


def test_ledger_in_short(healthy: Comparison, evidence_of: Make) -> None:
    assert ledger_section(evidence_of(healthy).ledger) == {
        "tensors": 3,
        "copied": 1,
        "changed": 1,
        "ignored": [("mask_token", "used in training only")],
        "restored": [("rope.periods", "from the configuration")],
        "replaced": [],
    }


def test_what_is_left_out_and_made_anew_is_replaced(healthy: Comparison, evidence_of: Make, text_of: Text) -> None:
    lines = [*evidence_of(healthy).ledger, ',mask_token,"restored: zeros, as before training",1x8,float32,,ff']
    found = ledger_section(lines)
    assert found["replaced"] == [("mask_token", "used in training only", "zeros, as before training")]
    assert (found["ignored"], found["restored"]) == ([], [("rope.periods", "from the configuration")])
    text = text_of(healthy, ledger=lines)
    assert "1 replaced; 1 that it lacks restored" in text
    assert "replaced: mask_token (used in training only) by zeros, as before training" in text


def off(comparison: Comparison, *subjects: str) -> Comparison:
    for row in comparison["differences"]:
        if row["subject"] in subjects and row["other"] == "transformers":
            row["max_abs"] = 1e-3
    return comparison


@pytest.mark.parametrize(
    ("subjects", "told"),
    [
        (("onnx", "onnx_unoptimized"), "The Equinox model is within the limits, so the export (or onnxruntime) is at"),
        (("onnx",), "The graph is within the limits unless onnxruntime optimises it, so onnxruntime is at fault."),
        (("onnx", "onnx_unoptimized", "equinox"), "The Equinox model is off too, so weights or model are at fault, or"),
    ],
)
def test_a_failure_says_what_is_at_fault_and_what_is_next(
    healthy: Comparison, stages: Comparison, judged: Judged, text_of: Text, subjects: tuple[str], told: str
) -> None:
    (said,) = diagnosis(judged(off(healthy, *subjects)))
    assert said.startswith(told)
    assert said.endswith("`make proof` names the first stage that is wrong.")
    assert said.replace("`", "") in text_of(healthy)
    (said,) = diagnosis(judged(healthy, stages={"dynamic": stages}))
    assert said.startswith(told)
    assert "make proof" not in said


def test_graphs_that_fail_for_different_reasons_are_told_apart(healthy: Comparison, judged: Judged) -> None:
    other = off(deepcopy(healthy), "onnx") | {"export": "static"}
    found = diagnosis(judged(off(healthy, "onnx", "onnx_unoptimized", "equinox"), other))
    assert [sentence.partition(":")[0] for sentence in found] == ["dynamic.onnx", "static.onnx"]


def test_nothing_is_said_of_an_equinox_model_that_was_not_compared(healthy: Comparison, judged: Judged) -> None:
    broken = off(healthy, "onnx")
    broken["differences"] = [row for row in broken["differences"] if row["subject"] != "equinox"]
    assert diagnosis(judged(broken)) == []
    assert diagnosis(judged(healthy | {"differences": [], "references": []})) == []
