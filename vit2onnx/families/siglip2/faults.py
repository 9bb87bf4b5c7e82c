"""What conversions of a SigLIP2 are known to get wrong, and where each fault has to be found.

Blocks are counted from zero. What is planted in one block is in the second of two, so that the first has to be found
right. Embeddings hardly show some of these faults, because they are of length one: an exact GELU or another epsilon
moves them by 1e-5 and less.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import onnx
from jaxtyping import Array

from vit2onnx.families.fault import (
    IN_PREPROCESSING,
    Amplify,
    InChain,
    InGraph,
    InModel,
    InPreprocessing,
    InRounding,
    InWeights,
    Tensors,
    attribute,
    edit,
    exchange,
    exchanged_inputs,
    flipped,
    in_parts,
    inputs_in_half_precision,
    of_class,
    of_eleven_bits,
    off,
    other_epsilon,
    transposed,
    with_other,
)
from vit2onnx.families.siglip2 import model as siglip
from vit2onnx.families.siglip2.architecture import MODELS, Architecture
from vit2onnx.families.siglip2.interface import INTERFACES, MAX_PATCHES
from vit2onnx.nn import layers
from vit2onnx.nn.model import Named
from vit2onnx.nn.naflex import places
from vit2onnx.nn.primitives import gelu, gelu_tanh, linear, pairs, residual
from vit2onnx.spec.texts import EOS, PAD

FIXED, NAFLEX = MODELS
VISION, TEXT, PAIR = "vision", "text", "pair"
EMBEDDED = "vision.patch_embed"


def shrink(arch: Architecture) -> Architecture:
    """An architecture with all that sets it apart from others, but narrow and shallow, and with small images.

    Pixels beyond the last whole patch stay, as does whether texts are of another width than images. The table of
    NaFlex stays, because it is resized.
    """
    width, text_width = 64, 64 if arch.text_dim == arch.projection_dim else 48
    small: dict[str, Any] = {"projection_dim": width}
    if arch.depth:
        small |= {"embed_dim": width, "depth": 2, "num_heads": 4, "ffn_hidden": 96}
    if arch.depth and not arch.is_naflex:
        grid = min(arch.position_grid, 5)
        rest = arch.image_size % arch.patch_size
        small |= {"position_grid": grid, "image_size": grid * arch.patch_size + rest}
    if arch.text_depth:
        small |= {"text_dim": text_width, "text_depth": 2, "text_heads": 4, "text_hidden": 80, "vocab_size": 512}
    return dataclasses.replace(arch, **small)


def rows_for_columns(table: np.ndarray) -> np.ndarray:
    return table.swapaxes(0, 1).copy()


def channels_first(weight: np.ndarray) -> np.ndarray:
    """The weight of patches whose values are ordered by channel, row and column."""
    side = math.isqrt(len(weight) // 3)
    return weight.reshape(side, side, 3, -1).transpose(2, 0, 1, 3).reshape(weight.shape)


def columns_first(weight: np.ndarray) -> np.ndarray:
    """The weight of patches whose values are ordered by column, row and channel."""
    side = math.isqrt(len(weight) // 3)
    return weight.reshape(side, side, 3, -1).swapaxes(0, 1).reshape(weight.shape)


def next_row(table: np.ndarray) -> np.ndarray:
    """As if ids were counted from one."""
    return np.roll(table, 1, axis=0)


def block_in_bfloat16(tensors: Tensors, _: Tensors) -> Tensors:
    block = {name: x for name, x in tensors.items() if name.startswith("text.blocks.1.")}
    return {name: x.astype(ml_dtypes.bfloat16).astype(np.float32) for name, x in block.items()}


def in_its_graph(fault: InChain) -> InChain:
    """Look for a fault in the graph of its stage's tower, or of both towers, unless it names a graph."""
    tower = fault.stage.partition(".")[0]
    own = tower if tower in (VISION, TEXT) else PAIR
    return fault if fault.interface in INTERFACES else dataclasses.replace(fault, interface=own)


HEAD = "vision.head."
IN_WEIGHTS = (
    InWeights("positions transposed", FIXED, EMBEDDED, edit("vision.positions", rows_for_columns)),
    InWeights("patch kernel transposed", FIXED, EMBEDDED, edit("vision.patch_embed.weight", transposed)),
    InWeights("patch kernel flipped", FIXED, EMBEDDED, edit("vision.patch_embed.weight", flipped)),
    InWeights("probe missing", FIXED, "vision.head_attn", edit(f"{HEAD}probe", np.zeros_like)),
    InWeights(
        "key and value of the head exchanged", FIXED, "vision.head_attn", exchange(f"{HEAD}attn.k.", f"{HEAD}attn.v.")
    ),
    InWeights(
        "query and key of the head exchanged", FIXED, "vision.head_attn", exchange(f"{HEAD}attn.q.", f"{HEAD}attn.k.")
    ),
    InWeights(
        "bias of the head's queries missing", FIXED, "vision.head_attn", edit(f"{HEAD}attn.q.bias", np.zeros_like)
    ),
    InWeights("a bias of the head off by 1e-3", FIXED, "vision.pooled", edit(f"{HEAD}mlp.fc2.bias", off(1e-3))),
    InWeights("norm of the head for the final norm", FIXED, "vision.norm", exchange("vision.norm.", f"{HEAD}norm.")),
    InWeights("ids counted from one", FIXED, "text.token_embed", edit("text.token_embedding", next_row)),
    InWeights(
        "positions of texts reversed", FIXED, "text.token_embed", edit("text.positions", lambda x: x[::-1].copy())
    ),
    InWeights("bias of queries missing", FIXED, "text.blocks.1.q", edit("text.blocks.1.attn.q.bias", np.zeros_like)),
    InWeights(
        "norms exchanged", FIXED, "text.blocks.1.attn_in", exchange("text.blocks.1.norm1.", "text.blocks.1.norm2.")
    ),
    InWeights("a block in bfloat16", FIXED, "text.blocks.1.attn_in", block_in_bfloat16),
    InWeights("projection without bias", FIXED, "text.pooled", edit("text.head.bias", np.zeros_like)),
    InWeights("bias of logits missing", FIXED, "logits_per_text", edit("logit_bias", np.zeros_like)),
    InWeights("bias and temperature exchanged", FIXED, "logits_per_text", exchange("logit_bias", "logit_scale")),
    InWeights("values of a patch by channel", NAFLEX, EMBEDDED, edit("vision.patch_embed.weight", channels_first)),
    InWeights("values of a patch by column", NAFLEX, EMBEDDED, edit("vision.patch_embed.weight", columns_first)),
    InWeights("table transposed", NAFLEX, EMBEDDED, edit("vision.positions", rows_for_columns)),
    InWeights("an entry of the table off by 1e-3", NAFLEX, EMBEDDED, edit("vision.positions", off(1e-3))),
)


@dataclasses.dataclass(frozen=True)
class InDouble(InModel):
    """`plant` gives a model that is off by hardly more than single precision rounds: there the stages alone show it."""

    shows_in: ClassVar[tuple[str, ...]] = ("double",)


class ExactMlp(layers.Mlp):
    """With the exact GELU."""

    def __call__(self, x: Array) -> Array:
        return self.fc2(gelu(self.fc1(x)))


class RoughMlp(layers.Mlp):
    """With a matrix product of eleven bits in single precision, as GPUs compute it by default."""

    def __call__(self, x: Array) -> Array:
        return self.fc2(gelu_tanh(linear(of_eleven_bits(x), of_eleven_bits(self.fc1.weight), self.fc1.bias)))


class FromProbe(siglip.MapHead):
    """With a residual from the probe, as in other layers with attention."""

    def stages(self, tokens: Array, mask: siglip.Mask | None) -> Named:
        found = super().stages(tokens, mask)
        return found | {"pooled": found["pooled"] + self.probe[:, 0]}


class NoResidual(siglip.MapHead):
    """With the feed-forward layer's result alone."""

    def stages(self, tokens: Array, mask: siglip.Mask | None) -> Named:
        found = super().stages(tokens, mask)
        return found | {"pooled": found["pooled"] - found["head_attn"][:, 0]}


class UnmaskedHead(siglip.MapHead):
    """With padding among the tokens that the probe attends to."""

    def attend(self, tokens: Array, mask: siglip.Mask | None) -> Array:
        return super().attend(tokens, None)


class BeforeNorm(siglip.FixedTower):
    """With a head that takes the last block's tokens, as others of its kind do."""

    def head_stages(self, x: Array, mask: siglip.Mask | None) -> Named:
        return {**super().head_stages(x, mask), **self.head.stages(x, mask)}


class AtEnd(siglip.TextTower):
    """With the embedding of the token that ends the text, as in CLIP, instead of the last."""

    def embed(self, input_ids: Array) -> tuple[Array, Any]:
        tokens, _ = super().embed(input_ids)
        ends = input_ids == EOS
        # With a mask that leaves out nothing, so that the ends come along with it.
        return tokens, siglip.Mask(ends, pairs(jnp.ones_like(ends), tokens))

    def head_stages(self, x: Array, ends: siglip.Mask) -> Named:
        tokens = self.norm(x)
        # There is one in every text.
        return {"norm": tokens, "pooled": self.head((tokens * ends.keys[:, :, None]).sum(axis=1))}


class Masked(siglip.TextTower):
    """With padding masked, as tokenizers ask for."""

    def embed(self, input_ids: Array) -> tuple[Array, Any]:
        tokens, _ = super().embed(input_ids)
        keys = input_ids != PAD
        return tokens, siglip.Mask(keys, pairs(keys, tokens))


class FirstPatches(siglip.NaFlexTower):
    """With the patches of a usual input only, as with a mask of a fixed size."""

    def embed(self, pixel_values: Array, pixel_attention_mask: Array, spatial_shapes: Array) -> tuple[Array, Any]:
        place = jax.lax.broadcasted_iota(pixel_attention_mask.dtype, pixel_attention_mask.shape, 1)
        kept = jnp.where(place < MAX_PATCHES, pixel_attention_mask, jnp.zeros_like(place))
        return super().embed(pixel_values, kept, spatial_shapes)


class ClampedScale(siglip.Model):
    """With a temperature of 100 at most, as in CLIP."""

    def joint_stages(self, interface: str, pooled: Named) -> Named:
        scale = jnp.asarray(self.logit_scale)
        clamped = jax.lax.min(scale, jnp.full_like(scale, math.log(100)))
        return of_class(siglip.Model, self, logit_scale=clamped).joint_stages(interface, pooled)


class NotExponentiated(siglip.Model):
    """With the logarithm of the temperature, as the file has it."""

    def joint_stages(self, interface: str, pooled: Named) -> Named:
        scale = jnp.log(jnp.asarray(self.logit_scale))
        return of_class(siglip.Model, self, logit_scale=scale).joint_stages(interface, pooled)


class NotQuiteOne(siglip.Model):
    """With an epsilon beneath the root, as in a norm, so that embeddings are a little shorter than one."""

    def joint_stages(self, interface: str, pooled: Named) -> Named:
        lengths = {name: jnp.square(x).sum(axis=1, keepdims=True) for name, x in pooled.items()}
        shorter = {name: x * jax.lax.rsqrt(lengths[name] + 1e-2) for name, x in pooled.items()}
        found = super().joint_stages(interface, pooled)
        return found | {"image_embeds": shorter["vision"], "text_embeds": shorter["text"]}


class NaFlexOf(siglip.NaFlexTower):
    """With positions that are found in another way."""

    def weights(self, size: Array, index: Array, entries: int) -> Array:
        """The weight [batch, tokens, entries] of each entry at some places."""
        raise NotImplementedError

    def embed(self, pixel_values: Array, pixel_attention_mask: Array, spatial_shapes: Array) -> tuple[Array, Any]:
        _, mask = super().embed(pixel_values, pixel_attention_mask, spatial_shapes)
        rows, columns, channels = self.positions.shape
        dtype = self.positions.dtype
        row, column = places(spatial_shapes, pixel_values.shape[1])
        of_rows = self.weights(spatial_shapes[:, :1].astype(dtype), row.astype(dtype), rows)
        of_columns = self.weights(spatial_shapes[:, 1:].astype(dtype), column.astype(dtype), columns)
        weights = of_rows[:, :, :, None] * of_columns[:, :, None, :]
        flat = weights.reshape(*weights.shape[:2], rows * columns)
        positions = linear(flat, self.positions.reshape(rows * columns, channels), None)
        return residual(self.patch_embed(pixel_values), positions), mask


def triangle(place: Array, entries: int) -> Array:
    """The weights of the two entries on either side of a place [batch, tokens], which is cut to the table."""
    place = jnp.clip(place, 0, entries - 1)[:, :, None]
    apart = jnp.abs(place - np.arange(entries).astype(place.dtype))
    return jax.lax.max(1 - apart, jnp.zeros_like(apart))


class NotAntialiased(NaFlexOf):
    """Resized without antialiasing, which only shows where the table shrinks."""

    def weights(self, size: Array, index: Array, entries: int) -> Array:
        return triangle((index + 0.5) * entries / size - 0.5, entries)


class CornersAligned(NaFlexOf):
    """With the first and the last place at the first and the last entry."""

    def weights(self, size: Array, index: Array, entries: int) -> Array:
        return triangle(index * (entries - 1) / jax.lax.max(size - 1, jnp.ones_like(size)), entries)


class FromCorner(NaFlexOf):
    """With places at the corners of patches instead of their centres."""

    def weights(self, size: Array, index: Array, entries: int) -> Array:
        return triangle(index * entries / size, entries)


class ExchangedShapes(siglip.NaFlexTower):
    """With columns and rows instead of rows and columns."""

    def embed(self, pixel_values: Array, pixel_attention_mask: Array, spatial_shapes: Array) -> tuple[Array, Any]:
        return super().embed(pixel_values, pixel_attention_mask, spatial_shapes[:, ::-1])


class NotMasked(siglip.NaFlexTower):
    """With padding attended to."""

    def embed(self, pixel_values: Array, pixel_attention_mask: Array, spatial_shapes: Array) -> tuple[Array, Any]:
        return super().embed(pixel_values, jnp.ones_like(pixel_attention_mask), spatial_shapes)


def mlps_of(tower: str) -> Callable[[Any], list[Any]]:
    """The feed-forward layers of all blocks of a tower."""
    return lambda model: [block.mlp for block in getattr(model, tower).blocks]


def exact(mlp: layers.Mlp) -> Any:
    return of_class(ExactMlp, mlp)


def of_tower(name: str, kind: type) -> Callable[[Any], Any]:
    """With a tower of another kind."""
    return in_parts(lambda model: [getattr(model, name)], lambda tower: of_class(kind, tower))


def of_head(kind: type) -> Callable[[Any], Any]:
    """With a head of another kind."""
    return in_parts(lambda model: [model.vision.head], lambda head: of_class(kind, head))


IN_MODEL = (
    InModel("exact GELU", FIXED, "vision.blocks.0.mlp_raw", in_parts(mlps_of("vision"), exact)),
    InModel("exact GELU", FIXED, "text.blocks.0.mlp_raw", in_parts(mlps_of("text"), exact)),
    InModel("exact GELU in the head only", FIXED, "vision.pooled", in_parts(lambda m: [m.vision.head.mlp], exact)),
    InModel(
        "epsilon 1e-5 in the final norm only", FIXED, "vision.norm", in_parts(lambda m: [m.vision.norm], other_epsilon)
    ),
    InModel(
        "epsilon 1e-5 in the final norm only", FIXED, "text.norm", in_parts(lambda m: [m.text.norm], other_epsilon)
    ),
    InDouble(
        "epsilon 1e-5 in the head only", FIXED, "vision.pooled", in_parts(lambda m: [m.vision.head.norm], other_epsilon)
    ),
    InRounding(
        "a matrix product in TF32",
        FIXED,
        "text.blocks.1.mlp_raw",
        in_parts(lambda m: [m.text.blocks[1].mlp], lambda mlp: of_class(RoughMlp, mlp)),
    ),
    InModel("residual from the probe", FIXED, "vision.pooled", of_head(FromProbe)),
    InModel("no residual in the head", FIXED, "vision.pooled", of_head(NoResidual)),
    InModel("head before the final norm", FIXED, "vision.head_attn", of_tower("vision", BeforeNorm)),
    InModel("embedding of the end of a text", FIXED, "text.pooled", of_tower("text", AtEnd)),
    InModel("padding of texts masked", FIXED, "text.blocks.0.attn_raw", of_tower("text", Masked)),
    InModel("temperature clamped at 100", FIXED, "logits_per_text", lambda m: of_class(ClampedScale, m)),
    InModel("temperature not exponentiated", FIXED, "logits_per_text", lambda m: of_class(NotExponentiated, m)),
    InModel("an epsilon in the length of embeddings", FIXED, "image_embeds", lambda m: of_class(NotQuiteOne, m)),
    InModel("not antialiased", NAFLEX, EMBEDDED, of_tower("vision", NotAntialiased)),
    InModel("corners aligned", NAFLEX, EMBEDDED, of_tower("vision", CornersAligned)),
    InModel("places at corners", NAFLEX, EMBEDDED, of_tower("vision", FromCorner)),
    InModel("columns and rows exchanged", NAFLEX, EMBEDDED, of_tower("vision", ExchangedShapes)),
    InModel(
        "the first 256 patches only",
        NAFLEX,
        "vision.blocks.0.attn_raw",
        of_tower("vision", FirstPatches),
        interface=PAIR,
    ),
    InModel("mask ignored", NAFLEX, "vision.blocks.0.attn_raw", of_tower("vision", NotMasked)),
    InModel("mask ignored in the head only", NAFLEX, "vision.head_attn", of_head(UnmaskedHead)),
)


def without_mask(_: onnx.GraphProto, node: onnx.NodeProto) -> None:
    """Attention to all tokens."""
    del node.input[3:]


def passed_through(_: onnx.GraphProto, node: onnx.NodeProto) -> None:
    """The node returns its input."""
    node.op_type = "Identity"


IN_GRAPH = (
    InGraph("exact GELU in the head only", FIXED, "vision.pooled", "Gelu", 2, attribute("approximate", "none")),
    InGraph(
        "epsilon 1e-3 in the final norm", FIXED, "vision.norm", "LayerNormalization", 4, attribute("epsilon", 1e-3)
    ),
    InGraph("key and value of the head exchanged", FIXED, "vision.head_attn", "Attention", 2, exchanged_inputs(1, 2)),
    InGraph("causal attention", FIXED, "text.blocks.1.attn_raw", "Attention", 1, attribute("is_causal", 1)),
    InGraph("another scale of attention", FIXED, "text.blocks.1.attn_raw", "Attention", 1, attribute("scale", 0.2)),
    InGraph("a matrix product in TF32", FIXED, "text.blocks.1.mlp_raw", "MatMul", 10, inputs_in_half_precision),
    InGraph("embeddings divided by the square of their length", FIXED, "image_embeds", "Sqrt", 0, passed_through),
    InGraph("mask ignored", NAFLEX, "vision.blocks.1.attn_raw", "Attention", 1, without_mask),
    InGraph("mask ignored in the head only", NAFLEX, "vision.head_attn", "Attention", 2, without_mask),
)

# Those that have to do with other constants than the releases'.
CONSTANTS = ("mean and deviation of one half", "a mean off by 1e-3", "a deviation off by 1e-3")
PREPROCESSING = (
    *(fault for fault in IN_PREPROCESSING if fault.name not in CONSTANTS),
    InPreprocessing(
        "mean and deviation of ImageNet", with_other(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    ),
    InPreprocessing("a mean off by 1e-3", with_other(mean=(0.5, 0.501, 0.5))),
    InPreprocessing("a deviation off by 1e-3", with_other(std=(0.5, 0.5, 0.501))),
)

AMPLIFIED: Mapping[str, Amplify] = {}
PLANTED: tuple[InChain, ...] = (*IN_WEIGHTS, *IN_MODEL, *IN_GRAPH)
FAULTS = tuple(map(in_its_graph, PLANTED))
