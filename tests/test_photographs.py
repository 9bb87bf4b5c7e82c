"""Photographs of prepared inputs: `images.preprocess` makes the same inputs of them, to the bit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import RELEASED
from vit2onnx.errors import InternalError
from vit2onnx.images import load_image, preprocess
from vit2onnx.photographs import given_to, normalised_levels, photograph_of
from vit2onnx.spec.variant import VariantSpec

ROOT = Path(__file__).parents[1]
COFFEE = load_image(ROOT / "resources" / "images" / "coffee.jpg")
# One of each preprocessing; all but the first two have other means, and DINOv2's is cut.
VARIANTS = list({spec.preprocessing: spec for spec in RELEASED.values()}.values())
SIZES = [(224, 224), (98, 140), (45, 77)]
every = pytest.mark.parametrize("spec", VARIANTS, ids=lambda spec: spec.name)


@every
@pytest.mark.parametrize("size", SIZES)
def test_the_photograph_of_an_input_gives_that_input(spec: VariantSpec, size: tuple[int, int]):
    pixel_values = preprocess(COFFEE, *size, spec.preprocessing)
    photograph = photograph_of(pixel_values, spec.preprocessing)
    assert photograph.dtype == np.uint8
    assert np.array_equal(preprocess(Image.fromarray(photograph), *size, spec.preprocessing), pixel_values)


@every
def test_every_grey_level_has_its_number(spec: VariantSpec):
    ramp = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    whole = replace(spec.preprocessing, crop_pct=None)
    expected = preprocess(Image.fromarray(ramp), 16, 16, whole)
    assert np.array_equal(normalised_levels(whole).reshape(3, 16, 16), expected)
    assert np.array_equal(photograph_of(expected, whole), ramp)


def test_what_is_no_grey_level_is_refused():
    spec = VARIANTS[0]
    pixel_values = preprocess(COFFEE, 32, 32, spec.preprocessing)
    pixel_values[1, 2, 3] = np.nextafter(pixel_values[1, 2, 3], np.float32(9))
    with pytest.raises(InternalError, match="not of grey levels"):
        photograph_of(pixel_values, spec.preprocessing)


def test_only_graphs_that_prepare_photographs_are_given_them():
    spec = RELEASED["dinov3_vits16_pretrain_lvd1689m"]
    inputs = {"pixel_values": preprocess(COFFEE, 32, 48, spec.preprocessing)}
    assert given_to(spec.interface("images"), inputs) is inputs
    given = given_to(spec.interface("photographs"), inputs)
    assert {name: (array.shape, array.dtype.name) for name, array in given.items()} == {
        "photographs": ((32, 48, 3), "uint8")
    }
