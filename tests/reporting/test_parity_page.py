"""The parity page: the verdict on top, the reason for each limit, and nothing loaded from elsewhere."""

import base64
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from vit2onnx.parity.verdict import LEGS, judge
from vit2onnx.reporting.evidence import Evidence
from vit2onnx.reporting.figures import heat_table
from vit2onnx.reporting.parity_page import LEGS as LEGS_ON_PAGE
from vit2onnx.reporting.parity_page import findings_of_leg, parity_page
from vit2onnx.reporting.sections import ledger_in_short

Comparison = dict[str, Any]
Limits = dict[str, dict[str, dict[str, Any]]]
Make = Callable[..., Evidence]
Text = Callable[..., str]
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
def text_of(evidence_of: Make, limits: Limits) -> Callable[..., str]:
    """The words of the page on some comparisons."""

    def render(*comparisons: Comparison, **other: Any) -> str:
        return " ".join(Page(parity_page(evidence_of(*comparisons, **other), limits)).text.split())

    return render


@pytest.fixture
def official(evidence_of: Make, healthy: Comparison) -> Comparison:
    return evidence_of(healthy).record | {
        "official_file": "dinov3_tiny-feedbeef.pth",
        "weights": "official",
        "origin": {"kind": "huggingface", "name": "facebook/dinov3-tiny"},
        "identity": "the publisher's dinov3_tiny-feedbeef.pth",
    }


def test_healthy_graph_passes_in_plain_words(healthy: Comparison, text_of: Text) -> None:
    text = text_of(healthy)
    assert "Passed: dynamic.onnx gives what the original PyTorch model gives." in text
    assert "0.000005 largest difference between ONNX and original in 3200 output numbers limit 0.00001;" in text
    assert "0.5 x the rounding error of the original itself limit 1.5 x" in text
    assert "99.95 % of nearest neighbours (images, regions, patches) stay the same" in text
    assert "99 % of the pixel values that the model is given are as the publisher's limit 96 %" in text
    assert "2 photographs at up to 2 sizes went through" in text
    assert "FAILED" not in text


def test_every_failed_graph_is_named_with_its_faults(
    healthy: Comparison, beyond: Comparison, not_finite: Comparison, text_of: Text
) -> None:
    text = text_of(healthy, beyond, not_finite | {"export": "large"})
    assert "FAILED: 2 of 3 ONNX files do not give what the original PyTorch model gives. static.onnx, outputs" in text
    assert "1.00e-03 > 1.00e-05" in text
    assert "finite: NaN or infinity in an output" in text
    assert "unknown largest difference between" in text
    assert "Passed" not in text


def test_graph_without_any_number_still_has_a_page(healthy: Comparison, text_of: Text) -> None:
    for row in healthy["differences"]:
        row |= {"max_abs": None, "cosine": None}
    for one in healthy["error_maps"]:
        one["max_abs"] = [[None] * 7] * 3
    assert "FAILED: 1 of 1 ONNX files does not give" in text_of(healthy)


@pytest.mark.parametrize("emptied", [{"references": []}, {"differences": [], "error_maps": [], "semantics": []}])
def test_graph_without_any_comparison_still_has_a_page(healthy: Comparison, text_of: Text, emptied: Comparison) -> None:
    text = text_of(healthy | emptied)
    assert "FAILED: 1 of 1 ONNX files does not give" in text
    assert "Nothing was compared." in text


def test_weights_are_told_apart(healthy: Comparison, text_of: Text, official: Comparison) -> None:
    assert "SYNTHETIC WEIGHTS" in text_of(healthy)
    text = text_of(healthy, record=official)
    assert "SYNTHETIC" not in text
    assert "the publisher's dinov3_tiny-feedbeef.pth huggingface, name facebook/dinov3-tiny" in text


def test_official_weights_that_nothing_confirms_are_said_to_be_that(
    healthy: Comparison, text_of: Text, official: Comparison
) -> None:
    unknown = official | {"official_file": None}
    assert "NOT CONFIRMED" in text_of(healthy, record=unknown)
    assert "NOT CONFIRMED" not in text_of(healthy, record=official)
    row = next(row for row in healthy["differences"] if row["other"] == "transformers")
    healthy["differences"].append(row | {"subject": "equinox", "other": "published"})
    assert "NOT CONFIRMED" not in text_of(healthy, record=unknown)


def test_features_that_are_not_the_published_ones_speak_of_the_checkpoint(healthy: Comparison, text_of: Text) -> None:
    row = next(row for row in healthy["differences"] if row["other"] == "transformers")
    healthy["differences"].append(row | {"subject": "equinox", "other": "published", "max_abs": 0.5})
    text = text_of(healthy)
    assert "FAILED: the checkpoint or the photograph is not the one whose features are published." in text
    assert "does not give" not in text


def test_every_limit_is_explained(healthy: Comparison, stages: Comparison, text_of: Text, limits: Limits) -> None:
    assert tuple(LEGS_ON_PAGE) == LEGS
    shown = {name for _, names in LEGS_ON_PAGE.values() for name in names}
    # Stages have a verdict of their own.
    assert shown == set(limits["limits"]) - {"noise_floors"}
    text = text_of(healthy, stages={"dynamic": stages})
    assert all(limit["why"] in text for limit in (*limits["limits"].values(), *limits["preprocessing"].values()))


def test_findings_have_their_figures_in_columns_only(healthy: Comparison, limits: Limits) -> None:
    verdict = judge(healthy, {name: limit["limit"] for name, limit in limits["limits"].items()})
    for finding in findings_of_leg(verdict, "reference") + findings_of_leg(verdict, "truth"):
        assert finding["what"]
        assert not re.search(r"e-\d\d|<=", finding["what"])


def test_all_gates_make_one_verdict(
    beyond: Comparison, diverging: Comparison, tested: Comparison, prepared: list[Comparison], text_of: Text
) -> None:
    tested["faults"][0] |= {"caught": False, "passed": False}
    prepared = [row | {"share": 0.5} for row in prepared]
    text = text_of(beyond, stages={"static": diverging}, preprocessing=prepared, self_test=tested)
    assert text.count("FAILED:") == 1
    assert (
        "FAILED: 1 of 1 ONNX files does not give what the original PyTorch model gives; inside 1 of 1 ONNX files a"
        " layer goes wrong; photographs are not prepared as the publisher prepares them; these checks cannot be"
        " relied on."
    ) in text
    for what in (
        "static.onnx, layer by layer first divergence: blocks.1.mlp_raw, onnx and equinox, 3.1e-03, 400 x",
        "preprocessing ours - publisher, share of values at another grey level (worst at cat 48x112)",
        "self-test The checks caught 2 of 3 planted faults, named the stage of 1 of 2 in weights, model and graph, and"
        " flagged none of 2 healthy models.",
    ):
        assert what in text


def test_preprocessing_fails_the_page_alone(healthy: Comparison, prepared: list[Comparison], text_of: Text) -> None:
    assert "the publisher's transform 1 1 % 0.017" in text_of(healthy)
    text = text_of(healthy, preprocessing=[row | {"share": 0.5} for row in prepared])
    assert "FAILED: photographs are not prepared as the publisher prepares them. preprocessing ours - publisher" in text
    assert "Passed:" not in text


def test_stages_are_shown_or_how_to_get_them(healthy: Comparison, stages: Comparison, text_of: Text) -> None:
    assert "parity: stages: true in config/config.yaml does that" in text_of(healthy)
    text = text_of(healthy, stages={"dynamic": stages})
    assert "none of 10 steps inside the network goes wrong at most 1.7 x rounding noise; limit 5 x" in text
    assert (
        "No layer diverges: of 10 stages, none is more than 1.7 noise floors apart (limit 5), on cat at 48x112" in text
    )


def test_a_layer_that_diverges_is_named(healthy: Comparison, diverging: Comparison, text_of: Text) -> None:
    text = text_of(healthy, stages={"dynamic": diverging})
    assert "FAILED: inside 1 of 1 ONNX files a layer goes wrong." in text
    assert "blocks.1.mlp_raw is where the network goes wrong there onnx and equinox part first; limit 5 x" in text
    assert "First divergence, in injected mode: blocks.1.mlp_raw, onnx and equinox, 3.1e-03, 400 x the noise" in text


def test_the_file_tells_of_itself(healthy: Comparison, text_of: Text) -> None:
    text = text_of(healthy)
    for words in (
        "licence none: random numbers",
        "float32 RGB; bilinear, antialiased; times 1/255; mean 0.485, 0.456, 0.406; std 0.229, 0.224, 0.225",
        "RoPE periods bfloat16",
        "operators ONNX opset 23",
        "dynamic.passport.json has the hash of every single weight",
    ):
        assert words in text


def test_photographs_are_shown_with_the_worst_first(
    healthy: Comparison, beyond: Comparison, not_finite: Comparison, text_of: Text
) -> None:
    text = text_of(healthy)
    assert "cat 5.0e-06 2.0e-13 dynamic.onnx, 48x112, batch 1, patch 1,2 48x112, 224x224" in text
    assert text.index("cat 5.0e-06") < text.index("tree 2.5e-06")
    assert "tree 1.0e-03 1.0e-13 static.onnx, 224x224, batch 3, cls 0 48x112, 224x224 cat" in text_of(healthy, beyond)
    assert "tree not finite not finite dynamic.onnx, 48x112" in text_of(not_finite)


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
    assert len(page.links) == 2 * 2 + 1 + 2
    assert not re.search(r"https?:|@import|url\(|<script[^>]|<link", re.sub(r"base64,[^\"]*", "", html))
    assert str(tmp_path) not in html
    for link in page.links:
        kind, _, content = link.partition(";base64,")
        assert kind in ("data:image/svg+xml", "data:image/png", "data:image/jpeg")
        if kind == "data:image/svg+xml":
            svg = base64.b64decode(content).decode()
            assert not re.search(r"href=\"(?!#)|@import|url\((?!#)|<script", svg)
    assert len(set(page.ids)) == len(page.ids)


def test_text_is_escaped(healthy: Comparison, text_of: Text) -> None:
    healthy["checks"][0]["detail"] = "<script>alert(1)</script>"
    assert "<script>alert(1)</script>" in text_of(healthy)


@pytest.mark.parametrize(("fixture", "red"), [("healthy", 0), ("beyond", 1), ("not_finite", 4)])
def test_what_fails_is_red(fixture: str, red: int, limits: Limits, request: pytest.FixtureRequest) -> None:
    table = heat_table(request.getfixturevalue(fixture), limits["limits"])
    style = re.search(r"([^{}]*)\{[^{}]*background: #b3261e[^{}]*\}", table)
    assert (style[1].count("#") if style else 0) == red


def test_distributions_are_of_the_reference_and_the_graph(healthy: Comparison, text_of: Text) -> None:
    text = text_of(healthy)
    assert "Hugging Face transformers - float64 1.0e-06" in text
    assert "ONNX, batch 3 - Hugging Face transformers 1.0e-06" in text
    assert "Equinox - " not in text


def test_what_people_do_with_features_is_shown_with_margins(healthy: Comparison, text_of: Text) -> None:
    text = text_of(healthy)
    assert "patches 2048 1536 99.95 % 99.99 % of 10 5.0e-08 1.0e-07 2.0e-08" in text
    assert (
        "Matches of patches between 6 pairs of photographs: 99.9 % of 6144 are the same (margin of swaps 3.0e-08)"
        in text
    )
    assert "the first 3 principal components of the patches turned by 1.0e-05° (relative gap behind them 0.034)" in text
    assert "did so by 3.0e-05°: cat 48x112, token 9" in text


def test_semantics_that_are_not_known_are_said(healthy: Comparison, text_of: Text) -> None:
    nothing = {"finite": False, "neighbours": [], "matches": None, "subspaces": [], "worst_token": None}
    for row in healthy["semantics"]:
        row |= nothing
    text = text_of(healthy)
    assert "Features are missing or no finite numbers." in text
    assert "FAILED: 1 of 1 ONNX files does not give" in text


def test_ledger_in_short(healthy: Comparison, evidence_of: Make, text_of: Text) -> None:
    assert ledger_in_short(evidence_of(healthy).ledger) == {
        "tensors": 3,
        "copied": 1,
        "changed": 1,
        "ignored": [("mask_token", "used in training only")],
        "restored": [("rope.periods", "from the configuration")],
    }
    assert "1 copied, 1 reshaped or masked, 1 left out; 1 that it lacks restored" in text_of(healthy)
