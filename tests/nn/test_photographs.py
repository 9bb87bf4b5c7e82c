"""The preparation of photographs in JAX against `images.preprocess`, which resizes with Pillow."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tests.conftest import RELEASED
from vit2onnx.errors import InputError
from vit2onnx.families.dinov2.interface import INTERFACES
from vit2onnx.images import preprocess
from vit2onnx.nn.photographs import inputs_of_model, prepare
from vit2onnx.parity.preprocessing import difference_of_inputs, made_photographs
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import Preprocessing

STD = (0.229, 0.224, 0.225)
WAYS = {
    "bilinear": Preprocessing("bilinear", (0.485, 0.456, 0.406), STD),
    "bicubic": Preprocessing("bicubic", (0.485, 0.456, 0.406), STD),
    "cut": Preprocessing("bicubic", (0.485, 0.456, 0.406), STD, crop_pct=0.875),
}
# Height and width, neither of which leaves an even number of pixels to cut.
SIZE = (49, 37)
# Shares of values at another grey level: none in whole numbers; Keys' kernel is rounded. Measured 0 and 1.8e-4.
MOST = {"bilinear": 0.0, "bicubic": 1e-3, "cut": 1e-3}
MADE = dict(made_photographs())
FEW = ("made 40x900", "made 5x7", "made 1x1", "made 211x227")
every = pytest.mark.parametrize("way", WAYS)


def prepared(photograph: np.ndarray, size: tuple[int, int], way: str) -> np.ndarray:
    (found,) = np.asarray(prepare(jnp.asarray(photograph[None]), size, WAYS[way]))
    assert found.dtype == np.float32
    return found


@every
def test_photographs_are_prepared_as_pillow_does(way: str):
    for name in FEW:
        ours = prepared(MADE[name], SIZE, way)
        found = difference_of_inputs(ours, preprocess(Image.fromarray(MADE[name]), *SIZE, WAYS[way]), STD)
        assert found["grey_levels"] == pytest.approx(0 if found["differing_share"] == 0 else 1, abs=1e-3), name
        assert found["differing_share"] <= MOST[way], name
        assert found["residual"] == 0, name


@pytest.mark.parametrize("way", ["bilinear", "bicubic"])
def test_a_photograph_of_the_right_size_keeps_its_numbers(way: str):
    photograph = MADE["made 211x227"]
    expected = preprocess(Image.fromarray(photograph), 211, 227, WAYS[way])
    assert np.array_equal(prepared(photograph, (211, 227), way), expected)


def test_a_batch_is_its_photographs():
    photographs = np.stack([MADE["made 211x227"], 255 - MADE["made 211x227"]])
    found = np.asarray(prepare(jnp.asarray(photographs), (32, 48), WAYS["bilinear"]))
    for one, photograph in zip(found, photographs, strict=True):
        assert np.array_equal(one, prepared(photograph, (32, 48), "bilinear"))


def test_a_recipe_must_say_to_which_size():
    interface = INTERFACES["photographs"](RELEASED["dinov2_vits14_pretrain"].architecture)
    recipe = Recipe("free", 23, {"batch": None, "height": None, "width": 28}, "photographs")
    with pytest.raises(InputError, match=r"exports\.free: photographs are resized to one size"):
        inputs_of_model({}, replace(interface, preprocessing=WAYS["cut"]), recipe)
