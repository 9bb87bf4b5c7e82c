"""What a config of transformers says beside shapes: models and graphs against transformers' model of that config."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import transformers
from safetensors.torch import save_file

from tests import transformers_model
from tests.conftest import RELEASED
from vit2onnx.checkpoints.convert import convert_checkpoint
from vit2onnx.checkpoints.identity import describe
from vit2onnx.exporting.graph import export
from vit2onnx.families.dinov2 import references as dinov2
from vit2onnx.families.dinov3_vit import references as dinov3_vit
from vit2onnx.runners import equinox as equinox_runner
from vit2onnx.runners.onnx_double import run_in_double
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec
from vit2onnx.weights.archive import read_archive
from vit2onnx.weights.model_file import map_model, open_model, write_model

SIZES = ((34, 70), (64, 48))
DYNAMIC = Recipe("dynamic", 23, dict.fromkeys(("batch", "height", "width")))
STATIC = Recipe("static", 23, {"batch": 1, "height": SIZES[0][0], "width": SIZES[0][1]})

VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8}
DINOV3 = {**VIT, "intermediate_size": 48, "num_register_tokens": 2}
DINOV2 = {**VIT, "mlp_ratio": 2, "image_size": 48}
CONVNEXT = {"hidden_sizes": [8, 12], "depths": [1, 1]}
# Our names of transformers' keys, and of its activations.
NAMES = {"hidden_act": "activation", "num_register_tokens": "num_registers"}
ACTS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}
# Their operators in a graph.
OPERATORS = {"gelu": "Gelu", "gelu_tanh": "Gelu", "relu": "Relu", "silu": "Sigmoid"}


@dataclass(frozen=True)
class Config:
    """A config of transformers: what it `says` besides its `base`; and a release of the family."""

    kind: str
    release: str
    base: Mapping[str, Any]
    says: Mapping[str, Any]

    def model(self, **other: Any) -> torch.nn.Module:
        """Transformers' model of this config."""
        config = getattr(transformers, f"{self.kind}Config")(**{**self.base, **self.says, **other})
        return getattr(transformers, f"{self.kind}Model")(config).eval()

    @property
    def spec(self) -> VariantSpec:
        """A variant of what it says."""
        spec = RELEASED[self.release]
        own = {NAMES.get(key, key): ACTS.get(value, value) for key, value in self.says.items()}
        if own.pop("use_gated_mlp", False):
            own["ffn"] = "swiglu"
        size: dict[str, Any] = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8}
        if spec.family == "dinov3_vit":
            size |= {"ffn_hidden": 48, "num_registers": 2, "rope_periods": "float32"}
        elif spec.family == "dinov2":
            size |= {"ffn_hidden": 64, "position_grid": 6, "position_offset": 0.0}
        else:
            size = {"embed_dims": (8, 12), "depths": (1, 1)}
        return replace(spec, name="own", architecture=replace(spec.architecture, **{**size, **own}))


def dinov3(**says: Any) -> Config:
    return Config("DINOv3ViT", "dinov3_vits16_pretrain_lvd1689m", DINOV3, says)


def convnext(**says: Any) -> Config:
    return Config("DINOv3ConvNext", "dinov3_convnext_tiny_pretrain_lvd1689m", CONVNEXT, says)


# Each value in one of them; tests/runners/test_own_models.py has more, in single precision.
CONFIGS = (
    dinov3(hidden_act="gelu_new", key_bias=True, rope_theta=20.0),
    dinov3(hidden_act="relu", use_gated_mlp=True, num_register_tokens=0),
    Config("Dinov2", "dinov2_vits14_pretrain", DINOV2, {"hidden_act": "relu"}),
    convnext(hidden_act="silu"),
)


def randomise(model: torch.nn.Module) -> None:
    """Weights that mute nothing, where transformers' initial ones do."""
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        noise = torch.randn_like(weight)
        # Smaller where it multiplies, so that activations stay near one.
        if weight.dim() > 1 and not name.endswith(("token", "tokens", "position_embeddings")):
            noise /= weight[0].numel() ** 0.5
        elif name.endswith("norm.weight") or "norm1.weight" in name or "norm2.weight" in name:
            noise = 1 + 0.2 * noise
        weight.data.copy_(noise)


def in_double(model: torch.nn.Module, spec: VariantSpec) -> torch.nn.Module:
    """Transformers' model without the parts that stay in single precision there."""
    arch: Any = spec.architecture
    model = model.double()
    if spec.family == "dinov3_vit":
        count = arch.head_dim // 4
        periods = model.config.rope_theta ** (torch.arange(count, dtype=torch.float64) / count)
        model.rope_embeddings = dinov3_vit.DoubleRope(periods.float(), arch.patch_size)
    elif spec.family == "dinov2":
        table = model.embeddings.position_embeddings
        # The sum of CLS and its position is rounded once.
        model.embeddings.cls_token.data = (model.embeddings.cls_token.float() + table[:, :1].float()).double()
        apart = torch.cat([torch.zeros_like(table[:, :1]), table[:, 1:]], 1)
        model.embeddings.interpolate_pos_encoding = lambda _, height, width: dinov2.resized(
            apart, (height // arch.patch_size, width // arch.patch_size), arch
        )
    return model


@torch.inference_mode()
def run(model: torch.nn.Module, images: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    dtype = next(model.parameters()).dtype
    return {
        name: model(torch.from_numpy(image[None]).to(dtype)).last_hidden_state[0].numpy()
        for name, image in images.items()
    }


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.kind} {config.says}")
def test_models_and_graphs_are_what_the_config_says(config: Config, tmp_path: Path):
    spec, theirs = config.spec, config.model()
    randomise(theirs)
    state = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    path = tmp_path / "model.safetensors"
    save_file(state, path)
    rng = np.random.default_rng(0)
    images = {str(size): rng.standard_normal((3, *size), np.float32) for size in SIZES}
    truth = run(in_double(theirs, spec), images)
    scale = max(float(np.abs(features).max()) for features in truth.values())

    def is_close(found: Mapping[str, np.ndarray], limit: float) -> None:
        for name, features in truth.items():
            np.testing.assert_allclose(found[name], features, rtol=0, atol=limit * scale, err_msg=name)

    # What it says shows, one by one.
    for key in config.says.keys() - {"num_register_tokens", "use_gated_mlp"}:
        plain = {"hidden_act": "silu" if "use_gated_mlp" in config.says else "gelu"}.get(key)
        other = config.model(**{key: plain} if plain else {key: {"key_bias": False, "rope_theta": 100.0}[key]})
        other.load_state_dict(state, strict=False)
        moved = run(in_double(other, spec), images)
        # Measured 7.8e-5 for the approximate GELU, and 0.04 for others.
        assert all(np.abs(moved[name] - truth[name]).max() > 2e-5 * scale for name in truth), key

    reference = transformers_model.features(spec, path, images)
    is_close({name: reference[f"float64/{name}"] for name in truth}, 1e-12)
    assert config.says.get("num_register_tokens", 1) or spec.interface().facts["tokens"]["registers"] == 0

    layout = convert_checkpoint(spec, path, tmp_path / "archive.tar.lz4", tmp_path / "ledger.csv")
    assert layout == "huggingface5"
    write_model(tmp_path / "model.eqx", spec, map_model(spec, read_archive(tmp_path / "archive.tar.lz4", spec)))
    ours = equinox_runner.features(*open_model(tmp_path / "model.eqx"), images, spec.interface())
    is_close({name: ours[f"float32/{name}"] for name in truth}, 1e-5)
    is_close({name: ours[f"float64/{name}"] for name in truth}, 1e-12)

    record = describe(spec, path, origin={"kind": "synthetic"}, weights="synthetic")
    graph = export(spec, DYNAMIC, tmp_path / "model.eqx", tmp_path / "dynamic.onnx", record)
    session = onnxruntime.InferenceSession(graph)
    is_close({name: session.run(None, {"pixel_values": x[None]})[0][0] for name, x in images.items()}, 1e-5)
    batches = run_in_double(graph, [{"pixel_values": image[None]} for image in images.values()])
    is_close({name: x["last_hidden_state"][0] for name, x in zip(images, batches, strict=True)}, 1e-12)
    nodes, act = onnx.load(graph).graph.node, spec.architecture.act
    operator = OPERATORS[act]
    found = Counter(node.op_type for node in nodes)
    # Besides the Relu of DINOv2's resizing, with two layers of the trunk in all.
    others = {"Relu"} - {operator} if spec.family == "dinov2" else set()
    assert found[operator] == 2 + (4 if (spec.family, operator) == ("dinov2", "Relu") else 0)
    assert not found.keys() & (set(OPERATORS.values()) - {operator} - others)
    told = [one.s.decode() for node in nodes if node.op_type == "Gelu" for one in node.attribute]
    assert set(told) <= {"tanh" if act == "gelu_tanh" else "none"}
    if config.says.get("num_register_tokens") == 0:
        static = export(spec, STATIC, tmp_path / "model.eqx", tmp_path / "static.onnx", record)
        name, image = next(iter(images.items()))
        (fixed, _) = onnxruntime.InferenceSession(static).run(None, {"pixel_values": image[None]})
        np.testing.assert_allclose(fixed[0], truth[name], rtol=0, atol=1e-5 * scale)
        assert fixed.shape == (1, 1 + 4 * 8, 32)
        assert "ignored: empty" in (tmp_path / "ledger.csv").read_text()
