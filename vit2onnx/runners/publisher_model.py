"""The publisher's own code as reference, when the user has a clone of it. Nothing of it is part of this project."""

import logging
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from vit2onnx.checkpoints.reading import open_checkpoint
from vit2onnx.errors import InputError
from vit2onnx.runners.torch_steps import (
    Reader,
    Step,
    Tap,
    check_names,
    convnext_taps,
    downsample_taps,
    fill,
    native_convolutions,
    reader,
    run_stages,
    vit_taps,
)
from vit2onnx.runners.transformers_model import rope_periods
from vit2onnx.spec.variant import ConvNeXtArchitecture, VariantSpec, ViTArchitecture


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
    model, state, periods = prepare(spec, checkpoint, repository)
    fill(model, state)
    if periods is not None:
        model.rope_embed.periods = periods
    return model


def prepare(
    spec: VariantSpec, checkpoint: Path, repository: Path
) -> tuple[nn.Module, dict[str, Reader], torch.Tensor | None]:
    """The publisher's model of a variant, readers of its weights, and the RoPE periods, if it has any.

    Raises `InputError` if the checkpoint is not in the publisher's own layout.
    """
    model = build(spec, repository)
    tensors = open_checkpoint(checkpoint)
    state = {name: reader(tensor) for name, tensor in tensors.items()}
    what = f"{checkpoint} is not in the publisher's own layout, which is all that its code reads"
    check_names(f"{what} (leave reference.repository empty for it)", model, state)
    arch = spec.architecture
    return model, state, rope_periods(arch, tensors) if isinstance(arch, ViTArchitecture) else None


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


def vit_steps(model: nn.Module, pixel_values: torch.Tensor) -> Sequence[Step]:
    """The vision transformer step by step."""
    grid_height, grid_width = (size // model.patch_size for size in pixel_values.shape[2:])
    rope = model.rope_embed(H=grid_height, W=grid_width)

    def embed(x: torch.Tensor) -> torch.Tensor:
        tokens: torch.Tensor = model.prepare_tokens_with_masks(x)[0]
        return tokens

    def block_step(index: int, block: nn.Module) -> Step:
        taps = vit_taps(block.norm1, block.attn, block.ls1, block.norm2, block.mlp, block.ls2)
        run = partial(block, rope_or_rope_list=rope)
        return Step.of_layer(f"blocks.{index}", run, f"blocks.{index}", taps, axis=-1)

    embedding = ("cls_token", "storage_tokens", "mask_token", "patch_embed")
    return [
        Step(embedding, embed, "patch_embed", {"patch_embed": Tap()}),
        *(block_step(index, block) for index, block in enumerate(model.blocks)),
        Step(("norm",), model.norm, "norm", {"norm": Tap()}),
    ]


def convnext_steps(model: nn.Module, pixel_values: torch.Tensor) -> Sequence[Step]:
    """The ConvNeXt step by step."""
    # PARITY: as in transformers_model.
    natively = native_convolutions()

    def downsample_step(index: int, downsample: nn.Module) -> Step:
        taps = downsample_taps(downsample[0], is_stem=index == 0)
        path, name = f"downsample_layers.{index}", f"stages.{index}.downsample"
        return Step.of_layer(path, natively(downsample), name, taps, axis=1)

    def block_step(index: int, number: int, block: nn.Module) -> Step:
        taps = convnext_taps(block.dwconv, block.norm, block.pwconv2, block.drop_path)
        path, name = f"stages.{index}.{number}", f"stages.{index}.blocks.{number}"
        return Step.of_layer(path, natively(block), name, taps, axis=1)

    def head(x: torch.Tensor) -> torch.Tensor:
        tokens = torch.cat([x.mean((-2, -1))[:, None], x.flatten(2).transpose(1, 2)], 1)
        return model.norm(tokens)

    steps: list[Step] = []
    for index, (downsample, blocks) in enumerate(zip(model.downsample_layers, model.stages, strict=True)):
        steps.append(downsample_step(index, downsample))
        steps += [block_step(index, number, block) for number, block in enumerate(blocks)]
    final = {"norm_in": Tap(model.norm, is_input=True), "norm": Tap()}
    return [*steps, Step(("norm",), head, "norm", final, axis=1)]


def stages(
    spec: VariantSpec,
    checkpoint: Path,
    repository: Path,
    pixel_values: np.ndarray,
    inputs: Mapping[str, np.ndarray],
) -> Iterator[tuple[str, np.ndarray]]:
    """Every stage of an image [3, height, width] as `{dtype}/{mode}/{stage}`; see `streaming.run_stages`."""
    for dtype in (torch.float64, torch.float32):
        model, state, periods = prepare(spec, checkpoint, repository)
        if periods is not None:
            model.rope_embed.dtype, model.rope_embed.periods = dtype, periods.to(dtype)
        steps = partial(convnext_steps if periods is None else vit_steps, model)
        for key, value in run_stages(model, state, steps, pixel_values, dtype, inputs):
            yield f"{value.dtype}/{key}", value
