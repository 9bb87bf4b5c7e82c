"""What is judged of packed images, on figures that are made up; `tests/exporting` has those of real graphs."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tests.limits import LIMITS
from vit2onnx.packing.probes import EXACT, EXCHANGED, ROUNDED, Probed, noise
from vit2onnx.parity.packing import PackingComparison, mixed, rows_of
from vit2onnx.spec.subject import TRUTH

CAT, NOISE = "cat@48x112", "noise@16x16"
RNG = np.random.default_rng(0)
TOKENS = RNG.standard_normal((26, 8)).astype(np.float32)
FLOORS = {CAT: np.full(26, 1e-7)}


def comparison(change: Callable[[Probed], np.ndarray] = lambda one: one.tokens) -> PackingComparison:
    """A packed graph that is right, but for a change of what it gives."""
    probed = [Probed(probe, image, TOKENS, TOKENS) for probe in (*EXACT, *ROUNDED) for image in (CAT, NOISE)]
    probed += [Probed(TRUTH, CAT, TOKENS, TOKENS), Probed(EXCHANGED, CAT, TOKENS[::-1], TOKENS)]
    probed = [replace(one, tokens=change(one)) for one in probed]
    refusals = [{"wrong": "no frame", "level": "all", "refused": True, "message": ""}]
    return PackingComparison("tiny", "packed", "ab", [CAT, NOISE], list(rows_of(probed, FLOORS)), refusals)


def faults(found: PackingComparison) -> list[str]:
    return [one.what for one in found.judge(LIMITS) if not one.passed]


def test_a_graph_that_keeps_images_apart_passes():
    assert faults(comparison()) == []


@pytest.mark.parametrize("probe", EXACT)
@pytest.mark.parametrize("by", [1e-7, np.nan], ids=["a bit", "NaN"])
def test_no_bit_may_change(probe: str, by: float):
    def change(one: Probed) -> np.ndarray:
        return one.tokens + np.float32(by) if (one.probe, one.image) == (probe, NOISE) else one.tokens

    (fault,) = faults(comparison(change))
    assert probe in fault and NOISE in fault


@pytest.mark.parametrize("probe", [TRUTH, *ROUNDED])
def test_rounding_may_change_what_it_does(probe: str):
    def off(by: float) -> Callable[[Probed], np.ndarray]:
        return lambda one: one.tokens + np.float32(by) * (one.probe == probe and one.image == CAT)

    assert faults(comparison(off(5e-7))) == []
    assert len(faults(comparison(off(1e-4)))) == 1


def test_an_exchange_of_rows_and_columns_must_show():
    (fault,) = faults(comparison(lambda one: one.expected if one.probe == EXCHANGED else one.tokens))
    assert fault == f"images with {EXCHANGED} that would pass"


def test_a_wrong_input_that_is_not_refused_is_named():
    silent = [{"wrong": "no frame", "level": "all", "refused": False, "message": ""}]
    (finding,) = [one for one in replace(comparison(), refusals=silent).judge(LIMITS) if not one.passed]
    assert finding.detail == "not refused: no frame (all)"


@pytest.mark.parametrize("lacking", [*EXACT, *ROUNDED, TRUTH, EXCHANGED])
def test_a_probe_that_is_missing_fails(lacking: str):
    found = comparison()
    without = [row for row in found.rows if row["probe"] != lacking]
    (finding,) = [one for one in replace(found, rows=without).judge(LIMITS) if not one.passed]
    assert math.isnan(finding.measured)


def test_an_image_that_was_not_probed_fails():
    found = comparison()
    without = [row for row in found.rows if (row["probe"], row["image"]) != (EXACT[0], NOISE)]
    assert len(faults(replace(found, rows=without))) == 1


def test_a_graph_without_refusals_fails():
    assert len(faults(replace(comparison(), refusals=[]))) == 1


def test_every_photograph_and_every_size_is_among_those_that_are_mixed():
    cases = [f"{name}@{size}" for name in "abc" for size in ("16x16", "48x112")]
    assert mixed(cases) == ["a@16x16", "b@48x112", "c@16x16"]
    assert mixed(cases[:1]) == ["a@16x16"]


def test_noise_is_of_mixed_sizes_and_always_the_same():
    assert [image.shape for image in noise(14).values()] == [(3, 14, 14), (3, 42, 98), (3, 112, 28), (3, 70, 70)]
    assert all(np.array_equal(a, b) for a, b in zip(noise(16).values(), noise(16).values(), strict=True))
