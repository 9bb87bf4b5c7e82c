"""How stages are drawn and listed: whatever the network, and whatever is no number."""

import base64
import re
from typing import Any

import pytest

from vit2onnx.parity.divergence import StageComparison
from vit2onnx.parity.verdict import Verdict
from vit2onnx.reporting.drift import MAX_TICKS, block_ticks, drift_figure, stage_section

Plain = dict[str, Any]
LIMIT = 10.0


def section_of(stages: StageComparison) -> Plain:
    """What the page shows of stages that are judged by this limit."""
    findings = stages.judge({"floors": LIMIT, "floors_double": 100.0})
    return stage_section(stages, Verdict(findings, limits={"floors": {"limit": LIMIT, "why": "it is a test"}}))


def svg(ledger: StageComparison) -> str:
    return base64.b64decode(drift_figure(ledger, LIMIT).partition(",")[2]).decode()


def words(figure: str) -> list[str]:
    """The texts of a figure, which matplotlib notes beside their outlines."""
    return re.findall(r"<!-- (.*?) -->", figure)


def test_every_network_has_its_blocks_under_the_plot(deep_stages: StageComparison) -> None:
    names = list(dict.fromkeys(row["stage"] for row in deep_stages.stages))
    ticks = block_ticks(names)
    blocks = {name.rpartition(".")[0] for name in names if "blocks." in name}
    assert len(ticks) == len(blocks)
    for place, number in ticks:
        assert re.findall(r"\d+", names[place]) == number.split(".")
    figure = words(svg(deep_stages))
    assert ticks[0][1] in figure
    assert 8 < len({number for _, number in ticks} & set(figure)) <= MAX_TICKS
    assert not [text for text in figure if "divergence" in text]


def test_the_first_divergence_is_marked_and_named(stages: StageComparison, diverging: StageComparison) -> None:
    assert "blocks.1.mlp_raw" not in words(svg(stages))
    found = words(svg(diverging))
    assert "first divergence:" in found
    assert "blocks.1.mlp_raw" in found
    for row in diverging.stages:
        if row["mode"] == "injected":
            row["floors"] = 1.0
    # Drift that adds up is no fault, and the page must not be of two minds.
    assert not [text for text in words(svg(diverging)) if "divergence" in text]
    section = section_of(diverging)
    assert (section["divergence"], section["faults"]) == (None, [])


def test_figures_are_the_same_in_every_run(diverging: StageComparison) -> None:
    assert drift_figure(diverging, LIMIT) == drift_figure(diverging, LIMIT)


@pytest.mark.parametrize("subject", ["transformers", "equinox", "onnx"])
def test_what_is_never_finite_is_drawn_all_the_same(stages: StageComparison, subject: str) -> None:
    for row in stages.stages:
        if subject in (row["subject"], row["other"]):
            row |= dict.fromkeys(("floors", "max_abs", "rms", "cosine"))
        if subject == "transformers":
            row["floor"] = None
    section = section_of(stages)
    assert section["divergence"].stage == "patch_embed"
    assert "not finite" in {cell["floors"] for row in section["rows"] for cell in row["cells"]}


def test_an_empty_ledger_has_a_section() -> None:
    ledger = StageComparison("dinov3_tiny", "dynamic", "cat@48x112", ["transformers", "equinox", "onnx"], [])
    section = section_of(ledger)
    assert (section["count"], section["divergence"], section["rows"]) == (0, None, [])
    assert section["faults"][-1] == "each layer by itself: nothing was compared"


def test_the_table_has_a_row_per_stage_and_mode_and_a_pair_per_group(diverging: StageComparison) -> None:
    section = section_of(diverging)
    assert section["pairs"] == [
        *("equinox - transformers", "onnx - equinox", "onnx - transformers"),
        *("transformers - float64", "equinox - float64", "onnx - float64"),
    ]
    assert [(row["mode"], row["stage"]) for row in section["rows"]] == list(
        dict.fromkeys((row["mode"], row["stage"]) for row in diverging.stages)
    )
    (row,) = [row for row in section["rows"] if (row["mode"], row["stage"]) == ("injected", "blocks.1.mlp_raw")]
    assert (row["scale"], row["floor"]) == ("0.5", "1.0e-07")
    red = [pair for pair, cell in zip(section["pairs"], row["cells"], strict=True) if cell["beyond"]]
    # How far one is from the truth is not judged by this limit.
    assert red == ["onnx - equinox", "onnx - transformers"]
    assert row["cells"][1]["max_abs"] == "3.1e-03"
