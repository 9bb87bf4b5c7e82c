"""Synthetic checkpoints: as the publishers write them, the same each time, and no tensor that could hide a fault."""

import tracemalloc
import zipfile
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch_file

from vit2onnx.checkpoints.reading import open_checkpoint
from vit2onnx.checkpoints.synthetic import synthetic_tensors, synthetic_value, write_synthetic

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


def test_files_of_every_release_and_layout_have_the_published_names_shapes_and_dtypes(small, published):
    expected = published(small.spec)
    assert small.checkpoints.keys() == expected.keys()
    for layout, path in small.checkpoints.items():
        # With the libraries that they are for, and not with our own reader.
        state = torch.load(path, weights_only=True) if layout == "meta" else load_torch_file(path)
        assert {name: tuple(tensor.shape) for name, tensor in state.items()} == expected[layout]
        assert {tensor.dtype for tensor in state.values()} == {torch.float32}
        assert all(tensor.isfinite().all() for tensor in state.values())


def test_tensors_are_written_as_they_are_made(small):
    for layout, path in small.checkpoints.items():
        tensors = dict(synthetic_tensors(small.spec, seed=0, layout=layout))
        found = open_checkpoint(path)
        assert found.keys() == tensors.keys()
        assert all(np.array_equal(found[name].read(), value) for name, value in tensors.items())


def test_torch_files_hold_the_checksums_of_their_tensors(small):
    path = small.checkpoints["meta"]
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    content = path.read_bytes()
    for tensor in open_checkpoint(path).values():
        end = tensor.offset + tensor.nbytes
        checksum = zlib.crc32(content[tensor.offset : end]).to_bytes(4, "little")
        assert content[end : end + 8] == b"PK\x07\x08" + checksum


def test_the_same_seed_gives_the_same_bytes(small, tmp_path):
    for layout, path in small.checkpoints.items():
        # Another name and folder, because torch by itself writes the file's name into the file.
        again = tmp_path / layout / "again"
        write_synthetic(small.spec, again, seed=0, layout=layout)
        assert again.read_bytes() == path.read_bytes()
        assert [file.name for file in again.parent.iterdir()] == ["again"]


def test_a_failing_write_leaves_nothing(tiny_spec, tmp_path, monkeypatch):
    def no_bias(family, name, shape, seed):
        if name == "norm.bias":
            raise OSError("the disk is full")
        return synthetic_value(family, name, shape, seed)

    monkeypatch.setattr("vit2onnx.checkpoints.synthetic.synthetic_value", no_bias)
    for layout in ("meta", "huggingface"):
        with pytest.raises(OSError, match="disk is full"):
            write_synthetic(tiny_spec, tmp_path / "file", seed=0, layout=layout)
        assert list(tmp_path.iterdir()) == []


def test_memory_does_not_grow_with_depth(tiny_spec, tmp_path):
    for layout in ("meta", "timm_qkvb"):
        peaks = []
        for depth in (2, 8):
            spec = replace(tiny_spec, architecture=replace(tiny_spec.architecture, embed_dim=192, depth=depth))
            write_synthetic(spec, tmp_path / "file", seed=0, layout=layout)
            tracemalloc.start()
            write_synthetic(spec, tmp_path / "file", seed=0, layout=layout)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        # The six blocks have 4.5 MB of weights.
        assert peaks[1] - peaks[0] < 1e6, layout


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
        ("attn.proj.bias", 0.1, 0.4),
        ("fc1.bias", 0.1, 0.4),
        # What enters the first norm, so that its epsilon counts.
        ("patch_embed.proj.bias", 0.2, 0.5),
        ("cls_token", 0.2, 0.5),
        ("storage_tokens", 0.2, 0.5),
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
            # But for what enters the first norm.
            scale = 0.3 if name.startswith("patch_embed.") else 1
            # Measured: 0.99 to 1.04.
            assert np.var(tensor / scale) * tensor[0].size == pytest.approx(1, abs=0.1), name


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


def huggingface_block(block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    weights, biases = np.split(block["attn.qkv.weight"], 3), np.split(block["attn.qkv.bias"], 3)
    return {
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


def timm_block(block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    biases = np.split(block["attn.qkv.bias"], 3)
    same = ("attn.qkv.weight", "attn.proj.weight", "attn.proj.bias", "mlp.fc1.weight", "mlp.fc1.bias")
    return {name: block[name] for name in (*same, "mlp.fc2.weight", "mlp.fc2.bias")} | {
        "attn.q_bias": biases[0],
        "attn.v_bias": biases[2],
        "gamma_1": block["ls1.gamma"],
        "gamma_2": block["ls2.gamma"],
    }


LAYOUTS = {
    "huggingface": ("layer", huggingface_block),
    "huggingface5": ("model.layer", huggingface_block),
    "timm": ("blocks", timm_block),
    "timm_qkvb": ("blocks", timm_block),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_hold_the_same_weights(meta, tiny_checkpoints, layout):
    prefix, rename = LAYOUTS[layout]
    expected = {"norm.weight": meta["norm.weight"], "norm.bias": meta["norm.bias"]}
    if layout.startswith("timm"):
        expected |= {
            "cls_token": meta["cls_token"],
            "reg_token": meta["storage_tokens"],
            "patch_embed.proj.weight": meta["patch_embed.proj.weight"],
            "patch_embed.proj.bias": meta["patch_embed.proj.bias"],
        }
    else:
        expected |= {
            "embeddings.cls_token": meta["cls_token"],
            "embeddings.register_tokens": meta["storage_tokens"],
            "embeddings.patch_embeddings.weight": meta["patch_embed.proj.weight"],
            "embeddings.patch_embeddings.bias": meta["patch_embed.proj.bias"],
        }
    for i in (0, 1):
        block = {name.removeprefix(f"blocks.{i}."): t for name, t in meta.items() if name.startswith(f"blocks.{i}.")}
        renamed = rename(block) | {name: tensor for name, tensor in block.items() if name.startswith("norm")}
        expected |= {f"{prefix}.{i}.{name}": tensor for name, tensor in renamed.items()}
    found = load_file(tiny_checkpoints[layout])
    # It is no weight of the model, so that each file may have its own.
    mask_token = found.pop("embeddings.mask_token", None)
    assert (mask_token is None) == layout.startswith("timm")
    if mask_token is not None:
        assert mask_token.shape == (1, 1, 48)
        assert len(np.unique(mask_token)) == 48
    if layout == "timm":
        expected = {name: tensor for name, tensor in expected.items() if not name.endswith(("q_bias", "v_bias"))}
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
    one = synthetic_value("dinov3_vit", "blocks.0.blocks.3.ls1.gamma", (5,), 7)
    synthetic_value("dinov3_vit", "norm.weight", (9,), 7)
    assert np.array_equal(one, synthetic_value("dinov3_vit", "blocks.0.blocks.3.ls1.gamma", (5,), 7))
    assert not np.isclose(one, synthetic_value("dinov3_vit", "blocks.0.blocks.3.ls2.gamma", (5,), 7)).any()
