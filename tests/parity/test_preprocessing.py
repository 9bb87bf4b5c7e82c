"""Our preprocessing passes with the limits of the config, and every planted fault fails.

Four photographs at a size below theirs, at one above, and at one that squeezes one side only; the first two alone would
not tell the order of the passes for all of them.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import RELEASED
from tests.limits import PREPARED as LIMITS
from vit2onnx.families.dinov3_vit.references import PUBLISHED
from vit2onnx.families.fault import rows_first
from vit2onnx.images import load_image, preprocess
from vit2onnx.parity.preprocessing import compare_preprocessing, difference_of_inputs, judge_preprocessing
from vit2onnx.parity.verdict import Finding
from vit2onnx.spec.family import part
from vit2onnx.spec.variant import Preprocessing, VariantSpec

ROOT = Path(__file__).parents[2]
IMAGES = [(path.stem, load_image(path)) for path in sorted((ROOT / "resources" / "images").glob("*.jpg"))]
SIZES = [(224, 224), (160, 288), (512, 512)]
WEB = RELEASED["dinov3_vits16_pretrain_lvd1689m"]
SATELLITE = RELEASED["dinov3_vitl16_pretrain_sat493m"]

Ours = Callable[..., np.ndarray]


def compared(spec: VariantSpec, ours: Ours = preprocess) -> list[dict[str, Any]]:
    return compare_preprocessing(IMAGES, SIZES, spec, part(spec.family, "references"), ours)


def faults(spec: VariantSpec, ours: Ours) -> list[Finding]:
    return [finding for finding in judge_preprocessing(compared(spec, ours), LIMITS) if not finding.passed]


@pytest.mark.parametrize("spec", [WEB, SATELLITE], ids=["web", "satellite"])
def test_ours_passes_with_the_configs_limits(spec: VariantSpec):
    rows = compared(spec)
    findings = judge_preprocessing(rows, LIMITS)
    assert all(finding.passed for finding in findings), findings
    assert len(findings) == 4 + 2
    assert len(rows) == len(IMAGES) * len(SIZES) * 4
    # The publisher's transform, step by step, gives the same bits wherever it gives the same grey level.
    assert {row["residual"] for row in rows if row["other"] == "publisher"} == {0}


def test_what_differs_by_design_is_measured():
    worst: dict[str, float] = {}
    for row in compared(WEB):
        worst[row["other"]] = max(worst.get(row["other"], 0), row["differing_share"])
    # In this order: torch's weights in integers, rounding once, not rounding, Pillow's choice of the order of passes.
    assert worst["publisher"] < 0.02
    assert 0.1 < worst["publisher_float"] < 0.3
    assert worst["transformers"] > 0.5
    assert 0.1 < worst["transformers_pil"] < 0.3


@pytest.mark.parametrize("name", RELEASED)
def test_every_variant_is_prepared_as_the_publisher_says(name: str):
    spec = RELEASED[name]
    published = part(spec.family, "references").published_constants(spec)
    assert (spec.preprocessing.mean, spec.preprocessing.std) == published
    assert ("sat493m" in name) == (published == PUBLISHED["sat493m"])


def vertically_first(image: Image.Image, height: int, width: int, preprocessing: Preprocessing) -> np.ndarray:
    return preprocess(rows_first(image, height, width), height, width, preprocessing)


def with_constants(**constants: tuple[float, float, float]) -> Ours:
    return lambda image, height, width, preprocessing: preprocess(
        image, height, width, replace(preprocessing, **constants)
    )


def test_a_value_that_is_not_finite_fails():
    """Other faults are planted by the self-test."""
    assert faults(WEB, lambda *given, **how: preprocess(*given, **how) * np.float32("nan"))


@pytest.mark.parametrize("spec, data", [(WEB, "sat493m"), (SATELLITE, "lvd1689m")], ids=["web", "satellite"])
def test_constants_of_the_other_data_fail(spec: VariantSpec, data: str):
    mean, std = PUBLISHED[data]
    assert faults(spec, with_constants(mean=mean, std=std))


def test_a_fault_names_the_figure_and_the_place():
    found = [finding.sentence for finding in faults(WEB, vertically_first)]
    assert len(found) == 1
    assert found[0].startswith("ours - publisher, share of values at another grey level (worst at ")
    assert found[0].endswith("> 4.00e-02")


def test_comparing_nothing_fails():
    assert not any(finding.passed for finding in judge_preprocessing([], LIMITS))


def test_other_shapes_are_not_compared():
    with pytest.raises(ValueError, match=r"\(3, 2, 2\) and \(3, 2, 1\)"):
        difference_of_inputs(np.zeros((3, 2, 2)), np.zeros((3, 2, 1)), (1, 1, 1))


def test_figures_mean_what_they_say():
    std = (1 / 255, 1 / 255, 0.5 / 255)
    theirs = np.zeros((3, 1, 4), np.float32)
    ours = theirs.copy()
    ours[0, 0, 0] = 2.0
    ours[2, 0, 1] = 1.0
    ours[1, 0, 1] = 0.01
    found = difference_of_inputs(ours, theirs, std)
    assert found == pytest.approx(
        {"grey_levels": 2, "differing_share": 2 / 12, "normalised": 2, "residual": 0.01}, rel=1e-6
    )


def test_a_photograph_that_is_enlarged_is_named_as_such():
    small = [("thumb", IMAGES[0][1].resize((64, 48)))]
    rows = compare_preprocessing(small, [(224, 224), (32, 48)], WEB, part(WEB.family, "references"), preprocess)
    assert {row["enlarged"] for row in rows} == {1.0, 4.67}
    found = judge_preprocessing(rows, dict.fromkeys(LIMITS, 1e-9))
    assert any("(worst at thumb 224x224, enlarged 4.67 x: take a larger photograph)" in f.sentence for f in found)
