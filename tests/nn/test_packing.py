"""Packed images against the same model on one image at a time, in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.conftest import OF_IMAGES
from vit2onnx.nn.model import run
from vit2onnx.packing import pack, unpack
from vit2onnx.self_test.chain import shrink
from vit2onnx.weights.model_file import skeleton_of

# In patches: one, wide, tall, and twice the same grid with other pixels.
GRIDS = [(1, 1), (3, 7), (5, 2), (3, 7)]
# Measured 8e-15, of features up to 5.
LIMIT = 1e-12
# With rotated patches and a plain or a gated feed-forward layer, and with added positions, resized in either way.
VITS = [
    "dinov3_vits16_pretrain_lvd1689m",
    "dinov3_vit7b16_pretrain_sat493m",
    "dinov2_vits14_pretrain",
    "dinov2_vitg14_reg4_pretrain",
]


def filled(name: str) -> tuple[object, int]:
    """A small model of a release with random weights in double precision, and its patch size."""
    arch = shrink(OF_IMAGES[name]).architecture
    leaves, structure = jax.tree_util.tree_flatten(skeleton_of(OF_IMAGES[name].family, arch))
    rng = np.random.default_rng(0)
    # Periods are divided by, so none is near zero.
    arrays = [jnp.asarray(rng.uniform(0.05, 0.2, leaf.shape) * rng.choice([-1, 1], leaf.shape)) for leaf in leaves]
    return jax.tree_util.tree_unflatten(structure, arrays), arch.patch_size


@pytest.mark.parametrize("name", VITS)
def test_a_pack_is_its_images_one_by_one(name: str):
    with jax.enable_x64(True):
        model, patch_size = filled(name)
        rng = np.random.default_rng(1)
        # With pixels beyond the last whole patch.
        sizes = [(rows * patch_size + 3, columns * patch_size + 5) for rows, columns in GRIDS]
        images = [rng.standard_normal((3, *size)).astype(np.float32) for size in sizes]
        inputs = pack(images, patch_size)
        given = {name: jnp.asarray(x, jnp.float64 if x.dtype.kind == "f" else x.dtype) for name, x in inputs.items()}
        outputs = {port: np.asarray(value) for port, value in run(model, given, "packed").items()}
        for image, found in zip(images, unpack(outputs, inputs["grid_thw"]), strict=True):
            alone = run(model, {"pixel_values": jnp.asarray(image[None], jnp.float64)})["last_hidden_state"][0]
            assert found.tokens.shape == alone.shape
            assert np.abs(found.tokens - alone).max() <= LIMIT * np.abs(alone).max()
