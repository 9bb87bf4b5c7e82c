"""Foregrounds that are guessed on planted maps, and masks of users."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.dense.fields import COLUMNS, FEW, ROWS, disc, noise
from vit2onnx.dense.components import fit, scores
from vit2onnx.dense.foreground import Split, foreground, from_mask, read_mask, split, threshold
from vit2onnx.errors import InputError

Array = np.ndarray


def guessed(field: Array) -> Array:
    first = scores(fit([field]), field)[..., 0]
    return foreground(first, split(first))


def overlap(a: Array, b: Array) -> float:
    """Intersection over union."""
    return np.count_nonzero(a & b) / np.count_nonzero(a | b)


def test_a_planted_object_is_found_whatever_the_sign():
    field, inside, _ = disc()
    for one in (field, -field, 1000 + field, field.astype(np.float32)):
        assert overlap(guessed(one), inside) == 1


def test_the_side_with_fewer_patches_at_the_border_is_the_foreground():
    inside = np.zeros((8, 9))
    inside[1:7, 1:8] = 1
    # The larger side.
    assert inside.sum() > inside.size / 2
    assert split(inside) == Split(0.5, above=True)
    assert split(-inside) == Split(-0.5, above=False)
    touching = np.zeros((6, 8))
    touching[:, :3] = 1
    assert split(touching).above and not split(-touching).above


def test_of_two_sides_at_the_border_the_smaller_is_the_foreground():
    # Ten patches at the border each, of 5 x 7.
    field = np.zeros((5, 7))
    field[0, :] = field[1, 0] = field[2, 0] = field[3, 0] = 1
    assert split(field).above and not split(-field).above
    even = np.zeros((4, 6))
    even[:, :3] = 1
    # Nothing tells one from the other.
    assert split(even).above and split(-even).above


def test_every_patch_of_a_narrow_map_is_at_the_border():
    for shape in ((1, 5), (5, 1), (2, 3)):
        first = np.zeros(shape)
        first.flat[0] = 1
        assert np.flatnonzero(foreground(first, split(first))).tolist() == [0]
        assert np.flatnonzero(foreground(-first, split(-first))).tolist() == [0]


def test_a_constant_component_has_no_foreground():
    for shape in ((3, 4), (1, 1)):
        constant = np.full(shape, 0.1)
        assert not foreground(constant, split(constant)).any()


def test_a_split_serves_the_maps_of_other_implementations():
    field, inside, _ = disc()
    basis = fit([field])
    first = scores(basis, field)[..., 0]
    found = split(first)
    # The threshold is in the middle of the gap, far from any patch.
    assert np.abs(first - found.threshold).min() > 0.3
    rounded = scores(basis, field * (1 + 1e-6 * noise(4, channels=FEW)))[..., 0]
    assert np.array_equal(foreground(rounded, found), inside)


@pytest.mark.parametrize("seed", range(4))
def test_the_threshold_is_otsus(seed: int):
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.normal(0, 1, 300), rng.normal(3, 0.5, 100 + 50 * seed)])
    best, parts = -1.0, None
    for candidate in np.linspace(values.min(), values.max(), 257)[1:-1]:
        low, high = values[values < candidate], values[values >= candidate]
        between = len(low) * len(high) * (low.mean() - high.mean()) ** 2
        if between > best:
            best, parts = between, (low, high)
    assert parts is not None
    assert threshold(values) == pytest.approx((parts[0].max() + parts[1].min()) / 2, abs=1e-12)
    assert threshold(rng.permutation(values)) == threshold(values)
    assert threshold(-values) == pytest.approx(-threshold(values), abs=1e-12)
    assert threshold(1e6 + values) == pytest.approx(1e6 + threshold(values), abs=1e-6)


@pytest.mark.parametrize("values", [[], [1, np.nan], [np.inf, 1]])
def test_a_threshold_needs_finite_values(values: list[float]):
    with pytest.raises(InputError, match="needs finite values; compute"):
        threshold(np.array(values))


def covered(mask: Array, rows: int, columns: int) -> Array:
    """The same by repeating pixels until they fit."""
    fine = np.repeat(np.repeat(mask, rows, axis=0), columns, axis=1)
    cut = fine.reshape(rows, mask.shape[0], columns, mask.shape[1])
    return cut.mean(axis=(1, 3)) > 0.5


@pytest.mark.parametrize("shape", [(64, 60), (50, 33), (7, 5), (3, 20), (1, 1), (600, 20)])
@pytest.mark.parametrize("rows, columns", [(8, 5), (1, 1), (3, 10)])
def test_a_patch_is_inside_if_more_than_half_of_it_is(shape: tuple[int, int], rows: int, columns: int):
    mask = noise(rows=shape[0], columns=shape[1], channels=1)[..., 0] > 0.05
    expected = covered(mask, rows, columns)
    for one in (mask, mask.astype(np.uint8), mask * np.uint8(255), mask.astype(np.float32), mask * 255.0):
        found = from_mask(one, rows, columns)
        assert found.dtype == bool
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("size", [6, 7, 10, 30])
def test_exactly_half_is_not_inside(size: int):
    # Half of all pixels in a single patch, and half of the middle patch of three.
    mask = np.zeros((2 * size, 3), bool)
    mask[:size] = True
    assert not from_mask(mask, 1, 1).any()
    assert from_mask(mask, 3, 3).tolist() == [[True] * 3, [False] * 3, [False] * 3]
    mask[size, 0] = True
    assert from_mask(mask, 1, 1).all()
    assert from_mask(mask, 3, 3).tolist() == [[True] * 3, [True, False, False], [False] * 3]


def test_grey_counts_by_its_level():
    assert from_mask(np.full((4, 4), 128, np.uint8), 2, 2).all()
    assert not from_mask(np.array([[85, 85], [85, 255]], np.uint8), 1, 1).any()
    assert from_mask(np.array([[85, 86], [85, 255]], np.uint8), 1, 1).all()
    assert not from_mask(np.full((4, 4), 127, np.uint8), 2, 2).any()
    assert not from_mask(np.full((4, 4), 0.5), 2, 2).any()
    assert not from_mask(np.zeros((4, 4), np.uint8), 2, 2).any()


def test_the_mask_of_a_disc_is_the_disc():
    _, inside, _ = disc()
    picture = np.kron(inside, np.ones((16, 14), bool))
    assert np.array_equal(from_mask(picture, ROWS, COLUMNS), inside)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1, 256])
def test_what_is_no_mask_is_refused(value: float):
    with pytest.raises(InputError, match="other than 0 to 1 or 0 to 255; make the object white"):
        from_mask(np.array([[0, value]]), 1, 2)
    for shape in ((4, 4, 3), (4,), (0, 4)):
        with pytest.raises(InputError, match="give one channel"):
            from_mask(np.zeros(shape), 2, 2)


# A mask that is no mirror image of itself.
SHAPE = np.zeros((12, 20), bool)
SHAPE[2:9, 3:8] = SHAPE[7:9, 3:16] = True


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK"])
def test_masks_of_any_mode(mode: str, tmp_path: Path):
    path = tmp_path / ("mask.tiff" if mode == "CMYK" else "mask.png")
    Image.fromarray(SHAPE * np.uint8(255)).convert(mode).save(path)
    found = read_mask(path)
    assert found.dtype == bool
    assert np.array_equal(found, SHAPE)


def test_a_mask_with_artefacts_of_compression(tmp_path: Path):
    large = np.kron(SHAPE, np.ones((8, 8), bool))
    Image.fromarray(large * np.uint8(255)).save(tmp_path / "mask.jpg", quality=80)
    assert np.array_equal(read_mask(tmp_path / "mask.jpg"), large)


def test_a_mask_of_the_levels_0_and_1(tmp_path: Path):
    Image.fromarray(SHAPE.astype(np.uint8)).save(tmp_path / "mask.png")
    assert np.array_equal(read_mask(tmp_path / "mask.png"), SHAPE)


@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0), (90, 60, 30)])
def test_what_is_opaque_in_a_cut_out_is_the_mask(colour: tuple[int, int, int], tmp_path: Path):
    alpha = SHAPE[..., None] * np.uint8(255)
    pixels = np.concatenate([np.broadcast_to(np.uint8(colour), (*SHAPE.shape, 3)), alpha], axis=-1)
    Image.fromarray(pixels).save(tmp_path / "cut.png")
    assert np.array_equal(read_mask(tmp_path / "cut.png"), SHAPE)
    # A palette with one transparent colour.
    palette = Image.fromarray(SHAPE.astype(np.uint8)).convert("P")
    palette.putpalette([10, 10, 10, *colour])
    palette.save(tmp_path / "palette.png", transparency=0)
    assert np.array_equal(read_mask(tmp_path / "palette.png"), SHAPE)


def test_a_mask_without_white_is_refused(tmp_path: Path):
    path = tmp_path / "mask.png"
    # A map of labels, whose object is dark red; and a picture of nothing.
    for pixels in (SHAPE[..., None] * np.uint8([128, 0, 0]), np.zeros((4, 4), np.uint8)):
        Image.fromarray(pixels).save(path)
        with pytest.raises(InputError, match="nothing in this mask is white; make the object white"):
            read_mask(path)


def test_a_photograph_is_no_mask(tmp_path: Path):
    path = tmp_path / "photograph.png"
    Image.fromarray(np.linspace(0, 255, 400).astype(np.uint8).reshape(20, 20)).save(path)
    with pytest.raises(InputError, match="this is a picture and no mask"):
        read_mask(path)


def test_an_unreadable_mask_is_refused(tmp_path: Path):
    path = tmp_path / "mask.png"
    with pytest.raises(InputError, match="no such photograph"):
        read_mask(path)
    path.write_bytes(b"no picture")
    with pytest.raises(InputError, match="not a complete, readable image"):
        read_mask(path)
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(path)
    with pytest.raises(InputError, match="8 bits per channel"):
        read_mask(path)
