"""Similarity to a patch of a planted map, and what is left of it in bytes."""

import math

import numpy as np
import pytest

from tests.dense.fields import COLUMNS, ROWS, disc, noise, smooth
from vit2onnx.dense.figures import unit
from vit2onnx.dense.similarity import patch_at, quantised, similarity_map
from vit2onnx.errors import InputError

Array = np.ndarray


def test_a_part_is_similar_to_itself_and_to_nothing_else():
    field, inside, part = disc()
    for row, column in ((15, 9), (8, 10), (24, 9)):
        found = similarity_map(field, row, column)
        same = inside & (part == part[row, column])
        assert found[same].min() >= 0.99
        assert found[~same].max() <= 0.80
        assert found[row, column] == pytest.approx(1, abs=1e-12)


def test_similarity_is_the_cosine():
    field = noise(rows=3, columns=4, channels=8)
    expected = [
        [one @ field[2, 1] / (np.linalg.norm(one) * np.linalg.norm(field[2, 1])) for one in row] for row in field
    ]
    assert similarity_map(field, 2, 1) == pytest.approx(np.array(expected), abs=1e-14)
    assert similarity_map(7 * field, 2, 1) == pytest.approx(similarity_map(field, 2, 1), abs=1e-14)


def test_zero_vectors_are_similar_to_nothing():
    field = noise(rows=3, columns=4)
    field[1, 1] = 0
    assert not similarity_map(field, 1, 1).any()
    assert similarity_map(field, 0, 0)[1, 1] == 0


@pytest.mark.parametrize(
    "point, patch",
    [
        ((0, 0), (0, 0)),
        ((1, 1), (31, 19)),
        ((0.5, 0.5), (16, 10)),
        ((0.4, 0.5), (12, 10)),
        ((1, 0), (31, 0)),
        ((math.nextafter(0.5, 0), 0.049), (15, 0)),
    ],
)
def test_a_point_lies_in_a_patch(point: tuple[float, float], patch: tuple[int, int]):
    assert patch_at(ROWS, COLUMNS, point) == patch


def test_a_point_is_at_the_same_place_in_any_grid():
    # The patch's own corners are around the point.
    for rows, columns in ((1, 1), (37, 37), (32, 20), (1, 50)):
        row, column = patch_at(rows, columns, (0.3, 0.9))
        assert row / rows <= 0.3 <= (row + 1) / rows and column / columns <= 0.9 <= (column + 1) / columns


@pytest.mark.parametrize("point", [(-0.1, 0), (0, 1.01), (math.nan, 0.5), (math.inf, 0), (16, 10)])
def test_a_point_outside_is_refused(point: tuple[float, float]):
    with pytest.raises(InputError, match="outside of the image; give y and x as fractions"):
        patch_at(ROWS, COLUMNS, point)


@pytest.mark.parametrize("row, column", [(32, 0), (0, 20), (-1, 0), (0, -1)])
def test_a_patch_that_does_not_exist_is_refused(row: int, column: int):
    with pytest.raises(InputError, match=f"no patch at row {row}, column {column} of a map of 32 x 20"):
        similarity_map(noise(channels=2), row, column)


def test_what_is_not_finite_is_refused():
    field = noise(channels=2)
    field[3, 4, 1] = np.nan
    for one in (quantised, lambda field: similarity_map(field, 0, 0)):
        with pytest.raises(InputError, match="not finite"):
            one(field)


def error_of(field: Array, quantised: Array) -> float:
    """The largest change of the cosine of any two patches."""
    a, b = (unit(one).reshape(-1, field.shape[-1]) for one in (field, quantised))
    return float(np.abs(a @ a.T - b @ b.T).max())


def structured(name: str, channels: int) -> Array:
    """Maps like those of trained models."""
    field = smooth(channels=channels)
    if name == "random":
        return noise(channels=channels)
    if name == "shared direction":
        field += 2 * noise(1, 1, 1, channels)
    if name == "one channel stands out":
        field[..., 5] += 30
    if name == "one channel stands out, with both signs":
        field[..., 5] = 30 * np.sign(noise(1, channels=1)[..., 0])
    if name == "three channels stand out":
        field[..., [5, 77, 200]] *= 20
    if name == "shared offset":
        field += 5
    if name == "heavy tails":
        field = np.random.default_rng(0).standard_t(2, field.shape)
    return field


@pytest.mark.parametrize("channels", [384, 768, 1024])
@pytest.mark.parametrize(
    "name",
    [
        "random",
        "smooth",
        "shared direction",
        "one channel stands out",
        "one channel stands out, with both signs",
        "three channels stand out",
        "shared offset",
        "heavy tails",
    ],
)
def test_bytes_keep_the_cosines(name: str, channels: int):
    field = structured(name, channels).astype(np.float32)
    found = quantised(field)
    assert found.dtype == np.int8 and found.shape == field.shape
    # Measured: at most 2.7e-3 with 384 channels, 2.1e-3 with 768, 1.6e-3 with 1024.
    assert error_of(field, found) <= 4e-3


def test_bytes_of_two_maps_can_be_compared():
    a, b = noise(channels=384), smooth(channels=384)
    together = quantised(np.concatenate([a, b]))
    assert np.array_equal(together, np.concatenate([quantised(a), quantised(b)]))


def test_channels_that_stand_out_need_the_mixing():
    field = structured("one channel stands out", 768)
    plain = np.rint(field * (127 / np.abs(field).max(axis=-1, keepdims=True))).astype(np.int8)
    assert error_of(field, plain) > 8e-3 > 2 * error_of(field, quantised(field))


def test_bytes_use_all_levels_and_zero_stays_zero():
    field = noise(rows=3, columns=4)
    field[1, 1] = 0
    field[1, 2] *= 1e-30
    found = quantised(field)
    assert not found[1, 1].any()
    assert (np.abs(found.astype(int)).max(axis=-1) == 127).sum() == 11
    assert found.min() >= -127
    assert np.array_equal(found, quantised(7 * field))


def test_bytes_are_the_same_in_every_version():
    # The mixing is part of what a page shows; its signs come from a frozen generator.
    field = np.zeros((1, 8, 8))
    np.fill_diagonal(field[0], 1)
    # The mean of all channels, after the signs.
    assert np.sign(quantised(field)[0, :, 0]).tolist() == [-1, 1, 1, -1, 1, 1, 1, 1]
