"""The ConvNeXt's own semantics; `test_equinox.py` compares it with transformers' own."""

from collections.abc import Callable, Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.rounding import LAYER_LIMIT, floors
from vit2onnx.nn.model import Model
from vit2onnx.spec.variant import VariantSpec
from vit2onnx.weights.leaves import leaf_names
from vit2onnx.weights.model_file import skeleton_of


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


IMAGES = noise(0, 3, 3, 70, 102)


@pytest.fixture(scope="module")
def model(spines) -> Model:
    return spines("dinov3_convnext_tiny_pretrain_lvd1689m").model


@pytest.fixture(scope="module")
def run(model: Model) -> Callable[[np.ndarray], np.ndarray]:
    """`last_hidden_state` of images at one size, so that it is compiled once: 2 x 3 patches and a remainder."""
    compiled = eqx.filter_jit(model)
    assert compiled(IMAGES).last_hidden_state.shape == (3, 1 + 6, 20)
    return lambda images: np.asarray(compiled(images).last_hidden_state)


def test_cls_is_the_norm_of_the_mean(model: Model):
    """And not the mean of the norm, from which it differs by much."""
    x = noise(0, 20, 2, 3, 20)
    weight, bias = (np.asarray(leaf) for leaf in (model.norm.weight, model.norm.bias))

    def norm(rows: np.ndarray) -> np.ndarray:
        centred = rows - rows.mean(-1, keepdims=True)
        return centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + 1e-6) * weight + bias

    single, double = (x.reshape(20, 6, 20).astype(dtype) for dtype in ("float32", "float64"))
    found = model.head_stages(jnp.asarray(x), None)["norm"]
    # Measured 0.68 and 0.63, and 4.8e6.
    assert floors(found[:, 0], norm(double.mean(1)), norm(single.mean(1))) <= LAYER_LIMIT
    assert floors(found[:, 1:], norm(double), norm(single)) <= LAYER_LIMIT
    assert floors(norm(double).mean(1), norm(double.mean(1))) > 1e5


def test_pooler_output_is_the_cls_token(model: Model):
    found = model.features(model.head_stages(jnp.asarray(noise(0, 2, 2, 3, 20)), None), None)
    np.testing.assert_array_equal(found.pooler_output, found.last_hidden_state[:, 0])


@pytest.mark.parametrize("size", [(32, 32), (63, 33), (70, 101), (224, 224), (250, 170)], ids=str)
def test_there_is_a_token_per_32_pixels(released: Mapping[str, VariantSpec], size: tuple[int, int]):
    for spec in released.values():
        if spec.family == "dinov3_convnext":
            arch = spec.architecture
            pixel_values = jax.ShapeDtypeStruct((2, 3, *size), np.float32)
            found = jax.eval_shape(lambda model, x: model(x), skeleton_of(spec.family, arch), pixel_values)
            assert found.last_hidden_state.shape == (2, 1 + (size[0] // 32) * (size[1] // 32), arch.embed_dim)
            assert found.pooler_output.shape == (2, arch.embed_dim)


def test_pixels_beyond_the_last_whole_cell_of_the_stem_do_not_matter(run):
    """Of four pixels. What is dropped later has been seen by its neighbours' wide kernels."""
    found = run(IMAGES)
    beyond = IMAGES.copy()
    beyond[:, :, 68:], beyond[:, :, :, 100:] = np.nan, np.nan
    np.testing.assert_array_equal(run(beyond), found)
    within = IMAGES.copy()
    within[:, :, 64:68] += 1
    assert not np.allclose(run(within), found, atol=1e-3)


def test_patches_run_row_by_row(run):
    """Where the centre of a patch is changed, its token changes most."""
    before = run(IMAGES)[0, 1:]
    for row, column in ((0, 2), (1, 0), (1, 1)):
        changed = IMAGES.copy()
        changed[:, :, 32 * row + 12 : 32 * row + 20, 32 * column + 12 : 32 * column + 20] += 0.1
        moved = np.abs(run(changed)[0, 1:] - before).mean(-1)
        assert moved.argmax() == 3 * row + column


def test_an_image_does_not_see_its_batch_mates(run):
    found = run(IMAGES)
    for mate in (1e6 * noise(1, *IMAGES.shape[1:]), np.full(IMAGES.shape[1:], np.nan, np.float32)):
        other = IMAGES.copy()
        other[1] = mate
        np.testing.assert_array_equal(run(other)[[0, 2]], found[[0, 2]])


def test_every_parameter_moves_the_features(model: Model):
    @eqx.filter_jit
    def features(model: Model) -> jax.Array:
        return model(noise(0, 1, 3, 32, 64)).last_hidden_state

    leaves, structure = jax.tree_util.tree_flatten(model)
    reference, moved = features(model), {}
    for i, name in enumerate(leaf_names(model)):
        changed = leaves[i] + 1e-2 * noise(i, *leaves[i].shape)
        other = jax.tree_util.tree_unflatten(structure, [*leaves[:i], changed, *leaves[i + 1 :]])
        moved[name] = float(jnp.abs(features(other) - reference).max())
    assert min(moved.values()) > 1e-3, moved


def test_a_built_model_holds_shapes_only(released: Mapping[str, VariantSpec]):
    for spec in released.values():
        if spec.family == "dinov3_convnext":
            leaves = jax.tree_util.tree_leaves(skeleton_of(spec.family, spec.architecture))
            assert {type(leaf) for leaf in leaves} == {jax.ShapeDtypeStruct}
            assert {leaf.dtype for leaf in leaves} == {np.dtype("float32")}
            assert sum(leaf.size for leaf in leaves) == spec.parameters
