"""What `Difference` promises: figures against plain Python, the place of the worst element, and no way to pass NaN."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest

from vit2onnx.families.interface import images_to_tokens
from vit2onnx.parity.metrics import difference, severity, token_groups, worst
from vit2onnx.spec.interface import Port


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def test_figures_are_those_of_plain_python():
    a, b = noise(0, 5, 8), noise(1, 5, 8)
    found = difference(a, b)
    pairs = [(float(x), float(y)) for x, y in zip(a.flat, b.flat, strict=True)]
    deltas = sorted(abs(x - y) for x, y in pairs)
    rows = [pairs[start : start + 8] for start in range(0, 40, 8)]
    cosines = [
        sum(x * y for x, y in row) / math.hypot(*(x for x, _ in row)) / math.hypot(*(y for _, y in row)) for row in rows
    ]
    # All in double precision: measured at most 2e-16.
    assert found.max_abs == pytest.approx(deltas[-1], abs=1e-15)
    assert found.mean_abs == pytest.approx(sum(deltas) / 40, abs=1e-15)
    # The 99th percentile lies 0.61 of the way from the second largest of 40 to the largest.
    assert found.p99_abs == pytest.approx(deltas[-2] + 0.61 * (deltas[-1] - deltas[-2]), abs=1e-14)
    assert found.cosine == pytest.approx(min(cosines), abs=1e-15)


def test_equal_features_differ_by_nothing():
    a = noise(0, 5, 8)
    found = difference(a, a.copy())
    assert (found.max_abs, found.p99_abs, found.mean_abs) == (0, 0, 0)
    assert found.cosine == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize("token", [0, 3, 6])
@pytest.mark.parametrize("channel", [0, 5, 10])
@pytest.mark.parametrize("fault", [1e-3, -1e-3, math.inf, -math.inf, math.nan])
def test_the_worst_element_is_found(token: int, channel: int, fault: float):
    a = noise(0, 7, 11)
    b = a + 1e-6 * noise(1, 7, 11)
    b[token, channel] = a[token, channel] + fault
    for found in (difference(a, b), difference(b, a)):
        assert (found.token, found.channel) == (token, channel)


def test_the_largest_difference_is_the_smallest_tolerance_that_passes():
    a, b = noise(0, 5, 8).astype(float), noise(1, 5, 8).astype(float)
    tolerance = difference(a, b).max_abs
    assert np.allclose(a, b, rtol=0, atol=tolerance)
    assert not np.allclose(a, b, rtol=0, atol=np.nextafter(tolerance, 0))


def test_computes_in_double_precision():
    a = np.full((1, 4), 1.0, np.float32)
    b = a.astype(np.float64)
    b[0, 2] += 1e-12
    # In single precision the difference is nothing.
    assert difference(a, b).max_abs == pytest.approx(1e-12, rel=1e-3)


@pytest.mark.parametrize("fault", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["first", "second", "both"])
def test_a_value_that_is_not_finite_leaves_no_figure(fault: float, where: str):
    a, b = noise(0, 5, 8), noise(0, 5, 8)
    if where in ("first", "both"):
        a[2, 3] = fault
    if where in ("second", "both"):
        b[2, 3] = fault
    found = difference(a, b)
    assert (found.max_abs, found.p99_abs, found.mean_abs, found.cosine) == (None, None, None, None)
    assert (found.token, found.channel) == (2, 3)
    assert "NaN" not in json.dumps(asdict(found))


def test_the_cosine_is_that_of_the_worst_token():
    a = np.tile(np.array([[1.0, 0.0]]), (50, 1))
    b = a.copy()
    b[31] = 1, 1
    found = difference(a, b)
    assert found.cosine == pytest.approx(math.sqrt(0.5), abs=1e-15)
    # The cosine of all features taken as one vector would hide it.
    assert (a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b) > 0.98


def test_the_cosine_of_vectors_of_zeros():
    zeros, ones = np.zeros((1, 4)), np.ones((1, 4))
    assert difference(zeros, zeros).cosine == 1
    assert difference(zeros, ones).cosine == 0
    assert difference(ones, zeros).cosine == 0


def test_opposite_vectors():
    found = difference(np.ones((2, 4)), -np.ones((2, 4)))
    assert (found.max_abs, found.cosine) == (2, pytest.approx(-1, abs=1e-15))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((5, 8), (4, 8)),
        ((5, 8), (5, 7)),
        ((5, 8), (8, 5)),
        # These would broadcast.
        ((5, 8), (1, 8)),
        ((5, 8), (5, 1)),
        ((0, 8), (0, 8)),
        ((5, 0), (5, 0)),
    ],
    ids=str,
)
def test_what_cannot_be_compared_is_an_error(a: tuple[int, int], b: tuple[int, int]):
    with pytest.raises(ValueError, match="cannot compare"):
        difference(np.zeros(a), np.zeros(b))


def tokens(registers: int) -> Port:
    """An output of CLS, registers and patches of eight channels."""
    return images_to_tokens(8, 16, registers).compared[0]


def test_groups_hold_every_token_once_in_order():
    features = noise(0, 5 + 6, 8)
    groups = token_groups(features, tokens(registers=4))
    assert list(groups) == ["cls", "registers", "patches", "patches_mean"]
    assert [len(tokens) for tokens in groups.values()] == [1, 4, 6, 1]
    np.testing.assert_array_equal(np.concatenate([groups["cls"], groups["registers"], groups["patches"]]), features)


def test_patches_are_averaged_in_double_precision():
    features = noise(0, 5 + 1000, 8)
    mean = token_groups(features, tokens(registers=4))["patches_mean"]
    assert mean.dtype == np.float64
    exact = [math.fsum(map(float, column)) / 1000 for column in features[5:].T]
    # Measured 0; a mean in single precision is 2.8e-8 off.
    np.testing.assert_allclose(mean[0], exact, rtol=0, atol=1e-15)


def test_a_group_without_tokens_is_left_out():
    assert list(token_groups(noise(0, 7, 8), tokens(registers=0))) == ["cls", "patches", "patches_mean"]


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_the_worst(value: float | None):
    assert math.isnan(worst([1.0, value, 2.0]))
    assert max([1.0, value, 2.0], key=severity) is value


def test_the_worst_of_numbers_is_the_largest_and_of_none_is_not_known():
    assert worst([1.0, 3, 2.0]) == 3.0
    assert math.isnan(worst([]))
