"""What primitives become in plain operators, which runtimes of any age have. Importing this module registers them.

Attention, rotation and GELU are spelled out in forms that runtimes fuse, and that none of them gets wrong; the usual
forms are mistaken by some, as docs/runtimes.md tells.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from vit2onnx.exporting.lowerings import integers, plainly, scalar
from vit2onnx.nn import primitives

# Makes a node: its operator, its inputs, and its attributes as keywords.
MakeNode = Callable[..., ir.Value]
# Where a value notes what else was made of it: its heads [batch, heads, tokens, head_dim], or a table for a whole head.
HEADS, WHOLE_HEAD = "heads", "whole_head"
# PARITY: the logit of a token that is not attended to. Finite, because a row of infinities would be NaN.
UNSEEN = float(np.finfo(np.float32).min)


@plainly(primitives.gelu_p)
def gelu(builder: Any, inputs: list[ir.Value], params: Mapping[str, Any], name: str) -> ir.Value:
    (x,) = inputs
    turned = builder.Erf(builder.Div(x, builder.Sqrt(scalar(builder, 2.0))))
    half = builder.Mul(x, scalar(builder, 0.5))
    return builder.Mul(half, builder.Add(turned, scalar(builder, 1.0)), _outputs=[name])


@plainly(primitives.gelu_tanh_p)
def gelu_tanh(builder: Any, inputs: list[ir.Value], params: Mapping[str, Any], name: str) -> ir.Value:
    (x,) = inputs
    cubic = builder.Mul(builder.Mul(builder.Mul(x, x), x), scalar(builder, 0.044715))
    factor = builder.Sqrt(builder.Div(scalar(builder, 4.0), scalar(builder, 2 * math.pi)))
    turned = builder.Tanh(builder.Mul(builder.Add(x, cubic), factor))
    half = builder.Mul(x, scalar(builder, 0.5))
    return builder.Mul(half, builder.Add(turned, scalar(builder, 1.0)), _outputs=[name])


@plainly(primitives.mean_tokens_p)
def mean_tokens(builder: Any, inputs: list[ir.Value], params: Mapping[str, Any], name: str) -> ir.Value:
    # Its axes became an input with operator set 18.
    return builder.ReduceMean(*inputs, axes=[1], keepdims=1, _outputs=[name])


@plainly(primitives.rotary_embedding_p)
def rotary_embedding(builder: Any, inputs: list[ir.Value], params: Mapping[str, Any], name: str) -> ir.Value:
    x, cos, sin = inputs
    num_heads = params["num_heads"]
    head_dim = x.shape[2] // num_heads
    heads = _heads_of(builder, x, num_heads)
    halves = integers(builder, head_dim // 2, head_dim // 2)
    first, second = builder.Split(heads, halves, axis=-1, _outputs=2)
    turned = builder.Concat(builder.Neg(second), first, axis=-1)
    unturned = builder.Mul(heads, _for_whole_head(builder, cos))
    rotated = builder.Add(unturned, builder.Mul(turned, _for_whole_head(builder, sin)))
    flat: ir.Value = merge_heads(builder, maker(builder), rotated, x.shape[2], _outputs=[name])
    # So that attention takes the heads as they are.
    flat.meta[HEADS] = rotated
    return flat


@plainly(primitives.attention_p)
def attention(builder: Any, inputs: list[ir.Value], params: Mapping[str, Any], name: str) -> ir.Value:
    query, key, value, *mask = inputs
    heads = [_heads_of(builder, x, params["num_heads"]) for x in (query, key, value)]
    embed_dim = query.shape[2]
    mixed = _attention_of_heads(builder, maker(builder), heads, embed_dim // params["num_heads"], *mask)
    return merge_heads(builder, maker(builder), mixed, embed_dim, _outputs=[name])


def plain_attention(
    builder: Any, make: MakeNode, tokens: Sequence[ir.Value], embed_dim: int, num_heads: int, *mask: ir.Value
) -> ir.Value:
    """Attention of queries, keys and values [batch, tokens, embed_dim], of nodes that `make` makes.

    Constants are made by `builder`, also for nodes of a loop's body. `mask` [batch, 1, queries, tokens] is optional.
    """
    head_dim = embed_dim // num_heads
    heads = [split_heads(builder, make, x, num_heads, head_dim) for x in tokens]
    return merge_heads(builder, make, _attention_of_heads(builder, make, heads, head_dim, *mask), embed_dim)


def _attention_of_heads(
    builder: Any, make: MakeNode, heads: Sequence[ir.Value], head_dim: int, mask: ir.Value | None = None
) -> ir.Value:
    query, key, value = heads
    # PARITY: a root that is computed in double precision when constants are folded, so that it is exact there.
    length = builder.Sqrt(scalar(builder, float(head_dim)))
    keys = make("Transpose", [key], perm=[0, 1, 3, 2])
    logits = make("MatMul", [make("Div", [query, length]), keys])
    if mask is not None:
        logits = make("Where", [mask, logits, scalar(builder, UNSEEN)])
    return make("MatMul", [make("Softmax", [logits], axis=-1), value])


def split_heads(builder: Any, make: MakeNode, x: ir.Value, num_heads: int, head_dim: int) -> ir.Value:
    """Tokens [batch, tokens, embed_dim] as heads [batch, heads, tokens, head_dim]."""
    split = make("Reshape", [x, integers(builder, 0, -1, num_heads, head_dim)])
    return make("Transpose", [split], perm=[0, 2, 1, 3])


def merge_heads(builder: Any, make: MakeNode, heads: ir.Value, embed_dim: int, **how: Any) -> ir.Value:
    """The way back."""
    return make("Reshape", [make("Transpose", [heads], perm=[0, 2, 1, 3]), integers(builder, 0, -1, embed_dim)], **how)


def maker(builder: Any) -> MakeNode:
    """Makes nodes of the graph itself."""

    def make(operator: str, inputs: Sequence[ir.Value], **how: Any) -> ir.Value:
        made: ir.Value = getattr(builder, operator)(*inputs, **how)
        return made

    return make


def _heads_of(builder: Any, x: ir.Value, num_heads: int) -> ir.Value:
    """The heads of tokens, made once, or as a rotation left them."""
    if HEADS not in x.meta:
        x.meta[HEADS] = split_heads(builder, maker(builder), x, num_heads, x.shape[2] // num_heads)
    heads: ir.Value = x.meta[HEADS]
    return heads


def _for_whole_head(builder: Any, table: ir.Value) -> ir.Value:
    """A table [batch, tokens, half_head_dim] for both halves of every head: [batch, 1, tokens, head_dim], made once."""
    if WHOLE_HEAD not in table.meta:
        both = builder.Concat(table, table, axis=-1)
        table.meta[WHOLE_HEAD] = builder.Unsqueeze(both, integers(builder, 1))
    whole: ir.Value = table.meta[WHOLE_HEAD]
    return whole
