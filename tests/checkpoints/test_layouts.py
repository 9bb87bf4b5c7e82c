"""The key tables against names written by hand from the publishers' files, and against transformers' own."""

from collections import Counter

import numpy as np
import pytest
import safetensors
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from vit2onnx.archive import array_shapes, equimo_skeleton
from vit2onnx.checkpoints.layouts import (
    LAYOUTS,
    MASK_KEY_BIAS,
    RESTORE_ROPE_PERIODS,
    detect,
    released_rope_periods,
    table_of,
)
from vit2onnx.checkpoints.reading import open_checkpoint
from vit2onnx.errors import InputError
from vit2onnx.keytable import assign

FAMILY = "dinov3_vit"
NAMES = [table.layout for table in LAYOUTS[FAMILY]]
META_BLOCK = [
    *("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "ls1.gamma", "ls2.gamma"),
    *("attn.qkv.weight", "attn.qkv.bias", "attn.qkv.bias_mask", "attn.proj.weight", "attn.proj.bias"),
    *("mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight", "mlp.fc2.bias"),
]
META_REST = [
    *("cls_token", "storage_tokens", "mask_token", "rope_embed.periods"),
    *("patch_embed.proj.weight", "patch_embed.proj.bias", "norm.weight", "norm.bias"),
]
HUGGINGFACE_BLOCK = [
    *("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "layer_scale1.lambda1", "layer_scale2.lambda1"),
    *("attention.q_proj.weight", "attention.q_proj.bias", "attention.k_proj.weight", "attention.v_proj.weight"),
    *("attention.v_proj.bias", "attention.o_proj.weight", "attention.o_proj.bias"),
    *("mlp.up_proj.weight", "mlp.up_proj.bias", "mlp.down_proj.weight", "mlp.down_proj.bias"),
]
HUGGINGFACE_REST = [
    *("embeddings.cls_token", "embeddings.register_tokens", "embeddings.mask_token"),
    *("embeddings.patch_embeddings.weight", "embeddings.patch_embeddings.bias", "norm.weight", "norm.bias"),
]


def keys_of(layout: str, depth: int) -> list[str]:
    """The names in a file of a layout, written out by hand."""
    block, rest, prefix = {
        "meta": (META_BLOCK, META_REST, "blocks"),
        "huggingface": (HUGGINGFACE_BLOCK, HUGGINGFACE_REST, "layer"),
        "huggingface5": (HUGGINGFACE_BLOCK, HUGGINGFACE_REST, "model.layer"),
    }[layout]
    return [*rest, *(f"{prefix}.{i}.{name}" for i in range(depth) for name in block)]


@pytest.fixture(scope="module")
def transformers_model(tiny_spec) -> DINOv3ViTModel:
    arch = tiny_spec.architecture
    return DINOv3ViTModel(
        DINOv3ViTConfig(
            hidden_size=arch.embed_dim,
            num_hidden_layers=arch.depth,
            num_attention_heads=arch.num_heads,
            intermediate_size=arch.ffn_hidden,
            num_register_tokens=arch.num_registers,
        )
    )


@pytest.mark.parametrize("layout", NAMES)
def test_the_layout_is_told_by_the_keys(layout):
    keys = keys_of(layout, depth=12)
    assert detect("a name that says nothing", FAMILY, keys) is table_of(FAMILY, layout)
    assert detect("file", FAMILY, reversed(keys)).layout == layout


@pytest.mark.parametrize("layout", NAMES)
def test_the_file_name_has_no_say(layout, tiny_checkpoints, tmp_path):
    path = tmp_path / ("meta.pth" if layout != "meta" else "huggingface.safetensors")
    path.symlink_to(tiny_checkpoints[layout])
    assert detect(str(path), FAMILY, open_checkpoint(path)).layout == layout


@pytest.mark.parametrize("layout", NAMES)
def test_faulty_files_are_still_told_so_that_each_fault_can_be_named(layout):
    keys = keys_of(layout, depth=12)
    assert detect("file", FAMILY, [*keys[::2], "head.weight", "head.bias"]).layout == layout


@pytest.mark.parametrize(
    "keys, shown",
    [
        (["bert.encoder.0", "bert.encoder.1", "bert.encoder.2", "bert.encoder.3"], "like bert.encoder.0, bert.enc"),
        ([f"module.{key}" for key in keys_of("meta", 12)], "its 188 tensors are named like module.cls_token, "),
        ([], "its 0 tensors are named like nothing"),
        (["model", "optimizer", "norm.weight", "iteration"], "like model, optimizer, norm.weight;"),
    ],
    ids=["another model", "prefixed", "empty", "one key in four"],
)
def test_an_unknown_layout_is_named_with_its_keys_and_the_way_out(keys, shown):
    with pytest.raises(InputError) as caught:
        detect("folder/model.pth", FAMILY, keys)
    sentence = str(caught.value)
    assert sentence.startswith(f"folder/model.pth holds no {FAMILY} checkpoint in a known layout (meta, huggingface,")
    assert shown in sentence
    assert sentence.endswith("give the file as its publisher offers it.")


@pytest.mark.parametrize("layout", NAMES)
def test_each_table_fills_each_archive_leaf_once_from_each_key_once(layout, real_spec):
    depth = real_spec.architecture.depth
    leaves = array_shapes(equimo_skeleton(real_spec.architecture))
    assignments = assign(table_of(FAMILY, layout), leaves)
    assert [assignment.target for assignment in assignments] == list(leaves)
    used = Counter(key for assignment in assignments for key in assignment.sources)
    assert used == Counter(keys_of(layout, depth))


@pytest.mark.parametrize("layout", NAMES)
def test_no_line_of_a_table_is_dead(layout, tiny_spec):
    leaves = array_shapes(equimo_skeleton(tiny_spec.architecture))
    table = table_of(FAMILY, layout)
    targets = {assignment.target for assignment in assign(table, leaves)}
    depth = tiny_spec.architecture.depth
    assert targets == {entry.target.format(i=i) for entry in table.entries for i in range(depth)}


def test_huggingface5_is_what_transformers_holds(transformers_model, tiny_checkpoints):
    expected = {name: tuple(tensor.shape) for name, tensor in transformers_model.state_dict().items()}
    assert {name: t.shape for name, t in open_checkpoint(tiny_checkpoints["huggingface5"]).items()} == expected


def test_huggingface_is_what_transformers_writes(transformers_model, tiny_checkpoints, tmp_path):
    transformers_model.save_pretrained(tmp_path)
    with safetensors.safe_open(tmp_path / "model.safetensors", framework="np") as file:
        expected = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    assert {name: t.shape for name, t in open_checkpoint(tiny_checkpoints["huggingface"]).items()} == expected


def test_the_released_rope_periods():
    """As MODELS.md C.2 gives them for a head of 64 channels, to the four decimals that it prints."""
    printed = [1, 1.3359, 1.7812, 2.375, 3.1562, 4.2188, 5.625, 7.5, 10]
    printed += [13.3125, 17.75, 23.75, 31.625, 42.25, 56.25, 75]
    found = released_rope_periods(16)
    assert found.dtype == np.float32
    assert [round(period, 4) for period in found.tolist()] == printed
    # A bfloat16 is a float32 whose lower 16 bits are zero.
    assert not (found.view(np.uint32) & 0xFFFF).any()


def test_the_mask_removes_even_the_sign_of_the_key_bias():
    """0 times a negative bias is minus zero, which no other layout holds, so that archives would differ."""
    bias = np.array([1, -2, -3, 4, -5, 6], np.float32)
    mask = np.array([1, 1, 0, 0, 1, 1], np.float32)
    found = MASK_KEY_BIAS.apply([bias, mask], (6,))
    assert found.tobytes() == np.array([1, -2, 0, 0, -5, 6], np.float32).tobytes()
    assert MASK_KEY_BIAS.shapes((6,)) == ((6,), (6,))
    assert [part.tolist() for part in MASK_KEY_BIAS.invert(bias)] == [bias.tolist(), mask.tolist()]


def test_periods_are_restored_from_nothing_where_a_layout_lacks_them():
    assert RESTORE_ROPE_PERIODS.shapes((4,)) == ()
    assert RESTORE_ROPE_PERIODS.invert(np.ones(4, np.float32)) == []
    assert RESTORE_ROPE_PERIODS.apply([], (4,)).tolist() == [1, 3.15625, 10, 31.625]
