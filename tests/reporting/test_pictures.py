"""Photographs on a page: small ones, and such with the error of a graph drawn over them."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from vit2onnx.parity.comparison import Comparison
from vit2onnx.reporting.pictures import THUMBNAIL, error_map_figure, thumbnail

LIMIT = 10.0


def opened(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_thumbnails_are_small_and_keep_their_shape(photographs: dict[str, Path]) -> None:
    for name, path in photographs.items():
        small = opened(thumbnail(path))
        assert small.width <= THUMBNAIL[0] and small.height <= THUMBNAIL[1]
        assert (small.width > small.height) == (name == "cat")
        # A hundred of them stay below half a megabyte.
        assert len(thumbnail(path)) < 5000


def test_the_same_maps_give_the_same_picture(healthy: Comparison, photographs: dict[str, Path]) -> None:
    pictures = [error_map_figure(healthy.error_maps, photographs, LIMIT) for _ in range(2)]
    assert pictures[0] == pictures[1]


@pytest.mark.parametrize("worst", [0.0, 5.0, 2e6, None])
@pytest.mark.parametrize("count", [1, 6])
def test_any_error_is_drawn(healthy: Comparison, photographs: dict[str, Path], worst: float | None, count: int) -> None:
    maps = [healthy.error_maps[0]] * count
    maps[0]["floors"][1][2] = worst
    assert opened(error_map_figure(maps, photographs, LIMIT)).width == 1030


def test_the_worst_patch_is_where_the_colour_is(healthy: Comparison, photographs: dict[str, Path]) -> None:
    (one, _) = healthy.error_maps
    centres = []
    for row, column in ((0, 0), (2, 6)):
        one["floors"] = [[0.0] * 7 for _ in range(3)]
        one["floors"][row][column] = 1e3
        picture = np.asarray(opened(error_map_figure([one], photographs, LIMIT)).convert("RGB"), int)
        # The bar with the scale is at the right.
        red = (picture[..., 0] - picture[..., 1] > 60)[:, :850]
        centres.append(np.argwhere(red).mean(axis=0))
    # The two patches are the corners of the grid, two patches down and six to the right, each of 131 pixels.
    assert centres[1] - centres[0] == pytest.approx([262, 786], rel=0.1)


def test_a_photograph_that_is_not_there_is_left_white(healthy: Comparison) -> None:
    assert opened(error_map_figure(healthy.error_maps, {}, LIMIT)).height > 100


@pytest.mark.parametrize(("worst", "alarming"), [(0.4 * LIMIT, False), (20 * LIMIT, True)])
def test_colours_alarm_only_beyond_the_limit(healthy: Comparison, worst: float, alarming: bool) -> None:
    (one, _) = healthy.error_maps
    one["floors"] = [[worst] * 7 for _ in range(3)]
    picture = np.asarray(opened(error_map_figure([one], {}, LIMIT)).convert("RGB"), int)
    # In the middle of the map, where nothing else is drawn.
    red, green, _ = picture[picture.shape[0] // 2, 450]
    assert (red - green > 60) == alarming


def test_a_strip_is_no_tower(monkeypatch: pytest.MonkeyPatch) -> None:
    """NaFlex is compared on one column of 256 patches."""
    sizes = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: sizes.append(figure.get_size_inches()))
    place = {"image": "strip", "height": 4096, "width": 16, "rows": 256, "columns": 1, "patch_size": 16}
    error_map_figure([place | {"floors": [[1.0]] * 256}], {}, LIMIT)
    ((width, height),) = sizes
    assert height <= 6 * width
