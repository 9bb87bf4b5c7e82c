"""Maps as pictures: fixed colours, sharp patches, the same bytes in every run."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.reporting.dense_data import GRID, HIGH, REFERENCE, features, model
from vit2onnx.dense.description import compare_models
from vit2onnx.reporting.dense_pictures import (
    COSINE_COLOURS,
    GAP,
    LINE,
    NORM_COLOURS,
    UNDEFINED,
    as_png,
    colour_table,
    cosine_picture,
    norm_chart,
    norm_multiples,
    norm_picture,
    photograph_picture,
    pixels_for,
    strip,
)


def test_colours_of_cosines_are_the_same_in_all_pictures() -> None:
    """Never from the least to the largest of a map."""
    table = colour_table(COSINE_COLOURS)
    for values, level in (([0.5, 0.5], 128), ([-1.0, 0.0], 0), ([1.0, 1.5], 255)):
        shown = np.asarray(cosine_picture(np.array([values])))
        assert (shown == table[level]).all()
    assert tuple(np.asarray(cosine_picture(np.array([[np.nan]])))[0, 0]) == UNDEFINED


def test_lighter_means_more_in_both_scales() -> None:
    for name in (COSINE_COLOURS, NORM_COLOURS):
        grey = colour_table(name) @ np.array([0.299, 0.587, 0.114])
        assert (np.diff(grey) > -0.5).all()


def test_norms_are_multiples_of_the_median() -> None:
    norms = np.array([[2.0, 2.0, 2.0, 1.0, 8.1]])
    assert norm_multiples(norms).tolist() == [[1, 1, 1, 0.5, 4.05]]
    assert np.isnan(norm_multiples(np.zeros((2, 2)))).all()
    picture = np.asarray(norm_picture(norms, pixels=12))
    table = colour_table(NORM_COLOURS)
    assert (picture[6, 6] == table[64]).all() and (picture[6, 42] == table[32]).all()
    # The last patch is framed, and its colour is seen inside.
    assert not picture[0, 48:60].any() and not picture[11, 48:60].any() and not picture[:, 48].any()
    assert (picture[6, 54] == table[255]).all()
    assert picture[:, :48].any(axis=-1).all()
    assert (np.asarray(norm_picture(norms, times=5, pixels=12))[0, 54] == table[255]).all()


def test_small_patches_are_framed_outside() -> None:
    norms = np.ones((5, 5))
    norms[2, 2] = 9
    picture = np.asarray(norm_picture(norms))
    assert (picture[2, 2] == colour_table(NORM_COLOURS)[255]).all()
    assert not picture[1, 1:4].any() and picture[0].any(axis=-1).all()


def test_a_photograph_fills_its_grid(tmp_path: Path) -> None:
    """As the model saw it, so its patches are where those of the maps are."""
    path = tmp_path / "halves.png"
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, 40:] = 255
    Image.fromarray(pixels).save(path)
    stretched = np.asarray(photograph_picture(path, 4, 4, 10))
    assert stretched.shape == (40, 40, 3)
    assert stretched[20, 5].tolist() == [0, 0, 0] and stretched[20, 35].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("rows", "columns", "pixels"), [(32, 32, 8), (37, 37, 7), (1, 200, 3), (600, 2, 1), (2, 900, 1)]
)
def test_patches_of_tiles_are_whole_pixels(rows: int, columns: int, pixels: int) -> None:
    assert pixels_for(rows, columns) == pixels


def test_a_strip_has_five_tiles_and_the_same_bytes(photographs: dict[str, Path]) -> None:
    one = model(features(["cat"]))
    drawn = strip([one], "cat", photographs["cat"])
    assert drawn == strip([one], "cat", photographs["cat"])
    picture = np.asarray(Image.open(io.BytesIO(drawn)))
    pixels = pixels_for(*GRID)
    width, height = GRID[1] * pixels, GRID[0] * pixels
    assert picture.shape == (2 * LINE + height, 5 * width + 4 * GAP, 3)
    # Of the name and the titles, some letters are drawn.
    assert (picture[: 2 * LINE] < 255).any()
    picture = picture[2 * LINE :]
    tiles = [picture[:, i * (width + GAP) : i * (width + GAP) + width] for i in range(5)]
    # The middles of patches have the colours of the map.
    middles = np.s_[pixels // 2 :: pixels, pixels // 2 :: pixels]
    assert (tiles[1][middles] == one.maps["cat/colours"]).all()
    assert (tiles[2][middles] == np.asarray(cosine_picture(one.maps["cat/smoothness"]))).all()
    assert (tiles[3][middles] == np.asarray(cosine_picture(one.maps["cat/similarity"]))).all()
    assert not tiles[3][REFERENCE[0] * pixels, REFERENCE[1] * pixels].any()
    assert not tiles[4][HIGH[0] * pixels, HIGH[1] * pixels].any()


def test_a_pair_is_one_above_the_other(photographs: dict[str, Path]) -> None:
    maps = [features(["tree"], seed) for seed in (0, 1)]
    both = [model(maps[0]), model(maps[1], "other")]
    pair = compare_models(*both, maps)
    drawn = Image.open(io.BytesIO(strip(both, "tree", photographs["tree"], pair)))
    first, second = (Image.open(io.BytesIO(strip([one], "tree", photographs["tree"]))) for one in both)
    width, height = first.size
    assert drawn.size == (width, 2 * height + GAP)
    assert height == 2 * LINE + GRID[0] * pixels_for(*GRID)
    assert as_png(drawn.crop((0, 0, width, height))) == as_png(first)
    # The second has its own tiles, but for the colours, which are those of the first.
    below = np.asarray(drawn)[height + GAP :]
    tile = (width + GAP) // 5
    turned = below[2 * LINE :, tile : 2 * tile - GAP]
    pixels = pixels_for(*GRID)
    assert (turned[pixels // 2 :: pixels, pixels // 2 :: pixels] == pair.maps["tree/colours"]).all()
    assert (below[:, 2 * tile :] == np.asarray(second)[:, 2 * tile :]).all()


@pytest.mark.parametrize("ratio", [1.2, 300.0, None])
def test_any_norms_are_drawn(ratio: float | None) -> None:
    rows = [{"image": image, "layer": layer, "ratio": ratio} for image in "ab" for layer in range(3)]
    assert norm_chart(rows, 4.0) == norm_chart(rows, 4.0)
    assert Image.open(io.BytesIO(norm_chart(rows, 4.0))).width == 720
