"""A model of two towers in the forms that people have it in: whole, or one tower, and never two backbones."""

import csv
import json
import re
import shlex
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

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

from tests.checkpoints.own_models import VARIANTS, own_spec, rough
from vit2onnx import describe
from vit2onnx.checkpoints.convert import convert_checkpoint
from vit2onnx.checkpoints.own import in_words, own_variants
from vit2onnx.checkpoints.synthetic import write_synthetic
from vit2onnx.errors import InputError
from vit2onnx.families.siglip2 import recognition
from vit2onnx.runners import pretrained
from vit2onnx.runners.torch import reference_of, run_steps
from vit2onnx.spec.interface import key_of
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
    alone = archive_of(own_spec(tower(whole, tmp_path / "alone", "vision")), tmp_path)
    for ignore in ([], ["logit_*", "text_model.*"]):
        spec = own_spec(whole, wanted="vision_model", ignore=ignore)
        assert (spec.own.prefix, spec.own.config, spec.own.is_part) == ("vision_model.", "vision_config", True)
        assert archive_of(spec, tmp_path) == alone
        with (tmp_path / "out" / "ledger.csv").open() as file:
            reasons = {row["transform"] for row in csv.DictReader(file) if row["source"] == "logit_bias"}
        assert reasons == {'ignored: the user\'s ignore "logit_*"' if ignore else "ignored: not of the chosen tower"}
    # Whatever is of neither tower has to be named.
    more = rewritten(whole, tmp_path / "more", lambda state: state | {"classifier.bias": torch.ones(3)})
    with pytest.raises(InputError, match=r"leave them out with IGNORE='classifier\.\*' \(make\)"):
        archive_of(own_spec(more, wanted="vision_model"), tmp_path)


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


def test_texts_are_assumed_to_be_prepared_as_for_the_releases(whole, monkeypatch):
    """Where the vocabulary is that of the releases."""
    assert not any("texts are prepared" in line for line in in_words(own_spec(whole)))
    monkeypatch.setattr(recognition, "VOCABULARY", TEXT["vocab_size"])
    spec = own_spec(whole)
    assert spec.own.assumed == ("preprocessing", "preparation of texts")
    assert f"ASSUMED: texts are prepared as for {spec.own.nearest}. No file of a checkpoint says so." in in_words(spec)


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
    np.savez(tmp_path / "training.npz", **state, **{"opt/m/params/img/pos_embedding": np.ones(3, np.float64)})
    with pytest.raises(InputError, match=r"leave them out with IGNORE='opt/\*'"):
        archive_of(own_spec(tmp_path / "training.npz"), tmp_path)
    # What is left out is no part of the model.
    trained = own_spec(tmp_path / "training.npz", ignore=["opt/*"])
    assert (trained.parameters, trained.own.dtypes) == (spec.parameters, ("float32",))


@pytest.mark.parametrize("naflex", [False, True])
def test_a_tower_of_the_publishers_file_is_taken_too(naflex, spines, tmp_path):
    given = spines("siglip2_base_patch16_naflex" if naflex else "siglip2_base_patch16_224").spec
    write_synthetic(given, tmp_path / "mine.npz", seed=0, layout="big_vision")
    with np.load(tmp_path / "mine.npz") as file:
        state = dict(file)
    for place in ("params/img", "params/txt"):
        np.savez(tmp_path / "alone.npz", **{key: state[key] for key in state if key.startswith(f"{place}/")})
        spec, alone = own_spec(tmp_path / "mine.npz", wanted=place), own_spec(tmp_path / "alone.npz")
        assert (spec.own.prefix, spec.own.is_part, spec.own.dtypes) == (f"{place}/", True, ("float32",))
        assert (spec.architecture, spec.parameters) == (alone.architecture, alone.parameters)
        assert archive_of(spec, tmp_path) == archive_of(alone, tmp_path)
        assert f"layout at {place}, with" in in_words(spec)[0]
    with pytest.raises(InputError, match=r'no backbone at .img., only at "", params/img, params/txt'):
        own_spec(tmp_path / "mine.npz", wanted="img")
    for lost in ("params/img/MAPHead_0/probe", "params/txt/Embed_0/embedding"):
        np.savez(tmp_path / "damaged.npz", **{key: value for key, value in state.items() if key != lost})
        with pytest.raises(InputError, match=f"damaged.npz: it lacks {lost}, which every"):
            own_spec(tmp_path / "damaged.npz")
    one = {key: value for key, value in state.items() if not key.startswith("params/txt/")}
    np.savez(tmp_path / "damaged.npz", **one)
    with pytest.raises(InputError, match=r"it holds params/., .* nothing of a text tower; give the whole file"):
        own_spec(tmp_path / "damaged.npz")


def with_config(**changes: object) -> Callable[[Path, Path], Path]:
    def make(fixed: Path, folder: Path) -> Path:
        shutil.copytree(fixed, folder / "given")
        config = json.loads((fixed / "config.json").read_text())
        for key, value in changes.items():
            config[key] = config[key] | value if isinstance(value, dict) else value
            if value is None:
                del config[key]
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


def with_tensor(name: str, change: Callable[[Any], torch.Tensor]) -> Callable[[Path, Path], Path]:
    def make(fixed: Path, folder: Path) -> Path:
        return rewritten(fixed, folder / "given", lambda state: state | {name: change(state.get(name))})

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
    "parts of another kind of model": (with_config(model_type="clip"), "is of the type 'clip', but the tensors of"),
    "no kind of model": (with_config(model_type=None), "names no model_type, but the tensors of model.safetensors are"),
    "CLIP": (clip, "its image tower has vision_model.embeddings.class_embedding, which CLIP models have"),
    "an endless temperature": (with_tensor("logit_scale", lambda scale: scale * 0 + 100),
                               "tensor logit_scale is 100, and its exponential overflows single precision"),
    "a temperature that is none": (with_tensor("logit_scale", lambda scale: scale * np.nan),
                                   "tensor logit_scale holds values that are not finite"),
    "positions in another order": (with_tensor("text_model.embeddings.position_ids",
                                               lambda _: torch.arange(8)[None].flip(1)),
                                   "tensor text_model.embeddings.position_ids must count from zero"),
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


def of_patches() -> dict[str, np.ndarray]:
    """Two rows of three patches, and one that is none."""
    patches = np.random.default_rng(0).standard_normal((7, 3 * 8 * 8), np.float32)
    return {"pixel_values": patches, "pixel_attention_mask": np.arange(7) < 6, "spatial_shapes": np.array([2, 3])}


@pytest.mark.parametrize("tower", ["text_model", "vision_model"])
def test_a_tower_is_the_one_that_transformers_loads(whole, tower, tmp_path):
    """Saved alone, and as a part of the whole model."""
    model = getattr(AutoModel.from_pretrained(whole), tower).eval()
    model.save_pretrained(tmp_path / "alone")
    own = {"alone": str(tmp_path / "alone"), "part": {"path": str(whole), "part": tower}}
    inputs: dict[str, np.ndarray] = {"input_ids": np.array([3, 59, 7, 1, 0, 0, 0, 0])}
    if tower == "vision_model":
        image = np.random.default_rng(0).standard_normal((3, 33, 33), np.float32)
        inputs = of_patches() if whole.name == "naflex" else {"pixel_values": image}
    with torch.inference_mode():
        wanted = model(**{port: torch.from_numpy(value)[None] for port, value in inputs.items()})
    for name, mapping in own_variants(own, VARIANTS).items():
        spec = VariantSpec.from_mapping(name, mapping)
        interface = spec.interface(tower.removesuffix("_model"))
        cases = {key_of("a@16x24", port, interface.inputs): inputs[port.name] for port in interface.inputs}
        reference = reference_of(spec, "transformers", Path(spec.own.path))
        found = run_steps(reference, cases, torch.float32, interface)
        for port in interface.compared:
            expected = wanted[port.name][0].numpy()[: interface.rows(port, "a@16x24")]
            np.testing.assert_allclose(found[key_of("a@16x24", port, interface.compared)], expected, rtol=0, atol=2e-6)


def test_of_transformers_words_only_the_first_sentence_is_told(fixed, monkeypatch):
    def refuse(folder: str) -> None:
        raise ValueError("Unrecognized configuration class <a.B> for AutoModel.\nModel type should be one of C, D.")

    monkeypatch.setattr(pretrained, "_load", refuse)
    with pytest.raises(InputError, match=r"model, because Unrecognized configuration class <a\.B> for AutoModel\.$"):
        pretrained.pretrained(own_spec(fixed).own, {})


IMAGE, TEXTS = "vision_model", "text_model"
# Which tower stays complete, what is lost or what is there with another shape, and what is said.
DAMAGED: Mapping[str, tuple[str, str, tuple[int, ...] | None, str]] = {
    "a first layer": (TEXTS, "vision_model.encoder.layers.0.mlp.fc1.weight", None, "it lacks vision_model.encoder."),
    "a head": (TEXTS, "vision_model.head.", None, "its image tower lacks vision_model.head.probe"),
    "patches": (TEXTS, "vision_model.embeddings.patch", None, "it lacks vision_model.embeddings.patch_embedding.weig"),
    "the other's head": (IMAGE, "text_model.head.", None, "it lacks text_model.head.weight"),
    "tokens": (IMAGE, "text_model.embeddings.token", None, "it lacks text_model.embeddings.token_embedding.weight"),
    "all of a tower": (IMAGE, "text_model.", None, "it holds logit_"),
    "a class token": (
        TEXTS,
        "vision_model.embeddings.class_embedding",
        (32,),
        "its image tower has vision_model.embed",
    ),
    "a table": (TEXTS, "vision_model.embeddings.position_embedding.weight", (15, 32), "its position table of 15 patch"),
    "a flat table": (TEXTS, "vision_model.embeddings.position_embedding.weight", (512,), "its tables, patches or laye"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_model_is_not_taken_for_one_tower(damage, fixed, tmp_path):
    """The other tower is complete, and nobody asked for it alone."""
    kept, lost, shape, sentence = DAMAGED[damage]

    def change(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        left = {key: value for key, value in state.items() if not key.startswith(lost)}
        return left | ({lost: torch.ones(shape)} if shape else {})

    path = rewritten(fixed, tmp_path / "damaged", change)
    with pytest.raises(InputError) as caught:
        own_spec(path)
    assert f"model.safetensors: {sentence}" in str(caught.value)
    assert f"Get the file anew, or take {kept} alone, with PART={kept} (make)" in str(caught.value)
    assert "IGNORE" not in str(caught.value)
    asked = own_spec(path, wanted=kept)
    assert archive_of(asked, tmp_path) == archive_of(own_spec(fixed, wanted=kept), tmp_path)


def test_advice_on_what_to_leave_out_can_be_followed(fixed, tmp_path):
    """Whatever tensors are called."""
    odd = {"it's a [head]": torch.ones(3), '"$HOME`.x': torch.ones(3)}
    path = rewritten(fixed, tmp_path / "odd", lambda state: state | odd)
    with pytest.raises(InputError) as caught:
        archive_of(own_spec(path), tmp_path)
    advice = shlex.split(re.search(r"IGNORE=('.*?') \(make\)", str(caught.value))[1])[0].split()
    assert len(advice) == 2 and json.loads(re.search(r"ignore: (\[.*?\])", str(caught.value))[1]) == advice
    assert archive_of(own_spec(path, ignore=advice), tmp_path) == archive_of(own_spec(fixed), tmp_path)
