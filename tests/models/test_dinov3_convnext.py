"""The ConvNeXt's own semantics; `test_inference.py` compares it with transformers' own."""

from collections.abc import Callable, Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit2onnx.archive import leaf_names
from vit2onnx.models import Model, build
from vit2onnx.variants import ConvNeXtArchitecture, VariantSpec


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


@pytest.fixture(scope="module")
def model(spines) -> Model:
    return spines("dinov3_convnext_tiny_pretrain_lvd1689m").model


@pytest.fixture(scope="module")
def run(model: Model) -> Callable:
    return eqx.filter_jit(model)


def test_cls_is_the_norm_of_the_mean(model: Model, run):
    """And not the mean of the norm, from which it differs by much."""
    x, _ = model.embed(noise(0, 1, 3, 96, 64))
    for _, layer in model.trunk():
        x = layer(x, None)
    assert x.shape == (1, 3, 2, 20)
    patches = np.asarray(x, np.float64).reshape(6, 20)
    weight, bias = (np.asarray(leaf, np.float64) for leaf in (model.norm.weight, model.norm.bias))

    def norm(rows: np.ndarray) -> np.ndarray:
        centred = rows - rows.mean(-1, keepdims=True)
        return centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + 1e-6) * weight + bias

    found = run(noise(0, 1, 3, 96, 64))
    # Measured 1.4e-6 and 9.8e-7.
    np.testing.assert_allclose(found.last_hidden_state[0, 0], norm(patches.mean(0)), rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.last_hidden_state[0, 1:], norm(patches), rtol=0, atol=1e-5)
    assert np.abs(norm(patches).mean(0) - norm(patches.mean(0))).max() > 0.1


def test_pooler_output_is_the_cls_token(run):
    found = run(noise(0, 2, 3, 64, 96))
    assert found.last_hidden_state.shape == (2, 1 + 6, 20)
    np.testing.assert_array_equal(found.pooler_output, found.last_hidden_state[:, 0])


@pytest.mark.parametrize("size", [(32, 32), (63, 33), (70, 101)], ids=str)
def test_there_is_a_token_per_32_pixels(spines, run, size: tuple[int, int]):
    spec = spines("dinov3_convnext_tiny_pretrain_lvd1689m").spec
    shape = run(noise(0, 1, 3, *size)).last_hidden_state.shape
    assert shape == (1, spec.architecture.num_tokens(*size), 20)


def test_pixels_beyond_the_last_whole_cell_of_the_stem_do_not_matter(run):
    """Of four pixels. What is dropped later has been seen by its neighbours' wide kernels."""
    image = noise(0, 1, 3, 71, 67)
    found = run(image).last_hidden_state
    np.testing.assert_array_equal(found, run(image[:, :, :68, :64]).last_hidden_state)
    assert not np.allclose(found, run(image[:, :, :64, :64]).last_hidden_state, atol=1e-3)


def test_patches_run_row_by_row(model: Model):
    """Where the centre of a patch is changed, its token changes most."""
    image = noise(0, 1, 3, 96, 128)
    run = eqx.filter_jit(model)
    before = np.asarray(run(image).last_hidden_state[0, 1:])
    for row, column in ((0, 3), (2, 1)):
        changed = image.copy()
        changed[:, :, 32 * row + 12 : 32 * row + 20, 32 * column + 12 : 32 * column + 20] += 0.1
        moved = np.abs(np.asarray(run(changed).last_hidden_state[0, 1:]) - before).mean(-1)
        assert moved.argmax() == 4 * row + column


def test_an_image_does_not_see_its_batch_mates(run):
    batch = noise(0, 3, 3, 64, 96)
    found = np.asarray(run(batch).last_hidden_state)
    for mate in (1e6 * noise(1, 3, 64, 96), np.full((3, 64, 96), np.nan, np.float32)):
        other = batch.copy()
        other[1] = mate
        np.testing.assert_array_equal(np.asarray(run(other).last_hidden_state)[[0, 2]], found[[0, 2]])


def test_every_parameter_moves_the_features(model: Model):
    @eqx.filter_jit
    def features(model: Model) -> jax.Array:
        return model(noise(0, 1, 3, 64, 96)).last_hidden_state

    leaves, structure = jax.tree_util.tree_flatten(model)
    reference, moved = features(model), {}
    for i, name in enumerate(leaf_names(model)):
        changed = leaves[i] + 1e-2 * noise(i, *leaves[i].shape)
        other = jax.tree_util.tree_unflatten(structure, [*leaves[:i], changed, *leaves[i + 1 :]])
        moved[name] = float(jnp.abs(features(other) - reference).max())
    assert min(moved.values()) > 1e-3, moved


def test_a_built_model_holds_shapes_only(released: Mapping[str, VariantSpec]):
    for spec in released.values():
        if isinstance(spec.architecture, ConvNeXtArchitecture):
            leaves = jax.tree_util.tree_leaves(build(spec.family, spec.architecture))
            assert {type(leaf) for leaf in leaves} == {jax.ShapeDtypeStruct}
            assert {leaf.dtype for leaf in leaves} == {np.dtype("float32")}
            assert sum(leaf.size for leaf in leaves) == spec.parameters
