"""Photographs as they are taken, which the model itself prepares: resized, cut, scaled and normalised.

What this means is `vit2onnx.images.preprocess`. Pillow resizes in whole numbers: a weight of the filter is so many
parts of 2^22, and a sum of weighted grey levels is rounded once. Here each weight has two digits to the base 2^11, so
that single precision adds them up without rounding. An axis that keeps its size keeps its numbers. Bilinear weights are
found in whole numbers too, so every runtime has those of Pillow. Bicubic ones are rounded in single precision: one
value in some thousands may be a grey level off, and another one in another runtime.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, UInt8

from vit2onnx.errors import InputError
from vit2onnx.nn.model import Named
from vit2onnx.nn.positions import cubic
from vit2onnx.nn.primitives import primitive
from vit2onnx.photographs import normalised_levels
from vit2onnx.spec.cases import Size, fixed_size
from vit2onnx.spec.interface import Interface
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import Preprocessing

# How far each filter reaches, in pixels of the smaller picture, and the constant of Keys' cubic kernel.
REACH = {"bilinear": 1, "bicubic": 2}
CUBIC = -0.5
# A weight has two digits to this base, which are as many bits as Pillow gives it. The second is found in two steps, of
# which the first gives so many parts.
BASE, STEP = 1 << 11, 1 << 6


def digits_of(place: Any, number: Array, size: Any, whole: Any, interpolation: str) -> tuple[Array, Array]:
    """Both digits [places, pixels] of the weights of pixels at places, by their numbers [1, pixels] and [places, 1].

    The pixels are those of an axis of some `size`, which is resized to `whole`.
    """
    stretch = 2 * jax.lax.max(size, whole)
    apart = jnp.abs((2 * number + 1) * whole - (2 * place + 1) * size)
    if interpolation == "bilinear":
        # PARITY: in whole numbers, because on regular grids many sums lie just between two grey levels.
        weight = jax.lax.max(stretch - apart, jnp.zeros_like(apart))
        total = jnp.sum(weight, axis=1, keepdims=True, dtype=weight.dtype)
        first, rest = _divided(BASE * weight, total)
        # In two steps, so that no number needs more than 32 bits; many runtimes have no others.
        upper, rest = _divided(STEP * rest, total)
        return first, BASE // STEP * upper + jax.lax.div(2 * BASE // STEP * rest + total, 2 * total)
    weights = cubic(apart.astype(np.float32) / stretch.astype(np.float32), CUBIC)
    parts = weights / weights.sum(axis=1, keepdims=True) * np.float32(BASE**2)
    parts = jnp.floor(parts + np.float32(0.5))
    first = jnp.floor(parts / BASE)
    return first, parts - BASE * first


def _divided(over: Array, under: Array) -> tuple[Array, Array]:
    whole = jax.lax.div(over, under)
    return whole, over - whole * under


def _resized(x: Array, whole: Array, first: Any, part: int, interpolation: str) -> Array:
    """The first axis of whole grey levels resized to `whole`, of which only `part` places from the `first` are made."""
    size = x.shape[0]
    number = jax.lax.broadcasted_iota(jnp.int32, (1, size), 1)
    place = jax.lax.broadcasted_iota(jnp.int32, (part, 1), 0) + first
    high, low = (
        jnp.tensordot(digit.astype(np.float32), x, 1)
        for digit in digits_of(place, number, jnp.asarray(size, jnp.int32), whole, interpolation)
    )
    levels = jnp.floor((high + jnp.floor(low / BASE) + BASE / 2) / BASE)
    return jnp.clip(levels, 0, 255)


def _wholes(height: Any, width: Any, size: Size, covers: Size | None) -> tuple[Array, Array]:
    """The height and width to which a photograph is resized; see `Preprocessing.size_of_whole`."""
    if covers is None:
        return tuple(jnp.asarray(side, jnp.int32) for side in size)  # type: ignore[return-value]
    high, wide = covers
    height, width = (jnp.asarray(side, jnp.int32) for side in (height, width))
    is_wide = height * wide <= width * high
    of_height = jnp.where(is_wide, high, jax.lax.div(wide * height, width))
    of_width = jnp.where(is_wide, jax.lax.div(high * width, height), wide)
    return of_height, of_width


def _start(whole: Array, part: int) -> Array:
    """Where the middle begins, to the even number if there is a choice; see `images.crop_start`."""
    spare = whole - part
    return jnp.where(spare % 2 == 0, spare // 2, 2 * ((spare + 1) // 4))


def _prepared(table: Array, photographs: Array, *, size: Size, covers: Size | None, interpolation: str) -> Array:
    x = photographs.astype(np.float32)
    _, height, width, _ = photographs.shape
    wholes = _wholes(height, width, size, covers)
    # PARITY: horizontally, then vertically.
    for axis, whole, part in ((2, wholes[1], size[1]), (1, wholes[0], size[0])):
        x = jnp.moveaxis(_resized(jnp.moveaxis(x, axis, 0), whole, _start(whole, part), part, interpolation), 0, axis)
    row = x.astype(np.int32) + 256 * np.arange(3, dtype=np.int32)
    return table[row].transpose(0, 3, 1, 2)


prepared_p = primitive("prepared", _prepared)


def prepare(
    photographs: UInt8[Array, "batch photograph_height photograph_width 3"], size: Size, how: Preprocessing
) -> Float32[Array, "batch 3 height width"]:
    """Photographs of any size as a model takes them, of `size` (height, width).

    ONNX: `Gather` of the pixels that a filter reaches, `MatMul` and `Floor` per axis, then `Gather` of the number that
    stands for each grey level.
    """
    # PARITY: the numbers of all grey levels, because no runtime then computes them in another way than references are
    # given them.
    table = jnp.asarray(normalised_levels(how).reshape(-1))
    covers = None if how.crop_pct is None else tuple(round(side / how.crop_pct) for side in size)
    return prepared_p.bind(table, photographs, size=size, covers=covers, interpolation=how.interpolation)


def inputs_of_model(inputs: Named, interface: Interface, recipe: Recipe) -> Named:
    """What a model is given, from the inputs of a graph by port: these, or what the graph makes of photographs."""
    if interface.prepares is None or interface.preprocessing is None:
        return inputs
    size = fixed_size(interface, recipe)
    if size is None:
        raise InputError(
            f"exports.{recipe.name}: photographs are resized to one size; give numbers for height and width instead of"
            " 'dynamic'."
        )
    (photographs,), (port,) = interface.inputs, interface.prepares.inputs
    with jax.named_scope("photographs"):
        return {port.name: prepare(inputs[photographs.name], size, interface.preprocessing)}
