"""What conversions of a DINOv3 ViT are known to get wrong, and where each fault has to be found.

Blocks are counted from zero. What is planted in one block is in the second of two, so that the first has to be found
right.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import ml_dtypes
import numpy as np
import torch
from jaxtyping import Array

from vit2onnx.families.dinov3_vit import model as vit
from vit2onnx.families.dinov3_vit.architecture import MODELS, Architecture
from vit2onnx.families.fault import (
    IN_PREPROCESSING,
    Amplify,
    InChain,
    InGraph,
    InModel,
    InPackedGraph,
    InRounding,
    InWeights,
    RoughMlp,
    TanhMlp,
    Tensors,
    attribute,
    edit,
    exchange,
    exchanged_inputs,
    flipped,
    in_loop,
    in_packs,
    in_parts,
    inputs_in_half_precision,
    of_class,
    off,
    other_epsilon,
    transposed,
)
from vit2onnx.nn import layers
from vit2onnx.nn.primitives import linear, rotary_embedding
from vit2onnx.nn.rope import rope_periods
from vit2onnx.nn.transformer import Block

VIT, SWIGLU, UNBIASED, SHARP, SHARPER, OUTLIERS = MODELS


def shrink(arch: Architecture) -> Architecture:
    """An architecture with all that sets it apart from others, but narrow and shallow."""
    return dataclasses.replace(arch, embed_dim=2 * arch.head_dim, depth=2, num_heads=2, ffn_hidden=96)


def sharpened(tensors: Mapping[str, torch.Tensor], factor: float) -> None:
    """Multiply the weights of all queries and keys, so that attention is sharp."""
    for name, weight in tensors.items():
        if name.endswith("attn.qkv.weight"):
            weight[: 2 * len(weight) // 3] *= factor


def with_outliers(tensors: Mapping[str, torch.Tensor], factor: float) -> None:
    """Multiply two channels of every norm, so that they stand out in all that is computed from it."""
    for name, parameter in tensors.items():
        if "norm" in name:
            parameter[[3, 50]] *= factor


# The weights of these amplify rounding, as training may make them: by sharp attention, or by channels that stand out.
AMPLIFIED: Mapping[str, Amplify] = {
    SHARP: partial(sharpened, factor=4.0),
    SHARPER: partial(sharpened, factor=8.0),
    OUTLIERS: partial(with_outliers, factor=30.0),
}


def in_place_of(q: str, k: str, v: str) -> Callable[[Tensors, Tensors], Tensors]:
    """Queries, keys and values in another order. Keys have no bias, so that others lose theirs to them."""

    def plant(tensors: Tensors, _: Tensors) -> Tensors:
        changed = {}
        for target, source in (("q", q), ("k", k), ("v", v)):
            for leaf in ("weight", "bias"):
                if (name := f"blocks.1.attn.{target}.{leaf}") in tensors:
                    changed[name] = tensors.get(f"blocks.1.attn.{source}.{leaf}", np.zeros_like(tensors[name]))
        return changed

    return plant


def heads_transposed(weight: np.ndarray) -> np.ndarray:
    """The rows of the projection by channel and head instead of by head and channel; there are two heads."""
    return weight.reshape(2, -1, weight.shape[1]).swapaxes(0, 1).reshape(weight.shape)


def cls_for_register(tensors: Tensors, _: Tensors) -> Tensors:
    registers = tensors["register_tokens"].copy()
    registers[:, :1] = tensors["cls_token"]
    return {"cls_token": tensors["register_tokens"][:, :1], "register_tokens": registers}


def duplicated_block(tensors: Tensors, _: Tensors) -> Tensors:
    first = "blocks.0."
    return {name.replace(first, "blocks.1."): x for name, x in tensors.items() if name.startswith(first)}


def block_in_bfloat16(tensors: Tensors, _: Tensors) -> Tensors:
    block = {name: x for name, x in tensors.items() if name.startswith("blocks.1.")}
    return {name: x.astype(ml_dtypes.bfloat16).astype(np.float32) for name, x in block.items()}


IN_WEIGHTS = (
    InWeights("w1 and w2 exchanged", SWIGLU, "blocks.1.mlp_raw", exchange("blocks.1.mlp.w1.", "blocks.1.mlp.w2.")),
    InWeights("query and key exchanged", VIT, "blocks.1.q", in_place_of("k", "q", "v")),
    InWeights("key and value exchanged", VIT, "blocks.1.k", in_place_of("q", "v", "k")),
    InWeights("query and value exchanged", UNBIASED, "blocks.1.q", in_place_of("v", "k", "q")),
    InWeights("bias of queries missing", VIT, "blocks.1.q", edit("blocks.1.attn.q.bias", np.zeros_like)),
    InWeights("bias of values missing", VIT, "blocks.1.attn_raw", edit("blocks.1.attn.v.bias", np.zeros_like)),
    InWeights("heads transposed", VIT, "blocks.1.attn_raw", edit("blocks.1.attn.proj.weight", heads_transposed)),
    InWeights("LayerScale skipped", VIT, "blocks.1.attn_scaled", edit("blocks.1.ls1.gamma", np.ones_like)),
    InWeights("LayerScales exchanged", VIT, "blocks.1.attn_scaled", exchange("blocks.1.ls1.", "blocks.1.ls2.")),
    InWeights("norms exchanged", VIT, "blocks.1.attn_in", exchange("blocks.1.norm1.", "blocks.1.norm2.")),
    InWeights("block duplicated", VIT, "blocks.1.attn_in", duplicated_block),
    InWeights("CLS and a register exchanged", VIT, "patch_embed", cls_for_register),
    InWeights("registers exchanged", VIT, "patch_embed", edit("register_tokens", lambda x: x[:, [1, 0, 2, 3]])),
    InWeights("patch kernel flipped", VIT, "patch_embed", edit("patch_embed.weight", flipped)),
    InWeights("patch kernel transposed", VIT, "patch_embed", edit("patch_embed.weight", transposed)),
    InWeights(
        "colours of the kernel reversed", VIT, "patch_embed", edit("patch_embed.weight", lambda x: x[:, ::-1].copy())
    ),
    InWeights(
        "RoPE periods in float32",
        VIT,
        "blocks.0.q",
        edit("rope_periods", lambda x: rope_periods(len(x), "float32")),
    ),
    InWeights("RoPE periods reversed", VIT, "blocks.0.q", edit("rope_periods", lambda x: x[::-1].copy())),
    InWeights("a bias off by 1e-3", VIT, "blocks.1.mlp_raw", edit("blocks.1.mlp.fc2.bias", off(1e-3))),
    InWeights("a hidden bias off by 1e-3", VIT, "blocks.1.mlp_raw", edit("blocks.1.mlp.fc1.bias", off(1e-3))),
    InWeights("an attention bias off by 1e-3", VIT, "blocks.1.attn_raw", edit("blocks.1.attn.proj.bias", off(1e-3))),
    InWeights("a weight off by 1e-3", SWIGLU, "blocks.1.mlp_raw", edit("blocks.1.mlp.w3.weight", off(1e-3))),
    InWeights(
        "a matrix in half precision",
        VIT,
        "blocks.1.mlp_raw",
        edit("blocks.1.mlp.fc1.weight", lambda x: x.astype(np.float16).astype(np.float32)),
    ),
    InWeights("a block in bfloat16", VIT, "blocks.1.attn_in", block_in_bfloat16),
    InWeights("gain of the final norm missing", VIT, "norm", edit("norm.weight", np.ones_like)),
    InWeights("bias of the final norm missing", VIT, "norm", edit("norm.bias", np.zeros_like)),
)


class InterleavedAttention(vit.Attention):
    """Rotates neighbouring channels, as RoPE was published first, instead of the halves of a head."""

    def project(self, x: Array, context: Any) -> tuple[Array, Array, Array]:
        heads = np.arange(x.shape[-1]).reshape(self.num_heads, -1, 2)
        halves = np.concatenate([heads[:, :, 0], heads[:, :, 1]], axis=1).reshape(-1)
        back = np.argsort(halves)

        def rotate(x: Array) -> Array:
            return rotary_embedding(x[..., halves], *context.rope, num_heads=self.num_heads)[..., back]

        return rotate(self.q(x)), rotate(self.k(x)), self.v(x)


class BiasedKeys(vit.Attention):
    """With a bias of keys, as in checkpoints whose mask is not applied."""

    def project(self, x: Array, context: Any) -> tuple[Array, Array, Array]:
        query, _, value = super().project(x, context)
        biased = linear(x, self.k.weight, self.q.bias)
        return query, rotary_embedding(biased, *context.rope, num_heads=self.num_heads), value


class UnscaledAttention(vit.Attention):
    """Without the division of the logits by the root of a head's width."""

    def mix(self, query: Array, key: Array, value: Array, context: Any) -> Array:
        root = (query.shape[-1] // self.num_heads) ** 0.5
        return super().mix(query * root, key, value, context)


class ParallelBlock(Block):
    """With the second residual taken from the block's input."""

    def stages(self, x: Array, context: Any) -> dict[str, Array]:
        found = super().stages(x, context)
        return found | {"output": x + found["mlp_scaled"]}


class ExchangedAxes(vit.Model):
    """With columns where RoPE has rows, and rows where it has columns."""

    def embed(self, pixel_values: Array) -> tuple[Array, Any]:
        tokens, context = super().embed(pixel_values)
        half = context.rope[0].shape[-1] // 2
        rope = tuple(jax.lax.concatenate([x[..., half:], x[..., :half]], 2) for x in context.rope)
        return tokens, context._replace(rope=rope)


class RotatedPrefix(vit.Model):
    """With CLS and registers rotated as the first patch is."""

    def embed(self, pixel_values: Array) -> tuple[Array, Any]:
        tokens, context = super().embed(pixel_values)
        num_prefix = sum(prefix.shape[1] for prefix in self.prefix)
        first = [[x[:, num_prefix : num_prefix + 1]] * num_prefix for x in context.rope]
        rope = tuple(
            jax.lax.concatenate([*prefix, x[:, num_prefix:]], 1) for prefix, x in zip(first, context.rope, strict=True)
        )
        return tokens, context._replace(rope=rope)


class NoFinalNorm(vit.Model):
    """With the tokens of the last block as features."""

    def head_stages(self, tokens: Array, _: Any) -> dict[str, Array]:
        return {"norm": tokens + 0 * self.norm(tokens)}


class ColumnByColumn(layers.PatchEmbed):
    """With patches in the order of columns."""

    def __call__(self, pixel_values: Array) -> Array:
        patches = super().__call__(pixel_values)
        return patches.swapaxes(1, 2).reshape(patches.shape)


IN_MODEL = (
    InModel(
        "tanh GELU",
        VIT,
        "blocks.0.mlp_raw",
        in_parts(lambda m: [b.mlp for b in m.blocks], lambda m: of_class(TanhMlp, m)),
    ),
    InRounding(
        "a matrix product in TF32",
        VIT,
        "blocks.1.mlp_raw",
        in_parts(lambda m: [m.blocks[1].mlp], lambda m: of_class(RoughMlp, m)),
    ),
    InModel("epsilon 1e-6", VIT, "blocks.0.attn_in", in_parts(lambda m: [b.norm1 for b in m.blocks], other_epsilon)),
    InModel(
        "rotation interleaved",
        VIT,
        "blocks.0.q",
        in_parts(lambda m: [b.attn for b in m.blocks], lambda m: of_class(InterleavedAttention, m)),
    ),
    InModel(
        "key bias not masked",
        VIT,
        "blocks.1.k",
        in_parts(lambda m: [m.blocks[1].attn], lambda m: of_class(BiasedKeys, m)),
    ),
    InModel(
        "attention not scaled",
        VIT,
        "blocks.0.attn_raw",
        in_parts(lambda m: [b.attn for b in m.blocks], lambda m: of_class(UnscaledAttention, m)),
    ),
    InModel(
        "residual of the block's input",
        VIT,
        "blocks.0.output",
        in_parts(lambda m: list(m.blocks), lambda m: of_class(ParallelBlock, m)),
    ),
    InModel("rows and columns exchanged in RoPE", VIT, "blocks.0.q", lambda m: of_class(ExchangedAxes, m)),
    InModel("prefix tokens rotated", VIT, "blocks.0.q", lambda m: of_class(RotatedPrefix, m)),
    InModel("final norm missing", VIT, "norm", lambda m: of_class(NoFinalNorm, m)),
    InModel(
        "patches column by column",
        VIT,
        "patch_embed",
        in_parts(lambda m: [m.patch_embed], lambda m: of_class(ColumnByColumn, m)),
    ),
)

IN_GRAPH = (
    InGraph("tanh GELU", VIT, "blocks.1.mlp_raw", "Gelu", 1, attribute("approximate", "tanh")),
    InGraph("epsilon 1e-3", VIT, "blocks.1.mlp_in", "LayerNormalization", 3, attribute("epsilon", 1e-3)),
    InGraph("rotation interleaved", VIT, "blocks.1.k", "RotaryEmbedding", 3, attribute("interleaved", 1)),
    InGraph("another scale of attention", VIT, "blocks.1.attn_raw", "Attention", 1, attribute("scale", 0.2)),
    InGraph("causal attention", VIT, "blocks.1.attn_raw", "Attention", 1, attribute("is_causal", 1)),
    InGraph(
        "gain and bias of a norm exchanged", VIT, "blocks.1.mlp_in", "LayerNormalization", 3, exchanged_inputs(1, 2)
    ),
    InGraph("query and key exchanged", VIT, "blocks.1.attn_raw", "Attention", 1, exchanged_inputs(0, 1)),
    InGraph("a matrix product in TF32", VIT, "blocks.1.mlp_raw", "MatMul", 10, inputs_in_half_precision),
)

IN_PACKS = (
    *in_packs(VIT, vit.Attention, "patch_embed", "blocks.0.q"),
    InPackedGraph("prefix tokens rotated", VIT, "blocks.0.q", "Pad", 0, attribute("mode", "edge")),
    InPackedGraph(
        "another scale of packed attention",
        VIT,
        "blocks.1.attn_raw",
        "Loop",
        1,
        in_loop("Attention", attribute("scale", 0.2)),
    ),
)

# The same once more where rounding is amplified, and floors are high.
IN_SHARP_GRAPH = tuple(dataclasses.replace(fault, model=SHARP) for fault in IN_GRAPH)

FAULTS: tuple[InChain, ...] = (*IN_WEIGHTS, *IN_MODEL, *IN_GRAPH, *IN_SHARP_GRAPH, *IN_PACKS)

PREPROCESSING = IN_PREPROCESSING
