"""Hugging Face transformers' DINOv3 as reference: the architecture, its code and its names are not ours."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import DINOv3ConvNextConfig, DINOv3ConvNextModel, DINOv3ViTConfig, DINOv3ViTModel
from transformers.models.dinov3_vit.modeling_dinov3_vit import get_patches_center_coordinates

from vit2onnx.checkpoints.reading import open_checkpoint
from vit2onnx.errors import InputError
from vit2onnx.runners.torch_steps import (
    Reader,
    Step,
    Steps,
    Tap,
    check_names,
    convnext_taps,
    downsample_taps,
    fill,
    native_convolutions,
    reader,
    run_stages,
    run_steps,
    vit_taps,
)
from vit2onnx.spec.variant import ConvNeXtArchitecture, VariantSpec, ViTArchitecture
from vit2onnx.weights.keytable import LazyTensor

# From the names of a file to those of transformers 5; the first pattern is a name that only this layout has. Written
# apart from the key tables of vit2onnx.checkpoints, because a reference that is filled through the table under test
# would repeat its mistakes.
VIT_ATTENTION = (r"^blocks\.(\d+)\.attn\.proj\.", r"model.layer.\1.attention.o_proj.")
VIT_RENAMES = (
    (
        r"^storage_tokens$",
        (
            (r"^(cls_token|mask_token)$", r"embeddings.\1"),
            (r"^storage_tokens$", "embeddings.register_tokens"),
            (r"^patch_embed\.proj\.", "embeddings.patch_embeddings."),
            VIT_ATTENTION,
            (r"\.ls([12])\.gamma$", r".layer_scale\1.lambda1"),
            (r"\.mlp\.(fc1|w2)\.", ".mlp.up_proj."),
            (r"\.mlp\.(fc2|w3)\.", ".mlp.down_proj."),
            (r"\.mlp\.w1\.", ".mlp.gate_proj."),
            (r"^blocks\.", "model.layer."),
        ),
    ),
    (
        r"^reg_token$",
        (
            (r"^cls_token$", "embeddings.cls_token"),
            (r"^reg_token$", "embeddings.register_tokens"),
            (r"^patch_embed\.proj\.", "embeddings.patch_embeddings."),
            VIT_ATTENTION,
            (r"\.attn\.([qv])_bias$", r".attention.\1_proj.bias"),
            (r"\.gamma_([12])$", r".layer_scale\1.lambda1"),
            (r"\.mlp\.(fc1|fc1_x)\.", ".mlp.up_proj."),
            (r"\.mlp\.fc2\.", ".mlp.down_proj."),
            (r"\.mlp\.fc1_g\.", ".mlp.gate_proj."),
            (r"^blocks\.", "model.layer."),
        ),
    ),
    (r"^layer\.0\.norm1\.weight$", ((r"^layer\.", "model.layer."),)),
    (r"^model\.layer\.0\.norm1\.weight$", ()),
)
CONVNEXT_RENAMES = (
    (
        r"^downsample_layers\.0\.0\.weight$",
        (
            (r"^downsample_layers\.(\d+)\.", r"model.stages.\1.downsample_layers."),
            (r"^stages\.(\d+)\.(\d+)\.", r"model.stages.\1.layers.\2."),
            (r"\.dwconv\.", ".depthwise_conv."),
            (r"\.pwconv([12])\.", r".pointwise_conv\1."),
            (r"(\.layers\.\d+)\.norm\.", r"\1.layer_norm."),
            (r"^norm\.", "layer_norm."),
        ),
    ),
    (
        r"^stem\.0\.weight$",
        (
            (r"^stem\.", "model.stages.0.downsample_layers."),
            (r"^stages\.(\d+)\.downsample\.", r"model.stages.\1.downsample_layers."),
            (r"^stages\.(\d+)\.blocks\.(\d+)\.", r"model.stages.\1.layers.\2."),
            (r"\.conv_dw\.", ".depthwise_conv."),
            (r"\.mlp\.fc([12])\.", r".pointwise_conv\1."),
            (r"(\.layers\.\d+)\.norm\.", r"\1.layer_norm."),
            (r"^head\.norm\.", "layer_norm."),
        ),
    ),
    (r"^stages\.0\.layers\.0\.gamma$", ((r"^stages\.", "model.stages."),)),
    (r"^model\.stages\.0\.layers\.0\.gamma$", ()),
)
# Held by some files and known to no inference model.
TRAINING_ONLY = r"local_cls_norm\..*|norms\.\d+\..*|rope_embed\.periods|.*\.bias_mask"


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


def build(spec: VariantSpec) -> nn.Module:
    """Transformers' model of a variant, without memory for its weights."""
    arch = spec.architecture
    with torch.device("meta"):
        if isinstance(arch, ConvNeXtArchitecture):
            config = DINOv3ConvNextConfig(
                hidden_sizes=list(arch.embed_dims), depths=list(arch.depths), layer_norm_eps=arch.norm_eps
            )
            return DINOv3ConvNextModel(config).eval()
        return DINOv3ViTModel(
            DINOv3ViTConfig(
                patch_size=arch.patch_size,
                hidden_size=arch.embed_dim,
                intermediate_size=arch.ffn_hidden,
                num_hidden_layers=arch.depth,
                num_attention_heads=arch.num_heads,
                num_register_tokens=arch.num_registers,
                layer_norm_eps=arch.norm_eps,
                use_gated_mlp=arch.ffn == "swiglu",
                hidden_act="silu" if arch.ffn == "swiglu" else "gelu",
                query_bias=arch.qkv_bias,
                value_bias=arch.qkv_bias,
                key_bias=False,
                attn_implementation="sdpa",
            )
        ).eval()


def to_transformers(spec: VariantSpec, tensors: Mapping[str, LazyTensor]) -> dict[str, Reader]:
    """A checkpoint's tensors under the names of transformers 5."""
    arch = spec.architecture
    layouts = CONVNEXT_RENAMES if isinstance(arch, ConvNeXtArchitecture) else VIT_RENAMES
    renames = next((r for mark, r in layouts if any(re.search(mark, key) for key in tensors)), ())
    state: dict[str, Reader] = {}
    for key, tensor in tensors.items():
        if re.fullmatch(TRAINING_ONLY, key):
            continue
        name = key
        for pattern, replacement in renames:
            name = re.sub(pattern, replacement, name)
        if match := re.fullmatch(r"(.*)\.attn\.qkv\.(weight|bias)", name):
            third = tensor.shape[0] // 3
            for index, letter in enumerate("qkv"):
                # Transformers has no key bias: the publisher's mask makes it zero.
                if (letter, match[2]) != ("k", "bias"):
                    part = slice(index * third, (index + 1) * third)
                    state[f"{match[1]}.attention.{letter}_proj.{match[2]}"] = reader(tensor, part)
        elif name == "embeddings.mask_token":
            state[name] = reader(tensor, shape=(1, 1, arch.embed_dim))
        else:
            state[name] = reader(tensor)
    if isinstance(arch, ViTArchitecture) and "reg_token" in tensors:
        # What timm leaves out because it is used in training only, or is zero.
        state["embeddings.mask_token"] = lambda: torch.zeros(1, 1, arch.embed_dim)
        if arch.qkv_bias and not any(key.endswith(("attn.q_bias", "attn.v_bias")) for key in tensors):
            names = [
                f"model.layer.{index}.attention.{letter}_proj.bias" for index in range(arch.depth) for letter in "qv"
            ]
            state |= dict.fromkeys(names, partial(torch.zeros, arch.embed_dim))
    return state


def rope_periods(arch: ViTArchitecture, tensors: Mapping[str, LazyTensor]) -> torch.Tensor:
    """The RoPE periods that the variant asks for, taken from the checkpoint where its layout holds them."""
    if arch.rope_periods == "bfloat16" and "storage_tokens" in tensors:
        if "rope_embed.periods" not in tensors:
            raise InputError("The checkpoint has no rope_embed.periods; give the file as its publisher offers it.")
        return reader(tensors["rope_embed.periods"])()
    count = arch.head_dim // 4
    periods = 100.0 ** (torch.arange(count, dtype=torch.float64) / count)
    return periods.to(torch.bfloat16 if arch.rope_periods == "bfloat16" else torch.float32).float()


def vit_steps(model: nn.Module, pixel_values: torch.Tensor) -> Sequence[Step]:
    """The vision transformer step by step."""
    rope = model.rope_embeddings(pixel_values)

    def layer_step(index: int, layer: nn.Module) -> Step:
        taps = vit_taps(layer.norm1, layer.attention, layer.layer_scale1, layer.norm2, layer.mlp, layer.layer_scale2)
        run = partial(layer, position_embeddings=rope)
        return Step.of_layer(f"model.layer.{index}", run, f"blocks.{index}", taps, axis=-1)

    return [
        Step(("embeddings",), model.embeddings, "patch_embed", {"patch_embed": Tap()}),
        *(layer_step(index, layer) for index, layer in enumerate(model.model.layer)),
        Step(("norm",), model.norm, "norm", {"norm": Tap()}),
    ]


def convnext_steps(model: nn.Module, pixel_values: torch.Tensor) -> Sequence[Step]:
    """The ConvNeXt step by step."""
    # PARITY: not oneDNN's convolutions, whose sums are two to three times as far from float64: as far as the limit.
    natively = native_convolutions()

    def downsample_step(index: int, first: nn.Module, second: nn.Module) -> Step:
        taps = downsample_taps(first, is_stem=index == 0)
        path, run = f"model.stages.{index}.downsample_layers", natively(nn.Sequential(first, second))
        return Step.of_layer(path, run, f"stages.{index}.downsample", taps, axis=1)

    def layer_step(index: int, number: int, layer: nn.Module) -> Step:
        taps = convnext_taps(layer.depthwise_conv, layer.layer_norm, layer.pointwise_conv2, layer.drop_path)
        path, name = f"model.stages.{index}.layers.{number}", f"stages.{index}.blocks.{number}"
        return Step.of_layer(path, natively(layer), name, taps, axis=1)

    def head(x: torch.Tensor) -> torch.Tensor:
        tokens = torch.cat([model.pool(x).flatten(2), x.flatten(2)], 2).transpose(1, 2)
        return model.layer_norm(tokens)

    steps: list[Step] = []
    for index, stage in enumerate(model.model.stages):
        steps.append(downsample_step(index, *stage.downsample_layers))
        steps += [layer_step(index, number, layer) for number, layer in enumerate(stage.layers)]
    final = {"norm_in": Tap(model.layer_norm, is_input=True), "norm": Tap()}
    return [*steps, Step(("layer_norm",), head, "norm", final, axis=1)]


def prepare(spec: VariantSpec, checkpoint: Path) -> tuple[nn.Module, dict[str, Reader], torch.Tensor]:
    """The model of a variant, readers of its weights from a checkpoint, and the RoPE periods, which it has already.

    Raises `InputError` if the model misses a tensor of the checkpoint or does not know one.
    """
    tensors = open_checkpoint(checkpoint)
    state = to_transformers(spec, tensors)
    model = build(spec)
    check_names(f"{checkpoint} does not fit transformers' model of {spec.name}", model, state)
    if isinstance(spec.architecture, ConvNeXtArchitecture):
        return model, state, torch.empty(0)
    periods = rope_periods(spec.architecture, tensors)
    model.rope_embeddings.inv_freq = 1 / periods
    return model, state, periods


def load(spec: VariantSpec, checkpoint: Path) -> nn.Module:
    """The model of a variant with all its weights."""
    model, state, _ = prepare(spec, checkpoint)
    fill(model, state)
    return model


def features(
    spec: VariantSpec, checkpoint: Path, cases: Mapping[str, np.ndarray], native: Collection[str] = ()
) -> dict[str, np.ndarray]:
    """Features [tokens, embed_dim] of every case [3, height, width], as `float32/{case}` and `float64/{case}`.

    Those cases that `native` names are run once more as transformers runs them by itself, if that is with RoPE periods
    in another precision than the variant's: `native/{case}`, in single precision.
    """
    model, state, periods = prepare(spec, checkpoint)
    arch = spec.architecture

    def run(kind: str, steps: Steps, some: Mapping[str, np.ndarray], dtype: torch.dtype) -> dict[str, np.ndarray]:
        found = run_steps(model, state, steps, some, dtype)
        return {f"{kind}/{case}": x for case, x in found.items()}

    if isinstance(arch, ConvNeXtArchitecture):
        steps = partial(convnext_steps, model)
        return run("float32", steps, cases, torch.float32) | run("float64", steps, cases, torch.float64)
    steps = partial(vit_steps, model)
    found = run("float32", steps, cases, torch.float32)
    if native and arch.rope_periods != "float32":
        model.rope_embeddings = type(model.rope_embeddings)(model.config).eval()
        found |= run("native", steps, {case: cases[case] for case in native}, torch.float32)
    model.rope_embeddings = DoubleRope(periods, arch.patch_size)
    return found | run("float64", steps, cases, torch.float64)


def stages(spec: VariantSpec, checkpoint: Path, pixel_values: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Every stage of an image [3, height, width] as `{dtype}/{mode}/{stage}`, and `inputs/{layer}`, what is injected.

    See `streaming.run_stages`. The double precision comes first, and what is injected is its own.
    """
    inputs: dict[str, np.ndarray] = {}
    for dtype in (torch.float64, torch.float32):
        model, state, periods = prepare(spec, checkpoint)
        arch = spec.architecture
        if isinstance(arch, ViTArchitecture) and dtype == torch.float64:
            model.rope_embeddings = DoubleRope(periods, arch.patch_size)
        steps = partial(convnext_steps if isinstance(arch, ConvNeXtArchitecture) else vit_steps, model)
        made: dict[str, np.ndarray] = {}
        for key, value in run_stages(model, state, steps, pixel_values, dtype, inputs or None):
            if key.startswith("inputs/"):
                made[key.removeprefix("inputs/")] = value
                yield key, value
            else:
                yield f"{value.dtype}/{key}", value
        inputs |= made
