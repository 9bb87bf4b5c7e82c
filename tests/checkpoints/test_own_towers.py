"""A model of two towers in the forms that people have it in: whole, or one tower, and never two backbones."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    CLIPConfig,
    CLIPModel,
    PreTrainedModel,
    Siglip2Config,
    Siglip2ForImageClassification,
    Siglip2Model,
    SiglipConfig,
    SiglipForImageClassification,
    SiglipModel,
)

from tests.checkpoints.own_models import own_spec, rough
from vit2onnx import describe
from vit2onnx.checkpoints.convert import convert_checkpoint
from vit2onnx.checkpoints.own import in_words
from vit2onnx.checkpoints.reading import open_variant
from vit2onnx.checkpoints.synthetic import write_synthetic
from vit2onnx.errors import InputError
from vit2onnx.runners.pretrained import pretrained
from vit2onnx.spec.variant import VariantSpec

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
TEXT = {**SMALL, "vocab_size": 60, "max_position_embeddings": 8}
TEXT |= {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
FIXED = SiglipConfig(text_config=TEXT, vision_config={**SMALL, "image_size": 33, "patch_size": 8})
NAFLEX = Siglip2Config(text_config=TEXT, vision_config={**SMALL, "num_patches": 16, "patch_size": 8})
WHOLE = {"fixed": (SiglipModel, FIXED), "naflex": (Siglip2Model, NAFLEX)}
VISION = {"embed_dim": 32, "depth": 2, "num_heads": 2, "ffn_hidden": 48, "patch_size": 8, "position_grid": 4}
OF_TEXT = {"text_dim": 32, "text_depth": 2, "text_heads": 2, "text_hidden": 48, "text_length": 8, "vocab_size": 60}


def saved(model: PreTrainedModel, folder: Path) -> Path:
    rough(model.eval()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=WHOLE)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model as transformers saves it."""
    build, config = WHOLE[request.param]
    torch.manual_seed(0)
    return saved(build(config), tmp_path_factory.mktemp("whole") / request.param)


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return saved(SiglipModel(FIXED), tmp_path_factory.mktemp("fixed"))


def archive_of(spec: VariantSpec, folder: Path) -> bytes:
    convert_checkpoint(spec, Path(spec.own.path), folder / "out" / "archive.tar.lz4", folder / "out" / "ledger.csv")
    return (folder / "out" / "archive.tar.lz4").read_bytes()


def rewritten(
    source: Path, folder: Path, change: Callable[[dict[str, torch.Tensor]], Mapping[str, torch.Tensor]]
) -> Path:
    """A folder with other tensors, and the same config."""
    shutil.copytree(source, folder)
    save_file(dict(change(load_file(source / "model.safetensors"))), folder / "model.safetensors", {"format": "pt"})
    return folder


def tower(source: Path, folder: Path, name: str, prefix: str = "") -> Path:
    """A tower with its own config, as transformers saves it, or with what begins its names in the whole model."""
    start = f"{name}_model."

    def change(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {prefix + key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}

    path = rewritten(source, folder, change)
    config = json.loads((source / "config.json").read_text())[f"{name}_config"]
    (path / "config.json").write_text(json.dumps(config))
    return path


def test_a_whole_model_is_one_backbone_with_both_towers(whole):
    spec = own_spec(whole)
    assert (spec.family, spec.own.layout, spec.own.prefix, spec.own.config) == ("siglip2", "huggingface", "", "")
    assert not spec.own.is_part
    size = 0 if whole.name == "naflex" else 33
    expected = {**VISION, **OF_TEXT, "image_size": size, "projection_dim": 32, "activation": "gelu_tanh"}
    assert {key: getattr(spec.architecture, key) for key in expected} == expected
    assert spec.own.assumed == ("preprocessing",)
    assert spec.own.nearest == ("siglip2_base_patch16_naflex" if size == 0 else "siglip2_base_patch16_224")
    assert spec.parameters == sum(value.numel() for value in load_file(whole / "model.safetensors").values())


@pytest.mark.parametrize("name", ["vision", "text"])
def test_a_tower_alone_is_the_same_with_and_without_its_prefix(name, whole, tmp_path):
    paths = [
        tower(whole, tmp_path / "plain", name),
        tower(whole, tmp_path / "prefixed", name, f"{name}_model."),
        tower(whole, tmp_path / "deep", name, f"model.{name}_tower.{name}_model."),
    ]
    specs = [own_spec(path) for path in paths]
    assert [spec.own.prefix for spec in specs] == [
        "",
        f"{name}_model.",
        f"model.{name}_tower.{name}_model.",
    ]
    assert len({spec.architecture for spec in specs}) == 1
    arch = specs[0].architecture
    assert bool(arch.depth) == (name == "vision") and bool(arch.text_depth) == (name == "text")
    assert len({archive_of(spec, tmp_path) for spec in specs}) == 1
    told = " ".join(in_words(specs[0]))
    assert f"but for no {'text' if name == 'vision' else 'image'} tower, " in told
    assert ("Photographs are prepared" in told) == ("preprocessing" in told) == (name == "vision")


def test_a_tower_of_a_whole_model_is_taken_if_it_is_asked_for(whole, tmp_path):
    with pytest.raises(InputError, match=r"leave them out with IGNORE='logit_bias logit_scale text_model\.\*'"):
        archive_of(own_spec(whole, wanted="vision_model"), tmp_path)
    spec = own_spec(whole, wanted="vision_model", ignore=["logit_*", "text_model.*"])
    assert (spec.own.prefix, spec.own.config, spec.own.is_part) == ("vision_model.", "vision_config", True)
    assert archive_of(spec, tmp_path) == archive_of(own_spec(tower(whole, tmp_path / "alone", "vision")), tmp_path)


@pytest.mark.parametrize("build", [SiglipForImageClassification, Siglip2ForImageClassification])
def test_a_classifier_is_an_image_tower(build, tmp_path):
    """Its config has a text tower, and the file has none."""
    path = saved(build(FIXED if build is SiglipForImageClassification else NAFLEX), tmp_path / "classifier")
    with pytest.raises(InputError, match=r"leave them out with IGNORE='classifier\.\*'"):
        archive_of(own_spec(path), tmp_path)
    spec = own_spec(path, ignore=["classifier.*"])
    assert (spec.own.prefix, spec.own.config) == ("vision_model.", "vision_config")
    assert (spec.architecture.depth, spec.architecture.text_depth) == (2, 0)
    archive_of(spec, tmp_path)


def test_without_a_config_the_rest_is_assumed_and_told(fixed, tmp_path):
    shutil.copy(fixed / "model.safetensors", tmp_path / "mine.safetensors")
    # Heads are as wide as in the release, which these are not.
    with pytest.raises(InputError, match="its 32 channels are no multiple of 64"):
        own_spec(tmp_path / "mine.safetensors")
    wide = SiglipConfig(
        text_config={**TEXT, "hidden_size": 64}, vision_config={**FIXED.vision_config.to_dict(), "hidden_size": 64}
    )
    shutil.copy(saved(SiglipModel(wide), tmp_path / "wide") / "model.safetensors", tmp_path / "mine.safetensors")
    told = own_spec(tmp_path / "mine.safetensors").own.assumed
    assert told == (
        "norm_eps 1e-06",
        "activation gelu_tanh",
        "num_heads 1",
        "text_heads 1",
        "image_size 32",
        "preprocessing",
    )


@pytest.mark.parametrize("name", ["siglip2_so400m_patch14_384", "siglip2_base_patch16_naflex"])
def test_the_publishers_file_tells_its_heads(name, spines, tmp_path):
    given = spines(name).spec
    write_synthetic(given, tmp_path / "mine.npz", seed=0, layout="big_vision")
    spec = own_spec(tmp_path / "mine.npz")
    found, expected = (vars(one.architecture) for one in (spec, given))
    differing = {key for key in expected if found[key] != expected[key]} - {"image_size"}
    assert (spec.own.layout, spec.own.prefix, spec.own.config, differing) == ("big_vision", "", None, set())
    archive_of(spec, tmp_path)
    with np.load(tmp_path / "mine.npz") as file:
        state = dict(file)
    np.savez(tmp_path / "training.npz", **state, **{"opt/m/params/img/pos_embedding": np.ones(3, np.float32)})
    with pytest.raises(InputError, match=r"leave them out with IGNORE='opt/\*'"):
        archive_of(own_spec(tmp_path / "training.npz"), tmp_path)


def with_config(**changes: object) -> Callable[[Path, Path], Path]:
    def make(fixed: Path, folder: Path) -> Path:
        shutil.copytree(fixed, folder / "given")
        config = json.loads((fixed / "config.json").read_text())
        for key, value in changes.items():
            config[key] = config[key] | value if isinstance(value, dict) else value
        (folder / "given" / "config.json").write_text(json.dumps(config))
        return folder / "given"

    return make


def without(*patterns: str) -> Callable[[Path, Path], Path]:
    def make(fixed: Path, folder: Path) -> Path:
        return rewritten(
            fixed,
            folder / "given",
            lambda state: {key: value for key, value in state.items() if not any(part in key for part in patterns)},
        )

    return make


def clip(_: Path, folder: Path) -> Path:
    vision = {**SMALL, "image_size": 32, "patch_size": 8}
    return saved(CLIPModel(CLIPConfig(text_config=TEXT, vision_config=vision)), folder / "clip")


def timm(_: Path, folder: Path) -> Path:
    names = ("blocks.0.norm1.weight", "attn_pool.latent", "pos_embed", "patch_embed.proj.weight")
    save_file({f"visual.trunk.{name}": torch.ones(3) for name in names}, folder / "open_clip_model.safetensors")
    return folder


def processed(**says: object) -> Callable[[Path, Path], Path]:
    """With the config of a processor of images and texts, as transformers 5 writes it."""

    def make(fixed: Path, folder: Path) -> Path:
        shutil.copytree(fixed, folder / "given")
        (folder / "given" / "processor_config.json").write_text(json.dumps({"image_processor": says}))
        return folder / "given"

    return make


REFUSED: dict[str, tuple[Callable[[Path, Path], Path], str]] = {
    "another depth": (with_config(text_config={"num_hidden_layers": 5}), "config.json says text_depth 5, but the tens"),
    "another grid": (with_config(vision_config={"image_size": 48}), "config.json says position_grid 6, but the tensor"),
    "two epsilons": (with_config(text_config={"layer_norm_eps": 1e-5}), "config.json says norm_eps "),
    "two activations": (with_config(vision_config={"hidden_act": "gelu"}), "config.json says activation "),
    "no head": (with_config(vision_config={"vision_use_head": False}), "says vision_use_head false"),
    "images that are not square": (with_config(vision_config={"image_size": [33, 40]}), "must be one number"),
    "another kind of model": (with_config(model_type="clip", vision_config={"model_type": "x"},
                                          text_config={"model_type": "x"}), "is of the type 'clip'"),
    "a tower without its head": (without("head.", "text_model", "logit"), "its image tower lacks head.probe"),
    "a bias that is gone": (without("logit_bias"), "tensor logit_bias 1 is missing"),
    "CLIP": (clip, "holds no backbone that is known"),
    "timm": (timm, "in the layout of timm and OpenCLIP, which is not read"),
    "another scale": (processed(rescale_factor=1.0), "rescale_factor is 1.0"),
    "patches of an image of one size": (processed(patch_size=8), "patch_size is 8"),
}  # fmt: skip


@pytest.mark.parametrize("form", REFUSED)
def test_what_cannot_be_used_is_refused_in_a_sentence(form, fixed, tmp_path):
    make, sentence = REFUSED[form]
    path = make(fixed, tmp_path)
    with pytest.raises(InputError) as caught:
        archive_of(own_spec(path), tmp_path)
    assert sentence in str(caught.value)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


def test_a_processor_says_how_images_are_prepared(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "given")
    says = {"image_mean": [0.5, 0.4, 0.3], "resample": 3}
    if whole.name == "naflex":
        says |= {"patch_size": 8, "max_num_patches": 1024}
    (tmp_path / "given" / "processor_config.json").write_text(json.dumps({"image_processor": says}))
    spec = own_spec(tmp_path / "given")
    assert (spec.preprocessing.interpolation, spec.preprocessing.mean) == ("bicubic", (0.5, 0.4, 0.3))
    assert spec.own.assumed == ()
    if whole.name == "naflex":
        says["patch_size"] = 16
        (tmp_path / "given" / "processor_config.json").write_text(json.dumps({"image_processor": says}))
        with pytest.raises(InputError, match="patch_size is 16, which preprocessing here does not do"):
            own_spec(tmp_path / "given")


def test_numbers_that_count_something_are_no_weights(fixed, tmp_path, capsys):
    ids = {"text_model.embeddings.position_ids": torch.arange(8)[None]}
    path = rewritten(fixed, tmp_path / "given", lambda state: state | ids)
    assert own_spec(path).own.dtypes == ("float32",)
    assert archive_of(own_spec(path), tmp_path) == archive_of(own_spec(fixed), tmp_path)
    assert describe.main([str(path)]) == 0
    told = capsys.readouterr().out
    assert "Tensor text_model.embeddings.position_ids is not needed (counts the positions)." in told
    assert "It is complete: every tensor of the backbone has its place." in told


@pytest.mark.parametrize("tower", ["text_model", "vision_model"])
def test_a_tower_is_the_one_that_transformers_loads(whole: Path, tmp_path: Path, tower: str):
    """Saved alone, and as a part of the whole model."""
    model = AutoModel.from_pretrained(whole)
    alone = tmp_path / "alone"
    getattr(model, tower).save_pretrained(alone)
    other = {"text_model": "vision_model.*", "vision_model": "text_model.*"}[tower]
    parts = own_spec(alone), own_spec(whole, wanted=tower, ignore=[other, "logit_*"])
    for spec in parts:
        found = pretrained(spec.own, open_variant(spec, Path(spec.own.path)).tensors).state_dict()
        for name, value in getattr(model, tower).state_dict().items():
            assert torch.equal(found[name], value), name


@pytest.mark.parametrize("lost", ["encoder.layers.0.mlp.fc1.weight", "head."])
def test_a_tower_that_is_damaged_is_named(fixed: Path, tmp_path: Path, lost: str):
    """The other is complete, and nobody asked for it alone."""
    whole = rewritten(
        fixed,
        tmp_path / "damaged",
        lambda tensors: {n: t for n, t in tensors.items() if not n.startswith(f"vision_model.{lost}")},
    )
    with pytest.raises(InputError, match=r"of an image tower, such as vision_model\..* get the file anew"):
        archive_of(own_spec(whole), tmp_path)
