"""What conversions of a DINOv2 are known to get wrong, and where each fault has to be found.

Blocks are counted from zero. What is planted in one block is in the second of two, so that the first has to be found
right. Positions show in the tokens that enter the first block.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from vit2onnx.families.dinov2.architecture import MODELS, Architecture
from vit2onnx.families.dinov2.model import Model
from vit2onnx.families.fault import (
    Amplify,
    InChain,
    InGraph,
    InModel,
    InPack,
    InPreprocessing,
    InWeights,
    TanhMlp,
    Tensors,
    attribute,
    edit,
    exchange,
    in_packs,
    in_parts,
    of_class,
    off,
    other_epsilon,
    with_other,
)
from vit2onnx.images import preprocess
from vit2onnx.nn.positions import CUBIC, Positions, cubic, distances, resized
from vit2onnx.nn.transformer import Attention

DINOV2, WITH_REGISTERS = MODELS
EMBEDDED = "patch_embed"


def shrink(arch: Architecture) -> Architecture:
    """An architecture with all that sets it apart from others, but narrow and shallow, and with a small table.

    A small photograph then has places at the edges of the table, beyond which the kernel reaches.
    """
    # Transformers takes the width of a feed-forward layer as a whole multiple of a token's.
    width = 2 * arch.head_dim
    hidden = 2 * width if arch.ffn == "swiglu" else width
    return dataclasses.replace(arch, embed_dim=width, depth=2, num_heads=2, ffn_hidden=hidden, position_grid=8)


def position_of_cls(file: Tensors) -> np.ndarray:
    """The first position of a file, which is part of the CLS token."""
    return file["pos_embed"][:, :1]


def position_twice(tensors: Tensors, file: Tensors) -> Tensors:
    return {"cls_token": tensors["cls_token"] + position_of_cls(file)}


def position_never(tensors: Tensors, file: Tensors) -> Tensors:
    return {"cls_token": tensors["cls_token"] - position_of_cls(file)}


def from_cls_on(tensors: Tensors, file: Tensors) -> Tensors:
    """The table taken from its first row on, which is the position of CLS, instead of from its second."""
    table = tensors["positions.table"]
    return {"positions.table": file["pos_embed"][0, :-1].reshape(table.shape)}


def rows_for_columns(table: np.ndarray) -> np.ndarray:
    return table.swapaxes(0, 1).copy()


IN_WEIGHTS = (
    InWeights("position of CLS added twice", DINOV2, EMBEDDED, position_twice),
    InWeights("position of CLS missing", DINOV2, EMBEDDED, position_never),
    InWeights("table read from the position of CLS on", DINOV2, EMBEDDED, from_cls_on),
    InWeights("table transposed", DINOV2, EMBEDDED, edit("positions.table", rows_for_columns)),
    InWeights("an entry of the table off by 1e-3", DINOV2, EMBEDDED, edit("positions.table", off(1e-3))),
    # That of keys cancels in the softmax.
    InWeights("bias of queries missing", DINOV2, "blocks.1.q", edit("blocks.1.attn.q.bias", np.zeros_like)),
    InWeights(
        "halves of the SwiGLU exchanged",
        WITH_REGISTERS,
        "blocks.1.mlp_raw",
        exchange("blocks.1.mlp.w1.", "blocks.1.mlp.w2."),
    ),
    InWeights("registers exchanged", WITH_REGISTERS, EMBEDDED, edit("register_tokens", lambda x: x[:, [1, 0, 2, 3]])),
)


class OtherKernel(Positions):
    """By the kernel of the other way of resizing."""

    @property
    def how(self) -> dict[str, Any]:
        return {**super().how, "a": CUBIC[not self.antialias]}


class ZerosBeyond(Positions):
    """With zeros beyond the edges of the table."""

    def __call__(self, patches: Array) -> Array:
        height, width = patches.shape[1:3]
        rows, columns, channels = self.table.shape
        tenths, a = self.how["tenths"], self.how["a"]

        def matrix(size: int, other: int, entries: int) -> Array:
            place = jax.lax.broadcasted_iota(np.int32, (size, 1), 0)
            return cubic(distances(place, size, other, entries, beyond=0, tenths=tenths, dtype=self.table.dtype), a)

        of_rows = matrix(height, width, rows) @ self.table.reshape(rows, columns * channels)
        return patches + matrix(width, height, columns) @ of_rows.reshape(height, columns, channels)


class ExchangedSizes(Positions):
    """Resized to as many rows as the image has columns, and read row by row all the same."""

    def __call__(self, patches: Array) -> Array:
        height, width, channels = patches.shape[1:]
        return patches + resized(self.table, width, height, **self.how).reshape(height, width, channels)


class InRegisters(Model):
    """With positions added to registers too, as if the table held theirs."""

    def embed(self, pixel_values: Array) -> tuple[Array, Any]:
        tokens, context = super().embed(pixel_values)
        count = 0 if self.register_tokens is None else self.register_tokens.shape[1]
        registers = tokens[:, 1 : 1 + count] + self.positions.table[None, 0, :count]
        return jax.lax.concatenate([tokens[:, :1], registers, tokens[:, 1 + count :]], 1), context


def positioned(kind: type[Positions] = Positions, **other: Any) -> Callable[[Any], Any]:
    """With positions of another kind, or with other fields."""
    return in_parts(lambda model: [model.positions], lambda positions: of_class(kind, positions, **other))


IN_MODEL = (
    InModel("offset missing", DINOV2, EMBEDDED, positioned(offset=0.0)),
    InModel("offset too much", WITH_REGISTERS, EMBEDDED, positioned(offset=0.1)),
    InModel("antialiased", DINOV2, EMBEDDED, positioned(antialias=True, offset=0.0)),
    InModel("not antialiased", WITH_REGISTERS, EMBEDDED, positioned(antialias=False)),
    InModel("cubic constant -0.5", DINOV2, EMBEDDED, positioned(OtherKernel)),
    InModel("cubic constant -0.75", WITH_REGISTERS, EMBEDDED, positioned(OtherKernel)),
    InModel("zeros beyond the table", DINOV2, EMBEDDED, positioned(ZerosBeyond)),
    InModel("height and width exchanged", DINOV2, EMBEDDED, positioned(ExchangedSizes)),
    InModel("positions added to registers", WITH_REGISTERS, EMBEDDED, lambda m: of_class(InRegisters, m)),
    InModel("epsilon 1e-5", DINOV2, "blocks.0.attn_in", in_parts(lambda m: [b.norm1 for b in m.blocks], other_epsilon)),
    InModel(
        "tanh GELU",
        DINOV2,
        "blocks.0.mlp_raw",
        in_parts(lambda m: [b.mlp for b in m.blocks], lambda m: of_class(TanhMlp, m)),
    ),
)

IN_GRAPH = (InGraph("tanh GELU", DINOV2, "blocks.1.mlp_raw", "Gelu", 1, attribute("approximate", "tanh")),)


class WithoutOffset(Positions):
    """Without the offset where images are packed."""

    def of_places(self, patches: Array, places: Array) -> Array:
        other: Positions = of_class(Positions, self, offset=0.0)
        return other.of_places(patches, places)


IN_PACKS = (
    *in_packs(DINOV2, Attention, EMBEDDED, EMBEDDED),
    InPack("offset of packed images missing", DINOV2, EMBEDDED, positioned(WithoutOffset)),
)

PREPROCESSING = (
    InPreprocessing("bilinear instead of bicubic", with_other(interpolation="bilinear")),
    InPreprocessing("not cropped", with_other(crop_pct=None)),
    InPreprocessing("all of the shorter side", with_other(crop_pct=1.0)),
    InPreprocessing("cropped a pixel aside", lambda *given: np.roll(preprocess(*given), 1, axis=2)),
)

AMPLIFIED: Mapping[str, Amplify] = {}
FAULTS: tuple[InChain, ...] = (*IN_WEIGHTS, *IN_MODEL, *IN_GRAPH, *IN_PACKS)
