"""Figures on planted maps, whose answers are known, and on maps on the verge of having none."""

import math

import numpy as np
import pytest

from tests.dense.fields import CHANNELS, COLUMNS, ROWS, checkerboard, directions, disc, halves, noise, smooth
from vit2onnx.dense.figures import (
    chance,
    contrast,
    figures_of,
    gram_distance,
    high_frequency,
    high_norms,
    smoothness,
    smoothness_map,
    unit,
)
from vit2onnx.errors import InputError

FIGURES = [smoothness, chance, contrast, high_frequency]
CONSTANT = np.broadcast_to(noise(rows=1, columns=1), (ROWS, COLUMNS, CHANNELS))


@pytest.mark.parametrize("seed", range(3))
def test_white_noise_is_not_smooth_and_has_all_frequencies(seed: int):
    found = figures_of(noise(seed))
    assert found["smoothness"] == pytest.approx(0, abs=2e-3)
    assert found["chance"] == pytest.approx(0, abs=2e-4)
    assert found["contrast"] == pytest.approx(0, abs=2e-3)
    assert found["high_frequency"] == pytest.approx(0.787, abs=5e-3)
    # The share of frequencies that are high.
    i, j = np.indices((ROWS, COLUMNS))
    high = np.hypot(i / ROWS, j / COLUMNS) > 0.5
    assert found["high_frequency"] == pytest.approx(high.sum() / (high.size - 1), abs=5e-3)


def test_a_checkerboard_of_orthogonal_vectors_is_the_roughest_map():
    found = figures_of(checkerboard())
    assert found["smoothness"] == pytest.approx(0, abs=1e-12)
    assert found["high_frequency"] > 0.999
    # Half of all patches are equal.
    n = ROWS * COLUMNS
    assert found["chance"] == pytest.approx((n / 2 - 1) / (n - 1), abs=1e-12)
    assert found["contrast"] < -0.99
    assert smoothness_map(checkerboard()) == pytest.approx(np.zeros((ROWS, COLUMNS)), abs=1e-12)


def test_two_halves_differ_along_one_line():
    pairs = 2 * ROWS * COLUMNS - ROWS - COLUMNS
    assert smoothness(halves()) == pytest.approx(1 - COLUMNS / pairs, abs=1e-12)
    expected = np.ones((ROWS, COLUMNS))
    # One neighbour of four, and of three at the edge.
    expected[[ROWS // 2 - 1, ROWS // 2]] = 3 / 4
    expected[[ROWS // 2 - 1, ROWS // 2], 0] = expected[[ROWS // 2 - 1, ROWS // 2], -1] = 2 / 3
    assert smoothness_map(halves()) == pytest.approx(expected, abs=1e-12)
    assert high_frequency(halves()) < 0.2


def test_a_constant_map_is_smooth_and_has_no_contrast_and_no_frequencies():
    for field in (CONSTANT, CONSTANT.astype(np.float32), 1e6 + 0 * CONSTANT):
        found = figures_of(field)
        assert found["smoothness"] == pytest.approx(1, abs=1e-12)
        assert found["chance"] == pytest.approx(1, abs=1e-12)
        assert math.isnan(found["contrast"]) and math.isnan(found["high_frequency"])
        assert smoothness_map(field) == pytest.approx(np.ones((ROWS, COLUMNS)), abs=1e-12)


def test_what_single_precision_rounds_is_no_contrast():
    rounded = (CONSTANT * (1 + 6e-8 * noise(1))).astype(np.float32)
    assert np.ptp(rounded, axis=(0, 1)).max() > 0
    assert math.isnan(contrast(rounded))


def test_a_shared_direction_makes_smooth_and_gives_no_contrast():
    shared = noise() + 3 * directions(1)[0] * math.sqrt(CHANNELS)
    assert smoothness(shared) == pytest.approx(0.9, abs=0.01)
    assert contrast(shared) == pytest.approx(0, abs=0.01)
    # In any order, patches are as smooth as chance says.
    field = smooth()
    shuffled = np.random.default_rng(0).permutation(field.reshape(-1, CHANNELS)).reshape(field.shape)
    assert chance(shuffled) == pytest.approx(chance(field), abs=1e-12)
    assert smoothness(shuffled) == pytest.approx(chance(field), abs=0.03)
    assert smoothness(field) > 0.9


def test_chance_is_the_mean_over_pairs_of_different_patches():
    field = noise(rows=5, columns=3, channels=8) + 1
    field[1, 2] = 0
    units = unit(field).reshape(15, 8)
    pairs = [float(units[i] @ units[j]) for i in range(15) for j in range(15) if i != j]
    assert chance(field) == pytest.approx(np.mean(pairs), abs=1e-14)


def test_smoothness_is_the_mean_over_pairs_and_its_map_the_mean_over_neighbours():
    field = smooth(rows=4, columns=3, channels=8)
    units, expected, pairs = unit(field), np.zeros((4, 3)), []
    for i in range(4):
        for j in range(3):
            near = [(i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)]
            cosines = [units[i, j] @ units[a, b] for a, b in near if 0 <= a < 4 and 0 <= b < 3]
            expected[i, j] = np.mean(cosines)
            pairs += cosines
    assert smoothness_map(field) == pytest.approx(expected, abs=1e-14)
    # Each pair is there twice.
    assert len(pairs) == 2 * (2 * 12 - 4 - 3)
    assert smoothness(field) == pytest.approx(np.mean(pairs), abs=1e-14)


@pytest.mark.parametrize("frequency, is_high", [((16, 0), False), ((17, 0), True), ((0, 10), False), ((0, 11), True)])
def test_a_single_wave_is_at_its_own_frequency(frequency: tuple[int, int], is_high: bool):
    i, j = frequency
    y, x = np.arange(ROWS) + 0.5, np.arange(COLUMNS) + 0.5
    wave = np.outer(np.cos(np.pi * i * y / ROWS), np.cos(np.pi * j * x / COLUMNS))
    field = wave[..., None] * directions(1)[0] + 7 * directions(2)[1]
    assert high_frequency(field) == pytest.approx(float(is_high), abs=1e-12)


def test_frequencies_do_not_depend_on_the_basis_of_channels():
    field = smooth(channels=16) + noise(1, channels=16)
    turned = field @ directions(16, channels=16)
    assert high_frequency(turned) == pytest.approx(high_frequency(field), abs=1e-12)


def test_exchanged_rows_and_columns_show():
    exchanged = smooth().reshape(COLUMNS, ROWS, CHANNELS)
    assert smoothness(exchanged) < smoothness(smooth()) - 0.1
    assert high_frequency(exchanged) > 2 * high_frequency(smooth())


@pytest.mark.parametrize("shape", [(1, 7), (7, 1), (1, 2)])
def test_a_single_line_has_all_figures(shape: tuple[int, int]):
    field = noise(rows=shape[0], columns=shape[1])
    assert all(math.isfinite(x) for x in figures_of(field).values())
    assert smoothness(field) == pytest.approx(smoothness(field.transpose(1, 0, 2)), abs=1e-15)
    assert np.isfinite(smoothness_map(field)).all()
    assert smoothness_map(field).shape == shape


def test_a_single_patch_has_no_figures():
    field = noise(rows=1, columns=1)
    assert all(math.isnan(x) for x in figures_of(field).values())
    assert np.isnan(smoothness_map(field)).all() and smoothness_map(field).shape == (1, 1)
    assert gram_distance(field, field) == (0, 0)


def test_zero_vectors_are_like_nothing():
    assert not unit(np.zeros((2, 3))).any()
    field = noise(rows=3, columns=3)
    field[1, 1] = 0
    assert smoothness_map(field)[1, 1] == 0
    found = figures_of(np.zeros((3, 4, 5)))
    assert (found["smoothness"], found["chance"], found["contrast"]) == (0, 0, 0)
    assert math.isnan(found["high_frequency"])
    # The cosine of a zero vector with itself is 0 and not 1.
    assert gram_distance(field, noise(rows=3, columns=3))[1] == pytest.approx(1, abs=1e-12)


def test_length_and_precision_of_vectors_do_not_matter():
    lengths = np.exp(noise(3, channels=1))
    assert smoothness_map(smooth() * lengths) == pytest.approx(smoothness_map(smooth()), abs=1e-14)
    assert gram_distance(smooth() * lengths, smooth())[1] < 1e-14
    # Squares of these are no numbers in single precision.
    huge = (1e30 * smooth()).astype(np.float32)
    assert smoothness(huge) == pytest.approx(smoothness(smooth()), abs=1e-7)


def test_figures_together_are_those_by_themselves():
    assert figures_of(smooth()) == {one.__name__: one(smooth()) for one in FIGURES}


@pytest.mark.parametrize("shape", [(3, 4), (37, 37)])
def test_gram_distance_is_that_of_the_whole_matrices(shape: tuple[int, int]):
    a, b = noise(0, *shape, channels=24), smooth(1, *shape, channels=40)
    u, v = (unit(one).reshape(-1, one.shape[-1]) for one in (a, b))
    difference = u @ u.T - v @ v.T
    mean_square, largest = gram_distance(a, b)
    assert mean_square == pytest.approx(np.mean(difference**2), rel=1e-12)
    assert largest == pytest.approx(np.abs(difference).max(), abs=1e-14)
    assert gram_distance(b, a) == (mean_square, largest)


def test_gram_distance_of_a_fine_grid_is_that_of_a_coarser_one():
    # Three times as many patches as are compared, so every second row and column.
    a, b = (noise(seed, rows=96, columns=128, channels=4) for seed in (0, 1))
    assert gram_distance(a, b) == gram_distance(a[::2, ::2], b[::2, ::2])


def test_gram_distance_does_not_see_a_rotation_and_sees_a_small_change():
    field = smooth(channels=32)
    assert gram_distance(field @ directions(32, channels=32), field)[1] < 1e-13
    changed = field.copy()
    changed[3, 4] += 1e-6 * noise(5, 1, 1, 32)[0, 0]
    mean_square, largest = gram_distance(changed, field)
    assert 1e-7 < largest < 1e-5 and 1e-18 < mean_square < 1e-14


def test_one_patch_that_stands_out_is_counted():
    field, _, _ = disc()
    field[3, 3] *= 30
    norms = np.linalg.norm(field, axis=-1)
    assert np.argwhere(high_norms(norms)).tolist() == [[3, 3]]
    assert not high_norms(norms, times=norms.max() / np.median(norms)).any()
    # The median itself is not high, whatever the norms.
    assert not high_norms(np.zeros((2, 3))).any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(value: float):
    field = noise(rows=3, columns=4)
    field[1, 2, 0] = value
    for one in (unit, smoothness_map, *FIGURES, figures_of):
        with pytest.raises(InputError, match="not finite; compute them once more"):
            one(field)
    for pair in ((field, noise(rows=3, columns=4)), (noise(rows=3, columns=4), field)):
        with pytest.raises(InputError, match="not finite"):
            gram_distance(*pair)
    with pytest.raises(InputError, match="not finite; compute"):
        high_norms(field[..., 0])


def test_vectors_too_long_to_have_a_length_are_refused():
    with pytest.raises(InputError, match="not finite"):
        smoothness(np.full((2, 2, 3), 1e200))


def test_maps_of_other_grids_are_not_compared():
    with pytest.raises(InputError, match=r"Maps of 32 x 20 and 20 x 32 patches .* resize"):
        gram_distance(noise(), noise(rows=20, columns=32))


@pytest.mark.parametrize("shape", [(6, 8), (0, 3, 8), (1, 2, 3, 4), ()])
def test_what_is_no_map_is_refused(shape: tuple[int, ...]):
    with pytest.raises(InputError, match="must be rows x columns x channels"):
        figures_of(np.zeros(shape))
