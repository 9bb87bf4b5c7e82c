"""The publisher's own code as reference, when the user has a clone of it. Nothing of it is part of this project."""

import logging
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from vit2onnx.checkpoints.reading import open_checkpoint
from vit2onnx.errors import InputError
from vit2onnx.variants import VariantSpec


def load(spec: VariantSpec, checkpoint: Path, repository: Path) -> torch.nn.Module:
    """The publisher's model, filled from a checkpoint in the publisher's layout.

    Raises `InputError` if `repository` is no clone of it or the checkpoint is in another layout.
    """
    if not (repository / "dinov3" / "models" / "vision_transformer.py").is_file():
        raise InputError(
            f"reference.repository: {repository} is no clone of github.com/facebookresearch/dinov3; name one or"
            " leave the key empty."
        )
    sys.path.insert(0, str(repository))
    logging.getLogger("dinov3").setLevel(logging.WARNING)
    from dinov3.models.vision_transformer import DinoVisionTransformer

    arch = spec.architecture
    model = DinoVisionTransformer(
        patch_size=arch.patch_size,
        embed_dim=arch.embed_dim,
        depth=arch.depth,
        num_heads=arch.num_heads,
        ffn_ratio=arch.ffn_hidden / arch.embed_dim,
        qkv_bias=arch.qkv_bias,
        n_storage_tokens=arch.num_registers,
        layerscale_init=1e-5,
        norm_layer="layernormbf16",
        mask_k_bias=True,
        pos_embed_rope_dtype="fp32",
    )
    tensors = open_checkpoint(checkpoint)
    state = {name: torch.from_numpy(tensor.read().astype(np.float32)) for name, tensor in tensors.items()}
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise InputError(
            f"{checkpoint} is not in the publisher's own layout, which is all that its code reads; leave"
            " reference.repository empty for it."
        ) from error
    return model.eval()


def features(
    spec: VariantSpec, checkpoint: Path, repository: Path, cases: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Features [tokens, embed_dim] of every case [3, height, width], as `float32/{case}` and `float64/{case}`."""
    model = load(spec, checkpoint, repository)
    found = {f"float32/{case}": _run(model, torch.from_numpy(x)) for case, x in cases.items()}
    model = model.double()
    model.rope_embed.dtype = torch.float64
    for case, x in cases.items():
        found[f"float64/{case}"] = _run(model, torch.from_numpy(x).double())
    return found


@torch.inference_mode()
def _run(model: torch.nn.Module, pixel_values: torch.Tensor) -> np.ndarray:
    out = model.forward_features(pixel_values[None])
    parts = [out["x_norm_clstoken"][:, None], out["x_storage_tokens"], out["x_norm_patchtokens"]]
    return torch.cat(parts, 1)[0].numpy()
