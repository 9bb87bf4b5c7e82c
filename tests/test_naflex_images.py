"""Images of any shape for NaFlex: the size that fits a number of patches, the patches, and the padding."""

import math
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from transformers.models.siglip2.image_processing_pil_siglip2 import get_image_size_for_max_num_patches

from vit2onnx import images
from vit2onnx.errors import InputError
from vit2onnx.images import MOST_PIXELS, load_image, naflex_input, naflex_size, preprocess_naflex
from vit2onnx.patches import patches_of
from vit2onnx.spec.variant import Preprocessing

FOLDER = Path(__file__).parents[1] / "resources" / "images"
HALF = Preprocessing("bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
BUDGETS = (1, 2, 7, 64, 128, 256, 576, 1024)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("patch_size", [14, 16, 32])
def test_sizes_are_those_of_transformers(patch_size: int, budget: int):
    """Of small, large and extremely narrow images, and of those at which the grid steps."""
    sides = np.exp2(np.random.default_rng([patch_size, budget]).uniform(0, 15, (200, 2))).astype(int).tolist()
    steps = [(patch_size * a + c, patch_size * b) for a, b in ((1, 1), (16, 16), (13, 19)) for c in (-1, 0, 1)]
    strips = [(1, 1), (1, 2), (1, 3000), (3000, 1), (1, 65535), (65535, 1), (20000, 30000)]
    for height, width in [*sides, *steps, *strips]:
        expected = get_image_size_for_max_num_patches(height, width, patch_size, budget)
        assert naflex_size(height, width, patch_size, budget) == expected, (height, width)


@pytest.mark.parametrize(
    "height, width, budget, grid",
    [
        (224, 224, 256, (16, 16)),
        (480, 640, 256, (14, 18)),
        (640, 480, 1024, (36, 27)),
        (1, 3000, 256, (1, 256)),
        (3000, 1, 256, (256, 1)),
        (224, 1024, 256, (7, 32)),
        # Enlarged 100 times.
        (1, 1, 256, (7, 7)),
    ],
)
def test_sizes_are_as_large_as_fits(height: int, width: int, budget: int, grid: tuple[int, int]):
    size = naflex_size(height, width, 16, budget)
    assert size == (grid[0] * 16, grid[1] * 16)


def test_a_size_fits_unless_the_image_is_millions_of_pixels_long():
    for height, width in np.exp2(np.random.default_rng(1).uniform(0, 16, (500, 2))).astype(int).tolist():
        for budget in BUDGETS:
            assert math.prod(naflex_size(height, width, 16, budget)) <= budget * 256
    # The smallest scale is 1e-6, in transformers too; naflex_input refuses what comes of it.
    assert naflex_size(10**8, 1, 16, 1) == (112, 16) == get_image_size_for_max_num_patches(10**8, 1, 16, 1)


@pytest.mark.parametrize("wrong", [(0, 5, 16, 4), (5, -1, 16, 4), (5, 5, 0, 4), (5, 5, 16, 0)])
def test_numbers_below_one_are_refused(wrong: tuple[int, int, int, int]):
    with pytest.raises(InputError, match=r"at least 1\.$"):
        naflex_size(*wrong)


def test_too_many_patches_are_refused_before_there_is_memory_for_them():
    most = MOST_PIXELS // 256
    naflex_size(5, 5, 16, most)
    for call in (lambda n: naflex_size(5, 5, 16, n), lambda n: naflex_input(noise(3, 16, 16), 16, n)):
        for too_many in (most + 1, 10**15):
            with pytest.raises(InputError, match=rf"^{too_many} patches .*\.$"):
                call(too_many)


@pytest.fixture(scope="module")
def unchecked() -> ModuleType:
    """The module as users have it: tests check annotations, which are refused before anything is run."""
    spec = spec_from_file_location("unchecked_images", images.__file__)
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("wrong", [5.5, math.nan, math.inf, "5", None])
@pytest.mark.parametrize("place", range(4))
def test_a_size_is_made_of_whole_numbers(unchecked: ModuleType, place: int, wrong: object):
    numbers = [5, 5, 16, 4]
    assert unchecked.naflex_size(*map(np.int64, numbers)) == unchecked.naflex_size(*numbers)
    with pytest.raises(InputError, match=r"give whole numbers of at least 1\.$"):
        unchecked.naflex_size(*numbers[:place], wrong, *numbers[place + 1 :])


def test_an_image_of_endless_length_is_refused():
    for size in ((10**400, 1), (1, MOST_PIXELS + 1)):
        with pytest.raises(InputError, match=r"is longer than .*\.$"):
            naflex_size(*size, 16, 256)


@pytest.mark.parametrize("shape", [(1, 32, 48), (4, 32, 48), (32, 48), (1, 3, 32, 48), (48, 32, 3)])
def test_an_image_that_is_not_rgb_is_refused(unchecked: ModuleType, shape: tuple[int, ...]):
    with pytest.raises(InputError, match=rf"^An image must be .* is {' x '.join(map(str, shape))}; .*\.$"):
        unchecked.naflex_input(noise(*shape), 16, 9)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_an_image_that_is_not_finite_is_refused(wrong: float):
    image = noise(3, 32, 48)
    image[2, 31, 47] = wrong
    with pytest.raises(InputError, match=r"^This image holds values that are not finite; .*\.$"):
        naflex_input(image, 16, 9)


def test_patches_are_rows_of_columns_of_channels():
    image = noise(3, 4, 6)
    patches = patches_of(image, 2)
    assert patches.shape == (6, 12) and patches.dtype == np.float32 and patches.flags.c_contiguous
    expected = [
        [image[channel, 2 * row + y, 2 * column + x] for y in range(2) for x in range(2) for channel in range(3)]
        for row in range(2)
        for column in range(3)
    ]
    np.testing.assert_array_equal(patches, expected)


@pytest.mark.parametrize("height, width", [(15, 16), (16, 17), (1, 1), (0, 16)])
def test_an_image_without_whole_patches_is_refused(height: int, width: int):
    with pytest.raises(InputError, match=rf"{height} x {width} pixels has no whole patches .*\.$"):
        patches_of(np.zeros((3, height, width), np.float32), 16)


def test_an_input_is_filled_up_with_zeros():
    image = noise(3, 32, 48)
    given = naflex_input(image, 16, 10)
    assert list(given) == ["pixel_values", "pixel_attention_mask", "spatial_shapes"]
    np.testing.assert_array_equal(given["pixel_values"][:6], patches_of(image, 16), strict=True)
    assert not given["pixel_values"][6:].any() and given["pixel_values"].shape == (10, 768)
    np.testing.assert_array_equal(given["pixel_attention_mask"], np.array([1] * 6 + [0] * 4, np.int32), strict=True)
    np.testing.assert_array_equal(given["spatial_shapes"], np.array([2, 3], np.int64), strict=True)


def test_an_input_may_be_full():
    given = naflex_input(noise(3, 32, 48), 16, 6)
    assert given["pixel_attention_mask"].all() and len(given["pixel_values"]) == 6


@pytest.mark.parametrize("patches", [5, 0, -1])
def test_an_image_with_more_patches_is_refused(patches: int):
    with pytest.raises(InputError, match=rf"has 6 patches, more than {patches}; .*\.$"):
        naflex_input(noise(3, 32, 48), 16, patches)


def test_images_of_all_shapes_go_into_one_batch():
    strip = Image.new("RGB", (700, 2), "red")
    images = [load_image(path) for path in sorted(FOLDER.glob("*.jpg"))] + [strip]
    prepared = [preprocess_naflex(image, HALF, 16, 256) for image in images]
    batch = {port: np.stack([one[port] for one in prepared]) for port in prepared[0]}
    assert {port: array.shape for port, array in batch.items()} == {
        "pixel_values": (5, 256, 768),
        "pixel_attention_mask": (5, 256),
        "spatial_shapes": (5, 2),
    }
    np.testing.assert_array_equal(batch["spatial_shapes"].prod(axis=1), batch["pixel_attention_mask"].sum(axis=1))
    assert batch["spatial_shapes"].tolist() == [[16, 16], [19, 13], [13, 19], [13, 19], [1, 256]]
    np.testing.assert_allclose(batch["pixel_values"][4], np.tile([1, -1, -1], (256, 256)), atol=1e-6)
