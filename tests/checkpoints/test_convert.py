"""Conversion: the same weights give the same bytes, each tensor is accounted for, and faults leave nothing behind."""

import csv
import hashlib
import shutil
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import equimo.io
import equinox as eqx
import jax
import numpy as np
import pytest
import safetensors.torch
import torch

from vit2onnx.archive import open_archive
from vit2onnx.checkpoints.convert import convert_checkpoint
from vit2onnx.checkpoints.layouts import LAYOUTS
from vit2onnx.checkpoints.synthetic import write_synthetic
from vit2onnx.errors import InputError

Tensors = dict[str, torch.Tensor]
LAYOUT_NAMES = ["meta", "huggingface", "huggingface5"]
RESTORED = "restored: 100^(k/count) rounded to bfloat16, as released"


def load(path: Path) -> Tensors:
    if path.suffix == ".pth":
        return torch.load(path, weights_only=True)
    return safetensors.torch.load_file(path)


def save(tensors: Mapping[str, torch.Tensor], path: Path) -> Path:
    if path.suffix == ".pth":
        torch.save(dict(tensors), path)
    else:
        safetensors.torch.save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)
    return path


def convert(spec, checkpoint: Path, folder: Path) -> tuple[bytes, list[dict[str, str]]]:
    """The archive's bytes and the ledger's rows."""
    archive, ledger = folder / "archive.tar.lz4", folder / "ledger.csv"
    convert_checkpoint(spec, checkpoint, archive, ledger)
    assert sorted(path.name for path in folder.iterdir()) == ["archive.tar.lz4", "ledger.csv"]
    with ledger.open(newline="") as file:
        return archive.read_bytes(), list(csv.DictReader(file))


def refuse(spec, checkpoint: Path, folder: Path) -> InputError:
    """The error with which a checkpoint is refused, when that leaves nothing behind."""
    folder.mkdir()
    with pytest.raises(InputError) as caught:
        convert_checkpoint(spec, checkpoint, folder / "archive.tar.lz4", folder / "ledger.csv")
    assert list(folder.iterdir()) == []
    assert str(caught.value).startswith(str(checkpoint))
    return caught.value


@pytest.fixture(scope="module")
def converted(tiny_spec, tiny_checkpoints, tmp_path_factory) -> dict[str, tuple[bytes, list[dict[str, str]]]]:
    """Archive and ledger of the same weights in every layout."""
    return {
        layout: convert(tiny_spec, path, tmp_path_factory.mktemp(layout)) for layout, path in tiny_checkpoints.items()
    }


def test_all_layouts_of_the_same_weights_give_the_same_bytes(converted):
    assert list(converted) == LAYOUT_NAMES
    assert len({archive for archive, _ in converted.values()}) == 1


def test_converting_again_elsewhere_gives_the_same_bytes(tiny_spec, tiny_checkpoint, converted, tmp_path):
    copy = shutil.copy(tiny_checkpoint, tmp_path / "another name.bin")
    (tmp_path / "new").mkdir()
    assert convert(tiny_spec, Path(copy), tmp_path / "new") == converted["meta"]


def test_other_weights_give_other_bytes(tiny_spec, converted, tmp_path):
    write_synthetic(tiny_spec, tmp_path / "other.pth", seed=1, layout="meta")
    (tmp_path / "new").mkdir()
    assert convert(tiny_spec, tmp_path / "other.pth", tmp_path / "new")[0] != converted["meta"][0]


@pytest.mark.parametrize("layout", LAYOUT_NAMES)
def test_the_layout_is_returned(tiny_spec, tiny_checkpoints, tmp_path, layout):
    found = convert_checkpoint(tiny_spec, tiny_checkpoints[layout], tmp_path / "archive", tmp_path / "ledger")
    assert found == layout


@pytest.mark.parametrize("layout", LAYOUT_NAMES)
def test_the_ledger_has_every_source_tensor_once_with_its_hash(tiny_checkpoints, converted, layout):
    tensors = load(tiny_checkpoints[layout])
    rows = [row for row in converted[layout][1] if row["source"]]
    assert sorted(row["source"] for row in rows) == sorted(tensors)
    for row in rows:
        tensor = tensors[row["source"]]
        assert row["sha256"] == hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()
        assert row["shape"] == "x".join(str(size) for size in tensor.shape)
        assert row["dtype"] == "float32"
        assert row["target"] and row["transform"]


@pytest.mark.parametrize("layout", LAYOUT_NAMES)
def test_the_ledger_has_the_hash_of_every_archive_leaf(tiny_spec, tiny_archive, converted, layout):
    rows = converted[layout][1]
    with open_archive(tiny_archive, tiny_spec) as leaves:
        expected = {name: hashlib.sha256(leaf.read().tobytes()).hexdigest() for name, leaf in leaves.items()}
    assert {row["target"]: row["target_sha256"] for row in rows} == expected


@pytest.mark.parametrize("layout", LAYOUT_NAMES)
def test_the_ledger_says_what_was_restored(converted, layout):
    restored = [row for row in converted[layout][1] if not row["source"]]
    if layout == "meta":
        assert restored == []
        return
    # The published numbers for a head of 16 channels.
    digest = hashlib.sha256(np.array([1, 3.15625, 10, 31.625], np.float32).tobytes()).hexdigest()
    assert restored == [
        {
            "source": "",
            "target": "local_pos_embed.patch_rope.freqs",
            "transform": RESTORED,
            "shape": "4",
            "dtype": "float32",
            "sha256": digest,
            "target_sha256": digest,
        }
    ]


def test_the_ledger_says_what_was_ignored_and_why(tiny_spec, tiny_checkpoints, converted, tmp_path, monkeypatch):
    tables = tuple(replace(table, ignored={"head.{i}.step": "counts steps"}) for table in LAYOUTS[tiny_spec.family])
    monkeypatch.setitem(LAYOUTS, tiny_spec.family, tables)
    step = torch.arange(3)
    checkpoint = save(load(tiny_checkpoints["huggingface"]) | {"head.3.step": step}, tmp_path / "file.safetensors")
    (tmp_path / "new").mkdir()
    archive, rows = convert(tiny_spec, checkpoint, tmp_path / "new")
    assert archive == converted["huggingface"][0]
    assert rows[:-1] == converted["huggingface"][1]
    assert rows[-1] == {
        "source": "head.3.step",
        "target": "",
        "transform": "ignored: counts steps",
        "shape": "3",
        "dtype": "int64",
        "sha256": hashlib.sha256(step.numpy().tobytes()).hexdigest(),
        "target_sha256": "",
    }


def test_the_mask_removes_the_key_bias_and_nothing_else(tiny_spec, tiny_checkpoint, tiny_archive):
    state = load(tiny_checkpoint)
    with open_archive(tiny_archive, tiny_spec) as leaves:
        for block in (0, 1):
            expected = state[f"blocks.{block}.attn.qkv.bias"].numpy().copy()
            assert np.abs(expected[48:96]).max() > 1
            expected[48:96] = 0
            found = leaves[f"blocks.0.blocks.{block}.attn.qkv.bias"].read()
            # Bytes, because minus zero equals zero.
            assert found.tobytes() == expected.tobytes()


def test_periods_are_those_of_the_checkpoint_where_it_has_them(tiny_spec, tiny_checkpoint, tmp_path):
    periods = torch.tensor([1.0, 2.0, 3.0, 5.0])
    checkpoint = save(load(tiny_checkpoint) | {"rope_embed.periods": periods}, tmp_path / "file.pth")
    convert_checkpoint(tiny_spec, checkpoint, tmp_path / "archive.tar.lz4", tmp_path / "ledger.csv")
    with open_archive(tmp_path / "archive.tar.lz4", tiny_spec) as leaves:
        assert leaves["local_pos_embed.patch_rope.freqs"].read().tolist() == [1, 2, 3, 5]


@pytest.mark.parametrize("dtype, name", [(torch.bfloat16, "bfloat16"), (torch.float16, "float16")])
@pytest.mark.parametrize("layout", ["meta", "huggingface"])
def test_half_precision_is_widened_without_loss(tiny_spec, tiny_checkpoints, tmp_path, layout, dtype, name):
    source = tiny_checkpoints[layout]
    rounded = {key: tensor.to(dtype) for key, tensor in load(source).items()}
    for folder in ("half", "single"):
        (tmp_path / folder).mkdir()
    half = save(rounded, tmp_path / f"half{source.suffix}")
    single = save({key: tensor.float() for key, tensor in rounded.items()}, tmp_path / f"single{source.suffix}")
    archive, rows = convert(tiny_spec, half, tmp_path / "half")
    assert archive == convert(tiny_spec, single, tmp_path / "single")[0]
    assert {row["dtype"] for row in rows if row["source"]} == {name}
    row = next(row for row in rows if row["source"] == "norm.bias")
    bits = rounded["norm.bias"].view(torch.uint16).numpy().tobytes()
    assert row["sha256"] == hashlib.sha256(bits).hexdigest()
    assert row["target_sha256"] == hashlib.sha256(rounded["norm.bias"].float().numpy().tobytes()).hexdigest()


def put(key: str, tensor: torch.Tensor) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update({key: tensor})


def drop(*keys: str) -> Callable[[Tensors], None]:
    return lambda tensors: [tensors.pop(key) for key in keys] and None


def spoil(key: str, value: float) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        tensors[key] = tensors[key].clone()
        tensors[key].view(-1)[-1] = value

    return change


FAULTS = {
    "missing": (drop("blocks.1.mlp.fc2.bias"), "tensor blocks.1.mlp.fc2.bias 48 is missing"),
    "first missing": (drop("cls_token"), "tensor cls_token 1x1x48 is missing"),
    "unknown": (put("head.weight", torch.ones(7, 48)), "tensor head.weight 7x48 is not known"),
    "another block": (put("blocks.2.norm1.bias", torch.ones(48)), "tensor blocks.2.norm1.bias 48 is not known"),
    "transposed": (
        put("blocks.0.mlp.fc1.weight", torch.ones(48, 96)),
        "tensor blocks.0.mlp.fc1.weight is 48x96 instead of 96x48",
    ),
    "in double precision": (
        put("norm.weight", torch.ones(48).double()),
        "tensor norm.weight is float64 instead of one of float32, bfloat16, float16",
    ),
    "NaN": (spoil("blocks.1.attn.proj.weight", np.nan), "tensor blocks.1.attn.proj.weight holds values that are not"),
    "infinite": (spoil("storage_tokens", -np.inf), "tensor storage_tokens holds values that are not finite"),
    "NaN in the last": (spoil("norm.bias", np.nan), "tensor norm.bias holds values that are not finite"),
    # As the publisher's code creates it before it is loaded.
    "NaN in a mask": (spoil("blocks.0.attn.qkv.bias_mask", np.nan), "tensor blocks.0.attn.qkv.bias_mask holds values"),
}


@pytest.mark.parametrize("change, sentence", FAULTS.values(), ids=FAULTS)
def test_a_faulty_tensor_is_named_and_nothing_is_left(tiny_spec, tiny_checkpoint, tmp_path, change, sentence):
    tensors = load(tiny_checkpoint)
    change(tensors)
    error = refuse(tiny_spec, save(tensors, tmp_path / "file.pth"), tmp_path / "results")
    assert sentence in str(error)
    assert len(error.__notes__) == 1


def test_a_faulty_huggingface_tensor_is_named_too(tiny_spec, tiny_checkpoints, tmp_path):
    tensors = load(tiny_checkpoints["huggingface"])
    drop("layer.1.attention.k_proj.weight")(tensors)
    spoil("layer.0.attention.v_proj.bias", np.inf)(tensors)
    error = refuse(tiny_spec, save(tensors, tmp_path / "file.safetensors"), tmp_path / "missing")
    assert "is no complete dinov3_tiny in huggingface layout" in str(error)
    assert error.__notes__ == ["tensor layer.1.attention.k_proj.weight 48x48 is missing"]
    put("layer.1.attention.k_proj.weight", torch.ones(48, 48))(tensors)
    error = refuse(tiny_spec, save(tensors, tmp_path / "file.safetensors"), tmp_path / "infinite")
    assert error.__notes__ == ["tensor layer.0.attention.v_proj.bias holds values that are not finite"]


def test_all_faults_are_told_together(tiny_spec, tiny_checkpoint, tmp_path):
    tensors = load(tiny_checkpoint)
    drop("norm.bias", "norm.weight")(tensors)
    put("extra", torch.ones(2))(tensors)
    put("cls_token", torch.ones(48))(tensors)
    error = refuse(tiny_spec, save(tensors, tmp_path / "file.pth"), tmp_path / "results")
    assert sorted(error.__notes__) == [
        "tensor cls_token is 48 instead of 1x1x48",
        "tensor extra 2 is not known",
        "tensor norm.bias 48 is missing",
        "tensor norm.weight 48 is missing",
    ]
    assert str(error).endswith("; and 1 more (see the log).")


@pytest.mark.parametrize("layout", LAYOUT_NAMES)
@pytest.mark.parametrize("size", [{"embed_dim": 96, "num_heads": 6}, {"depth": 3}, {"depth": 1}, {"num_registers": 0}])
def test_another_variants_file_is_refused(tiny_spec, tiny_checkpoints, tmp_path, layout, size):
    other = replace(tiny_spec, name="other", architecture=replace(tiny_spec.architecture, **size))
    error = refuse(other, tiny_checkpoints[layout], tmp_path / "results")
    assert f"is no complete other in {layout} layout: tensor " in str(error)
    names = {"num_registers": "_tokens", "embed_dim": "is 48 instead of 96", "depth": ".norm1.bias 48 is "}
    assert any(names[next(iter(size))] in note for note in error.__notes__)


def test_a_broken_run_leaves_the_last_good_files(tiny_spec, tiny_checkpoint, converted, tmp_path):
    convert(tiny_spec, tiny_checkpoint, tmp_path)
    checkpoint = tmp_path.with_name(f"{tmp_path.name}.pth")
    tensors = load(tiny_checkpoint)
    spoil("norm.bias", np.nan)(tensors)
    with pytest.raises(InputError):
        convert(tiny_spec, save(tensors, checkpoint), tmp_path)
    assert (tmp_path / "archive.tar.lz4").read_bytes() == converted["meta"][0]
    assert len(list(tmp_path.iterdir())) == 2


def test_equimos_own_loader_opens_the_archive_and_gives_our_features(tiny_archive, tiny_model, tmp_path):
    # Equimo unpacks beside the archive.
    archive = Path(shutil.copy(tiny_archive, tmp_path))
    # Compiled, because Equimo first draws random weights, which is slow operation by operation.
    model = eqx.filter_jit(equimo.io.load_model)("vit", path=archive)
    # Neither square nor of the size that Equimo is made for.
    pixel_values = np.random.default_rng(0).standard_normal((3, 80, 144), np.float32)
    found = eqx.filter_jit(model.forward_features)(pixel_values, key=jax.random.PRNGKey(0), inference=True)
    order = ("x_norm_cls_token", "x_norm_reg_tokens", "x_norm_patchtokens")
    theirs = np.concatenate([np.asarray(found[name]).reshape(-1, 48) for name in order])
    ours = np.asarray(tiny_model(pixel_values[None]).last_hidden_state[0])
    assert theirs.shape == ours.shape == (1 + 4 + 5 * 9, 48)
    # Measured: 1.0e-6.
    assert np.abs(theirs - ours).max() <= 1e-5


def test_memory_does_not_grow_with_depth(tiny_spec, tmp_path):
    """Torch's memory map is not counted, but each tensor that Python holds is."""
    peaks = []
    for depth in (2, 8):
        architecture = replace(tiny_spec.architecture, embed_dim=192, depth=depth)
        spec = replace(tiny_spec, architecture=architecture)
        write_synthetic(spec, tmp_path / "file.pth", seed=0, layout="meta")
        tracemalloc.start()
        convert_checkpoint(spec, tmp_path / "file.pth", tmp_path / "archive.tar.lz4", tmp_path / "ledger.csv")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # The six blocks have 4.5 MB of weights. Measured: 0.2 MB more, which is names, hashes and Equimo's skeleton.
    assert peaks[1] - peaks[0] < 1e6
