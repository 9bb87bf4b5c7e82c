"""Transformers' DINOv3 ViT packed: what it gives for many images is what transformers gives for each."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import DINOv3ViTModel

from tests.checkpoints.own_models import model_of
from vit2onnx.errors import InputError
from vit2onnx.families.dinov3_vit import packing as torch_model
from vit2onnx.families.dinov3_vit.packing import DINOv3ViTPacking
from vit2onnx.packing import pack

PATCH = 16
MODELS: Mapping[str, Mapping[str, Any]] = {
    "mlp": {"num_register_tokens": 4},
    "swiglu": {"num_register_tokens": 4, "use_gated_mlp": True, "hidden_act": "silu"},
    "no registers": {"num_register_tokens": 0},
    "other biases": {
        "num_register_tokens": 1,
        "query_bias": False,
        "key_bias": True,
        "value_bias": False,
        "proj_bias": False,
        "mlp_bias": False,
        "rope_theta": 7.0,
    },
}
# Height and width in pixels: wide, tall, one patch, twice the same, and no multiple of the patch.
SIZES = [(48, 112), (112, 48), (16, 16), (64, 80), (48, 112), (50, 37)]
# By precision; measured 5.0e-6 and 4.0e-15. Transformers computes the rotary positions in float32 at any precision, and
# the packed model takes them from there, so they are the same and set no limit.
LIMITS = {torch.float32: 1e-5, torch.float64: 1e-12}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of tiny models as save_pretrained writes them."""
    found = {}
    for name, changes in MODELS.items():
        found[name] = tmp_path_factory.mktemp("models") / name
        model_of("vit", **changes).save_pretrained(found[name])
    return found


@pytest.fixture(scope="module")
def model(folders: dict[str, Path]) -> DINOv3ViTPacking:
    return DINOv3ViTPacking(folders["mlp"])


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal((3, *size), np.float32) for size in SIZES]


def packed(images: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    """The two arguments of a packed model."""
    arrays = pack(images, PATCH)
    return torch.from_numpy(arrays["pixel_values"]), torch.from_numpy(arrays["grid_thw"])


def by_image(features: Mapping[str, Tensor], grid_thw: Tensor) -> list[Tensor]:
    """The tokens [tokens, embed_dim] of each image in the order of transformers: CLS, registers, patches."""
    counts = grid_thw.prod(1).tolist()
    parts = features["pooler_output"], features["registers"], features["last_hidden_state"].split(counts)
    return [torch.cat([cls[None], registers, patches]) for cls, registers, patches in zip(*parts, strict=True)]


@pytest.mark.parametrize("dtype", LIMITS, ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_each_image_is_as_transformers_gives_it(
    name: str, dtype: torch.dtype, folders: dict[str, Path], images: list[np.ndarray]
):
    theirs = DINOv3ViTModel.from_pretrained(folders[name], dtype=dtype)
    hidden_states, grid_thw = packed(images)
    model = DINOv3ViTPacking(folders[name], dtype=dtype)
    features = model.features(hidden_states, grid_thw)
    assert {x.dtype for x in features.values()} == {dtype}
    assert features["registers"].shape == (len(images), MODELS[name]["num_register_tokens"], 32)
    assert torch.equal(model(hidden_states, grid_thw), features["last_hidden_state"])
    for image, found in zip(images, by_image(features, grid_thw), strict=True):
        with torch.no_grad():
            wanted = theirs(torch.from_numpy(image)[None])
        assert found.shape == wanted.last_hidden_state[0].shape
        assert (found - wanted.last_hidden_state[0]).abs().max() <= LIMITS[dtype]
        assert (found[0] - wanted.pooler_output[0]).abs().max() <= LIMITS[dtype]


def test_half_precision_is_as_near_to_the_truth_as_that_of_transformers(
    folders: dict[str, Path], images: list[np.ndarray]
):
    hidden_states, grid_thw = packed(images)
    truth = DINOv3ViTPacking(folders["mlp"], dtype=torch.float64)(hidden_states, grid_thw)
    model = DINOv3ViTPacking(folders["mlp"], dtype=torch.bfloat16)
    assert model.model.rope_embeddings.inv_freq.dtype == torch.float32
    found = model(hidden_states, grid_thw)
    theirs = DINOv3ViTModel.from_pretrained(folders["mlp"], dtype=torch.bfloat16)
    with torch.no_grad():
        each = [theirs(torch.from_numpy(image)[None]).last_hidden_state[0, 5:] for image in images]
    assert (found - truth).square().mean() <= 1.5**2 * (torch.cat(each) - truth).square().mean()


def test_order_changes_no_bit(model: DINOv3ViTPacking, images: list[np.ndarray]):
    order = [3, 5, 0, 2, 4, 1]
    hidden_states, grid_thw = packed(images)
    straight = by_image(model.features(hidden_states, grid_thw), grid_thw)
    hidden_states, grid_thw = packed([images[index] for index in order])
    permuted = by_image(model.features(hidden_states, grid_thw), grid_thw)
    for index, found in zip(order, permuted, strict=True):
        assert torch.equal(found, straight[index])
    # The two of one size differ, so that no image is taken for another.
    assert not torch.equal(straight[0], straight[4])


def test_a_neighbour_that_is_not_finite_changes_no_bit(model: DINOv3ViTPacking, images: list[np.ndarray]):
    hidden_states, grid_thw = packed(images)
    clean = by_image(model.features(hidden_states, grid_thw), grid_thw)
    starts = grid_thw.prod(1).cumsum(0).tolist()
    hidden_states[starts[0] : starts[1]] = torch.nan
    for index, found in enumerate(by_image(model.features(hidden_states, grid_thw), grid_thw)):
        assert found.isnan().all() if index == 1 else torch.equal(found, clean[index])


def test_a_clip_is_its_frames(model: DINOv3ViTPacking, images: list[np.ndarray]):
    clip = np.random.default_rng(1).standard_normal((3, 3, 32, 48), np.float32)
    hidden_states, single = packed([images[0], *clip, images[2]])
    grid_thw = torch.tensor([[1, 3, 7], [3, 2, 3], [1, 1, 1]], dtype=torch.int32)
    found = model.features(hidden_states, grid_thw)
    assert found["pooler_output"].shape == (5, 32)
    wanted = model.features(hidden_states, single)
    for name, x in found.items():
        assert torch.equal(x, wanted[name])


def test_rows_of_the_output_are_those_of_the_input(model: DINOv3ViTPacking, images: list[np.ndarray]):
    hidden_states, grid_thw = packed(images)
    before = model(hidden_states, grid_thw)
    assert before.shape == (len(hidden_states), 32)
    counts = grid_thw.prod(1).tolist()
    for index, rows in enumerate(torch.arange(len(hidden_states)).split(counts)):
        changed = hidden_states.clone()
        changed[rows] += 1
        differs = (model(changed, grid_thw) != before).any(1)
        assert differs.nonzero().flatten().tolist() == rows.tolist(), index


def test_each_segment_of_one_kernel_is_one_image(
    model: DINOv3ViTPacking, images: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
):
    calls = []

    def segments(*args: Any, **kwargs: Any) -> Tensor:
        """What varlen_attn does where there is a GPU, by the definition, with its own signature."""
        given = inspect.signature(varlen_attn).bind(*args, **kwargs).arguments
        calls.append(given)
        parts = [given[name].tensor_split(given["cu_seq_q"][1:-1].tolist()) for name in ("query", "key", "value")]
        heads_first = [[x.transpose(0, 1) for x in image] for image in zip(*parts, strict=True)]
        mixed = [scaled_dot_product_attention(*image, scale=given["scale"]) for image in heads_first]
        return torch.cat([x.transpose(0, 1) for x in mixed])

    hidden_states, grid_thw = packed(images)
    wanted = model.features(hidden_states, grid_thw)
    monkeypatch.setattr(torch_model, "_varlen_attn_for", lambda tokens: segments)
    found = model.features(hidden_states, grid_thw)
    for name, x in found.items():
        torch.testing.assert_close(x, wanted[name], rtol=0, atol=LIMITS[torch.float32])
    assert len(calls) == 2
    for given in calls:
        # Five tokens stand before the patches of each image.
        assert given["cu_seq_q"].tolist() == [0, 26, 52, 58, 83, 109, 120]
        assert given["cu_seq_k"].tolist() == given["cu_seq_q"].tolist()
        assert given["cu_seq_q"].dtype == given["cu_seq_k"].dtype == torch.int32
        assert given["max_q"] == given["max_k"] == 26
        assert given["query"].shape == given["key"].shape == given["value"].shape == (120, 2, 16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_processor_takes_image_by_image(dtype: torch.dtype):
    assert torch_model._varlen_attn_for(torch.zeros(1, dtype=dtype)) is None


def test_half_precision_on_a_gpu_takes_one_kernel():
    class OnGpu:
        is_cuda, dtype = True, torch.bfloat16

    assert torch_model._varlen_attn_for(OnGpu()) is varlen_attn
    OnGpu.dtype = torch.float32
    assert torch_model._varlen_attn_for(OnGpu()) is None


def test_it_stays_in_evaluation_mode_and_needs_no_gradient(folders: dict[str, Path], images: list[np.ndarray]):
    model = DINOv3ViTPacking(folders["mlp"])
    before = model(*packed(images))
    assert not before.requires_grad
    torch.nn.Sequential(model).train()
    assert not any(module.training for module in model.modules())
    assert torch.equal(model(*packed(images)), before)


ROWS, GRID = torch.zeros(12, 768), torch.tensor([[1, 2, 3], [1, 3, 2]])


@pytest.mark.parametrize(
    "hidden_states, grid_thw, said",
    [
        (torch.zeros(12, 588), GRID, "588 numbers a row is patch 14; this model has 16"),
        (torch.zeros(12, 700), GRID, "hidden_states must be patches x 768 and is 12 x 700"),
        (torch.zeros(2, 6, 768), GRID, "hidden_states must be patches x 768 and is 2 x 6 x 768"),
        (ROWS[1:], GRID, "grid_thw says 12 patches, and hidden_states has 11 rows"),
        (ROWS, GRID[:1], "grid_thw says 6 patches, and hidden_states has 12 rows"),
        (ROWS, torch.tensor([[3, 2, 3]]), "grid_thw says 18 patches"),
        (ROWS, torch.tensor([[2**32, 2**32, 1]]), "grid_thw says 18446744073709551616 patches"),
        (ROWS, torch.tensor([[1, 2, 3], [0, 3, 2]]), r"Row 1 of grid_thw is \[0, 3, 2\]"),
        (ROWS, torch.tensor([[1, 0, 3]]), "Row 0 of grid_thw"),
        (ROWS, torch.tensor([[1, -3, -4]]), "Row 0 of grid_thw"),
        (ROWS[:0], GRID[:0], "of one image at least, and is 0 x 3"),
        (ROWS[:0], GRID, "hidden_states has no row"),
        (ROWS, GRID[0], "grid_thw must be images x 3"),
        (ROWS, GRID[:, 1:], "grid_thw must be images x 3"),
        (ROWS, GRID.float(), r"grid_thw is torch.float32; give it as torch.int64"),
        (ROWS, GRID.numpy(), "grid_thw must be a tensor and is ndarray"),
        (ROWS.byte(), GRID, "hidden_states are torch.uint8; give normalised pixels"),
        (ROWS.numpy(), GRID, "hidden_states must be a tensor and is ndarray"),
    ],
)
def test_input_that_does_not_fit_is_named(model: DINOv3ViTPacking, hidden_states: Any, grid_thw: Any, said: str):
    with pytest.raises(InputError, match=said):
        model(hidden_states, grid_thw)


def without(name: str) -> Callable[[Path], Any]:
    def remove(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        del tensors[name]
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return remove


@pytest.mark.parametrize(
    "kind, changes, damage, said",
    [
        ("dinov2", {}, None, "is a model of type dinov2, which is not packed here; give the folder of a DINOv3 ViT"),
        ("convnext", {}, None, "is a model of type dinov3_convnext, which is not packed here"),
        ("vit", {}, lambda folder: (folder / "config.json").unlink(), "has no config.json that names a type of model"),
        ("vit", {}, lambda folder: (folder / "config.json").write_text("{}"), "has no config.json that names a type"),
        ("vit", {}, lambda folder: (folder / "config.json").write_text("{"), "transformers cannot load this model"),
        ("vit", {}, lambda folder: (folder / "model.safetensors").unlink(), "no file named model.safetensors"),
        ("vit", {}, without("norm.weight"), "lacks norm.weight; save the whole model once more"),
        ("vit", {"num_channels": 1}, None, "has patches of 1 x 16 x 16; only square RGB ones"),
        ("vit", {"patch_size": [16, 8]}, None, "has patches of 3 x 16 x 8; only square RGB ones"),
    ],
)
def test_another_folder_is_named(
    kind: str, changes: Mapping[str, Any], damage: Callable[[Path], Any] | None, said: str, tmp_path: Path
):
    model_of(kind, **changes).save_pretrained(tmp_path)
    if damage:
        damage(tmp_path)
    with pytest.raises(InputError, match=said) as caught:
        DINOv3ViTPacking(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("path", ["missing", "missing/folder/of/mine", "config.json"])
def test_what_is_no_folder_is_named(path: str, folders: dict[str, Path]):
    with pytest.raises(InputError, match="is no folder; give the folder of a DINOv3 ViT or an id of Hugging Face"):
        DINOv3ViTPacking(folders["mlp"] / path)


def test_a_refusal_of_the_hub_tells_no_secret(monkeypatch: pytest.MonkeyPatch):
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError("Bearer hf_secret")

    monkeypatch.setattr(torch_model.PreTrainedConfig, "get_config_dict", refuse)
    with pytest.raises(InputError, match="run hf download some/model --local-dir FOLDER and give that") as caught:
        DINOv3ViTPacking("some/model")
    assert "hf_secret" not in str(caught.value) and caught.value.__suppress_context__
