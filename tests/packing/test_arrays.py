"""Images as the two arrays of a packed graph and back, and the sizes to which photographs are brought."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vit2onnx.errors import InputError
from vit2onnx.packing import ImageFeatures, check, frames, native_size, pack, unpack

P = 16
# Wide, tall, one patch, and no multiple of the patch.
SIZES = [(32, 48), (48, 16), (16, 16), (50, 37)]
GRID = np.array([[1, 2, 3], [1, 3, 1], [1, 1, 1], [1, 3, 2]])
ROWS = np.zeros((16, 768), np.float32)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def changed(row: int, column: int, value: int) -> np.ndarray:
    grid = GRID.copy()
    grid[row, column] = value
    return grid


def test_rows_are_patches_of_rows_of_columns_of_channels():
    images = [noise(3, *size) for size in SIZES]
    packed = pack(images, P)
    assert list(packed) == ["pixel_values", "grid_thw"]
    assert packed["grid_thw"].dtype == np.int64 and packed["grid_thw"].tolist() == GRID.tolist()
    assert packed["pixel_values"].dtype == np.float32 and packed["pixel_values"].shape == ROWS.shape
    found = iter(packed["pixel_values"])
    for image in images:
        for top in range(0, image.shape[1] - P + 1, P):
            for left in range(0, image.shape[2] - P + 1, P):
                pixels = image[:, top : top + P, left : left + P].transpose(1, 2, 0)
                assert np.array_equal(next(found), pixels.reshape(-1))
    assert next(found, None) is None
    check(**packed, patch_size=P)


def test_a_clip_is_its_frames():
    clip, image = noise(3, 3, 32, 48), noise(3, 16, 16)
    packed, single = pack([clip, image], P), pack([*clip, image], P)
    assert packed["grid_thw"].tolist() == [[1, 2, 3]] * 3 + [[1, 1, 1]]
    for name, array in packed.items():
        assert np.array_equal(array, single[name])
    assert np.array_equal(frames(np.array([[3, 2, 3], [1, 1, 1]])), packed["grid_thw"])


@pytest.mark.parametrize(
    "images, sentence",
    [
        ([], "There are no images to pack; give one at least."),
        ([noise(3, 16, 16), noise(3, 15, 40)], "Image 1 is 15 pixels high and 40 wide, smaller than one patch of 16 x"),
        ([noise(3, 16, 0)], "Image 0 is 16 pixels high and 0 wide, smaller than one patch"),
        ([noise(16, 16, 3)], "Image 0 must be 3 x height x width, or frames x 3 x height x width, and is 16 x 16 x 3;"),
        ([noise(16, 16)], "Image 0 must be 3 x height x width"),
        ([noise(1, 2, 3, 16, 16)], "and is 1 x 2 x 3 x 16 x 16; put the channels first."),
        ([noise(3, 16, 16), noise(0, 3, 16, 16)], "Image 1 is a clip without frames; leave it out."),
        ([np.zeros((3, 16, 16))], "Image 0 is float64; give a float32 array, normalised as the file says."),
        ([np.zeros((3, 16, 16), np.uint8)], "Image 0 is uint8; give a float32 array"),
        ([[[0.0]]], "Image 0 is list; give a float32 array"),
        ([np.full((3, 16, 16), np.nan, np.float32)], "Image 0: This image holds values that are not finite"),
    ],
)
def test_what_cannot_be_packed_is_named(images: list[Any], sentence: str):
    with pytest.raises(InputError) as caught:
        pack(images, P)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    "pixel_values, grid_thw, sentence",
    [
        (ROWS.astype(np.float64), GRID, "pixel_values must be an array of float32 and is float64; convert it."),
        (ROWS.tolist(), GRID, "pixel_values must be an array of float32 and is list; convert it."),
        (ROWS, GRID.astype(np.int32), "grid_thw must be an array of int64 and is int32; convert it."),
        (ROWS, GRID.tolist(), "grid_thw must be an array of int64 and is list; convert it."),
        (ROWS, GRID[0], "grid_thw must be images x 3 (t, rows, columns), of one image at least, and is 3."),
        (ROWS, GRID[:, 1:], "of one image at least, and is 4 x 2."),
        (ROWS, GRID[:0], "of one image at least, and is 0 x 3."),
        (ROWS, changed(1, 1, 0), "Row 1 of grid_thw is [1, 0, 1]; every image needs at least one frame"),
        (ROWS, changed(3, 2, -2), "Row 3 of grid_thw is [1, 3, -2]; every image needs"),
        (ROWS, changed(0, 0, 0), "Row 0 of grid_thw is [0, 2, 3]; every image needs"),
        (ROWS, changed(2, 0, 5), "Row 2 of grid_thw has 5 frames, and a graph takes them one by one; give it frames("),
        (ROWS[1:], GRID, "grid_thw says 16 patches, and pixel_values has 15 rows; make them fit."),
        (ROWS, GRID[1:], "grid_thw says 10 patches, and pixel_values has 16 rows; make them fit."),
        # As int64 this is 0 and 16 patches.
        (ROWS, np.array([[1, 2**32, 2**32], [1, 4, 4]]), "grid_thw says 18446744073709551632 patches"),
        (ROWS[:0], GRID, "pixel_values has no row; give one image at least."),
        (ROWS[:, :588], GRID, "588 numbers a row is patch 14; this model has 16, 768 numbers."),
        (ROWS[:, :700], GRID, "pixel_values must be patches x 768 and is 16 x 700."),
        (ROWS[None], GRID, "pixel_values must be patches x 768 and is 1 x 16 x 768."),
        (np.full_like(ROWS, np.inf), GRID, "pixel_values holds values that are not finite; prepare the images once"),
    ],
)
def test_inputs_that_do_not_fit_are_named(pixel_values: Any, grid_thw: Any, sentence: str):
    with pytest.raises(InputError) as caught:
        check(pixel_values, grid_thw, P)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    "grid_thw, sentence",
    [
        (
            GRID.tolist(),
            "grid_thw must be images x 3 (t, rows, columns), of one image at least, and is no numpy array.",
        ),
        (GRID[:0], "and is 0 x 3."),
        (GRID.astype(np.float32), "grid_thw must hold whole numbers and is float32; convert it to int64."),
        (changed(1, 0, 0), "Row 1 of grid_thw is [0, 3, 1]"),
        (changed(1, 0, -1), "Row 1 of grid_thw is [-1, 3, 1]"),
    ],
)
def test_what_is_no_grid_is_named(grid_thw: Any, sentence: str):
    for call in (frames, lambda grid: unpack({}, grid)):
        with pytest.raises(InputError) as caught:
            call(grid_thw)
        assert sentence in str(caught.value)


@pytest.mark.parametrize("registers", [4, 0])
def test_outputs_come_back_by_image(registers: int):
    """Each image gets its own rows, in the form of its grid; without registers the graph has no such output."""
    outputs = {"last_hidden_state": noise(16, 8), "pooler_output": noise(4, 8)}
    if registers:
        outputs["registers"] = noise(4, registers, 8)
    found = unpack(outputs, GRID)
    assert [image.patches.shape for image in found] == [(2, 3, 8), (3, 1, 8), (1, 1, 8), (3, 2, 8)]
    assert np.array_equal(
        np.concatenate([image.patches.reshape(-1, 8) for image in found]), outputs["last_hidden_state"]
    )
    assert np.array_equal(found[0].patches[1, 0], outputs["last_hidden_state"][3])
    for number, image in enumerate(found):
        assert isinstance(image, ImageFeatures) and image.registers.shape == (registers, 8)
        assert np.array_equal(image.cls, outputs["pooler_output"][number])
        own = image.patches.reshape(-1, 8)
        assert np.array_equal(image.tokens, np.concatenate([image.cls[None], image.registers, own]))
        assert not registers or np.array_equal(image.registers, outputs["registers"][number])


@pytest.mark.parametrize(
    "grid_thw, sentence",
    [
        (GRID[1:], "The outputs are of 4 images with 16 patches, and grid_thw says 3 with 10; give the grid_thw that"),
        (changed(0, 1, 3), "and grid_thw says 4 with 19; give the grid_thw that the graph was given."),
        # A clip that the graph was given frame by frame.
        (np.array([[4, 2, 2]]), "The outputs are of 4 images with 16 patches, and grid_thw says 1 with 4"),
    ],
)
def test_outputs_of_other_images_are_refused(grid_thw: np.ndarray, sentence: str):
    with pytest.raises(InputError) as caught:
        unpack({"last_hidden_state": noise(16, 8), "pooler_output": noise(4, 8)}, grid_thw)
    assert sentence in str(caught.value)


def test_outputs_without_names_are_refused():
    with pytest.raises(InputError, match=r"The outputs are a list; give them by name, dict\(zip\("):
        unpack([noise(16, 8), noise(4, 8)], GRID)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "height, width, max_patches, size",
    [
        (224, 224, None, (224, 224)),
        (230, 218, None, (224, 224)),
        (233, 216, None, (240, 224)),
        (1, 7, None, (16, 16)),
        (400, 600, 1024, (400, 608)),
        (1, 3000, 256, (16, 3008)),
        (480, 640, 256, (208, 288)),
        # A root that is a whole number is one, whatever the side.
        (545, 545, 900, (480, 480)),
        # One side cannot be less than a patch, so the other is cut.
        (1, 30000, 256, (16, 4096)),
        (30000, 1, 256, (4096, 16)),
        (4000, 3000, 1, (16, 16)),
        # Rounding to patches makes more of them than the image has; none is enlarged for it.
        (168, 24, 19, (160, 16)),
    ],
)
def test_an_image_keeps_its_size_as_nearly_as_patches_allow(
    height: int, width: int, max_patches: int | None, size: tuple[int, int]
):
    assert native_size(height, width, P, max_patches) == size
    # Products of these would wrap around.
    given = [None if x is None else np.int16(x) for x in (height, width, P, max_patches)]
    assert native_size(*given) == size  # type: ignore[arg-type]


sides = st.one_of(st.integers(1, 200), st.integers(1, 70_000))


@settings(derandomize=True, max_examples=500, deadline=None, database=None)
@given(sides, sides, st.sampled_from([1, 2, 14, 16, 32]), st.none() | st.integers(1, 5000))
@example(1, 70_000, 16, 1)
@example(168, 24, 16, 19)
def test_a_native_size_has_whole_patches_and_keeps_the_shape(height: int, width: int, patch: int, most: int | None):
    found = native_size(height, width, patch, most)
    grid = [side // patch for side in found]
    assert min(grid) >= 1 and [n * patch for n in grid] == list(found)
    assert most is None or math.prod(grid) <= most
    # Scales at which each side would be less than a patch from what it is. There is one for both.
    scales = [((n - 1) / side, (n + 1) / side) for n, side in zip(grid, (height, width), strict=True)]
    assert max(low for low, _ in scales) < min(high for _, high in scales)
    for side, own in zip(found, (height, width), strict=True):
        assert side <= max(patch, own + patch / 2)
    if most is None or math.prod(max(1, round(side / patch)) for side in (height, width)) <= most:
        for side, own in zip(found, (height, width), strict=True):
            assert side == patch > own or abs(side - own) <= patch / 2
    # An image that has its native size keeps it.
    assert native_size(*found, patch, most) == found


@pytest.mark.parametrize("wrong", [0, -1, 5.5, math.nan, math.inf, "5"])
@pytest.mark.parametrize("place", range(4))
def test_a_size_is_made_of_whole_numbers(place: int, wrong: Any):
    numbers: list[Any] = [5, 5, 16, 4]
    numbers[place] = wrong
    with pytest.raises(InputError) as caught:
        native_size(*numbers)
    message = str(caught.value)
    assert message.startswith("There is no size for an image of ") and repr(wrong) in message
    assert message.endswith("; give whole numbers of at least 1.")
    assert ("patches at most" in message) == (numbers[3] is not None)


def test_a_size_without_limit_is_refused_without_one():
    with pytest.raises(InputError, match=r"of 0 x 5 pixels with patches of 16; give whole"):
        native_size(0, 5, 16)
