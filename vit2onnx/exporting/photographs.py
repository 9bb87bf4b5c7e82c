"""Which ONNX operators prepare photographs. Importing this module registers them with jax2onnx.

All are plain, so graphs of every kind have the same. An axis is resized in blocks of places: of each block, the pixels
that its filter reaches are gathered, and one product takes them to the places. So time and memory grow with the
photograph, and not with the photograph times the size of the input.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from vit2onnx.exporting.lowerings import integers, lowers, scalar, size_of, to_float
from vit2onnx.nn import photographs
from vit2onnx.nn.photographs import BASE, CUBIC, REACH, STEP

# The most places of a block.
BLOCK = 16


@lowers(photographs.prepared_p)
def prepared(builder: Any, inputs: list[ir.Value], params: Mapping[str, Any], name: str) -> ir.Value:
    table, x = inputs
    before = len(builder.nodes)
    batch = size_of(builder, x, 0)
    height, width = params["size"]
    # By way of a fraction, because tract keeps sizes as symbols, and cannot divide by these.
    sizes = [builder.Cast(to_float(builder, size_of(builder, x, axis)), to=ir.DataType.INT64) for axis in (1, 2)]
    wholes = _wholes(builder, sizes, params)
    # Each axis in its turn comes first. Channels do not stay last, because onnxruntime moves them ten times as slowly.
    x = builder.Transpose(x, perm=[2, 3, 0, 1])
    x = _resized(builder, x, sizes[1], wholes[1], width, params)
    x = builder.Reshape(x, builder.Concat(integers(builder, width, 3), batch, integers(builder, -1), axis=0))
    x = builder.Transpose(x, perm=[3, 2, 1, 0])
    x = _resized(builder, x, sizes[0], wholes[0], height, params)
    x = builder.Reshape(x, builder.Concat(integers(builder, height), batch, integers(builder, 3, width), axis=0))
    first = builder.Reshape(integers(builder, 0, 256, 512), integers(builder, 3, 1))
    row = builder.Add(builder.Cast(x, to=ir.DataType.INT64), first)
    found = builder.Transpose(builder.Gather(table, row, axis=0), perm=[1, 2, 0, 3], _outputs=[name])
    for node in list(builder.nodes)[before:]:
        for value in node.outputs:
            # jax2onnx takes some results to have the shape of an operand.
            value.type = value.shape = None
    return found


def _wholes(builder: Any, sizes: list[ir.Value], params: Mapping[str, Any]) -> list[ir.Value]:
    """`photographs._wholes`, of sizes with one element."""
    if params["covers"] is None:
        return [integers(builder, side) for side in params["size"]]
    height, width = sizes
    high, wide = (integers(builder, side) for side in params["covers"])
    is_wide = builder.LessOrEqual(builder.Mul(height, wide), builder.Mul(width, high))
    return [
        builder.Where(is_wide, high, builder.Div(builder.Mul(wide, height), width)),
        builder.Where(is_wide, builder.Div(builder.Mul(high, width), height), wide),
    ]


def _start(builder: Any, whole: ir.Value, part: int) -> ir.Value:
    """`photographs._start`."""
    spare = builder.Sub(whole, integers(builder, part))
    two = integers(builder, 2)
    near = builder.Div(spare, two)
    # The number of whole pairs in a half, rounded up, is even.
    even = builder.Mul(builder.Div(builder.Add(spare, integers(builder, 1)), integers(builder, 4)), two)
    return builder.Where(builder.Equal(builder.Mod(spare, two), integers(builder, 0)), near, even)


def _resized(
    builder: Any, x: ir.Value, size: ir.Value, whole: ir.Value, part: int, params: Mapping[str, Any]
) -> ir.Value:
    """The first axis of grey levels resized, [part, values]; see `photographs._resized`. `size` is that of the axis."""
    how, block = params["interpolation"], min(BLOCK, part)
    blocks = -(-part // block)
    # The last block is filled up with the last place.
    places = np.minimum(np.arange(blocks * block), part - 1)
    place = builder.Reshape(integers(builder, *places.tolist()), integers(builder, blocks, block, 1))
    if params["covers"]:
        place = builder.Add(place, _start(builder, whole, part))
    pixel = _pixels(builder, place, size, whole, block, REACH[how])
    digits = builder.Concat(
        *_digits(builder, place, builder.Unsqueeze(pixel, integers(builder, 1)), size, whole, how), axis=1
    )
    reached = builder.Reshape(builder.Gather(x, pixel, axis=0), integers(builder, 0, 0, -1))
    sums = builder.MatMul(digits, to_float(builder, reached))
    zero, one, middle = (integers(builder, number) for number in (0, 1, block))
    high = builder.Slice(sums, zero, middle, one)
    low = builder.Slice(sums, middle, integers(builder, 2 * block), one)
    base = scalar(builder, float(BASE))
    carried = builder.Add(high, builder.Floor(builder.Div(low, base)))
    levels = builder.Floor(builder.Div(builder.Add(carried, scalar(builder, BASE / 2)), base))
    levels = builder.Clip(levels, scalar(builder, 0.0), scalar(builder, 255.0))
    if blocks * block == part:
        return levels
    flat = builder.Reshape(levels, integers(builder, blocks * block, -1))
    return builder.Slice(flat, zero, integers(builder, part), zero)


def _pixels(builder: Any, place: ir.Value, size: ir.Value, whole: ir.Value, block: int, reach: int) -> ir.Value:
    """The pixels [blocks, reached] of which the places [blocks, block, 1] of each block are made, and a few more."""
    zero, one, two = (integers(builder, number) for number in (0, 1, 2))
    twice = builder.Mul(whole, two)
    # A filter reaches as far as so many pixels of the smaller picture, to either side.
    far = builder.Mul(builder.Max(size, whole), integers(builder, 2 * reach))
    count = builder.Div(builder.Add(builder.Mul(size, integers(builder, 2 * block - 2)), builder.Mul(far, two)), twice)
    count = builder.Min(builder.Add(count, integers(builder, 3)), size)
    first = builder.Squeeze(builder.Slice(place, zero, one, one), two)
    first = builder.Mul(builder.Add(builder.Mul(first, two), one), size)
    first = builder.Div(builder.Sub(builder.Sub(first, far), whole), twice)
    first = builder.Min(builder.Max(first, zero), builder.Sub(size, count))
    return builder.Add(first, builder.Range(scalar(builder, 0), builder.Squeeze(count), scalar(builder, 1)))


def _digits(
    builder: Any, place: ir.Value, number: ir.Value, size: ir.Value, whole: ir.Value, how: str
) -> tuple[ir.Value, ir.Value]:
    """`photographs.digits_of`, for places [blocks, block, 1] and pixels [blocks, 1, reached]."""
    one, two, last = integers(builder, 1), integers(builder, 2), integers(builder, 2)
    stretch = builder.Mul(builder.Max(size, whole), two)
    of_pixel = builder.Mul(builder.Add(builder.Mul(number, two), one), whole)
    of_place = builder.Mul(builder.Add(builder.Mul(place, two), one), size)
    # Not Abs, which OpenCV has for fractions only.
    apart = builder.Max(builder.Sub(of_pixel, of_place), builder.Sub(of_place, of_pixel))
    if how == "bilinear":
        weight = builder.Max(builder.Sub(stretch, apart), integers(builder, 0))
        total = builder.ReduceSum(weight, last, keepdims=1)
        first, rest = _divided(builder, builder.Mul(weight, integers(builder, BASE)), total)
        upper, rest = _divided(builder, builder.Mul(rest, integers(builder, STEP)), total)
        part = integers(builder, BASE // STEP)
        rounded = builder.Add(builder.Mul(rest, integers(builder, 2 * BASE // STEP)), total)
        lower = builder.Div(rounded, builder.Mul(total, two))
        second = builder.Add(builder.Mul(upper, part), lower)
        return to_float(builder, first), to_float(builder, second)
    weights = _cubic(builder, builder.Div(to_float(builder, apart), to_float(builder, stretch)))
    shares = builder.Div(weights, builder.ReduceSum(weights, last, keepdims=1))
    parts = builder.Mul(shares, scalar(builder, float(BASE**2)))
    parts = builder.Floor(builder.Add(parts, scalar(builder, 0.5)))
    base_ = scalar(builder, float(BASE))
    first = builder.Floor(builder.Div(parts, base_))
    return first, builder.Sub(parts, builder.Mul(first, base_))


def _divided(builder: Any, over: ir.Value, under: ir.Value) -> tuple[ir.Value, ir.Value]:
    """How often one whole number is in another, and what is left."""
    whole = builder.Div(over, under)
    return whole, builder.Sub(over, builder.Mul(whole, under))


def _cubic(builder: Any, away: ir.Value) -> ir.Value:
    """`positions.cubic` of distances that are not negative."""
    one, two = scalar(builder, 1.0), scalar(builder, 2.0)
    outer, inner = (builder.Relu(builder.Sub(reach, away)) for reach in (two, one))
    far = builder.Mul(builder.Mul(outer, outer), builder.Sub(one, outer))
    near = builder.Sub(scalar(builder, 4 * CUBIC + 3), builder.Mul(two, inner))
    return builder.Add(builder.Mul(scalar(builder, CUBIC), far), builder.Mul(builder.Mul(inner, inner), near))
