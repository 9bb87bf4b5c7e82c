"""Conversion: the same weights give the same bytes, each tensor is accounted for, and faults leave nothing behind."""

import csv
import hashlib
import re
import resource
import shutil
import threading
import tracemalloc
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from operator import itemgetter
from pathlib import Path

import equimo.io
import equinox as eqx
import jax
import numpy as np
import pytest
import safetensors.torch
import torch

from tests.rounding import MODEL_LIMIT, floors
from vit2onnx.checkpoints.convert import convert_checkpoint
from vit2onnx.checkpoints.synthetic import write_synthetic
from vit2onnx.errors import InputError
from vit2onnx.runners import equinox as equinox_runner
from vit2onnx.spec.variant import VariantSpec
from vit2onnx.weights.archive import archive_skeleton, read_archive
from vit2onnx.weights.leaves import array_shapes
from vit2onnx.weights.model_file import open_model

Tensors = dict[str, torch.Tensor]
# An archive's bytes and a ledger's rows.
Conversion = tuple[bytes, list[dict[str, str]]]
LAYOUT_NAMES = ["meta", "huggingface", "huggingface5", "timm", "timm_qkvb"]
AS_BEFORE = "as before training"


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


def sha256(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def convert(spec, checkpoint: Path, folder: Path) -> Conversion:
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


def leaves_of(archive: Path, spec: VariantSpec) -> dict[str, np.ndarray]:
    return dict(read_archive(archive, spec))


@pytest.fixture(scope="module")
def converted(tiny_spec, tiny_checkpoints, tmp_path_factory) -> dict[str, Conversion]:
    """Archive and ledger of every layout."""
    return {
        layout: convert(tiny_spec, path, tmp_path_factory.mktemp(layout)) for layout, path in tiny_checkpoints.items()
    }


@pytest.fixture(scope="module")
def conversions(tmp_path_factory) -> Callable[..., dict[str, Conversion]]:
    """Archive and ledger of every layout of a small variant, made when it is first asked for."""
    known: dict[str, dict[str, Conversion]] = {}

    def run(spine) -> dict[str, Conversion]:
        name = spine.spec.name
        if name not in known:
            paths = spine.checkpoints.items()
            known[name] = {layout: convert(spine.spec, path, tmp_path_factory.mktemp(layout)) for layout, path in paths}
        return known[name]

    return run


def test_all_layouts_of_the_same_weights_give_the_same_bytes(small, conversions):
    arch = small.spec.architecture
    expected = small.archive.read_bytes()
    for layout, (archive, _) in conversions(small).items():
        # DINOv3's file is of other weights if there are biases that it leaves out.
        same = layout != "timm" or not getattr(arch, "qkv_bias", False)
        assert (archive == expected) == same, layout


def timm_by_hand(state: Tensors) -> Tensors:
    """What timm makes of a publisher's file whose queries, keys and values have no bias."""
    dropped = r"mask_token|local_cls_norm\..*|rope_embed\.periods|.*\.qkv\.bias(_mask)?"
    renames = {
        "storage_tokens": "reg_token",
        ".ls1.gamma": ".gamma_1",
        ".ls2.gamma": ".gamma_2",
        ".mlp.w1.": ".mlp.fc1_g.",
        ".mlp.w2.": ".mlp.fc1_x.",
        ".mlp.w3.": ".mlp.fc2.",
    }
    timm = {}
    for name, tensor in state.items():
        if not re.fullmatch(dropped, name):
            for old, new in renames.items():
                name = name.replace(old, new)
            timm[name] = tensor
    return timm


def test_timms_file_without_biases_gives_the_same_bytes_where_they_are_zero(small_vit, tmp_path):
    """As in the releases. The key's may be anything, for the mask removes it."""
    state = load(small_vit.checkpoints["meta"])
    for name, tensor in state.items():
        if name.endswith("qkv.bias"):
            query, key, value = tensor.chunk(3)
            assert key.abs().min() > 0
            query.zero_()
            value.zero_()
    found = []
    for layout, tensors in (("meta.pth", state), ("timm.safetensors", timm_by_hand(state))):
        (tmp_path / layout.partition(".")[0]).mkdir()
        found.append(convert(small_vit.spec, save(tensors, tmp_path / layout), tmp_path / layout.partition(".")[0])[0])
    assert found[0] == found[1]
    assert (found[0] == small_vit.archive.read_bytes()) != small_vit.spec.architecture.qkv_bias


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


def test_the_ledger_has_every_source_tensor_with_its_hash(small, conversions):
    for layout, (_, ledger) in conversions(small).items():
        tensors = load(small.checkpoints[layout])
        rows = [row for row in ledger if row["source"]]
        times = Counter(row["source"] for row in rows)
        assert times == Counter(tensors.keys()) + Counter(used_twice(small.spec, layout))
        for row in rows:
            tensor = tensors[row["source"]]
            assert row["sha256"] == sha256(tensor)
            assert row["shape"] == "x".join(str(size) for size in tensor.shape)
            assert row["dtype"] == "float32"
            assert bool(row["target"]) == bool(row["target_sha256"]) != row["transform"].startswith("ignored: ")


@pytest.mark.parametrize("layout", LAYOUT_NAMES)
def test_the_ledger_has_the_hash_of_every_archive_leaf(tiny_spec, tiny_checkpoints, tmp_path, layout):
    _, rows = convert(tiny_spec, tiny_checkpoints[layout], tmp_path)
    leaves = leaves_of(tmp_path / "archive.tar.lz4", tiny_spec)
    expected = {name: hashlib.sha256(leaf.tobytes()).hexdigest() for name, leaf in leaves.items()}
    assert {row["target"]: row["target_sha256"] for row in rows if row["target"]} == expected


def used_twice(spec: VariantSpec, layout: str) -> list[str]:
    """DINOv2's position table, a row of which goes to the CLS token; with registers timm has added it already."""
    if spec.family != "dinov2" or (layout == "timm" and spec.architecture.num_registers):
        return []
    return ["pos_embed" if layout in ("meta", "timm") else "embeddings.position_embeddings"]


def restored_row(target: str, how: str, value: np.ndarray) -> dict[str, str]:
    digest = hashlib.sha256(value.astype(np.float32).tobytes()).hexdigest()
    return {
        "source": "",
        "target": target,
        "transform": f"restored: {how}",
        "shape": "x".join(map(str, value.shape)),
        "dtype": "float32",
        "sha256": digest,
        "target_sha256": digest,
    }


def test_the_ledger_says_what_was_restored(small, conversions):
    arch = small.spec.architecture
    expected = {layout: [] for layout in small.checkpoints}
    if small.spec.family == "dinov2":
        mask = restored_row("mask_token", f"zeros, {AS_BEFORE}", np.zeros((1, arch.embed_dim)))
        expected = {layout: [mask] for layout in small.checkpoints}
    if small.spec.family == "dinov3_vit":
        dim = arch.embed_dim
        always = [restored_row("mask_token", f"zeros, {AS_BEFORE}", np.zeros((1, dim)))]
        if arch.local_cls_norm:
            always.append(restored_row("local_cls_norm.weight", f"ones, {AS_BEFORE}", np.ones(dim)))
            always.append(restored_row("local_cls_norm.bias", f"zeros, {AS_BEFORE}", np.zeros(dim)))
        # Rounded by another library than ours.
        count = arch.head_dim // 4
        periods = (100 ** (torch.arange(count, dtype=torch.float64) / count)).bfloat16().float().numpy()
        how = "100^(k/count) in bfloat16, as released"
        periods = restored_row("local_pos_embed.patch_rope.freqs", how, periods)
        how = "zeros, which timm leaves out because the released ones are"
        biases = [
            restored_row(f"blocks.0.blocks.{i}.attn.qkv.bias", how, np.zeros(3 * dim))
            for i in range(arch.depth if arch.qkv_bias else 0)
        ]
        expected = {layout: [*always, periods] for layout in small.checkpoints}
        expected |= {"meta": always, "timm": [*always, periods, *biases]}
    for layout, (_, ledger) in conversions(small).items():
        found = [row for row in ledger if not row["source"]]
        assert sorted(found, key=itemgetter("target")) == sorted(expected[layout], key=itemgetter("target")), layout


def test_the_ledger_says_what_was_ignored_and_why(small, conversions):
    arch = small.spec.architecture
    if small.spec.family == "dinov3_convnext":
        once_more = "the final norm once more"
        expected = {"meta": {"norms.3.weight": once_more, "norms.3.bias": once_more}}
    else:
        mask = "replaces patches in training only"
        local = "norms the CLS token of local crops in training only"
        has_local = getattr(arch, "local_cls_norm", False)
        meta = {"local_cls_norm.weight": local, "local_cls_norm.bias": local} if has_local else {}
        huggingface = {"embeddings.mask_token": mask}
        expected = {"meta": meta | {"mask_token": mask}, "huggingface": huggingface, "huggingface5": huggingface}
    for layout, (_, ledger) in conversions(small).items():
        found = {row["source"]: row["transform"] for row in ledger if not row["target"]}
        assert found == {key: f"ignored: {reason}" for key, reason in expected.get(layout, {}).items()}


def test_what_is_ignored_has_no_effect(small_vit, tmp_path):
    state = load(small_vit.checkpoints["meta"])
    ignored = [name for name in state if name == "mask_token" or name.startswith("local_cls_norm.")]
    assert len(ignored) == (3 if small_vit.spec.architecture.local_cls_norm else 1)
    other = {name: tensor + 1 if name in ignored else tensor for name, tensor in state.items()}
    absent = {name: tensor for name, tensor in state.items() if name != "mask_token"}
    for kind, tensors in (("other", other), ("absent", absent)):
        (tmp_path / kind).mkdir()
        archive, rows = convert(small_vit.spec, save(tensors, tmp_path / f"{kind}.pth"), tmp_path / kind)
        assert archive == small_vit.archive.read_bytes()
        assert {row["source"] for row in rows if not row["target"]} == set(ignored) & tensors.keys()


def test_a_norm_that_the_variant_does_not_have_is_unknown(tiny_spec, tiny_checkpoint, tmp_path):
    norm = {"local_cls_norm.weight": torch.ones(48), "local_cls_norm.bias": torch.zeros(48)}
    error = refuse(tiny_spec, save(load(tiny_checkpoint) | norm, tmp_path / "file.pth"), tmp_path / "results")
    assert error.__notes__ == [
        "tensor local_cls_norm.bias 48 is not known",
        "tensor local_cls_norm.weight 48 is not known",
    ]


def test_a_norm_that_the_variant_has_may_not_be_absent(spines, tmp_path):
    """Or the file of another release with this architecture would pass for it."""
    spine = spines("dinov3_vitl16_pretrain_sat493m")
    state = {name: t for name, t in load(spine.checkpoints["meta"]).items() if not name.startswith("local_cls_norm.")}
    error = refuse(spine.spec, save(state, tmp_path / "file.pth"), tmp_path / "results")
    assert error.__notes__ == [
        "tensor local_cls_norm.weight 128 is missing",
        "tensor local_cls_norm.bias 128 is missing",
    ]


@pytest.mark.parametrize("leaf", ["weight", "bias"])
def test_a_second_final_norm_that_differs_is_refused(spines, tmp_path, leaf):
    tiny = spines("dinov3_convnext_tiny_pretrain_lvd1689m")
    state = load(tiny.checkpoints["meta"])
    assert torch.equal(state["norm.weight"], state["norms.3.weight"])
    without = {name: tensor for name, tensor in state.items() if not name.startswith("norms.")}
    (tmp_path / "without").mkdir()
    archive, _ = convert(tiny.spec, save(without, tmp_path / "without.pth"), tmp_path / "without")
    assert archive == tiny.archive.read_bytes()
    state[f"norms.3.{leaf}"][-1] += 1e-6
    error = refuse(tiny.spec, save(state, tmp_path / "file.pth"), tmp_path / "results")
    assert error.__notes__ == [f"tensor norms.3.{leaf} is not the same as norm.{leaf}"]


@pytest.mark.parametrize("stage", [0, 2])
def test_a_norm_of_another_stage_is_unknown(spines, tmp_path, stage):
    tiny = spines("dinov3_convnext_tiny_pretrain_lvd1689m")
    state = load(tiny.checkpoints["meta"]) | {f"norms.{stage}.weight": torch.ones(20)}
    error = refuse(tiny.spec, save(state, tmp_path / "file.pth"), tmp_path / "results")
    assert error.__notes__ == [f"tensor norms.{stage}.weight 20 is not known"]


@pytest.mark.parametrize("layout", LAYOUT_NAMES)
def test_periods_of_full_precision_are_a_switch_of_the_variant(
    tiny_spec, tiny_checkpoints, converted, tmp_path, layout
):
    spec = replace(tiny_spec, architecture=replace(tiny_spec.architecture, rope_periods="float32"))
    # 100^(k/4) in single precision.
    unrounded = np.array([1, 3.1622777, 10, 31.622776], np.float32)
    archive, rows = convert(spec, tiny_checkpoints[layout], tmp_path)
    leaves = leaves_of(tmp_path / "archive.tar.lz4", spec)
    np.testing.assert_array_equal(leaves["local_pos_embed.patch_rope.freqs"], unrounded)
    (row,) = (row for row in rows if row["target"] == "local_pos_embed.patch_rope.freqs")
    assert row == restored_row("local_pos_embed.patch_rope.freqs", "100^(k/count) in float32", unrounded)
    others = [row for row in rows if "periods" in row["source"]]
    assert [(row["source"], row["target"], row["transform"]) for row in others] == (
        [("rope_embed.periods", "", "ignored: the variant asks for periods in another precision")]
        if layout == "meta"
        else []
    )
    # And nothing else is another.
    changed = [row for row in converted[layout][1] if row not in rows]
    assert {row["target"] for row in changed} == {"local_pos_embed.patch_rope.freqs"}
    assert archive != converted[layout][0]


def test_periods_of_full_precision_are_the_same_in_every_layout(small_vit, tmp_path):
    spec = replace(small_vit.spec, architecture=replace(small_vit.spec.architecture, rope_periods="float32"))
    archives = set()
    for layout, path in small_vit.checkpoints.items():
        if layout != "timm":
            (tmp_path / layout).mkdir()
            archives.add(convert(spec, path, tmp_path / layout)[0])
    assert len(archives) == 1
    assert archives != {small_vit.archive.read_bytes()}


def test_the_mask_removes_the_key_bias_and_nothing_else(tiny_spec, tiny_checkpoint, tiny_archive):
    state = load(tiny_checkpoint)
    leaves = leaves_of(tiny_archive, tiny_spec)
    for block in (0, 1):
        expected = state[f"blocks.{block}.attn.qkv.bias"].numpy().copy()
        assert np.abs(expected[48:96]).max() > 1
        expected[48:96] = 0
        # Bytes, because minus zero equals zero.
        assert leaves[f"blocks.0.blocks.{block}.attn.qkv.bias"].tobytes() == expected.tobytes()


def test_attention_without_bias_has_none(released, spines):
    """And no mask either: 7B alone."""
    for name in released:
        spec = spines(name).spec
        if spec.family == "dinov3_vit":
            held = any("qkv.bias" in leaf for leaf in array_shapes(archive_skeleton(spec)))
            assert held == any("qkv.bias" in key for key in load(spines(name).checkpoints["meta"]))
            assert held == ("vit7b16" not in name)


def test_periods_are_those_of_the_checkpoint_where_it_has_them(tiny_spec, tiny_checkpoint, tmp_path):
    periods = torch.tensor([1.0, 2.0, 3.0, 5.0])
    checkpoint = save(load(tiny_checkpoint) | {"rope_embed.periods": periods}, tmp_path / "file.pth")
    convert_checkpoint(tiny_spec, checkpoint, tmp_path / "archive.tar.lz4", tmp_path / "ledger.csv")
    leaves = leaves_of(tmp_path / "archive.tar.lz4", tiny_spec)
    assert leaves["local_pos_embed.patch_rope.freqs"].tolist() == [1, 2, 3, 5]


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


def test_a_tensor_that_cannot_be_read_is_raised_from_its_thread_and_nothing_is_left(
    tiny_spec, tiny_checkpoint, tmp_path, monkeypatch
):
    threads = set(threading.enumerate())
    read = iter([*[np.fromfile] * 9, None])

    def fromfile(*args, **kwargs):
        if read_one := next(read):
            return read_one(*args, **kwargs)
        raise OSError("bad sector")

    monkeypatch.setattr(np, "fromfile", fromfile)
    with pytest.raises(OSError, match="bad sector"):
        convert_checkpoint(tiny_spec, tiny_checkpoint, tmp_path / "archive.tar.lz4", tmp_path / "ledger.csv")
    assert list(tmp_path.iterdir()) == []
    assert set(threading.enumerate()) <= threads


def test_a_disk_that_is_full_ends_all_threads_and_nothing_is_left(tiny_spec, tiny_checkpoint, tmp_path):
    threads = set(threading.enumerate())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            convert_checkpoint(tiny_spec, tiny_checkpoint, tmp_path / "archive.tar.lz4", tmp_path / "ledger.csv")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []
    assert set(threading.enumerate()) <= threads


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
    names = {"num_registers": "_token", "embed_dim": "is 48 instead of 96", "depth": ".norm1.bias 48 is "}
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


@pytest.mark.parametrize("name", ["vits16", "vits16plus", "vitl16_sat", "vit7b16"])
def test_equimos_own_loader_opens_the_archive_and_gives_our_features(released, spines, tmp_path, name):
    """With an MLP, SwiGLU, the norm of local crops' CLS, and heads of 128 channels without bias."""
    spine = spines(next(n for n in released if n.startswith(f"dinov3_{name.replace('_', '_pretrain_')}")))
    dim = spine.spec.architecture.embed_dim
    # Equimo unpacks beside the archive.
    archive = Path(shutil.copy(spine.archive, tmp_path))
    # Compiled, because Equimo first draws random weights, which is slow operation by operation.
    model = eqx.filter_jit(equimo.io.load_model)("vit", path=archive)
    # Neither square nor of the size that Equimo is made for.
    pixel_values = np.random.default_rng(0).standard_normal((3, 80, 144), np.float32)
    found = eqx.filter_jit(model.forward_features)(pixel_values, key=jax.random.PRNGKey(0), inference=True)
    order = ("x_norm_cls_token", "x_norm_reg_tokens", "x_norm_patchtokens")
    theirs = np.concatenate([np.asarray(found[name]).reshape(-1, dim) for name in order])
    ours = equinox_runner.features(*open_model(spine.model_file), {"x": pixel_values}, spine.spec.interface())
    assert theirs.shape == (1 + 4 + 5 * 9, dim)
    # Measured 0.95 to 0.99.
    assert floors(theirs, ours["float64/x"], ours["float32/x"]) <= MODEL_LIMIT


def test_memory_does_not_grow_with_depth(tiny_spec, tmp_path):
    """Torch's memory map is not counted, but each tensor that Python holds is."""
    peaks = []
    for depth in (8, 24):
        architecture = replace(tiny_spec.architecture, embed_dim=192, depth=depth)
        spec = replace(tiny_spec, architecture=architecture)
        write_synthetic(spec, tmp_path / "file.pth", seed=0, layout="meta")
        tracemalloc.start()
        convert_checkpoint(spec, tmp_path / "file.pth", tmp_path / "archive.tar.lz4", tmp_path / "ledger.csv")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # Sixteen blocks have 12 MB of weights. Measured: 0.2 to 1.5 MB more, as one thread is more or less ahead.
    assert peaks[1] - peaks[0] < 3e6
