"""The DINOv3 model against transformers' own, filled from the same checkpoint by other code.

The tiny variant has every part of a real one. What it cannot show is how rounding adds up over twelve blocks and
more; the workflow's own comparison does that. `test_equinox.py` compares all the other releases' parts.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests import transformers_model
from tests.conftest import Spine
from tests.rounding import LAYER_LIMIT, MODEL_LIMIT, floors
from vit2onnx.checkpoints.convert import convert_checkpoint
from vit2onnx.errors import InputError
from vit2onnx.nn.layers import Mlp, SwiGlu
from vit2onnx.nn.model import Model
from vit2onnx.runners import equinox as equinox_runner
from vit2onnx.spec.variant import VariantSpec
from vit2onnx.weights.leaves import leaf_names
from vit2onnx.weights.model_file import open_model, skeleton_of

# (height, width): the training size, wide, tall, one patch, and a size that is no multiple of the patch.
SIZES = [(224, 224), (48, 112), (112, 48), (16, 16), (250, 170)]
every_size = pytest.mark.parametrize("size", SIZES, ids=str)

Features = Mapping[str, np.ndarray]


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


@pytest.fixture(scope="module")
def images() -> dict[str, np.ndarray]:
    return {str(size): noise(seed, 3, *size) for seed, size in enumerate(SIZES)}


@pytest.fixture(scope="module")
def ours(tiny_spec: VariantSpec, tiny_model_file: Path, images: Features) -> Features:
    return equinox_runner.features(*open_model(tiny_model_file), images, tiny_spec.interface())


@pytest.fixture(scope="module")
def theirs(tiny_spec: VariantSpec, tiny_checkpoint: Path, images: Features) -> Features:
    return transformers_model.features(tiny_spec, tiny_checkpoint, images)


@pytest.fixture(scope="module")
def run(tiny_model: Model):
    return eqx.filter_jit(tiny_model)


@every_size
def test_features_are_the_references(ours: Features, theirs: Features, size):
    for precision in ("float32", "float64"):
        assert ours[f"{precision}/{size}"].dtype == theirs[f"{precision}/{size}"].dtype == precision
    # Measured 6.2e-15.
    np.testing.assert_allclose(ours[f"float64/{size}"], theirs[f"float64/{size}"], rtol=0, atol=1e-12)


@every_size
def test_we_are_no_further_from_double_precision_than_the_reference(ours: Features, theirs: Features, size):
    # Measured 0.50 to 0.83.
    assert floors(ours[f"float32/{size}"], theirs[f"float64/{size}"], theirs[f"float32/{size}"]) <= MODEL_LIMIT


def test_features_have_unit_scale(ours: Features):
    # So that limits on absolute differences mean something: measured 1.05 to 1.06.
    assert all(0.5 < np.std(x) < 2 for x in ours.values())


@every_size
def test_every_token_is_there(ours: Features, size):
    assert ours[f"float32/{size}"].shape == (5 + (size[0] // 16) * (size[1] // 16), 48)


def test_pooler_output_is_the_cls_token(run, images: Features):
    found = run(images["(48, 112)"][None])
    np.testing.assert_array_equal(found.pooler_output, found.last_hidden_state[:, 0])


def test_an_image_does_not_see_its_batch_mates(run):
    batch = noise(0, 3, 3, 48, 112)
    found = np.asarray(run(batch).last_hidden_state)
    for mate in (1e6 * noise(1, 3, 48, 112), np.full((3, 48, 112), np.nan, np.float32)):
        other = batch.copy()
        other[1] = mate
        np.testing.assert_array_equal(np.asarray(run(other).last_hidden_state)[[0, 2]], found[[0, 2]])


def test_batch_size_and_order_do_not_matter(tiny_spec: VariantSpec, tiny_model_file: Path, run):
    batch = noise(0, 3, 3, 48, 112)
    images = {str(i): image for i, image in enumerate(batch)}
    features = equinox_runner.features(*open_model(tiny_model_file), images, tiny_spec.interface())
    alone, truth = (np.stack([features[f"{p}/{i}"] for i in range(3)]) for p in ("float32", "float64"))
    # Not bit for bit, because a matrix product of another size may be summed in another order: measured 0.93 to 0.94.
    assert floors(run(batch).last_hidden_state, truth, alone) <= MODEL_LIMIT
    assert floors(run(batch[::-1]).last_hidden_state[::-1], truth, alone) <= MODEL_LIMIT


def test_pixels_beyond_the_last_whole_patch_do_not_matter(run, images: Features):
    image = images["(250, 170)"]
    whole, cropped = run(image[None]), run(image[None, :, :240, :160])
    np.testing.assert_array_equal(whole.last_hidden_state, cropped.last_hidden_state)


def test_every_parameter_moves_the_features(tiny_model: Model):
    @eqx.filter_jit
    def features(model: Model) -> jax.Array:
        return model(noise(0, 1, 3, 48, 112)).last_hidden_state

    leaves, structure = jax.tree_util.tree_flatten(tiny_model)
    reference, moved = features(tiny_model), {}
    for i, name in enumerate(leaf_names(tiny_model)):
        changed = leaves[i] + 1e-2 * noise(i, *leaves[i].shape)
        model = jax.tree_util.tree_unflatten(structure, [*leaves[:i], changed, *leaves[i + 1 :]])
        moved[name] = float(jnp.abs(features(model) - reference).max())
    # Measured 4.3e-3 at least, so that a wrong one shows by thousands of noise floors.
    assert min(moved.values()) > 1e-3, moved


def test_stages_of_a_block(tiny_model: Model):
    tokens, rope = tiny_model.embed(jnp.asarray(noise(0, 2, 3, 48, 112)))
    block = tiny_model.blocks[0]
    stages = block.stages(tokens, rope)
    # The project's vocabulary without `attn_norm`: DINOv3 has no norm inside its attention.
    names = "input attn_in q k attn_raw attn_scaled post_attn mlp_in mlp_raw mlp_scaled output"
    assert list(stages) == names.split()
    assert {stage.shape for stage in stages.values()} == {(2, 5 + 21, 48)}
    np.testing.assert_array_equal(stages["input"], tokens)
    np.testing.assert_array_equal(stages["attn_in"], block.norm1(tokens))
    np.testing.assert_array_equal(stages["attn_scaled"], stages["attn_raw"] * block.ls1.gamma)
    np.testing.assert_array_equal(stages["post_attn"], tokens + stages["attn_scaled"])
    np.testing.assert_array_equal(stages["mlp_in"], block.norm2(stages["post_attn"]))
    np.testing.assert_array_equal(stages["mlp_scaled"], stages["mlp_raw"] * block.ls2.gamma)
    np.testing.assert_array_equal(stages["output"], stages["post_attn"] + stages["mlp_scaled"])
    np.testing.assert_array_equal(block(tokens, rope), stages["output"])


def test_stages_follow_one_another_to_the_features(tiny_model: Model, images: Features, ours: Features):
    tokens, rope = tiny_model.embed(jnp.asarray(images["(48, 112)"][None]))
    for block in tiny_model.blocks:
        tokens = block.stages(tokens, rope)["output"]
    found = tiny_model.norm(tokens)[0]
    # Not the same bits, because uncompiled, XLA fuses less: measured 0.97 to 0.98.
    assert floors(found, ours["float64/(48, 112)"], ours["float32/(48, 112)"]) <= MODEL_LIMIT


def test_tokens_are_cls_registers_and_patches_row_by_row(tiny_model: Model):
    image = noise(0, 3, 48, 112)
    tokens, _ = tiny_model.embed(jnp.asarray(image[None]))
    np.testing.assert_array_equal(tokens[0, 0], tiny_model.cls_token[0, 0])
    np.testing.assert_array_equal(tokens[0, 1:5], tiny_model.register_tokens[0])
    patches = [image[:, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] for row, column in np.ndindex(3, 7)]
    expected = np.einsum("dchw,nchw->nd", np.asarray(tiny_model.patch_embed.weight, np.float64), patches)
    expected += np.asarray(tiny_model.patch_embed.bias)
    # Measured 2.3.
    assert floors(tokens[0, 5:], expected) <= LAYER_LIMIT


def test_a_built_model_holds_shapes_only(released: Mapping[str, VariantSpec]):
    for spec in released.values():
        if spec.family != "dinov3_vit":
            continue
        arch = spec.architecture
        leaves = jax.tree_util.tree_leaves(skeleton_of(spec.family, arch))
        assert {type(leaf) for leaf in leaves} == {jax.ShapeDtypeStruct}
        assert {leaf.dtype for leaf in leaves} == {np.dtype("float32")}
        # The publisher counts what is for training and the biases of keys, which are masked, but no rotary periods.
        training = arch.embed_dim * (3 if arch.local_cls_norm else 1)
        masked = arch.qkv_bias * arch.depth * arch.embed_dim
        assert sum(leaf.size for leaf in leaves) == spec.parameters - training - masked + arch.head_dim // 4


@pytest.mark.parametrize("name", ["vits16", "vits16plus", "vit7b16"])
def test_every_part_of_an_architecture_is_in_its_model(spines, name: str):
    spine = spines(f"dinov3_{name}_pretrain_lvd1689m")
    block = spine.model.blocks[1]
    assert type(block.mlp) is (Mlp if name == "vits16" else SwiGlu)
    assert (block.attn.q.bias is None) == (block.attn.v.bias is None) == (name == "vit7b16")
    assert block.attn.k.bias is None
    assert block.attn.num_heads == 2
    assert spine.model.rope_periods.shape == ((32,) if name == "vit7b16" else (16,))


def test_swiglu_gates_the_first_map(spines):
    """And not the second, which the linear maps' order would not show."""
    mlp = spines("dinov3_vits16plus_pretrain_lvd1689m").model.blocks[0].mlp
    x = noise(0, 1, 7, 128)

    def in_numpy(x: np.ndarray) -> np.ndarray:
        first, second = (x @ np.asarray(w.weight, x.dtype) + np.asarray(w.bias) for w in (mlp.w1, mlp.w2))
        return first / (1 + np.exp(-first)) * second @ np.asarray(mlp.w3.weight, x.dtype) + np.asarray(mlp.w3.bias)

    # Measured 1.0.
    assert floors(mlp(jnp.asarray(x)), in_numpy(x.astype(np.float64)), in_numpy(x)) <= LAYER_LIMIT


@pytest.mark.parametrize(
    "own, layouts",
    [
        ({"key_bias": True}, ["meta", "huggingface", "huggingface5"]),
        ({"num_registers": 0}, ["meta", "huggingface", "huggingface5", "timm", "timm_qkvb"]),
        ({"rope_theta": 50.0}, ["meta", "huggingface", "huggingface5", "timm", "timm_qkvb"]),
        ({"rope_periods": "checkpoint"}, ["meta"]),
    ],
    ids=str,
)
def test_own_weights_are_the_same_in_every_layout(tiny_spec: VariantSpec, tmp_path: Path, own, layouts):
    spec = replace(tiny_spec, architecture=replace(tiny_spec.architecture, **own))
    spine, archives = Spine(spec, tmp_path), {}
    assert list(spine.checkpoints) == layouts
    for layout, checkpoint in spine.checkpoints.items():
        path = tmp_path / f"{layout}.tar.lz4"
        assert convert_checkpoint(spec, checkpoint, path, tmp_path / f"{layout}.csv") == layout
        archives[layout] = path.read_bytes()
    # Whose attention has no bias.
    archives.pop("timm", None)
    assert len(set(archives.values())) == 1
    tensors = open_model(spine.model_file)[1]
    if "key_bias" in own:
        assert np.abs(tensors["blocks.1.attn.k.bias"].read()).max() > 0.1
    if "num_registers" in own:
        assert "register_tokens" not in tensors
        assert "embeddings.register_tokens,,ignored: empty,1x0x48" in (tmp_path / "huggingface.csv").read_text()
    if "rope_theta" in own:
        assert tensors["rope_periods"].read()[1] == pytest.approx(50 ** (1 / 4), rel=2**-8)
    image = {"x": noise(0, 3, 48, 80)}
    ours = equinox_runner.features(*open_model(spine.model_file), image, spec.interface())
    for checkpoint in (spine.checkpoints[layout] for layout in archives):
        theirs = transformers_model.features(spec, checkpoint, image)
        np.testing.assert_allclose(ours["float64/x"], theirs["float64/x"], rtol=0, atol=1e-12)


def test_periods_can_be_those_of_the_file(tiny_spec: VariantSpec, tiny_checkpoint: Path, tmp_path: Path):
    """Whatever they are: here of no base, and in no precision that could be computed."""
    periods = torch.tensor([1.1, 2.7, 9.3, 40.2])
    path = tmp_path / "file.pth"
    torch.save(torch.load(tiny_checkpoint, weights_only=True) | {"rope_embed.periods": periods}, path)
    spec = replace(tiny_spec, architecture=replace(tiny_spec.architecture, rope_periods="checkpoint"))
    assert spec.architecture.departure == ""
    spine = Spine(spec, tmp_path)
    spine.checkpoints = {"meta": path}
    model, tensors = open_model(spine.model_file)
    np.testing.assert_array_equal(tensors["rope_periods"].read(), periods)
    image = {"x": noise(0, 3, 48, 80)}
    ours = equinox_runner.features(model, tensors, image, spec.interface(), ["x"])
    theirs = transformers_model.features(spec, path, image, ["x"])
    np.testing.assert_allclose(ours["float64/x"], theirs["float64/x"], rtol=0, atol=1e-12)
    # As installed, transformers computes them.
    assert np.abs(ours["native/x"] - theirs["native/x"]).max() < 1e-5
    assert np.abs(ours["native/x"] - ours["float64/x"]).max() > 1e-2


def test_periods_of_the_file_need_a_file_that_holds_them(tiny_spec: VariantSpec, tiny_checkpoints):
    spec = replace(tiny_spec, architecture=replace(tiny_spec.architecture, rope_periods="checkpoint"))
    with pytest.raises(InputError, match=r"has no rope_embed\.periods; give the file as its publisher offers it, or"):
        transformers_model.prepare(spec, tiny_checkpoints["huggingface"])


def test_keys_alone_have_no_bias(tiny_spec: VariantSpec):
    with pytest.raises(InputError, match=r"architecture\.key_bias needs qkv_bias"):
        replace(tiny_spec.architecture, qkv_bias=False, key_bias=True)


def test_the_activation_is_by_default_that_of_the_feed_forward_layer(tiny_spec: VariantSpec):
    arch = tiny_spec.architecture
    assert (arch.activation, arch.act, replace(arch, ffn="swiglu").act) == (None, "gelu", "silu")
    assert replace(arch, ffn="swiglu", activation="gelu_tanh").act == "gelu_tanh"
