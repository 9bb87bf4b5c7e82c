"""Tiny models as people hold them, built and saved by transformers, with weights in which every tensor matters."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ConvNextConfig,
    DINOv3ConvNextModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
)

from vit2onnx.checkpoints.own import recognised
from vit2onnx.spec.configuration import check_recognised
from vit2onnx.spec.variant import VariantSpec, read_variants

VARIANTS = read_variants(Path(__file__).parents[2] / "config" / "variants")
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
VIT = {**SMALL, "intermediate_size": 48, "num_register_tokens": 3, "image_size": 48}
V2 = {**SMALL, "mlp_ratio": 2, "image_size": 56}
CONVNEXT = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
KINDS: Mapping[str, tuple[type, type, Mapping[str, Any]]] = {
    "vit": (DINOv3ViTConfig, DINOv3ViTModel, VIT),
    "dinov2": (Dinov2Config, Dinov2Model, V2),
    "dinov2 registers": (Dinov2WithRegistersConfig, Dinov2WithRegistersModel, {**V2, "patch_size": 14}),
    "dinov2 classifier": (Dinov2Config, Dinov2ForImageClassification, V2),
    "convnext": (DINOv3ConvNextConfig, DINOv3ConvNextModel, CONVNEXT),
}


def model_of(kind: str, **changes: Any) -> Any:
    """A model of a kind, with some of its config changed. The same call gives the same weights."""
    config, build, usual = KINDS[kind]
    torch.manual_seed(0)
    return rough(build(config(**{**usual, **changes})).eval())


@torch.no_grad()
def rough(model: nn.Module) -> nn.Module:
    """Fill a model with values that hide no fault."""
    for name, value in model.named_parameters():
        noise = torch.randn(value.shape)
        if "norm" in name and name.endswith("weight"):
            value.copy_(1 + 0.2 * noise)
        elif name.endswith(("lambda1", "gamma")):
            value.copy_(noise.sign() * (0.2 + 0.1 * noise.abs()))
        elif value.ndim > 1 and "token" not in name and "position" not in name:
            value.copy_(noise / value[0].numel() ** 0.5)
        else:
            value.copy_(0.2 * noise)
    return model


def own_spec(path: Path, name: str = "mine", **how: Any) -> VariantSpec:
    """The variant that a checkpoint is recognised as."""
    mapping = recognised(path, VARIANTS, **how)
    check_recognised(str(path), mapping)
    return VariantSpec.from_mapping(name, mapping)
