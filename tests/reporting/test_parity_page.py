"""The parity page: the verdict on top, the reason for each limit, and nothing loaded from elsewhere."""

import base64
import math
import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.limits import BY_PRECISION, OF_PAIRS
from vit2onnx.packing.probes import EXCHANGED
from vit2onnx.parity.comparison import Comparison
from vit2onnx.parity.dense_comparison import DENSE, DenseComparison
from vit2onnx.parity.divergence import StageComparison
from vit2onnx.parity.packing import PACKING, PackingComparison
from vit2onnx.parity.verdict import LEGS, Verdict
from vit2onnx.reporting.evidence import Evidence
from vit2onnx.reporting.figures import heat_table
from vit2onnx.reporting.parity_page import (
    QUESTIONS,
    diagnosis,
    faults_section,
    headline,
    leg_section,
    page_content,
    parity_page,
)
from vit2onnx.reporting.sections import ledger_section, photograph_section
from vit2onnx.reporting.semantics import distribution_section
from vit2onnx.spec.subject import PUBLISHED

Plain = dict[str, Any]
Limits = dict[str, dict[str, Any]]
Make = Callable[..., Evidence]
Text = Callable[..., str]
Judged = Callable[..., list[Verdict]]
WithPublished = Callable[[Comparison, float], Comparison]
REFERENCES = ["Hugging Face transformers"]
VOID = {"meta", "img", "br", "link", "wbr"}
INLINE = {"code", "wbr"}


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
def text_of(evidence_of: Make) -> Text:
    """The words of the page on some comparisons."""

    def render(*comparisons: Comparison, **other: Any) -> str:
        return " ".join(Page(parity_page(evidence_of(*comparisons, **other))).text.split())

    return render


@pytest.fixture
def verdicts_of(evidence_of: Make) -> Judged:
    """The verdicts on some comparisons."""
    return lambda *comparisons, **other: list(evidence_of(*comparisons, **other).verdicts)


@pytest.fixture
def official(evidence_of: Make, healthy: Comparison) -> Plain:
    return evidence_of(healthy).record | {
        "official_file": "dinov3_tiny-feedbeef.pth",
        "weights": "official",
        "origin": {"kind": "huggingface", "name": "facebook/dinov3-tiny"},
        "identity": "the publisher's dinov3_tiny-feedbeef.pth",
    }


def test_headline_of_graphs_that_pass(healthy: Comparison, verdicts_of: Judged) -> None:
    one, two = verdicts_of(healthy), verdicts_of(healthy, replace(healthy, export="static"))
    assert headline(one, REFERENCES) == "Passed: dynamic.onnx matches Hugging Face transformers."
    both = [*REFERENCES, "the publisher's code"]
    said = "Passed: dynamic.onnx and static.onnx match Hugging Face transformers and the publisher's code."
    assert headline(two, both) == said
    assert faults_section(two) == []


def test_every_failed_graph_is_named_with_its_faults(
    healthy: Comparison, beyond: Comparison, not_finite: Comparison, verdicts_of: Judged
) -> None:
    found = verdicts_of(healthy, beyond, replace(not_finite, export="large"))
    assert headline(found, REFERENCES) == "FAILED: 2 of 3 ONNX files do not match Hugging Face transformers."
    static, large = faults_section(found)
    assert (static["title"], large["title"]) == ("static.onnx, outputs", "large.onnx, outputs")
    assert "304, limit 10" in static["sentences"][0]
    assert "finite: NaN or infinity in an output" in large["sentences"]
    assert headline(verdicts_of(healthy, beyond), REFERENCES).startswith("FAILED: 1 of 2 ONNX files does not match")
    assert headline(verdicts_of(beyond), []) == "FAILED: static.onnx does not match the original model."


def test_page_of_a_graph_that_passes(healthy: Comparison, text_of: Text) -> None:
    text = text_of(healthy)
    for words in (
        "Passed: dynamic.onnx matches Hugging Face transformers.",
        "SYNTHETIC WEIGHTS",
        "1.5 floors largest error of a token in single precision (one floor is ordinary rounding) limit 10 floors",
        "3.0e-15 largest difference between ONNX and original, both computed in double precision",
        "passes only if no token differs by more than 10 noise floors from the result in double precision",
        "2 photographs at up to 2 sizes went through",
        "photographs preprocessing self-test what the files are dynamic.onnx findings in its own words",
        "cat 1.5 5.0e-06 dynamic.onnx, 48x112, batch 1, patch 1,2 48x112, 224x224",
        "ONNX, not optimised against float64, error of a token (root mean square) in noise floors (worst at cat 48x112",
        # Where stages were not compared.
        "This run did not compare stages inside the network; make proof in place of make run does",
        "This run did not include the self-test; make proof in place of make run does",
        # Distributions of the reference and of the graph.
        "Hugging Face transformers against float64 1.0e-06",
        "ONNX, batch 3 against Hugging Face transformers 1.0e-06",
        # What people do with features, with margins.
        "patches 2048 1536 99.95 % 99.99 % of 10 5.0e-08 1.0e-07 2.0e-08",
        "between 6 pairs of photographs: 99.9 % of 6144 are the same (largest swap margin 3.0e-08)",
        "the first 3 principal components of the patches turned by 1.0e-05° (gap behind them 0.034)",
        "The token that turned most turned by 3.0e-05°: cat 48x112, token 9",
        "the original transform 1 99 % 0.017",
        # The file tells of itself, and of the checkpoint.
        "licence none: random numbers",
        "float32 RGB; bilinear, antialiased; times 1/255; mean 0.485, 0.456, 0.406; std 0.229, 0.224, 0.225",
        "departure from the releases none",
        # Not the model alone is what is meant.
        "ONNX in float64 against float64, error of a token (root mean square) in noise floors of double precision",
        "Equinox against Hugging Face transformers, how many times as far the second rounds as the other",
        "operators ONNX opset 23",
        "dynamic.passport.json has the hash of every single weight",
        "1 copied, 1 reshaped or masked, 1 left out; 1 that it lacks restored",
    ):
        assert words in text
    assert "FAILED" not in text


def test_page_on_which_everything_fails(
    not_finite: Comparison, diverging: StageComparison, tested: Plain, prepared: list[Plain], text_of: Text
) -> None:
    tested["faults"][0] |= {"caught": False, "passed": False}
    prepared = [row | {"differing_share": 0.5} for row in prepared]
    text = text_of(not_finite, stages={"dynamic": diverging}, preprocessing=prepared, self_test=tested)
    assert text.count("FAILED:") == 1
    assert "Passed" not in text
    assert "dynamic.onnx FAILED" in text
    assert "First divergence: blocks.1.mlp_raw, onnx and equinox, 3.1e-03, 400 x the noise floor." in text
    assert "No stage is wrong" not in text
    assert "tree not finite not finite dynamic.onnx, 48x112" in text
    # But for the words of a check.
    assert not re.search(r"\b(nan|NaN)\b(?! or infinity)", text)


def test_graph_without_any_number_still_has_a_page(healthy: Comparison, text_of: Text) -> None:
    for row in healthy.differences:
        row |= {"max_abs": None, "cosine": None} | ({"floors": None} if row["other"] == "truth" else {})
    for row in healthy.rounding:
        row |= {"rms": None, "multiple": None}
    for one in healthy.error_maps:
        one["floors"] = [[None] * 7] * 3
    assert "FAILED: dynamic.onnx does not match" in text_of(healthy)


@pytest.mark.parametrize(
    "emptied", [{"pairs": [], "error_maps": []}, {"differences": [], "error_maps": [], "semantics": []}]
)
def test_graph_without_any_comparison_still_has_a_page(healthy: Comparison, text_of: Text, emptied: Plain) -> None:
    text = text_of(replace(healthy, **emptied))
    assert "FAILED: dynamic.onnx does not match" in text
    assert "Nothing was compared." in text


def test_weights_are_told_apart(healthy: Comparison, text_of: Text, official: Plain) -> None:
    text = text_of(healthy, record=official)
    assert not re.search("SYNTHETIC|NOT CONFIRMED", text)
    assert "the publisher's dinov3_tiny-feedbeef.pth huggingface, name facebook/dinov3-tiny" in text
    unknown = text_of(healthy, record=official | {"official_file": None})
    assert "NOT CONFIRMED" in unknown and "golden_image" in unknown
    # Published features cannot be those of weights that nobody published.
    own = text_of(healthy, record=official | {"official_file": None, "weights": "own", "told": ["It is a fine-tune."]})
    assert "YOUR OWN WEIGHTS" in own and "golden_image" not in own


def test_periods_of_the_references_own_are_told_of(healthy: Comparison, known_difference: Plain, text_of: Text) -> None:
    assert "may differ from it by design" not in text_of(healthy)
    text = text_of(replace(healthy, known_differences=[known_difference]))
    assert "differ from it by design, here by its own periods. This moves outputs by up to 4.1e-04." in text


def test_weights_are_confirmed_by_their_hash_or_by_published_features_that_they_give(
    healthy: Comparison, with_published: WithPublished, evidence_of: Make, official: Plain
) -> None:
    unknown = official | {"official_file": None}
    right, wrong = with_published(healthy, 1e-3), replace(with_published(healthy, 0.5), export="static")

    def confirmed(*comparisons: Comparison, record: Plain) -> bool:
        return page_content(evidence_of(*comparisons, record=record))["confirmed"]

    assert confirmed(healthy, record=official)
    assert not confirmed(healthy, record=unknown)
    assert confirmed(right, record=unknown)
    # That they were compared is not enough.
    assert not confirmed(wrong, record=unknown)
    assert not confirmed(right, wrong, record=unknown)


def test_features_that_are_not_the_published_ones_speak_of_the_checkpoint(
    healthy: Comparison, with_published: WithPublished, verdicts_of: Judged
) -> None:
    found = headline(verdicts_of(with_published(healthy, 0.5)), REFERENCES)
    assert found == "FAILED: the checkpoint or the photograph is not the one whose features are published."


def test_every_limit_is_explained(
    healthy: Comparison,
    stages: StageComparison,
    dense: DenseComparison,
    with_published: WithPublished,
    text_of: Text,
    limits: Limits,
) -> None:
    assert tuple(QUESTIONS) == (*LEGS, PACKING, DENSE, PUBLISHED)
    shown = {name for _, names in QUESTIONS.values() for name in names}
    assert shown == set(BY_PRECISION["float32"])
    text = text_of(with_published(healthy, 1e-3), stages={"dynamic": stages}, dense={"dynamic": dense})
    # Those of images with texts are told where they judge something.
    assert {name for name, limit in limits.items() if limit["why"] not in text} == OF_PAIRS
    told = "No stage is wrong: given the same input, no two implementations of the 10 stages are more than 1.7 noise"
    assert f"{told} floors apart (limit 10), on cat at 48x112" in text
    # As the config has them.
    assert "floors 10: " in text and "cosine 0.999999: " in text and "grey_levels 1.25: " in text


def test_nothing_is_said_of_published_features_that_were_not_compared(
    healthy: Comparison, with_published: WithPublished, verdicts_of: Judged, limits: Limits
) -> None:
    verdicts = (*verdicts_of(healthy), *verdicts_of(with_published(healthy, 1e-3)))
    legs = [leg_section(verdict) for verdict in verdicts]
    assert [len(found) for found in legs] == [3, 4]
    (finding,) = legs[1][-1]["findings"]
    assert (finding.what, finding.passed) == ("equinox, max |difference| from the published features", True)


def test_all_gates_make_one_verdict(
    beyond: Comparison, diverging: StageComparison, tested: Plain, prepared: list[Plain], verdicts_of: Judged
) -> None:
    tested["faults"][0] |= {"caught": False, "passed": False}
    prepared = [row | {"differing_share": 0.5} for row in prepared]
    found = verdicts_of(beyond, stages={"static": diverging}, preprocessing=prepared, self_test=tested)
    assert headline(found, REFERENCES) == (
        "FAILED: static.onnx does not match Hugging Face transformers; a stage of static.onnx is wrong;"
        " photographs are not prepared as for the original model; these checks cannot be relied on."
    )
    told = {fault["title"]: fault["sentences"][0] for fault in faults_section(found)}
    assert list(told) == ["static.onnx, outputs", "static.onnx, stage by stage", "preprocessing", "self-test"]
    _, stages, preprocessing, self_test = told.values()
    assert stages == "first divergence: blocks.1.mlp_raw, onnx and equinox, 3.1e-03, 400 x the noise floor"
    assert preprocessing.startswith(
        "ours against the original transform, share of values at another grey level (worst at"
    )
    assert self_test == (
        "w1 and w2 exchanged (weights, ViT with SwiGLU) passes. The checks caught 2 of 3 planted faults, named the"
        " stage of 2 of 2 in weights, model and graph, and flagged none of 2 healthy models."
    )


def test_preprocessing_fails_all_graphs_and_is_told_once(
    healthy: Comparison, prepared: list[Plain], verdicts_of: Judged
) -> None:
    prepared = [row | {"differing_share": 0.5} for row in prepared]
    found = verdicts_of(healthy, replace(healthy, export="static"), preprocessing=prepared)
    assert headline(found, REFERENCES) == "FAILED: photographs are not prepared as for the original model."
    assert len(faults_section(found)) == 1
    assert not any(judgement.passed for judgement in found)


def test_other_faults_of_the_stages_are_shown(healthy: Comparison, stages: StageComparison, text_of: Text) -> None:
    for row in stages.stages:
        if row["subject"] == "equinox_float64":
            row["floors"] = 1e6
    text = text_of(healthy, stages={"dynamic": stages})
    assert "Equinox in float64 against float64, first apart at patch_embed: 1e+06 noise floors > 100" in text
    assert "No stage is wrong" not in text


def test_photographs_are_shown_with_the_worst_first(
    healthy: Comparison, beyond: Comparison, not_finite: Comparison
) -> None:
    cat, tree = photograph_section([healthy], {})
    assert (cat["name"], cat["floors"], cat["max_abs"], cat["sizes"]) == ("cat", 1.5, 5e-6, "48x112, 224x224")
    assert (tree["name"], tree["floors"], tree["max_abs"]) == ("tree", 0.75, 2.5e-6)
    tree, cat = photograph_section([healthy, beyond], {})
    assert (tree["name"], tree["floors"], tree["max_abs"]) == ("tree", 304.0, 1e-3)
    assert tree["place"] == "static.onnx, 224x224, batch 3, cls 0"
    tree, cat = photograph_section([not_finite], {})
    assert tree["name"] == "tree"
    assert math.isnan(tree["floors"]) and math.isnan(tree["max_abs"])


def test_same_input_gives_the_same_bytes(
    healthy: Comparison, beyond: Comparison, stages: StageComparison, evidence_of: Make
) -> None:
    evidence = evidence_of(healthy, beyond, stages={"dynamic": stages})
    assert parity_page(evidence) == parity_page(evidence)


def test_page_loads_nothing(
    healthy: Comparison,
    beyond: Comparison,
    diverging: StageComparison,
    tested: Plain,
    evidence_of: Make,
    limits: Limits,
    tmp_path: Path,
) -> None:
    html = parity_page(evidence_of(healthy, beyond, stages={"static": diverging}, self_test=tested))
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
    healthy.checks[0]["detail"] = "<script>alert(1)</script>"
    assert "<script>alert(1)</script>" in text_of(healthy)


def test_names_of_photographs_are_escaped(healthy: Comparison, evidence_of: Make, limits: Limits) -> None:
    for row in healthy.differences:
        row["image"] = row["image"].replace("cat", "<script>alert(1)</script>")
    assert "<script>alert" not in heat_table(healthy, limits)
    assert "<script>alert" not in parity_page(evidence_of(healthy))


@pytest.mark.parametrize(("fixture", "red"), [("healthy", 0), ("beyond", 1), ("not_finite", 6)])
def test_what_fails_is_red(fixture: str, red: int, limits: Limits, request: pytest.FixtureRequest) -> None:
    table = heat_table(request.getfixturevalue(fixture), limits)
    styles = re.findall(r"([^{}]*)\{[^{}]*background: #b3261e[^{}]*\}", table)
    assert sum(cells.count("#") for cells in styles) == red


def test_every_size_is_beside_its_limit(healthy: Comparison, limits: Limits) -> None:
    rows = Page(str(heat_table(healthy, limits))).text.split()
    assert rows[:8] == ["noise", "floors", "1", "-", "lowest", "cosine", "max", "|difference|"]
    assert rows[8:14] == ["48x112", "224x224"] * 3
    # Of CLS and of patches: floors, cosine and difference, each at both sizes.
    assert rows[14:] == [
        *("CLS", "cat", "0.75", "0.75", "1.0e-13", "1.0e-13", "2.5e-06", "2.5e-06"),
        *("tree", "0.75", "0.75", "1.0e-13", "1.0e-13", "2.5e-06", "2.5e-06"),
        *("patches", "cat", "1.5", "0.75", "2.0e-13", "1.0e-13", "5.0e-06", "2.5e-06"),
        *("tree", "0.75", "0.75", "1.0e-13", "1.0e-13", "2.5e-06", "2.5e-06"),
    ]


def test_distributions_are_of_the_reference_and_the_graph(healthy: Comparison) -> None:
    found = {(row["subject"], row["other"]) for row in distribution_section(healthy)}
    runs = ("onnx", "onnx_unoptimized")
    assert found == {("transformers", "truth"), *((run, other) for run in runs for other in ("truth", "transformers"))}


def test_semantics_that_are_not_known_are_said(healthy: Comparison, text_of: Text) -> None:
    nothing = {"finite": False, "neighbours": [], "matches": None, "subspaces": [], "worst_token": None}
    for row in healthy.semantics:
        row |= nothing
    text = text_of(healthy)
    assert "Features are missing or not finite." in text
    assert "FAILED: dynamic.onnx does not match" in text


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


@pytest.mark.parametrize(
    ("subjects", "told"),
    [
        (("onnx", "onnx_unoptimized"), "In double precision the graph is right, so onnxruntime is at fault."),
        (("onnx_float64",), "The Equinox model is within the limits and its graph is not, so the export is at fault."),
    ],
)
def test_a_failure_says_what_is_at_fault_and_what_is_next(
    off: Callable[..., Comparison],
    healthy: Comparison,
    stages: StageComparison,
    verdicts_of: Judged,
    text_of: Text,
    subjects: tuple[str],
    told: str,
) -> None:
    (said,) = diagnosis(verdicts_of(off(healthy, *subjects)))
    assert said.startswith(told)
    assert said.endswith("`make proof` names the first stage that is wrong.")
    assert said.replace("`", "") in text_of(healthy)
    (said,) = diagnosis(verdicts_of(healthy, stages={"dynamic": stages}))
    assert said.startswith(told)
    assert "make proof" not in said


def test_graphs_that_fail_for_different_reasons_are_told_apart(
    off: Callable[..., Comparison], healthy: Comparison, verdicts_of: Judged
) -> None:
    other = replace(off(deepcopy(healthy), "onnx"), export="static")
    found = diagnosis(verdicts_of(off(healthy, "onnx", "onnx_unoptimized", "equinox"), other))
    assert [sentence.partition(":")[0] for sentence in found] == ["dynamic.onnx", "static.onnx"]


def test_nothing_is_said_of_an_equinox_model_that_was_not_compared(
    off: Callable[..., Comparison], healthy: Comparison, verdicts_of: Judged
) -> None:
    broken = off(healthy, "onnx")
    broken = replace(broken, differences=[row for row in broken.differences if row["subject"] != "equinox"])
    assert diagnosis(verdicts_of(broken)) == []
    assert diagnosis(verdicts_of(replace(healthy, differences=[], pairs=[], rounding=[]))) == []


def test_what_probes_of_packed_images_found_is_told(
    healthy: Comparison, packing: PackingComparison, text_of: Text
) -> None:
    text = text_of(healthy, packing={"dynamic": packing})
    assert "2 images of mixed sizes, photographs and noise, went through dynamic.onnx in one call" in text
    assert "A cosine of 0.99 proves nothing." in text
    assert "The mean cosine of an image is then up to 0.9936, and 1 of 1 images that are not square would pass" in text
    assert "at 1 level of optimisation: no frame." in text
    assert "Does an image depend on the others in its call?" in text


def test_a_fault_that_the_usual_check_finds_is_not_said_to_pass(
    healthy: Comparison, packing: PackingComparison, text_of: Text
) -> None:
    rows = [row | ({"mean_cosine": 0.98} if row["probe"] == EXCHANGED else {}) for row in packing.rows]
    text = text_of(healthy, packing={"dynamic": replace(packing, rows=rows)})
    assert "proves nothing" not in text and "0 of 1 images that are not square would pass" in text


def test_an_image_that_depends_on_others_fails(healthy: Comparison, packing: PackingComparison, text_of: Text) -> None:
    broken = replace(packing, rows=[row | {"max_abs": 1e-7} for row in packing.rows])
    text = text_of(healthy, packing={"dynamic": broken})
    assert "FAILED: dynamic.onnx does not keep the images of a call apart." in text


def test_what_people_see_in_dense_maps_is_told(healthy: Comparison, dense: DenseComparison, text_of: Text) -> None:
    text = text_of(healthy, dense={"dynamic": dense})
    assert "Are its dense maps those of the original?" in text
    assert "2 photographs at 48x112, in 3 maps each and with the norms of 2 layers, were compared" in text
    assert "max |difference| of a colour 9.0e-07 6.0e-07 6.0e-07 1.0e-05" in text
    assert "8-bit colours that differ 0 of 126 0 of 126 0 of 126 0" in text
    assert "patches whose norm is high in one only 0 of 84 0 of 84 0 of 84 0" in text
    assert "dense/dense.html" in text and "parity/dynamic.dense.csv" in text
    assert "noise floors are more than" not in text


def changed(dense: DenseComparison, subject: str, **figures: float | None) -> DenseComparison:
    """One map of a photograph with other figures, in one implementation."""
    place = (subject, "tree", "patches")
    rows = [row | (figures if (row["subject"], row["image"], row["map"]) == place else {}) for row in dense.rows]
    return replace(dense, rows=rows)


def test_dense_maps_that_look_different_fail(healthy: Comparison, dense: DenseComparison, evidence_of: Make) -> None:
    broken = changed(dense, "onnx", colours=0.02, levels=3, level_margin=0.01)
    page = Page(parity_page(evidence_of(healthy, dense={"dynamic": broken})))
    text = " ".join(page.text.split())
    assert "FAILED: the dense maps of dynamic.onnx differ from the original's." in text
    assert (
        "ONNX against float64, max |difference| of a colour (worst at patches of tree 48x112): 0.02, limit 1.0e-05"
        in text
    )
    assert "8-bit colours that differ 0 of 126 0 of 126 3 of 126 0" in text
    assert {"dynamic-dense"} <= {*page.ids} and {"#dynamic-dense", "dense/dense.html"} <= {*page.links}


def test_dense_maps_that_are_missing_are_not_finite(healthy: Comparison, dense: DenseComparison, text_of: Text) -> None:
    lacking = dict.fromkeys(("colours", "levels", "level_margin"))
    text = text_of(healthy, dense={"dynamic": changed(dense, "equinox", **lacking)})
    assert "8-bit colours that differ 0 of 126 not finite 0 of 126 0" in text


def test_a_limit_that_rounding_widens_is_told(healthy: Comparison, dense: DenseComparison, text_of: Text) -> None:
    rough = changed(changed(dense, "transformers", similarity=4e-6), "equinox", similarity=5e-6)
    text = text_of(healthy, dense={"dynamic": changed(rough, "onnx", similarity=6e-6)})
    assert "10 noise floors are more than config/limits.yaml has" in text and "FAILED" not in text
    assert "similarity to the patch in the middle 4.0e-06 5.0e-06 6.0e-06 5.0e-05" in text


def test_other_graphs_have_no_dense_maps(healthy: Comparison, text_of: Text) -> None:
    assert "ense maps" not in text_of(healthy)


def test_other_graphs_have_no_packing(healthy: Comparison, text_of: Text) -> None:
    assert "one call" not in text_of(healthy)
