"""Transformers as reference: filled from every layout alike, with the checkpoint's own rotary periods."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from tests import transformers_model
from tests.rounding import MODEL_LIMIT, floors
from vit2onnx.checkpoints.reading import open_checkpoint
from vit2onnx.checkpoints.synthetic import write_synthetic
from vit2onnx.errors import InputError
from vit2onnx.families.dinov3_vit import references
from vit2onnx.spec.variant import VariantSpec

# Wide, tall, and no multiple of the patch.
SIZES = [(48, 112), (112, 48), (50, 37)]


@pytest.fixture(scope="module")
def images() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {str(size): rng.standard_normal((3, *size), np.float32) for size in SIZES}


@pytest.fixture(scope="module")
def features(
    tiny_spec: VariantSpec, tiny_checkpoints: Mapping[str, Path], images: Mapping[str, np.ndarray]
) -> dict[str, dict[str, np.ndarray]]:
    """Features by the layout of the checkpoint."""
    return {layout: transformers_model.features(tiny_spec, path, images) for layout, path in tiny_checkpoints.items()}


def test_every_case_is_there_in_both_precisions(features: dict[str, dict[str, np.ndarray]], tiny_spec: VariantSpec):
    found = {key: (x.shape, x.dtype.name) for key, x in features["meta"].items()}
    assert found == {
        f"{precision}/{size}": ((5 + (size[0] // 16) * (size[1] // 16), 48), precision)
        for precision in ("float32", "float64")
        for size in SIZES
    }


def test_every_layout_gives_the_same_features(features: dict[str, dict[str, np.ndarray]]):
    # Plain timm files have no bias of queries and values, so they hold other weights.
    assert features.keys() == {"meta", "huggingface", "huggingface5", "timm", "timm_qkvb"}
    for layout, found in features.items():
        if layout == "timm":
            continue
        assert found.keys() == features["meta"].keys()
        for key, x in found.items():
            np.testing.assert_array_equal(x, features["meta"][key], err_msg=f"{layout}: {key}")


def test_single_and_double_precision_agree_to_rounding(features: dict[str, dict[str, np.ndarray]]):
    found = features["meta"]
    for size in SIZES:
        # Measured 2.6 to 4.5. Half precision would be thousands.
        assert floors(found[f"float32/{size}"], found[f"float64/{size}"]) <= 20
        # That double precision is double throughout: in single, it would be itself widened.
        assert np.any(found[f"float64/{size}"] != found[f"float64/{size}"].astype(np.float32))


def test_a_junk_key_bias_is_masked(tiny_spec: VariantSpec, tiny_checkpoint: Path):
    state = torch.load(tiny_checkpoint, weights_only=True)
    key_bias = state["blocks.0.attn.qkv.bias"].chunk(3)[1]
    assert key_bias.abs().max() > 1
    model = transformers_model.load(tiny_spec, tiny_checkpoint)
    assert all(layer.attention.k_proj.bias is None for layer in model.model.layer)


def test_every_parameter_is_the_checkpoints(tiny_spec: VariantSpec, tiny_checkpoints: Mapping[str, Path]):
    stored = safetensors.torch.load_file(tiny_checkpoints["huggingface5"])
    for layout, path in tiny_checkpoints.items():
        if layout == "timm":  # without the bias of queries and values
            continue
        parameters = dict(transformers_model.load(tiny_spec, path).named_parameters())
        if layout == "timm_qkvb":  # without the mask token
            parameters["embeddings.mask_token"] = stored["embeddings.mask_token"]
        assert parameters.keys() == stored.keys()
        assert all(torch.equal(parameters[name], tensor) for name, tensor in stored.items())


def test_periods_are_the_checkpoints(tiny_spec: VariantSpec, tiny_checkpoint: Path, tmp_path: Path, images):
    state = torch.load(tiny_checkpoint, weights_only=True)
    state["rope_embed.periods"] *= 1.25
    path = tmp_path / "other_periods.pth"
    torch.save(state, path)
    model = transformers_model.load(tiny_spec, path)
    assert torch.equal(model.rope_embeddings.inv_freq, 1 / state["rope_embed.periods"])
    image = {"x": images[str(SIZES[0])]}
    own, other = (transformers_model.features(tiny_spec, file, image) for file in (tiny_checkpoint, path))
    for key in own:
        # Measured 0.15 in both precisions.
        assert np.abs(own[key] - other[key]).max() > 0.01


def test_periods_are_restored_for_a_layout_without_them(real_spec: VariantSpec, tmp_path: Path):
    # A head of 64 channels, as in the releases.
    spec = replace(real_spec, architecture=replace(real_spec.architecture, embed_dim=64, num_heads=1, depth=1))
    path = tmp_path / "model.safetensors"
    write_synthetic(spec, path, seed=0, layout="huggingface")
    periods = references.rope_periods(spec.architecture, open_checkpoint(path))
    # 100^(k / 16) rounded to bfloat16, to the four decimals of a table that was measured apart from this project.
    released = [
        1,
        1.3359,
        1.7812,
        2.375,
        3.1562,
        4.2188,
        5.625,
        7.5,
        10,
        13.3125,
        17.75,
        23.75,
        31.625,
        42.25,
        56.25,
        75,
    ]
    np.testing.assert_allclose(periods, released, rtol=0, atol=5.1e-5)
    assert torch.equal(periods, periods.bfloat16().float())


@pytest.mark.parametrize("size", [*SIZES, (224, 224), (16, 16)], ids=str)
def test_double_rope_is_transformers_own_to_rounding(
    tiny_spec: VariantSpec, tiny_checkpoint: Path, size: tuple[int, int]
):
    reference = transformers_model.prepare(tiny_spec, tiny_checkpoint)
    pixel_values = torch.zeros(1, 3, *size)
    own = reference.module.rope_embeddings(pixel_values)
    reference.in_double()
    double = reference.module.rope_embeddings(pixel_values)
    for single_table, double_table in zip(own, double, strict=True):
        assert (single_table.dtype, double_table.dtype) == (torch.float32, torch.float64)
        assert single_table.shape == double_table.shape
        # Measured 4.3e-7.
        np.testing.assert_allclose(single_table, double_table, rtol=0, atol=5e-6)


def damaged(path: Path, layout: str, folder: Path, drop: str | None = None, add: str | None = None) -> Path:
    """A copy of a checkpoint with a tensor less or more."""
    is_torch = path.suffix == ".pth"
    state = torch.load(path, weights_only=True) if is_torch else safetensors.torch.load_file(path)
    if drop:
        del state[drop]
    if add:
        state[add] = torch.zeros(3)
    copy = folder / path.name
    torch.save(state, copy) if is_torch else safetensors.torch.save_file(state, copy)
    return copy


DROPPED = {
    "meta": ["cls_token", "storage_tokens", "rope_embed.periods", "blocks.1.attn.qkv.weight", "norm.bias"],
    "huggingface": ["embeddings.register_tokens", "layer.1.attention.v_proj.bias"],
    "huggingface5": ["embeddings.register_tokens", "model.layer.1.attention.v_proj.bias"],
    "timm": ["blocks.1.gamma_2", "blocks.0.attn.qkv.weight"],
    "timm_qkvb": ["blocks.1.attn.v_bias", "blocks.0.mlp.fc1.weight"],
}


@pytest.mark.parametrize(("layout", "name"), [(layout, name) for layout, names in DROPPED.items() for name in names])
def test_a_missing_tensor_is_an_error(
    tiny_spec: VariantSpec, tiny_checkpoints: Mapping[str, Path], tmp_path: Path, layout: str, name: str
):
    path = damaged(tiny_checkpoints[layout], layout, tmp_path, drop=name)
    fault = (
        "The checkpoint has no" if "periods" in name else f"{path} does not fit transformers' model of dinov3_tiny: "
    )
    with pytest.raises(InputError, match=f"^{fault}"):
        transformers_model.load(tiny_spec, path)


@pytest.mark.parametrize("layout", ["meta", "huggingface", "huggingface5", "timm", "timm_qkvb"])
def test_an_unknown_tensor_is_an_error(
    tiny_spec: VariantSpec, tiny_checkpoints: Mapping[str, Path], tmp_path: Path, layout: str
):
    path = damaged(tiny_checkpoints[layout], layout, tmp_path, add="head.weight")
    with pytest.raises(InputError, match=r"does not fit .*head\.weight"):
        transformers_model.load(tiny_spec, path)


def test_another_variants_checkpoint_is_an_error(tiny_spec: VariantSpec, tiny_checkpoint: Path):
    deeper = replace(tiny_spec, architecture=replace(tiny_spec.architecture, depth=3))
    with pytest.raises(InputError, match=r"does not fit .*model\.layer\.2"):
        transformers_model.load(deeper, tiny_checkpoint)


def test_every_layout_of_every_release_gives_the_same_features(small):
    image = {"x": np.random.default_rng(0).standard_normal((3, 70, 101), np.float32)}
    expected = transformers_model.features(small.spec, small.checkpoints["meta"], image)
    for layout, path in small.checkpoints.items():
        found = transformers_model.features(small.spec, path, image)
        same = layout != "timm" or not getattr(small.spec.architecture, "qkv_bias", False)
        for key, x in found.items():
            assert np.array_equal(x, expected[key]) == same, f"{layout}: {key}"


def test_a_timm_file_without_biases_has_zeros_there(tiny_spec: VariantSpec, tiny_checkpoints: Mapping[str, Path]):
    parameters = dict(transformers_model.load(tiny_spec, tiny_checkpoints["timm"]).named_parameters())
    biases = [name for name in parameters if name.endswith(("q_proj.bias", "v_proj.bias"))]
    assert len(biases) == 4
    assert not any(parameters[name].any() for name in biases)


@pytest.mark.parametrize("name", ["vits16", "vit7b16"])
def test_unrounded_periods_are_transformers_own(spines, name: str, images: Mapping[str, np.ndarray]):
    """Where the variant asks for them, its reference is transformers' model as it is."""
    spine = spines(f"dinov3_{name}_pretrain_lvd1689m")
    rounded = spine.spec
    unrounded = replace(rounded, architecture=replace(rounded.architecture, rope_periods="float32"))
    case = str(SIZES[0])
    for layout in ("meta", "huggingface", "timm_qkvb"):
        path = spine.checkpoints[layout]
        model = transformers_model.load(unrounded, path)
        own = type(model.rope_embeddings)(model.config).eval()
        # Measured 1.2e-7, one unit in the last place, because ours are the inverses of the periods.
        np.testing.assert_allclose(model.rope_embeddings.inv_freq, own.inv_freq, rtol=1e-6, atol=0)
        model.rope_embeddings = own
        with torch.inference_mode():
            expected = model(torch.from_numpy(images[case][None])).last_hidden_state[0].numpy()
        found, other = (transformers_model.features(spec, path, {case: images[case]}) for spec in (unrounded, rounded))
        truth = found[f"float64/{case}"]
        # Measured 1.0, and 490 at least.
        assert floors(found[f"float32/{case}"], truth, expected) <= MODEL_LIMIT
        assert floors(other[f"float32/{case}"], truth, expected) > 50 * MODEL_LIMIT
