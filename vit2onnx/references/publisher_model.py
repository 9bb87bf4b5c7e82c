"""The publisher's own code as reference, when the user has a clone of it. Nothing of it is part of this project."""

import logging
import sys
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import nn

from vit2onnx.checkpoints.reading import open_checkpoint
from vit2onnx.errors import InputError
from vit2onnx.references.streaming import check_names, fill, native_convolutions, reader
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


def load(spec: VariantSpec, checkpoint: Path, repository: Path) -> nn.Module:
    """The publisher's model of a variant with all its weights.

    Raises `InputError` if the checkpoint is not in the publisher's own layout.
    """
    model = build(spec, repository)
    tensors = open_checkpoint(checkpoint)
    state = {name: reader(tensor) for name, tensor in tensors.items()}
    what = f"{checkpoint} is not in the publisher's own layout, which is all that its code reads"
    check_names(f"{what} (leave reference.repository empty for it)", model, state)
    fill(model, state)
    if isinstance(spec.architecture, ViTArchitecture):
        model.rope_embed.periods = rope_periods(spec.architecture, tensors)
    return model


def features(
    spec: VariantSpec, checkpoint: Path, repository: Path, cases: Mapping[str, np.ndarray], native: Collection[str] = ()
) -> dict[str, np.ndarray]:
    """Features [tokens, embed_dim] of every case [3, height, width], as `float32/{case}` and `float64/{case}`.

    Those cases that `native` names are run once more with the checkpoint's own RoPE periods, if the variant asks for
    others: `native/{case}`, in single precision.
    """
    model = load(spec, checkpoint, repository)
    arch = spec.architecture
    # PARITY: as in transformers_model.
    with native_convolutions() if isinstance(arch, ConvNeXtArchitecture) else nullcontext():
        found = {f"float32/{case}": _run(model, torch.from_numpy(x)) for case, x in cases.items()}
    if isinstance(arch, ViTArchitecture):
        periods = model.rope_embed.periods
        if native and arch.rope_periods != "bfloat16":
            model.rope_embed.periods = reader(open_checkpoint(checkpoint)["rope_embed.periods"])()
            found |= {f"native/{case}": _run(model, torch.from_numpy(cases[case])) for case in native}
        model.rope_embed.periods = periods
        model.rope_embed.dtype = torch.float64
    model = model.double()
    return found | {f"float64/{case}": _run(model, torch.from_numpy(x).double()) for case, x in cases.items()}


@torch.inference_mode()
def _run(model: nn.Module, pixel_values: torch.Tensor) -> np.ndarray:
    out = model.forward_features(pixel_values[None])
    parts = [out["x_norm_clstoken"][:, None], out["x_storage_tokens"], out["x_norm_patchtokens"]]
    return torch.cat(parts, 1)[0].numpy()
