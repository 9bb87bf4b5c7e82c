"""In which forms people hold a backbone: each gives the archive that the plain one gives, or one clear sentence."""

import gzip
import io
import json
import pickle
import shutil
import tarfile
import zipfile
from argparse import Namespace
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.checkpoints.own_models import VARIANTS, model_of, own_spec
from tests.checkpoints.test_reading import packed_anew, torch_bytes
from vit2onnx.checkpoints.convert import convert_checkpoint
from vit2onnx.checkpoints.own import in_words, name_of, own_variants
from vit2onnx.errors import InputError

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DINOv3 ViT as transformers saves it: a folder."""
    folder = tmp_path_factory.mktemp("plain")
    model_of("vit").save_pretrained(folder)
    return folder


@cache
def state_of(folder: Path) -> Mapping[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def archive_of(path: Path, folder: Path, **how: Any) -> bytes:
    """What a checkpoint becomes: without the metadata, which says what the variant is."""
    spec = own_spec(path, **how)
    convert_checkpoint(spec, Path(spec.own.path), folder / "archive.tar.lz4", folder / "ledger.csv")
    return (folder / "archive.tar.lz4").read_bytes()


def prefixed(state: Mapping[str, torch.Tensor], prefix: str) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


def pth(write: Callable[[State], object], **options: Any) -> Callable[[Path, Path], Path]:
    """A file of torch beside the config, of what `write` makes of the tensors."""

    def make(plain: Path, folder: Path) -> Path:
        shutil.copy(plain / "config.json", folder)
        torch.save(write(dict(state_of(plain))), folder / "last.pth", **options)
        return folder / "last.pth"

    return make


def folder_of(plain: Path, folder: Path) -> Path:
    shutil.copytree(plain, folder / "hub")
    return folder / "hub"


def file_alone(plain: Path, folder: Path) -> Path:
    return folder_of(plain, folder) / "model.safetensors"


def as_bin(plain: Path, folder: Path) -> Path:
    shutil.copy(plain / "config.json", folder)
    torch.save(dict(state_of(plain)), folder / "pytorch_model.bin")
    return folder


def shards(plain: Path, folder: Path) -> Path:
    """Three shards with their index, as transformers writes them."""
    shutil.copy(plain / "config.json", folder)
    names = list(state_of(plain))
    files = {name: f"model-{1 + index % 3:05}-of-00003.safetensors" for index, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: state_of(plain)[name] for name in names if files[name] == file}, folder / file)
    index = {"metadata": {"total_size": 1}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def bin_shards(plain: Path, folder: Path) -> Path:
    shutil.copy(plain / "config.json", folder)
    halves = [dict(list(state_of(plain).items())[half::2]) for half in (0, 1)]
    for number, half in enumerate(halves, start=1):
        torch.save(half, folder / f"pytorch_model-{number:05}-of-00002.bin")
    return folder


def hub_cache(plain: Path, folder: Path) -> Path:
    shutil.copytree(plain, folder / "models--me--mine" / "snapshots" / "abc")
    return folder / "models--me--mine"


def new_names(plain: Path, folder: Path) -> Path:
    """The names of transformers 5 within a model."""
    shutil.copy(plain / "config.json", folder)
    state = {name.replace("layer.", "model.layer.", 1): value for name, value in state_of(plain).items()}
    save_file(state, folder / "model.safetensors")
    return folder


def inner_config(plain: Path, folder: Path) -> Path:
    """A larger model around the backbone, as for depth or detection, with its config within that of the whole."""
    config = json.loads((plain / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"model_type": "depth_anything", "backbone_config": config}))
    save_file(prefixed(state_of(plain), "backbone."), folder / "model.safetensors")
    return folder


def repacked(plain: Path, folder: Path) -> Path:
    shutil.copy(plain / "config.json", folder)
    (folder / "mine.pth").write_bytes(packed_anew(torch_bytes(dict(state_of(plain)))))
    return folder / "mine.pth"


def infixed(state: State, name: str) -> State:
    return {key.replace("layer.1.", f"layer.1.{name}."): value for key, value in state.items()}


# Read without a setting: the archive is that of the plain folder.
ACCEPTED: dict[str, Callable[[Path, Path], Path]] = {
    "folder": folder_of,
    "safetensors file": file_alone,
    "folder with .bin": as_bin,
    ".bin file": lambda plain, folder: as_bin(plain, folder) / "pytorch_model.bin",
    "folder with shards": shards,
    "index of shards": lambda plain, folder: shards(plain, folder) / "model.safetensors.index.json",
    "one shard": lambda plain, folder: shards(plain, folder) / "model-00002-of-00003.safetensors",
    "shards of torch without index": bin_shards,
    "cache of the hub": hub_cache,
    "names of transformers 5": new_names,
    "config within a config": inner_config,
    ".pth": pth(lambda state: state),
    ".pth of torch before 1.6": pth(lambda state: state, _use_new_zipfile_serialization=False),
    ".pth packed anew": repacked,
    "parameters": pth(lambda state: {name: torch.nn.Parameter(value) for name, value in state.items()}),
    "one level": pth(lambda state: {"model": state}),
    "three levels": pth(lambda state: {"run": {"ema": {"model": state}}, "epoch": 7}),
    "training state": pth(
        lambda state: {"model": state, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}, "args": Namespace(lr=1)}
    ),
    "Lightning": pth(lambda state: {"state_dict": prefixed(state, "model."), "callbacks": {}, "loops": None}),
    "data parallel": pth(lambda state: prefixed(state, "module.")),
    "compiled": pth(lambda state: prefixed(state, "_orig_mod.")),
    "compiled and data parallel": pth(lambda state: prefixed(state, "module._orig_mod.")),
    "blocks compiled": pth(lambda state: infixed(state, "_orig_mod")),
    "FSDP": pth(lambda state: infixed(prefixed(state, "_fsdp_wrapped_module."), "_fsdp_wrapped_module")),
    "activation checkpoints": pth(lambda state: infixed(state, "_checkpoint_wrapped_module")),
    "teacher": pth(lambda state: {"teacher": prefixed(state, "backbone.")}),
    "not in C order": pth(lambda state: {k: v.T.contiguous().T if v.ndim == 2 else v for k, v in state.items()}),
    "views of one storage": pth(lambda state: {k: torch.stack([v, v])[1] for k, v in state.items()}),
}


@pytest.mark.parametrize("form", ACCEPTED)
def test_a_form_that_tells_what_it_is_needs_no_setting(form: str, plain: Path, tmp_path: Path):
    (tmp_path / "given").mkdir()
    path = ACCEPTED[form](plain, tmp_path / "given")
    assert archive_of(path, tmp_path) == archive_of(plain, tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(dtype: torch.dtype, plain: Path, tmp_path: Path):
    halved = {name: value.to(dtype) for name, value in state_of(plain).items()}
    make = (pth(lambda _: halved), pth(lambda _: {name: value.float() for name, value in halved.items()}))
    for name, one in zip("ab", make, strict=True):
        (tmp_path / name).mkdir()
        one(plain, tmp_path / name)
    a, b = (archive_of(tmp_path / name, tmp_path) for name in "ab")
    assert a == b != archive_of(plain, tmp_path)


def both(state: State) -> dict[str, State]:
    """Two backbones, of which one is a little off."""
    return {
        name: {f"backbone.{key}": value + shift for key, value in state.items()}
        for name, shift in (("teacher", 0.0), ("student", 1.0))
    }


def distilled(state: State) -> State:
    head = {"teacher.dino_head.last.weight": torch.ones(3, 3), "center": torch.ones(1)}
    return {**prefixed(state, "teacher.backbone."), **head}


def compressed(plain: Path, folder: Path) -> Path:
    data = packed_anew(torch_bytes(dict(state_of(plain))), zipfile.ZIP_DEFLATED)
    return content(data)(plain, folder)


# Read with a setting, without which the sentence names it.
ASKING: dict[str, tuple[Callable[[Path, Path], Path], str, dict[str, Any]]] = {
    "two backbones": (
        pth(both),
        "holds 2 backbones, at student.backbone, teacher.backbone; choose one, as with PART=teacher.backbone",
        {"wanted": "teacher.backbone"},
    ),
    "a head": (
        pth(lambda state: {**state, "head.weight": torch.ones(3, 32), "head.bias": torch.ones(3)}),
        "holds 2 tensors besides the backbone, such as head.weight, head.bias",
        {"ignore": ["head.*"]},
    ),
    "a head beside a prefix": (
        pth(lambda state: {**prefixed(state, "backbone."), "fc.weight": torch.ones(3, 32)}),
        "leave them out with IGNORE='fc.*'",
        {"ignore": ["fc.*"]},
    ),
    "distillation": (
        pth(distilled),
        "IGNORE='teacher.dino_head.* center'",
        {"ignore": ["teacher.dino_head.*", "center"]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", ASKING)
def test_a_form_that_leaves_a_choice_names_it(form: str, plain: Path, tmp_path: Path):
    make, sentence, how = ASKING[form]
    (tmp_path / "given").mkdir()
    path = make(plain, tmp_path / "given")
    with pytest.raises(InputError, match=sentence.replace("*", r"\*")):
        archive_of(path, tmp_path)
    assert not (tmp_path / "archive.tar.lz4").exists()
    assert archive_of(path, tmp_path, **how) == archive_of(plain, tmp_path)


def changed(change: Callable[[State], object]) -> Callable[[Path, Path], Path]:
    def write(state: State) -> State:
        change(state)
        return state

    return pth(write)


def configured(**changes: Any) -> Callable[[Path, Path], Path]:
    """The plain folder with a config that says something else."""

    def make(plain: Path, folder: Path) -> Path:
        path = folder_of(plain, folder)
        config = json.loads((path / "config.json").read_text()) | changes
        (path / "config.json").write_text(json.dumps(config))
        return path

    return make


def prepared(**says: Any) -> Callable[[Path, Path], Path]:
    """The plain folder with a config of its preprocessing."""

    def make(plain: Path, folder: Path) -> Path:
        path = folder_of(plain, folder)
        (path / "preprocessor_config.json").write_text(json.dumps(says))
        return path

    return make


def crop(edge: object) -> dict[str, Any]:
    return {"do_center_crop": True, "size": {"shortest_edge": edge}, "crop_size": {"height": 224, "width": 224}}


def content(data: bytes, name: str = "mine.pth") -> Callable[[Path, Path], Path]:
    def make(_: Path, folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return make


def tar_bytes() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights.pth"))
    return file.getvalue()


def npz_bytes() -> bytes:
    file = io.BytesIO()
    np.savez(file, a=np.ones(3))
    return file.getvalue()


def script_bytes() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("net/data.pkl", "net/code/__torch__.py", "net/constants.pkl"):
            archive.writestr(name, b"")
    return file.getvalue()


def folder_with(*names: str) -> Callable[[Path, Path], Path]:
    def make(plain: Path, folder: Path) -> Path:
        for name in names:
            shutil.copy(plain / "model.safetensors", folder / name)
        return folder

    return make


def without_shard(plain: Path, folder: Path) -> Path:
    (shards(plain, folder) / "model-00002-of-00003.safetensors").unlink()
    return folder


def other_shard(plain: Path, folder: Path) -> Path:
    index = shards(plain, folder) / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("model-00002-of-00003", "../model-00002-of-00003"))
    return folder


class Module(torch.nn.Module):
    """Something that torch pickles whole."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(2, 2)


# Refused in one sentence.
REFUSED: dict[str, tuple[Callable[[Path, Path], Path], str]] = {
    "a tensor is missing": (changed(lambda s: s.pop("layer.1.norm2.bias")), "tensor layer.1.norm2.bias 32 is missing"),
    "a block is missing": (
        changed(lambda s: [s.pop(key) for key in list(s) if key.startswith("layer.0.")]),
        "holds no backbone that is known",
    ),
    "a tensor has another shape": (
        changed(lambda s: s.update({"norm.bias": torch.ones(31)})),
        "tensor norm.bias is 31 instead of 32",
    ),
    "a tensor is not finite": (
        changed(lambda s: s.update({"norm.bias": torch.full((32,), torch.nan)})),
        "tensor norm.bias holds values that are not finite",
    ),
    "weights are whole numbers": (
        changed(lambda s: s.update({key: value.char() for key, value in s.items()})),
        "is int8 instead of one of float32, bfloat16, float16",
    ),
    "LoRA": (
        pth(lambda s: {f"base_model.model.layer.0.attention.q_proj.lora_{x}.weight": torch.ones(2, 2) for x in "AB"}),
        "holds LoRA adapters",
    ),
    "LoRA beside weights": (
        pth(lambda s: {**s, "layer.0.attention.q_proj.lora_A.weight": torch.ones(2, 2)}),
        "holds LoRA adapters",
    ),
    "folder of peft": (folder_with("adapter_model.safetensors", "adapter_config.json"), "holds LoRA adapters"),
    "biases that differ": (configured(value_bias=False), "gives a bias to one of queries and values"),
    "a config without biases": (configured(mlp_bias=False), "says mlp_bias False, but models here have this bias"),
    "a config of other biases": (
        configured(query_bias=False, value_bias=False),
        "config.json says qkv_bias False, but the tensors say True",
    ),
    "names that are paths": (
        pth(lambda s: {**s, "norm": {"weight": s["norm.weight"] + 1}}),
        "tensor norm.weight is there twice",
    ),
    "hundreds of backbones": (
        pth(lambda s: {f"{i}.layer.0.norm1.weight": torch.ones(1) for i in range(200)}),
        "names tensors of 200 backbones",
    ),
    "optimizer": (
        pth(lambda s: {"optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}}),
        "holds the state of an optimizer and no weights",
    ),
    "another model": (pth(lambda s: {"bert.encoder.weight": torch.ones(3)}), "tensors are named like bert.encoder"),
    "an empty mapping": (pth(lambda s: {}), "its 0 tensors are named like nothing"),
    "names that collide": (
        pth(lambda s: {**s, "_orig_mod.norm.bias": s["norm.bias"]}),
        "tensors norm.bias and _orig_mod.norm.bias would both be norm.bias",
    ),
    "whole module": (pth(lambda s: Module()), "is a pickled Python object"),
    "no mapping": (pth(lambda s: [1, 2]), "holds no mapping of names to tensors"),
    "TorchScript": (content(script_bytes()), "is a TorchScript program"),
    ".npz": (content(npz_bytes()), "its 1 tensors are named like a;"),
    "another zip": (
        content(packed_anew(npz_bytes()).replace(b".npy", b".txt")),
        "is a zip without a PyTorch checkpoint",
    ),
    "compressed": (
        compressed,
        "was packed anew with compression",
    ),
    "pickle": (content(pickle.dumps({"a": 1}, 2)), "holds no backbone that is known"),
    "GGUF": (content(b"GGUF" + bytes(100)), "is a GGUF file"),
    "gzip": (content(gzip.compress(b"weights")), "is packed with gzip"),
    "tar": (content(tar_bytes()), "is a tar archive"),
    "web page": (content(b"<!DOCTYPE html><html>"), "is a web page and not a checkpoint"),
    "Git LFS": (content(b"version https://git-lfs.github.com/spec/v1\n"), "is a Git LFS pointer"),
    "nothing": (content(b""), "is empty"),
    "no such file": (lambda plain, folder: folder / "absent.pth", "is not there"),
    "empty folder": (lambda plain, folder: folder, "holds no checkpoint"),
    "two files": (folder_with("a.safetensors", "b.safetensors"), "holds 2 checkpoints (a.safetensors, b.safetensors)"),
    "distributed": (folder_with(".metadata", "__0_0.distcp"), "is a distributed checkpoint"),
    "a shard is missing": (without_shard, "lacks 1 of 3 shards: model-00002-of-00003.safetensors"),
    "a shard elsewhere": (other_shard, "names a shard in another folder"),
    "config of another depth": (configured(num_hidden_layers=3), "config.json says depth 3, but the tensors say 2"),
    "config of another kind": (configured(model_type="vit"), "is of the type 'vit', but the tensors"),
    "unknown activation": (configured(hidden_act="mish"), "its hidden_act is 'mish'"),
    "config with a text for a number": (
        configured(num_attention_heads="many"),
        "num_heads: 'many' is not of type 'integer'",
    ),
    "config without heads": (configured(num_attention_heads=0), "0 is less than the minimum of 1"),
    "config with an epsilon of none": (configured(layer_norm_eps=-1.0), "architecture.norm_eps: -1.0 is less than"),
    "config with a list": (configured(layer_norm_eps=[1e-6]), "architecture.norm_eps: [1e-06] is not of type 'number'"),
    "another filter": (prepared(resample=[3]), "resample is [3]"),
    "no size of the photograph": (prepared(resample=3, **crop(0)), "size is {'shortest_edge': 0}"),
    "a text for a size": (prepared(resample=3, **crop("a")), "size is {'shortest_edge': 'a'}"),
    "a deviation of none": (prepared(image_std=[0, 0, 0]), "preprocessing.std.0: 0 is less than"),
    "a mean beyond white": (prepared(image_mean=[255.0, 0.0, 0.0]), "preprocessing.mean.0: 255.0 is greater than"),
    "colours the other way round": (prepared(do_flip_channel_order=True), "do_flip_channel_order is True"),
    "an aspect ratio that is kept": (
        prepared(size={"shortest_edge": 256}),
        "size is {'shortest_edge': 256} without a crop",
    ),
    "another scale": (prepared(rescale_factor=1.0), "rescale_factor is 1.0"),
    "no normalisation": (prepared(do_normalize=False), "do_normalize is False"),
    "config that is none": (
        lambda plain, folder: content(b"[]", "hub/config.json")(plain, folder_of(plain, folder).parent).parent,
        "holds no mapping",
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", REFUSED)
def test_what_cannot_be_used_is_refused_in_a_sentence(form: str, plain: Path, tmp_path: Path):
    make, sentence = REFUSED[form]
    (tmp_path / "given").mkdir()
    with pytest.raises(InputError) as caught:
        archive_of(make(plain, tmp_path / "given"), tmp_path)
    assert sentence in str(caught.value)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)
    assert not (tmp_path / "archive.tar.lz4").exists()


@pytest.mark.parametrize(
    ("family", "layout", "prefix"),
    [
        ("dinov3_vits16_pretrain_lvd1689m", "meta", "teacher.backbone."),
        ("dinov3_vits16plus_pretrain_lvd1689m", "timm_qkvb", "model."),
        ("dinov2_vits14_pretrain", "meta", "teacher.backbone."),
        ("dinov2_vitg14_reg4_pretrain", "huggingface5", "dinov2."),
        ("dinov2_vits14_reg4_pretrain", "timm", ""),
        ("dinov3_convnext_tiny_pretrain_lvd1689m", "meta", "student."),
        ("dinov3_convnext_tiny_pretrain_lvd1689m", "timm", "module."),
        ("dinov3_convnext_tiny_pretrain_lvd1689m", "huggingface5", ""),
    ],
)
def test_every_family_is_recognised_in_its_layouts(family, layout, prefix, spines, tmp_path: Path):
    spine = spines(family)
    path = tmp_path / f"mine{spine.checkpoints[layout].suffix}"
    state = (
        load_file(spine.checkpoints[layout])
        if path.suffix == ".safetensors"
        else torch.load(spine.checkpoints[layout], weights_only=True)
    )
    # In chunks, as the publisher's training writes blocks.
    chunked = {key.replace("blocks.1.", "blocks.0.1.") if layout == "meta" else key: it for key, it in state.items()}
    torch.save({"model": prefixed(chunked, prefix)}, path)
    spec = own_spec(path)
    assert (spec.family, spec.own.layout, spec.own.prefix) == (spine.spec.family, layout, f"model.{prefix}")
    for field in ("embed_dim", "depth", "patch_size", "num_registers", "ffn_hidden", "embed_dims", "depths"):
        assert getattr(spec.architecture, field, None) == getattr(spine.spec.architecture, field, None)
    convert_checkpoint(spec, path, tmp_path / "archive.tar.lz4", tmp_path / "ledger.csv")


def test_a_pattern_that_leaves_out_the_backbone_is_named(plain: Path, tmp_path: Path):
    path = pth(lambda state: {**state, "head.weight": torch.ones(3, 32)})(plain, tmp_path)
    with pytest.raises(InputError, match=r"the pattern \* to ignore leaves out tensors of the backbone, such as"):
        archive_of(path, tmp_path, ignore=["*"])


def test_a_few_words_of_a_place_are_enough(plain: Path, tmp_path: Path):
    path = pth(lambda s: {f"{name}.module.backbone.{k}": v for name in ("student", "teacher") for k, v in s.items()})(
        plain, tmp_path
    )
    for wanted in ("teacher", "teacher.backbone", "teacher.module.backbone"):
        assert own_spec(path, wanted=wanted).own.prefix == "teacher.module.backbone."
    with pytest.raises(InputError, match="holds 2 backbones"):
        own_spec(path, wanted="backbone")


def test_what_config_and_tensors_say_differently_from_the_release_is_told(tmp_path: Path):
    model_of("vit", hidden_act="relu", rope_theta=7.0).to(torch.bfloat16).save_pretrained(tmp_path)
    told = " ".join(in_words(own_spec(tmp_path)))
    assert "rope_theta 7.0 instead of 100.0" in told and "activation relu instead of gelu" in told
    assert "Its weights are in bfloat16." in told
    assert "Photographs are prepared with bilinear, mean 0.485 0.456 0.406, std 0.229 0.224 0.225." in told


def test_names_of_results_are_made_from_paths(tmp_path: Path):
    for path, name in (
        ("runs/my fine-tune (1).pth", "my_fine-tune_1"),
        ("mine/model.safetensors", "mine"),
        ("mine/model-00001-of-00002.safetensors", "mine"),
        ("mine/pytorch_model.bin.index.json", "mine"),
        ("модель.pth", "own"),
        ("models--me--my-model/snapshots/0a1b/model.safetensors", "my-model"),
    ):
        assert name_of(tmp_path / path) == name


def test_a_config_names_every_own_checkpoint_that_cannot_be_used(tmp_path: Path, plain: Path):
    own = {"good": str(plain), "absent": str(tmp_path / "a.pth"), "empty": {"path": str(tmp_path)}}
    with pytest.raises(InputError) as caught:
        own_variants(own, VARIANTS)
    assert "own.absent: " in str(caught.value) and "own.empty: " in str(caught.value)
    assert "own.good" not in str(caught.value)
    for names, sentence in (({"A", "a"}, "differs only by case"), ({"a"}, "cannot be used")):
        path = str(plain) if len(names) == 2 else "x" * 300
        with pytest.raises(InputError, match=sentence):
            own_variants(dict.fromkeys(sorted(names), path), VARIANTS)
    assert own_variants({"good": str(plain)}, VARIANTS)["good"]["own"]["nearest"] == "dinov3_vits16_pretrain_lvd1689m"
