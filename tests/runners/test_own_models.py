"""Own models: the graph is what transformers makes of the same folder, also in what tensors do not show."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import AutoModel

from tests.checkpoints.own_models import model_of, own_spec
from tests.limits import BY_PRECISION
from vit2onnx.checkpoints.identity import describe
from vit2onnx.exporting.graph import export
from vit2onnx.families.dinov3_vit import recognition
from vit2onnx.runners.torch import reference_of, run_steps
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spine import convert, prove

ROOT = Path(__file__).parents[2]
RECIPE = Recipe("dynamic", opset=23, sizes={"batch": None, "height": None, "width": None})
SIZES = ((48, 80), (70, 56))
PHOTOGRAPHS = {"cat": ROOT / "resources" / "images" / "chelsea.jpg"}
LIMITS = BY_PRECISION["float32"] | BY_PRECISION["preprocessing"]

# What a config can say that shapes do not show, or show in another way.
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("vit", {}),
    "vit, heads": ("vit", {"num_attention_heads": 4}),
    "vit, epsilon": ("vit", {"layer_norm_eps": 1e-2}),
    "vit, theta": ("vit", {"rope_theta": 20.0}),
    "vit, tanh GELU": ("vit", {"hidden_act": "gelu_new"}),
    "vit, ReLU": ("vit", {"hidden_act": "relu"}),
    "vit, SiLU": ("vit", {"hidden_act": "silu"}),
    "vit, key bias": ("vit", {"key_bias": True}),
    "vit, no bias": ("vit", {"query_bias": False, "value_bias": False}),
    "vit, no registers": ("vit", {"num_register_tokens": 0}),
    "vit, gated GELU": ("vit", {"use_gated_mlp": True}),
    "vit, SwiGLU": ("vit", {"use_gated_mlp": True, "hidden_act": "silu"}),
    "vit, patches": ("vit", {"patch_size": 8}),
    "dinov2": ("dinov2", {}),
    "dinov2, heads": ("dinov2", {"num_attention_heads": 8}),
    "dinov2, epsilon": ("dinov2", {"layer_norm_eps": 1e-2}),
    "dinov2, ReLU": ("dinov2", {"hidden_act": "relu"}),
    "dinov2, SwiGLU": ("dinov2", {"use_swiglu_ffn": True}),
    "dinov2, no mask token": ("dinov2", {"use_mask_token": False}),
    "dinov2, registers": ("dinov2 registers", {"num_register_tokens": 2}),
    "dinov2, table": ("dinov2", {"image_size": 84, "patch_size": 7}),
    "convnext": ("convnext", {}),
    "convnext, epsilon": ("convnext", {"layer_norm_eps": 1e-2}),
    "convnext, ReLU": ("convnext", {"hidden_act": "relu"}),
    "convnext, stages": ("convnext", {"hidden_sizes": [8, 16, 24], "depths": [1, 2, 1]}),
}


@pytest.mark.parametrize("config", CONFIGS)
def test_the_graph_is_the_users_model(config: str, tmp_path: Path):
    kind, changes = CONFIGS[config]
    model_of(kind, **changes).save_pretrained(tmp_path / "mine")
    spec = own_spec(tmp_path / "mine")
    file = convert(spec, Path(spec.own.path), tmp_path)
    record = describe(spec, Path(spec.own.path), origin={"kind": "own file"}, weights="own")
    graph = export(spec, RECIPE, file, tmp_path / "dynamic.onnx", record)
    theirs = AutoModel.from_pretrained(tmp_path / "mine", dtype=torch.float32)
    random = np.random.default_rng(0)
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    for height, width in SIZES:
        image = random.standard_normal((1, 3, height, width), np.float32)
        with torch.inference_mode():
            wanted = theirs(torch.from_numpy(image))
        # The reference is built from the folder, too, step by step.
        reference = reference_of(spec, "transformers", Path(spec.own.path))
        (stepped,) = run_steps(reference, {"a": image[0]}, torch.float32, spec.interface()).values()
        expected = wanted.last_hidden_state[0].numpy()
        np.testing.assert_allclose(stepped, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
        for name in ("last_hidden_state", "pooler_output"):
            (found,) = session.run([name], {"pixel_values": image})
            expected = wanted[name].numpy()
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_classifier_is_read_by_transformers_too(tmp_path: Path):
    model = model_of("dinov2 classifier")
    model.save_pretrained(tmp_path / "mine")
    spec = own_spec(tmp_path / "mine", ignore=["classifier.*"])
    image = np.random.default_rng(0).standard_normal((3, 56, 70), np.float32)
    reference = reference_of(spec, "transformers", Path(spec.own.path))
    (found,) = run_steps(reference, {"a": image}, torch.float32, spec.interface()).values()
    with torch.inference_mode():
        wanted = model.dinov2(torch.from_numpy(image[None])).last_hidden_state[0].numpy()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())


@pytest.mark.parametrize("field", ["num_heads", "norm_eps", "rope_theta", "activation"])
def test_a_config_that_is_read_wrongly_is_caught(field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The fault is planted in our reading, so that only a reference that does not share it can tell."""
    said = {"num_attention_heads": 4, "layer_norm_eps": 1e-3, "rope_theta": 50.0, "hidden_act": "relu"}
    model_of("vit", **said).save_pretrained(tmp_path / "mine")
    how = {"sizes": [(48, 80)], "batch_sizes": [1], "weights": "own"}

    def passed(name: str) -> bool:
        (tmp_path / name).mkdir()
        spec = own_spec(tmp_path / "mine")
        return prove(spec, RECIPE, Path(spec.own.path), tmp_path / name, PHOTOGRAPHS, LIMITS, **how).passed

    if field == "num_heads":
        assert passed("healthy")
    read = recognition.read_config
    wrong = {"num_heads": 2, "norm_eps": 1e-5, "rope_theta": 100.0, "activation": "gelu"}[field]
    monkeypatch.setattr(recognition, "read_config", lambda config: {**read(config), field: wrong})
    assert not passed("planted")


def test_preprocessing_is_the_folders_own(tmp_path: Path):
    model_of("vit").save_pretrained(tmp_path)
    told = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.1], "resample": 2, "do_center_crop": False}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(told))
    spec = own_spec(tmp_path)
    assert (spec.preprocessing.mean, spec.preprocessing.std) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
    assert spec.own.assumed == ()
