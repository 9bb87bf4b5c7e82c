"""Synthetic checkpoints: as the publishers write them, the same each time, and no tensor that could hide a fault."""

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file

from vit2onnx.checkpoints.synthetic import synthetic_value, write_synthetic

# Names and shapes as in MODELS.md C.4 for embed_dim 48, two blocks, three heads, ffn_hidden 96, four registers.
META = {
    "cls_token": (1, 1, 48),
    "storage_tokens": (1, 4, 48),
    "mask_token": (1, 48),
    "patch_embed.proj.weight": (48, 3, 16, 16),
    "patch_embed.proj.bias": (48,),
    "rope_embed.periods": (4,),
    "blocks.0.norm1.weight": (48,),
    "blocks.0.norm1.bias": (48,),
    "blocks.0.attn.qkv.weight": (144, 48),
    "blocks.0.attn.qkv.bias": (144,),
    "blocks.0.attn.qkv.bias_mask": (144,),
    "blocks.0.attn.proj.weight": (48, 48),
    "blocks.0.attn.proj.bias": (48,),
    "blocks.0.ls1.gamma": (48,),
    "blocks.0.norm2.weight": (48,),
    "blocks.0.norm2.bias": (48,),
    "blocks.0.mlp.fc1.weight": (96, 48),
    "blocks.0.mlp.fc1.bias": (96,),
    "blocks.0.mlp.fc2.weight": (48, 96),
    "blocks.0.mlp.fc2.bias": (48,),
    "blocks.0.ls2.gamma": (48,),
    "blocks.1.norm1.weight": (48,),
    "blocks.1.norm1.bias": (48,),
    "blocks.1.attn.qkv.weight": (144, 48),
    "blocks.1.attn.qkv.bias": (144,),
    "blocks.1.attn.qkv.bias_mask": (144,),
    "blocks.1.attn.proj.weight": (48, 48),
    "blocks.1.attn.proj.bias": (48,),
    "blocks.1.ls1.gamma": (48,),
    "blocks.1.norm2.weight": (48,),
    "blocks.1.norm2.bias": (48,),
    "blocks.1.mlp.fc1.weight": (96, 48),
    "blocks.1.mlp.fc1.bias": (96,),
    "blocks.1.mlp.fc2.weight": (48, 96),
    "blocks.1.mlp.fc2.bias": (48,),
    "blocks.1.ls2.gamma": (48,),
    "norm.weight": (48,),
    "norm.bias": (48,),
}
KEY = slice(48, 96)


@pytest.fixture(scope="module")
def meta(tiny_checkpoint) -> dict[str, np.ndarray]:
    state = torch.load(tiny_checkpoint, weights_only=True)
    return {name: tensor.numpy() for name, tensor in state.items()}


def test_meta_files_have_the_publishers_names_shapes_and_dtypes(meta):
    assert {name: tensor.shape for name, tensor in meta.items()} == META
    assert {tensor.dtype for tensor in meta.values()} == {np.dtype(np.float32)}


def test_the_same_seed_gives_the_same_bytes(tiny_spec, tiny_checkpoints, tmp_path):
    for layout, path in tiny_checkpoints.items():
        # Another name and folder, because torch by itself writes the file's name into the file.
        again = tmp_path / layout / "again"
        write_synthetic(tiny_spec, again, seed=0, layout=layout)
        assert again.read_bytes() == path.read_bytes()
        assert [file.name for file in again.parent.iterdir()] == ["again"]


def test_another_seed_changes_every_tensor_that_is_drawn(tiny_spec, meta, tmp_path):
    write_synthetic(tiny_spec, tmp_path / "other.pth", seed=1, layout="meta")
    other = torch.load(tmp_path / "other.pth", weights_only=True)
    same = {name for name, tensor in meta.items() if np.isclose(tensor, other[name].numpy()).mean() > 0.01}
    assert same == {name for name in META if name.endswith(("bias_mask", "periods"))}


def test_no_two_tensors_are_alike(meta):
    """Or a swap of two keys would not show. Masks are alike because they are in the releases."""
    drawn = [tensor.ravel() for name, tensor in meta.items() if not name.endswith("bias_mask")]
    for index, one in enumerate(drawn):
        for other in drawn[:index]:
            size = min(len(one), len(other))
            assert not np.isclose(one[:size], other[:size]).any(), (index, size)


def test_no_tensor_is_trivial(meta):
    for name, tensor in meta.items():
        if not name.endswith("bias_mask"):
            assert len(np.unique(tensor)) > 0.99 * tensor.size, name
            assert np.isfinite(tensor).all(), name


@pytest.mark.parametrize(
    "ending, low, high",
    [
        ("gamma", 0.1, 0.5),  # LayerScale neither mutes a block nor lets it grow
        ("norm1.weight", 0.7, 1.3),
        ("norm.weight", 0.7, 1.3),
        ("proj.bias", 0.1, 0.4),
        ("_token", 0.5, 2),
        ("storage_tokens", 0.5, 2),
    ],
)
def test_scales_keep_activations_near_one(meta, ending, low, high):
    found = [tensor for name, tensor in meta.items() if name.endswith(ending)]
    assert found
    for tensor in found:
        assert low < np.sqrt(np.mean(np.square(tensor))) < high


def test_weights_keep_the_variance_of_their_input(meta):
    for name, tensor in meta.items():
        if name.endswith("weight") and tensor.ndim > 1:
            # Measured: 0.99 to 1.04.
            assert np.var(tensor) * tensor[0].size == pytest.approx(1, abs=0.1), name


def test_layer_scale_has_both_signs(meta):
    for name, tensor in meta.items():
        if name.endswith("gamma"):
            assert 0.2 < np.mean(tensor > 0) < 0.8, name


def test_the_mask_hides_junk_from_the_key_alone(meta):
    for block in (0, 1):
        mask = meta[f"blocks.{block}.attn.qkv.bias_mask"]
        assert mask.tolist() == [1] * 48 + [0] * 48 + [1] * 48
        bias = meta[f"blocks.{block}.attn.qkv.bias"]
        # The junk is large, so that a reader without the mask is far off: measured 3.3, and 0.2 beside it.
        assert np.std(bias[KEY]) > 5 * np.std(np.delete(bias, KEY))


def test_periods_are_those_of_the_releases(meta):
    assert meta["rope_embed.periods"].tolist() == [1, 3.15625, 10, 31.625]


@pytest.mark.parametrize("layout, prefix", [("huggingface", "layer"), ("huggingface5", "model.layer")])
def test_layouts_hold_the_same_weights(meta, tiny_checkpoints, layout, prefix):
    expected = {
        "embeddings.cls_token": meta["cls_token"],
        "embeddings.register_tokens": meta["storage_tokens"],
        "embeddings.mask_token": meta["mask_token"][None],
        "embeddings.patch_embeddings.weight": meta["patch_embed.proj.weight"],
        "embeddings.patch_embeddings.bias": meta["patch_embed.proj.bias"],
        "norm.weight": meta["norm.weight"],
        "norm.bias": meta["norm.bias"],
    }
    for i in (0, 1):
        block = {name.removeprefix(f"blocks.{i}."): t for name, t in meta.items() if name.startswith(f"blocks.{i}.")}
        weights, biases = np.split(block["attn.qkv.weight"], 3), np.split(block["attn.qkv.bias"], 3)
        renamed = {
            "attention.q_proj.weight": weights[0],
            "attention.k_proj.weight": weights[1],
            "attention.v_proj.weight": weights[2],
            "attention.q_proj.bias": biases[0],
            "attention.v_proj.bias": biases[2],
            "attention.o_proj.weight": block["attn.proj.weight"],
            "attention.o_proj.bias": block["attn.proj.bias"],
            "layer_scale1.lambda1": block["ls1.gamma"],
            "layer_scale2.lambda1": block["ls2.gamma"],
            "mlp.up_proj.weight": block["mlp.fc1.weight"],
            "mlp.up_proj.bias": block["mlp.fc1.bias"],
            "mlp.down_proj.weight": block["mlp.fc2.weight"],
            "mlp.down_proj.bias": block["mlp.fc2.bias"],
        }
        renamed |= {name: tensor for name, tensor in block.items() if name.startswith("norm")}
        expected |= {f"{prefix}.{i}.{name}": tensor for name, tensor in renamed.items()}
    found = load_file(tiny_checkpoints[layout])
    assert {name: tensor.shape for name, tensor in found.items()} == {name: t.shape for name, t in expected.items()}
    for name, tensor in found.items():
        assert tensor.dtype == np.float32
        assert np.array_equal(tensor, expected[name]), name


def test_safetensors_files_say_that_they_are_for_torch(tiny_checkpoints):
    """Without it, transformers refuses to load them."""
    with safe_open(tiny_checkpoints["huggingface"], framework="np") as file:
        assert file.metadata() == {"format": "pt"}


def test_values_do_not_depend_on_one_another():
    """So that a value is the same in every layout and variant that has a leaf of this name and shape."""
    one = synthetic_value("blocks.0.blocks.3.ls1.gamma", (5,), 7)
    synthetic_value("norm.weight", (9,), 7)
    assert np.array_equal(one, synthetic_value("blocks.0.blocks.3.ls1.gamma", (5,), 7))
    assert not np.isclose(one, synthetic_value("blocks.0.blocks.3.ls2.gamma", (5,), 7)).any()
