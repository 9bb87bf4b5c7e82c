"""Hugging Face transformers' DINOv3 as reference: the architecture, its code and its names are not ours."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import DINOv3ViTConfig, DINOv3ViTModel
from transformers.models.dinov3_vit.modeling_dinov3_vit import get_patches_center_coordinates

from vit2onnx.checkpoints.reading import open_checkpoint
from vit2onnx.errors import InputError
from vit2onnx.variants import VariantSpec, ViTArchitecture

# Written apart from the key tables of vit2onnx.checkpoints, because a reference that is filled through the table
# under test would repeat its mistakes.
FROM_META = (
    (r"^(cls_token|mask_token)$", r"embeddings.\1"),
    (r"^storage_tokens$", "embeddings.register_tokens"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings."),
    (r"\.attn\.proj\.", ".attention.o_proj."),
    (r"\.ls([12])\.gamma$", r".layer_scale\1.lambda1"),
    (r"\.mlp\.fc1\.", ".mlp.up_proj."),
    (r"\.mlp\.fc2\.", ".mlp.down_proj."),
    (r"^blocks\.", "model.layer."),
)


class DoubleRope(nn.Module):
    """Transformers' rotary table from the given periods in double precision, where its own stays in single."""

    def __init__(self, periods: torch.Tensor, patch_size: int):
        super().__init__()
        self.periods, self.patch_size = periods.double(), patch_size

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        grid = [size // self.patch_size for size in pixel_values.shape[2:]]
        centres = get_patches_center_coordinates(*grid, dtype=torch.float64, device=pixel_values.device)
        angles = (2 * torch.pi * centres[:, :, None] / self.periods).flatten(1, 2).tile(2)
        return torch.cos(angles), torch.sin(angles)


def build(arch: ViTArchitecture) -> DINOv3ViTModel:
    """Transformers' model of an architecture, untrained."""
    config = DINOv3ViTConfig(
        patch_size=arch.patch_size,
        hidden_size=arch.embed_dim,
        intermediate_size=arch.ffn_hidden,
        num_hidden_layers=arch.depth,
        num_attention_heads=arch.num_heads,
        num_register_tokens=arch.num_registers,
        layer_norm_eps=arch.norm_eps,
        query_bias=arch.qkv_bias,
        value_bias=arch.qkv_bias,
        key_bias=False,
        attn_implementation="sdpa",
    )
    return DINOv3ViTModel(config).eval()


def to_transformers(state: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
    """A checkpoint's tensors under the names of transformers 5, and its RoPE periods if it holds them."""
    if "storage_tokens" not in state:
        return {re.sub(r"^layer\.", "model.layer.", name): tensor for name, tensor in state.items()}, None
    renamed = {}
    for name, tensor in state.items():
        for pattern, replacement in FROM_META:
            name = re.sub(pattern, replacement, name)
        if match := re.fullmatch(r"(.*)\.attn\.qkv\.(weight|bias)", name):
            parts = zip("qkv", tensor.chunk(3), strict=True)
            # Transformers has no key bias: the publisher's mask makes it zero.
            for letter, part in parts:
                if (letter, match[2]) != ("k", "bias"):
                    renamed[f"{match[1]}.attention.{letter}_proj.{match[2]}"] = part
        elif name == "embeddings.mask_token":
            renamed[name] = tensor[None]
        elif not name.endswith("bias_mask") and name != "rope_embed.periods":
            renamed[name] = tensor
    return renamed, state["rope_embed.periods"]


def load(spec: VariantSpec, checkpoint: Path) -> tuple[DINOv3ViTModel, torch.Tensor]:
    """The reference model filled from a checkpoint, and the RoPE periods it is to use.

    Raises `InputError` if transformers misses a tensor or knows one not.
    """
    tensors = open_checkpoint(checkpoint)
    state = {name: torch.from_numpy(tensor.read().astype(np.float32)) for name, tensor in tensors.items()}
    model = build(spec.architecture)
    try:
        renamed, periods = to_transformers(state)
        model.load_state_dict(renamed, strict=True)
    except (KeyError, RuntimeError) as error:
        raise InputError(
            f"{checkpoint} does not fit transformers' model of {spec.name}; the log names every tensor."
        ) from error
    if periods is None:
        count = spec.architecture.head_dim // 4
        periods = 100.0 ** (torch.arange(count, dtype=torch.float64) / count)
        periods = periods.bfloat16().float()
    model.rope_embeddings.inv_freq = 1 / periods
    return model, periods


def features(spec: VariantSpec, checkpoint: Path, cases: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Features [tokens, embed_dim] of every case [3, height, width], as `float32/{case}` and `float64/{case}`."""
    model, periods = load(spec, checkpoint)
    found = {f"float32/{case}": _run(model, torch.from_numpy(x)) for case, x in cases.items()}
    model = model.double()
    model.rope_embeddings = DoubleRope(periods, spec.architecture.patch_size)
    for case, x in cases.items():
        found[f"float64/{case}"] = _run(model, torch.from_numpy(x).double())
    return found


@torch.inference_mode()
def _run(model: DINOv3ViTModel, pixel_values: torch.Tensor) -> np.ndarray:
    return model(pixel_values[None]).last_hidden_state[0].numpy()
