"""SigLIP2 in PyTorch, as Hugging Face wrote it; code and names are not ours.

Its publisher's code is written in JAX and is not run here. With NaFlex, this module resizes the table of positions
instead of transformers, which casts it to single precision, and which on a CPU gets it wrong for grids of one column:
there PyTorch gives every row the first row's position. In single precision and on all other grids, the numbers are
transformers' own.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    Siglip2Config,
    Siglip2Model,
    Siglip2VisionConfig,
    Siglip2VisionModel,
    SiglipConfig,
    SiglipModel,
    SiglipTextConfig,
    SiglipTextModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from transformers.masking_utils import create_bidirectional_mask

from vit2onnx.families.reference import HIDDEN, Reader, Reference, Step, Tap, check_names, reader, renamed
from vit2onnx.families.siglip2.architecture import Architecture
from vit2onnx.families.siglip2.package import towers
from vit2onnx.families.siglip2.preparation import preparations, published_constants, whole_inputs
from vit2onnx.families.siglip2.tokenization import compare_texts
from vit2onnx.spec.variant import VariantSpec
from vit2onnx.weights.keytable import LazyTensor

__all__ = ["REFERENCES", "compare_texts", "from_transformers", "preparations", "published_constants", "whole_inputs"]

POOLED = "pooler_output"
VISION, TEXT = "vision_model.", "text_model."
# Numbers from zero on, which older files of Hugging Face hold, and models make by themselves.
NOT_A_WEIGHT = r"(^|\.)position_ids$"

# From the publisher's names to those of transformers 5; the first pattern is a name that only this layout has. Written
# apart from the key tables in layouts.py, because a reference that is filled through the table under test would repeat
# its mistakes.
BIG_VISION = (
    (r"^params/", ""),
    (r"^t$", "logit_scale"),
    (r"^b$", "logit_bias"),
    (r"^img/embedding/", f"{VISION}embeddings.patch_embedding."),
    (r"^img/pos_embedding$", f"{VISION}embeddings.position_embedding.weight"),
    (r"^img/Transformer/encoder_norm/", f"{VISION}post_layernorm."),
    (r"^img/Transformer/", VISION),
    (r"^img/MAPHead_0/MultiHeadDotProductAttention_0/out/", f"{VISION}head.attention.out_proj."),
    (r"^img/MAPHead_0/MultiHeadDotProductAttention_0/", f"{VISION}head.attention."),
    (r"^img/MAPHead_0/LayerNorm_0/", f"{VISION}head.layernorm."),
    (r"^img/MAPHead_0/", f"{VISION}head."),
    (r"^txt/Embed_0/embedding$", f"{TEXT}embeddings.token_embedding.weight"),
    (r"^txt/pos_embedding$", f"{TEXT}embeddings.position_embedding.weight"),
    (r"^txt/Encoder_0/encoder_norm/", f"{TEXT}final_layer_norm."),
    (r"^txt/Encoder_0/", TEXT),
    (r"^txt/head/", f"{TEXT}head."),
    (r"encoderblock_(\d+)/", r"encoder.layers.\1."),
    (r"LayerNorm_0/", "layer_norm1."),
    (r"LayerNorm_1/", "layer_norm2."),
    (r"MultiHeadDotProductAttention_0/(query|key|value|out)/", r"self_attn.\1_proj."),
    (r"\.(q|k|v)(uery|ey|alue)_proj\.", r".\1_proj."),
    (r"MlpBlock_0/Dense_0/", "mlp.fc1."),
    (r"MlpBlock_0/Dense_1/", "mlp.fc2."),
    (r"\.(kernel|scale)$", ".weight"),
)
# Names in Hugging Face's files are those of its models.
RENAMES = ((r"^params/", BIG_VISION),)
# Queries, keys and values of the head, which transformers holds as one layer.
HEAD = rf"^{VISION}head\.attention\.(query|key|value)/(weight|bias|kernel)$"


def to_transformers(arch: Architecture, tensors: Mapping[str, LazyTensor]) -> dict[str, Reader]:
    """A checkpoint's tensors under the names of transformers 5's model of an architecture."""
    weights = {key: tensor for key, tensor in tensors.items() if not re.search(NOT_A_WEIGHT, key)}
    names = renamed(weights, RENAMES)
    is_flax = any(key.startswith("params/") for key in weights)
    state: dict[str, Reader] = {}
    fused: dict[str, dict[str, Reader]] = {}
    for key, name in names.items():
        read = _of_flax(name, weights[key]) if is_flax else reader(weights[key])
        if found := re.match(HEAD, name):
            leaf = "bias" if found[2] == "bias" else "weight"
            fused.setdefault(leaf, {})[found[1]] = read
        else:
            state[name] = read
    for leaf, parts in fused.items():
        # If one is missing, so is the whole, which is said by name.
        if len(parts) == 3:
            state[f"{VISION}head.attention.in_proj_{leaf}"] = partial(_joined, parts)
    if arch.depth and arch.text_depth:
        return state
    # A model of one tower has no name before its own.
    return {name.removeprefix(VISION).removeprefix(TEXT): read for name, read in state.items()}


def _of_flax(name: str, tensor: LazyTensor) -> Reader:
    """A reader of a tensor as PyTorch lays it out: matrices as [out, in], with the heads side by side."""
    read = reader(tensor)

    def turned() -> torch.Tensor:
        value = read()
        if name.endswith("probe") or name.startswith("logit_"):
            return value
        if name.endswith(("position_embedding.weight", "token_embedding.weight")):
            return value.reshape(-1, value.shape[-1])
        if name.endswith(("bias", "norm.weight", "layer_norm1.weight", "layer_norm2.weight")):
            return value.reshape(-1)
        if value.ndim == 4:
            return value.permute(3, 2, 0, 1).contiguous()
        # Heads are the last two axes of what goes into attention, and the first two of what comes out of it.
        matrix = value.flatten(0, 1) if "out_proj" in name else value.flatten(1)
        return matrix.T.contiguous()

    return turned


def _joined(parts: Mapping[str, Reader]) -> torch.Tensor:
    return torch.cat([parts[name]() for name in ("query", "key", "value")])


def transformers_model(arch: Architecture) -> nn.Module:
    """Transformers' model, or one of its towers, without memory for its weights."""
    vision, text = ({**tower, "attn_implementation": "sdpa"} for tower in towers(arch))
    with torch.device("meta"):
        if not arch.text_depth:
            if arch.is_naflex:
                return Siglip2VisionModel(Siglip2VisionConfig(**vision)).eval()
            return SiglipVisionModel(SiglipVisionConfig(**vision)).eval()
        if not arch.depth:
            return SiglipTextModel(SiglipTextConfig(**text)).eval()
        both: dict[str, Any] = {"text_config": text, "vision_config": vision, "attn_implementation": "sdpa"}
        if arch.is_naflex:
            return Siglip2Model(Siglip2Config(**both)).eval()
        return SiglipModel(SiglipConfig(**both)).eval()


def number_positions(model: nn.Module) -> None:
    """Give a model the numbers of its positions, which are in no checkpoint.

    A model without memory holds none, and transformers runs all the same and gives nonsense.
    """
    for module in model.modules():
        if "position_ids" in dict(module.named_buffers(recurse=False)):
            module.position_ids = torch.arange(module.position_ids.shape[-1])[None]


def resized(table: torch.Tensor, spatial_shapes: torch.Tensor, max_length: int) -> torch.Tensor:
    """The positions [batch, max_length, channels] of a table [rows, columns, channels], in its own dtype."""
    square, found = table.permute(2, 0, 1)[None], []
    for rows, columns in spatial_shapes.tolist():
        # PARITY: a grid of one column as one row. PyTorch 2.13, antialiased on a CPU, makes all rows of it the first.
        grid = _interpolated(square.mT, columns, rows).mT if columns == 1 else _interpolated(square, rows, columns)
        positions = grid[0].flatten(1).T
        found.append(torch.cat([positions, positions[:1].expand(max_length - len(positions), -1)]))
    return torch.stack(found)


def _interpolated(square: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    how: dict[str, Any] = {"mode": "bilinear", "align_corners": False, "antialias": True}
    return nn.functional.interpolate(square, (rows, columns), **how)


def towers_of(model: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """The image tower and the text tower of a model, each with the path before its modules."""
    if hasattr(model, "logit_scale"):
        return {"vision": (model.vision_model, VISION), "text": (model.text_model, TEXT)}
    return {"text" if hasattr(model, "final_layer_norm") else "vision": (model, "")}


def _layers(name: str, tower: nn.Module, before: str, mask: torch.Tensor | None) -> list[Step]:
    steps = []
    for index, layer in enumerate(tower.encoder.layers):
        taps = {
            "input": Tap(is_input=True),
            "attn_in": Tap(layer.layer_norm1),
            "q": None,
            "k": None,
            "attn_raw": Tap(layer.self_attn),
            "post_attn": Tap(layer.layer_norm2, is_input=True),
            "mlp_in": Tap(layer.layer_norm2),
            "mlp_raw": Tap(layer.mlp),
            "output": Tap(),
        }
        run = partial(layer, attention_mask=mask)
        steps.append(Step.of_layer(f"{before}encoder.layers.{index}", run, f"{name}.blocks.{index}", taps, axis=-1))
    return steps


def vision_steps(
    tower: nn.Module, before: str, inputs: Mapping[str, torch.Tensor], ports: Sequence[str] = (HIDDEN, POOLED)
) -> list[Step]:
    """The image tower step by step; its modules are at the path `before`, and its last two results at the `ports`."""
    takes: tuple[str, ...] = ("pixel_values",)
    mask, head = None, tower.head
    if "spatial_shapes" in inputs:
        takes += ("spatial_shapes",)
        of_patches = inputs["pixel_attention_mask"]
        mask = create_bidirectional_mask(tower.config, inputs["pixel_values"], of_patches)
        head = partial(head, attention_mask=of_patches)
    embedded = {"vision.patch_embed": Tap()}
    pooled = {"vision.head_attn": Tap(tower.head.attention), "vision.pooled": Tap()}
    return [
        Step((f"{before}embeddings",), tower.embeddings, "vision.patch_embed", embedded, takes=takes),
        *_layers("vision", tower, before, mask),
        Step((f"{before}post_layernorm",), tower.post_layernorm, "vision.norm", {"vision.norm": Tap()}, port=ports[0]),
        Step((f"{before}head",), head, "vision.head", pooled, port=ports[1], takes=("vision.norm",)),
    ]


def text_steps(tower: nn.Module, before: str, ports: Sequence[str] = (HIDDEN, POOLED)) -> list[Step]:
    """The text tower step by step; see `vision_steps`."""

    def head(tokens: torch.Tensor) -> torch.Tensor:
        pooled: torch.Tensor = tower.head(tokens[:, -1])
        return pooled

    embedded = {"text.token_embed": Tap()}
    return [
        Step((f"{before}embeddings",), tower.embeddings, "text.token_embed", embedded, takes=("input_ids",)),
        *_layers("text", tower, before, None),
        Step((f"{before}final_layer_norm",), tower.final_layer_norm, "text.norm", {"text.norm": Tap()}, port=ports[0]),
        Step((f"{before}head",), head, "text.head", {"text.pooled": Tap()}, port=ports[1], takes=("text.norm",)),
    ]


def joint_steps(model: nn.Module) -> list[Step]:
    """Embeddings of length one, and how well each text fits each image, as transformers computes them."""

    def normed(x: torch.Tensor) -> torch.Tensor:
        return x / x.norm(p=2, dim=-1, keepdim=True)

    def logits(images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        return torch.matmul(texts, images.t()) * model.logit_scale.exp() + model.logit_bias

    def step(name: str, run: Callable[..., torch.Tensor], stage: str, takes: tuple[str, ...], port: str) -> Step:
        paths = ("logit_scale", "logit_bias") if name == "joint" else ()
        return Step(paths, run, name, {stage: Tap()}, port=port, takes=takes)

    per_text, per_image = "logits_per_text", "logits_per_image"
    return [
        step("joint.vision", normed, "image_embeds", ("vision.head",), "image_embeds"),
        step("joint.text", normed, "text_embeds", ("text.head",), "text_embeds"),
        step("joint", logits, per_text, ("joint.vision", "joint.text"), per_text),
        # No output of its own, because it is the transpose of another.
        step("joint.transposed", torch.t, per_image, ("joint",), ""),
    ]


def transformers_steps(model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> Sequence[Step]:
    """The towers for which there are inputs, step by step, and what follows on both."""
    towers, is_pair = towers_of(model), {"pixel_values", "input_ids"} <= inputs.keys()
    ports = ("", "") if is_pair else (HIDDEN, POOLED)
    steps: list[Step] = []
    if "pixel_values" in inputs:
        steps += vision_steps(*towers["vision"], inputs, ports)
    if "input_ids" in inputs:
        steps += text_steps(*towers["text"], ports)
    return [*steps, *(joint_steps(model) if is_pair else [])]


def _reference(arch: Architecture, model: nn.Module, state: Mapping[str, Reader]) -> Reference:
    number_positions(model)
    if arch.is_naflex:
        towers_of(model)["vision"][0].embeddings.resize_positional_embeddings = resized
    return Reference(model, state, partial(transformers_steps, model))


def transformers(spec: VariantSpec, name: str, tensors: Mapping[str, LazyTensor], _: Path | None) -> Reference:
    """Hugging Face's model of a variant."""
    arch: Architecture = spec.architecture  # type: ignore[assignment]
    state, model = to_transformers(arch, tensors), transformers_model(arch)
    check_names(f"{name} does not fit transformers' model of {spec.name}", model, state)
    return _reference(arch, model, state)


def from_transformers(spec: VariantSpec, model: nn.Module, state: Mapping[str, Reader]) -> Reference:
    """A model that transformers has built and filled by itself."""
    arch: Architecture = spec.architecture  # type: ignore[assignment]
    return _reference(arch, model, state)


def kornia(spec: VariantSpec, name: str, tensors: Mapping[str, LazyTensor], _: Path | None) -> Reference:
    """Kornia's model of a variant. Raises `InputError` if kornia is not installed or has no such model."""
    # Here, because only this reference needs kornia.
    from vit2onnx.families.siglip2.kornia_reference import kornia_reference

    return kornia_reference(spec, name, tensors)


REFERENCES = {"transformers": transformers, "kornia": kornia}
