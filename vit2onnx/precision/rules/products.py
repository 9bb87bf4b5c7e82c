"""Norms, attention, and sums of products."""

import math

import numpy as np

from vit2onnx.precision.affine import Affine
from vit2onnx.precision.bound_arrays import ROUNDING, finite, least, multiplied, of_fewer_groups, without
from vit2onnx.precision.kinds import Origin
from vit2onnx.precision.magnitude import Magnitude, unknown
from vit2onnx.precision.nodes import constant_of
from vit2onnx.precision.rules.call import Call, exactly, rules_for
from vit2onnx.precision.rules.patterns import is_of_positions

# ASSUME: the absolute values of a row of a matrix that resizes a position table, along both axes, have at most this
# sum. Those of the cubic kernels are 1.25 and 1.375 along one axis; tests try all sizes.
RESIZING = 2.25


@rules_for("Softmax")
def softmax(call: Call) -> Magnitude:
    last = call.axis(0, int(call.attribute("axis", -1)))
    return Magnitude(np.asarray(1.0), total=1 + ROUNDING if last == -1 else np.inf)


@rules_for("LayerNormalization")
def layer_norm(call: Call) -> Magnitude:
    gain, shift = call.given(1), call.given(2)
    if call.attribute("axis", -1) != -1 or gain.value is None:
        return unknown()
    if call.attribute("stash_type", 1) != 1:
        # The standard has its sums in this precision.
        size = call.size(0) or gain.value().size
        call.note("squares", float(finite(np.asarray(size * (2 * call.x.most) ** 2))))
    weight = gain.value()
    bias = np.zeros_like(weight) if len(call.taken) < 3 or shift.value is None else shift.value()
    affine = Affine.of_norm(weight, bias)
    return Magnitude(affine.largest, affine=affine)


@rules_for("RotaryEmbedding")
def rotary_embedding(call: Call) -> Magnitude:
    return call.x.rotated(int(call.attribute("num_heads", 0)), call.size(0))


@rules_for("Attention")
def attention(call: Call) -> Magnitude:
    heads = int(call.attribute("q_num_heads", 0))
    query, key, value = (call.given(place) for place in range(3))
    size = call.size(0) or (query.largest.shape[-1] if query.largest.ndim else None)
    if not heads or not size:
        return unknown()
    lengths = query.length(heads, size), key.length(heads, size)
    if lengths[0] is None or lengths[1] is None:
        call.note("logits", np.inf)
    else:
        scale = float(call.attribute("scale", 0.0) or math.sqrt(heads / size))
        call.note("logits", float(finite(lengths[0] * lengths[1] * scale).max()) * (1 + ROUNDING))

    def mixed(groups: int) -> np.ndarray | None:
        # Each head is mixed by itself.
        return value.length_of(groups) if groups % heads == 0 else of_fewer_groups(value.length_of(heads), groups)

    return Magnitude(value.largest * (1 + ROUNDING), lengths=mixed, groups=heads)


@rules_for("MatMul")
def matrix_product(call: Call) -> Magnitude:
    x, y = call.given(0), call.given(1)
    sizes = call.sizes(call.node.inputs[1])
    origin = call.kinds[call.node.inputs[0].name].origin
    if x.value is not None and y.value is not None and origin == Origin.CONSTANT:
        return exactly(call)
    if origin == Origin.GEOMETRY and is_of_positions(call.node.inputs[1]):
        return Magnitude.of(y.most * RESIZING, table=True)
    if y.value is not None and sizes is not None and len(sizes) == 2:
        return x.times_matrix(y.value)
    if x.total < np.inf and y.axis == -1:
        return y.mixed(x.total)
    size = call.size(0) or call.size(1, -2)
    found = [] if size is None else [np.asarray(size * multiplied(x.most, y.most))]
    if x.axis == -1 and y.axis == -2:
        lengths = x.length(1, size), y.length(1, size)
        if lengths[0] is not None and lengths[1] is not None:
            found.append(finite(lengths[0] * lengths[1]))
    return Magnitude(least(found) * (1 + ROUNDING)) if found else unknown()


@rules_for("Conv")
def convolution(call: Call) -> Magnitude:
    x, weight, bias = call.given(0), call.given(1), call.given(2)
    if weight.value is None or call.attribute("auto_pad", "NOTSET") != "NOTSET":
        return unknown()
    kernel = weight.value()
    groups = int(call.attribute("group", 1))
    channels = kernel.shape[1] * groups
    box = x.largest if x.largest.ndim == 0 else without(without(x.largest, -1), -2)
    box = np.broadcast_to(box.reshape(-1) if box.size == channels else box.max(), channels)
    # Each group of kernels takes its own channels.
    own = box.reshape(groups, 1, -1, 1, 1)
    parts = kernel.reshape(groups, -1, *kernel.shape[1:])
    largest = finite(np.abs(parts) * own).sum(axis=(2, 3, 4)).reshape(-1)
    if groups == 1 and x.axis == -3:
        places = np.moveaxis(kernel.reshape(*kernel.shape[:2], -1), 2, 0).swapaxes(1, 2)
        found = []
        if x.affine is not None and x.affine.weight is None:
            found = [x.affine.times_matrix(place.view).largest for place in places]
        elif (length := x.length(1, channels)) is not None:
            found = [np.linalg.norm(place, axis=0) * length.max() for place in places]
        if found:
            largest = np.minimum(largest, np.sum(found, axis=0))
    if len(call.taken) > 2 and bias.value is not None:
        largest = largest + np.abs(bias.value())
    return Magnitude((largest * (1 + ROUNDING)).reshape(-1, 1, 1), axis=-3)


@rules_for("ReduceSum")
def reduce_sum(call: Call) -> Magnitude:
    axes = constant_of(call.node.inputs[1]) if len(call.node.inputs) > 1 else None
    sizes = None if axes is None else [call.size(0, int(axis)) for axis in axes]
    if sizes is None or None in sizes:
        return unknown()
    count = float(np.prod([size or 0 for size in sizes]))
    return Magnitude.of(multiplied(call.x.most, count) * (1 + ROUNDING))
