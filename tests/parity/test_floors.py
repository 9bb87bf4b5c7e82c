"""The noise floor is what its definition says, and no number that is not finite is within any multiple of it."""

import math

import numpy as np
import pytest

from vit2onnx.parity.floors import (
    DOUBLE_TO_SINGLE,
    MOST_APART,
    UNIT,
    error,
    in_floors,
    noise_floors,
    rms,
    token_floors,
    token_rms,
)

TOKENS, CHANNELS = 5, 8
# Of which the root mean square is one.
TRUTH = np.where(np.arange(TOKENS * CHANNELS).reshape(TOKENS, CHANNELS) % 3, 1.0, -1.0)


def errors(*of_tokens: float) -> np.ndarray:
    """The same error in all channels of each token."""
    return np.repeat(np.array(of_tokens)[:, None], CHANNELS, axis=1)


def test_units_are_those_of_the_formats():
    # A floor is one unit in the last place of single precision; a unit of double is 2^-29 of one of single.
    assert np.finfo(np.float32).eps == UNIT
    assert np.finfo(np.float64).eps / np.finfo(np.float32).eps == DOUBLE_TO_SINGLE


def test_root_mean_squares_are_those_of_plain_python():
    values = np.random.default_rng(0).standard_normal((TOKENS, CHANNELS), np.float32)
    squares = [[float(x) ** 2 for x in token] for token in values]
    assert token_rms(values) == pytest.approx([math.sqrt(math.fsum(token) / CHANNELS) for token in squares], rel=1e-14)
    assert rms(values) == pytest.approx(math.sqrt(math.fsum(map(math.fsum, squares)) / values.size), rel=1e-14)


def test_errors_are_computed_in_double_precision():
    one = np.ones((1, 4), np.float32)
    assert error(one, one.astype(np.float64) - 2.0**-40) == pytest.approx(2.0**-40, rel=1e-12)


def test_a_token_that_rounds_further_than_the_input_has_its_own_floor():
    floors = noise_floors(TRUTH, [errors(1e-4, 1e-6, 1e-6, 1e-6, 1e-6)])
    over_all = 1e-4 * math.sqrt((1 + 4e-4) / 5)
    assert floors == pytest.approx([1e-4, *[over_all] * 4])


def test_the_floor_is_the_larger_of_two_implementations_token_by_token():
    a, b = errors(9e-6, 1e-6, 1e-6, 1e-6, 1e-6), errors(1e-6, 8e-6, 1e-6, 1e-6, 1e-6)
    floors = noise_floors(TRUTH, [a, b])
    assert floors[:2] == pytest.approx([9e-6, 8e-6])
    assert floors[2:] == pytest.approx(max(rms(a), rms(b)))
    np.testing.assert_array_equal(floors, noise_floors(TRUTH, [b, a]))


def test_no_implementation_makes_a_floor_alone():
    small, large = errors(*[1e-6] * TOKENS), errors(*[1e-6] * (TOKENS - 1), 1e-3)
    floors = noise_floors(TRUTH, [small, large])
    # A model that is wrong at one token is judged by five times what the other rounds there.
    np.testing.assert_allclose(floors, MOST_APART * 1e-6, rtol=1e-12)
    # One that happens to be exact counts as one unit in the last place.
    assert noise_floors(TRUTH, [0 * TRUTH, large]) == pytest.approx(MOST_APART * UNIT)


def test_a_floor_is_at_least_one_unit_in_the_last_place():
    exact = np.zeros_like(TRUTH)
    assert noise_floors(TRUTH, [exact]) == pytest.approx(UNIT)
    # Of the token's own scale where that is larger, and of all tokens' where it is not.
    scale = np.array([[100.0], [1e-3], [1], [1], [1]])
    over_all = rms(TRUTH * scale)
    assert noise_floors(TRUTH * scale, [exact]) == pytest.approx([100 * UNIT, *[over_all * UNIT] * 4])


def test_the_floor_of_what_rounds_like_random_numbers_is_near_one_rounding():
    truth = np.random.default_rng(0).standard_normal((200, 384))
    # Rounding once is a quarter of a unit, so that the unit is what counts.
    floors = noise_floors(truth, [error(truth.astype(np.float32), truth)])
    np.testing.assert_array_equal(floors, noise_floors(truth, []))


def test_a_multiple_is_of_the_worst_token():
    floors = np.array([1e-6, 1e-6, 1e-6, 1e-7, 1e-6])
    found = in_floors(TRUTH + errors(1e-6, 2e-6, 0, 4e-7, -3e-6), TRUTH, floors)
    # Token 3 has the smallest error but one, and the lowest floor.
    assert (found.floors, found.floors_token) == (pytest.approx(4, rel=1e-6), 3)
    assert token_floors(TRUTH, TRUTH, floors).tolist() == [0] * TOKENS


def test_all_scales_with_the_features():
    noise = 1e-6 * np.random.default_rng(0).standard_normal((2, *TRUTH.shape))
    multiples = [
        in_floors(factor * (TRUTH + noise[0]), factor * TRUTH, noise_floors(factor * TRUTH, [factor * noise[1]])).floors
        for factor in (1.0, 2.0**20, 2.0**-20)
    ]
    assert multiples == [multiples[0]] * 3


def test_one_element_of_a_token_counts_by_its_share_of_the_token():
    one = TRUTH.copy()
    one[2, 3] += 1e-3
    floors = np.full(TOKENS, 1e-6)
    assert in_floors(one, TRUTH, floors).floors == pytest.approx(1e3 / math.sqrt(CHANNELS))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_has_no_multiple_and_is_the_worst(value: float):
    spoilt = TRUTH.copy()
    spoilt[3, 5] = value
    far = TRUTH + errors(1e30, 0, 0, 0, 0)
    far[3, 5] = value
    floors = np.full(TOKENS, 1e-6)
    for a, b in ((far, TRUTH), (TRUTH, spoilt), (spoilt, spoilt)):
        found = in_floors(a, b, floors)
        assert (found.floors, found.floors_token) == (None, 3)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_floor_that_is_not_finite_lets_nothing_pass(value: float):
    own = errors(*[1e-6] * TOKENS)
    own[3, 5] = value
    floors = noise_floors(TRUTH, [own, errors(*[1e-6] * TOKENS)])
    assert not np.isfinite(floors).any()
    for measured in (TRUTH, TRUTH + 1e-6):
        assert in_floors(measured, TRUTH, floors).floors is None


def test_a_truth_of_zeros_has_no_unit_and_any_error_is_beyond():
    zeros = np.zeros_like(TRUTH)
    floors = noise_floors(zeros, [zeros, zeros])
    assert floors.tolist() == [0] * TOKENS
    assert in_floors(zeros, zeros, floors).floors == 0
    tiny = zeros.copy()
    tiny[2, 0] = 1e-30
    found = in_floors(tiny, zeros, floors)
    assert (found.floors, found.floors_token) == (None, 2)


def test_a_negative_floor_has_no_multiple():
    assert in_floors(np.ones((3, 4)), np.zeros((3, 4)), np.full(3, -1.0)).floors is None
