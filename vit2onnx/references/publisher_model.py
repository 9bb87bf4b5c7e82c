"""The publisher's own code as reference, when the user has a clone of it. Nothing of it is part of this project."""

import logging
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from vit2onnx.checkpoints.reading import open_checkpoint
from vit2onnx.errors import InputError
from vit2onnx.references.streaming import Step, check_names, reader, run_steps
from vit2onnx.references.transformers_model import rope_periods
from vit2onnx.variants import ConvNeXtArchitecture, VariantSpec, ViTArchitecture


def build(spec: VariantSpec, repository: Path) -> nn.Module:
    """The publisher's model of a variant, without memory for its weights.

    Raises `InputError` if `repository` is no clone of its code.
    """
    if not (repository / "dinov3" / "models" / "vision_transformer.py").is_file():
        raise InputError(
            f"reference.repository: {repository} is no clone of github.com/facebookresearch/dinov3; name one or"
            " leave the key empty."
        )
    sys.path.insert(0, str(repository))
    logging.getLogger("dinov3").setLevel(logging.WARNING)
    arch = spec.architecture
    with torch.device("meta"):
        if isinstance(arch, ConvNeXtArchitecture):
            from dinov3.models.convnext import ConvNeXt

            return ConvNeXt(depths=list(arch.depths), dims=list(arch.embed_dims)).eval()
        from dinov3.models.vision_transformer import DinoVisionTransformer

        return DinoVisionTransformer(
            patch_size=arch.patch_size,
            embed_dim=arch.embed_dim,
            depth=arch.depth,
            num_heads=arch.num_heads,
            # The width of a SwiGLU before it is cut to two thirds.
            ffn_ratio=arch.ffn_hidden / arch.embed_dim * (1.5 if arch.ffn == "swiglu" else 1.0),
            ffn_layer=arch.ffn,
            qkv_bias=arch.qkv_bias,
            n_storage_tokens=arch.num_registers,
            layerscale_init=1e-5,
            norm_layer="layernormbf16",
            mask_k_bias=True,
            untie_global_and_local_cls_norm=arch.local_cls_norm,
            pos_embed_rope_dtype="fp32",
        ).eval()


def vit_steps(model: nn.Module, pixel_values: torch.Tensor) -> Sequence[Step]:
    """The vision transformer step by step."""
    patch = model.patch_size
    rope = model.rope_embed(H=pixel_values.shape[2] // patch, W=pixel_values.shape[3] // patch)
    first = ("patch_embed", "cls_token", "storage_tokens", "mask_token")
    blocks = [
        Step((f"blocks.{index}",), partial(block, rope_or_rope_list=rope)) for index, block in enumerate(model.blocks)
    ]
    return [
        Step(first, lambda x: model.prepare_tokens_with_masks(x)[0]),
        *blocks,
        Step(("norm",), model.norm),
    ]


def convnext_steps(model: nn.Module, pixel_values: torch.Tensor) -> Sequence[Step]:
    """The ConvNeXt step by step."""

    def head(x: torch.Tensor) -> torch.Tensor:
        return model.norm(torch.cat([x.mean([-2, -1])[:, None], x.flatten(2).transpose(1, 2)], 1))

    layers = []
    for index, stage in enumerate(model.stages):
        layers.append(Step((f"downsample_layers.{index}",), model.downsample_layers[index]))
        layers += [Step((f"stages.{index}.{number}",), block) for number, block in enumerate(stage)]
    return [*layers, Step(("norm", "norms"), head)]


def features(
    spec: VariantSpec, checkpoint: Path, repository: Path, cases: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Features [tokens, embed_dim] of every case [3, height, width], as `float32/{case}` and `float64/{case}`.

    Raises `InputError` if the checkpoint is not in the publisher's own layout.
    """
    model = build(spec, repository)
    tensors = open_checkpoint(checkpoint)
    state = {name: reader(tensor) for name, tensor in tensors.items()}
    check_names(f"{checkpoint}, of which the publisher's code reads its own layout only,", model, state)
    found: dict[str, np.ndarray] = {}
    for dtype in (torch.float32, torch.float64):
        steps = convnext_steps
        if isinstance(spec.architecture, ViTArchitecture):
            steps = vit_steps
            model.rope_embed.periods = rope_periods(spec.architecture, tensors).to(dtype)
            model.rope_embed.dtype = dtype
        name = str(dtype).removeprefix("torch.")
        values = run_steps(model, state, partial(steps, model), cases, dtype)
        found |= {f"{name}/{case}": value for case, value in values.items()}
    return found
