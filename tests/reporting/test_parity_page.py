"""The parity page: the verdict on top, the reason for each limit, and nothing loaded from elsewhere."""

import base64
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from vit2onnx.parity.verdict import LEGS, judge
from vit2onnx.reporting.figures import heat_table
from vit2onnx.reporting.parity_page import LEGS as LEGS_ON_PAGE
from vit2onnx.reporting.parity_page import findings_of_leg, ledger_in_short, parity_page

CONFIG = Path(__file__).parents[2] / "config" / "config.yaml"
Comparison = dict[str, Any]
Limits = dict[str, dict[str, Any]]
VOID = {"meta", "img", "br", "link"}
SYNTHETIC = {
    "variant": "dinov3_tiny",
    "weights": "synthetic",
    "origin": {"kind": "synthetic", "seed": 0},
    "layout": "meta",
    "bytes": 86_000_000,
    "sha256": "feedbeef",
    "official_file": None,
    "identity": "synthetic weights, made here",
}
OFFICIAL = SYNTHETIC | {
    "official_file": "dinov3_tiny-feedbeef.pth",
    "weights": "official",
    "origin": {"kind": "huggingface", "name": "facebook/dinov3-tiny"},
    "identity": "the publisher's dinov3_tiny-feedbeef.pth",
}
LEDGER = [
    "source,target,transform,shape,dtype,sha256,target_sha256",
    "cls_token,cls_token,drop_first_axis,1x1x8,float32,aa,bb",
    "norm.bias,norm.bias,copy,8,float32,cc,cc",
    "mask_token,,ignored: used in training only,1x8,float32,dd,",
    ",rope.periods,from the configuration,16,float32,,ee",
]

PREPARED_LIMITS = yaml.safe_load(CONFIG.read_text())["parity"]["preprocessing"]
PREPARED = [
    {
        "other": other,
        "image": image,
        "height": 48,
        "width": 112,
        "levels": 1.0,
        "share": share,
        "normalised": 0.017,
        "rest": 0.0,
    }
    for other, share in (
        ("publisher", 0.01),
        ("publisher_float", 0.2),
        ("transformers", 0.9),
        ("transformers_pil", 0.1),
    )
    for image in ("cat", "tree")
]


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
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.links += [value for name, value in attrs if name in ("src", "href", "data", "srcset") and value]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data


def rendered(limits: Limits, *comparisons: Comparison, record: Comparison = SYNTHETIC) -> Page:
    return Page(parity_page(comparisons, record, LEDGER, limits, PREPARED, PREPARED_LIMITS))


def words(page: Page) -> str:
    return " ".join(page.text.split())


def test_healthy_graph_passes_in_plain_words(healthy: Comparison, limits: Limits) -> None:
    text = words(rendered(limits, healthy))
    assert "Passed: dynamic.onnx gives what the original PyTorch model gives." in text
    assert "No number in any output differs by more than 0.000005; the limit is 0.00001, times" in text
    assert "FAILED" not in text


def test_every_failed_graph_is_named_with_its_faults(
    healthy: Comparison, beyond: Comparison, not_finite: Comparison, limits: Limits
) -> None:
    text = words(rendered(limits, healthy, beyond, not_finite | {"export": "large"}))
    assert "FAILED: 2 of 3 ONNX files do not give what the original PyTorch model gives. static.onnx" in text
    assert "1.00e-03 > 1.00e-05" in text
    assert "finite: NaN or infinity in an output" in text
    assert "Passed" not in text


def test_graph_without_any_number_still_has_a_page(healthy: Comparison, limits: Limits) -> None:
    for row in healthy["differences"]:
        row |= {"max_abs": None, "cosine": None}
    assert "FAILED: 1 of 1 ONNX files does not give" in words(rendered(limits, healthy))


@pytest.mark.parametrize("emptied", [{"references": []}, {"differences": []}])
def test_graph_without_any_comparison_still_has_a_page(
    healthy: Comparison, limits: Limits, emptied: Comparison
) -> None:
    text = words(rendered(limits, healthy | emptied))
    assert "FAILED: 1 of 1 ONNX files does not give" in text
    assert "Nothing was compared." in text


def test_weights_are_told_apart(healthy: Comparison, limits: Limits) -> None:
    assert "SYNTHETIC WEIGHTS" in words(rendered(limits, healthy))
    text = words(rendered(limits, healthy, record=OFFICIAL))
    assert "SYNTHETIC" not in text
    assert "the publisher's dinov3_tiny-feedbeef.pth huggingface, name facebook/dinov3-tiny" in text


def test_official_weights_that_nothing_confirms_are_said_to_be_that(healthy: Comparison, limits: Limits) -> None:
    unknown = OFFICIAL | {"official_file": None}
    assert "NOT CONFIRMED" in words(rendered(limits, healthy, record=unknown))
    assert "NOT CONFIRMED" not in words(rendered(limits, healthy, record=OFFICIAL))
    row = next(row for row in healthy["differences"] if row["other"] == "transformers")
    healthy["differences"].append(row | {"subject": "equinox", "other": "published"})
    assert "NOT CONFIRMED" not in words(rendered(limits, healthy, record=unknown))


def test_every_limit_is_explained(healthy: Comparison, limits: Limits) -> None:
    assert tuple(LEGS_ON_PAGE) == LEGS
    shown = {name for _, names in LEGS_ON_PAGE.values() for name in names}
    # Stages have a verdict of their own.
    assert shown == set(limits) - {"noise_floors"}
    text = words(rendered(limits, healthy))
    assert all(limits[name]["why"] in text for name in shown)


def test_findings_have_their_figures_in_columns_only(healthy: Comparison, limits: Limits) -> None:
    verdict = judge(healthy, {name: limit["limit"] for name, limit in limits.items()})
    for finding in findings_of_leg(verdict, "reference") + findings_of_leg(verdict, "truth"):
        assert finding["what"]
        assert not re.search(r"e-\d\d|<=", finding["what"])


def test_same_input_gives_the_same_bytes(healthy: Comparison, beyond: Comparison, limits: Limits) -> None:
    pages = [parity_page([healthy, beyond], SYNTHETIC, LEDGER, limits, PREPARED, PREPARED_LIMITS) for _ in range(2)]
    assert pages[0] == pages[1]


def test_page_loads_nothing(healthy: Comparison, beyond: Comparison, limits: Limits) -> None:
    html = parity_page([healthy, beyond], SYNTHETIC, LEDGER, limits, PREPARED, PREPARED_LIMITS)
    page = Page(html)
    assert len(page.links) == 2
    assert not re.search(r"https?:|@import|url\(|<script|<link", re.sub(r"base64,[^\"]*", "", html))
    for link in page.links:
        svg = base64.b64decode(link.removeprefix("data:image/svg+xml;base64,")).decode()
        assert not re.search(r"href=\"(?!#)|@import|url\((?!#)|<script", svg)
    assert len(set(page.ids)) == len(page.ids)


def test_text_is_escaped(healthy: Comparison, limits: Limits) -> None:
    healthy["checks"][0]["detail"] = "<script>alert(1)</script>"
    assert "<script>alert(1)</script>" in rendered(limits, healthy).text


@pytest.mark.parametrize(("fixture", "red"), [("healthy", 0), ("beyond", 1), ("not_finite", 4)])
def test_what_fails_is_red(fixture: str, red: int, limits: Limits, request: pytest.FixtureRequest) -> None:
    table = heat_table(request.getfixturevalue(fixture), limits)
    style = re.search(r"([^{}]*)\{[^{}]*background: #b3261e[^{}]*\}", table)
    assert (style[1].count("#") if style else 0) == red


def test_distributions_are_of_the_reference_and_the_graph(healthy: Comparison, limits: Limits) -> None:
    text = words(rendered(limits, healthy))
    assert "Hugging Face transformers - float64 1.0e-06" in text
    assert "ONNX, batch 3 - Hugging Face transformers 1.0e-06" in text
    assert "Equinox - " not in text


def test_what_people_do_with_features_is_shown_with_margins(healthy: Comparison, limits: Limits) -> None:
    text = words(rendered(limits, healthy))
    assert "patches 2048 1536 99.95 % 99.99 % of 10 5.0e-08 1.0e-07 2.0e-08" in text
    assert (
        "Matches of patches between 6 pairs of photographs: 99.9 % of 6144 are the same (margin of swaps 3.0e-08)"
        in text
    )
    assert "the first 3 principal components of the patches turned by 1.0e-05° (relative gap behind them 0.034)" in text
    assert "did so by 3.0e-05°: cat 48x112, token 9" in text


def test_semantics_that_are_not_known_are_said(healthy: Comparison, limits: Limits) -> None:
    nothing = {"finite": False, "neighbours": [], "matches": None, "subspaces": [], "worst_token": None}
    for row in healthy["semantics"]:
        row |= nothing
    text = words(rendered(limits, healthy))
    assert "Features are missing or no finite numbers." in text
    assert "FAILED: 1 of 1 ONNX files does not give" in text


def test_preprocessing_is_told_apart_from_the_model(healthy: Comparison, limits: Limits) -> None:
    text = words(rendered(limits, healthy))
    assert "the publisher's transform 1 1 % 0.017" in text
    assert all(limit["why"] in text for limit in PREPARED_LIMITS.values())
    prepared = [row | {"share": 0.5} for row in PREPARED]
    text = words(Page(parity_page([healthy], SYNTHETIC, LEDGER, limits, prepared, PREPARED_LIMITS)))
    assert "Passed: dynamic.onnx" in text
    assert "FAILED: photographs are not prepared as the publisher prepares them. ours - publisher, share of" in text


def test_ledger_in_short(healthy: Comparison, limits: Limits) -> None:
    assert ledger_in_short(LEDGER) == {
        "tensors": 3,
        "copied": 1,
        "changed": 1,
        "ignored": [("mask_token", "used in training only")],
        "restored": [("rope.periods", "from the configuration")],
    }
    assert "1 copied, 1 reshaped or masked, 1 left out; 1 that it lacks restored" in words(rendered(limits, healthy))
