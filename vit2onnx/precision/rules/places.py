"""Operators that take elements to other places, and means and extrema along axes."""

import numpy as np

from vit2onnx.precision.bound_arrays import with_last
from vit2onnx.precision.magnitude import Magnitude, unknown
from vit2onnx.precision.nodes import constant_of
from vit2onnx.precision.rules.call import Call, exactly, rules_for


@rules_for("Gather", "Split", "Slice")
def some(call: Call) -> Magnitude:
    """Some places along an axis."""
    if call.node.op_type == "Slice":
        found = constant_of(call.node.inputs[3]) if len(call.node.inputs) > 3 else None
        axes = [None] if found is None else [call.axis(0, int(axis)) for axis in found]
    else:
        axes = [call.axis(0, int(call.attribute("axis", 0)))]
    return call.x.elements() if {None, -1} & {*axes} else call.x.rows()


@rules_for("Pad", "Expand")
def more(call: Call) -> Magnitude:
    """The same elements repeated, or padded with zeros."""
    before, after = call.size(0), call.sizes()
    kept = before is not None and after is not None and len(after) > 0 and after[-1] == before
    return call.x.rows() if kept else call.x.elements()


@rules_for("ReduceMean", "ReduceMax", "ReduceMin")
def reduced(call: Call) -> Magnitude:
    """A mean or an extremum along axes."""
    axes = call.attribute("axes")
    if axes is None and len(call.node.inputs) > 1:
        axes = constant_of(call.node.inputs[1])
    found = [None] if axes is None else [call.axis(0, int(axis)) for axis in axes]
    if {None, -1} & {*found}:
        return Magnitude.of(call.x.most)
    # An extremum of each channel may be longer than any row.
    return call.x.rows() if call.node.op_type == "ReduceMean" else Magnitude(call.x.rows().largest)


@rules_for("Concat")
def concat(call: Call) -> Magnitude:
    axis = call.axis(0, int(call.attribute("axis", 0)))
    if len(call.floats) != len(call.taken):
        return unknown()
    last = [call.size(place) for place in range(len(call.taken))]
    if axis == -1 and all(size is not None for size in last):
        parts = [with_last(one.largest, size or 0) for one, size in zip(call.floats, last, strict=True)]
        shape = np.broadcast_shapes(*(one.shape[:-1] for one in parts))
        return Magnitude(np.concatenate([np.broadcast_to(one, (*shape, one.shape[-1])) for one in parts], axis=-1))
    if axis is None or axis == -1:
        return Magnitude.of(max(one.most for one in call.floats))
    return Magnitude.any_of([one.rows() for one in call.floats])


@rules_for("Transpose")
def transpose(call: Call) -> Magnitude:
    order, x = call.attribute("perm"), call.x
    if x.value is not None:
        return exactly(call)
    if order is None:
        return Magnitude.of(x.most)
    return x.transposed([int(axis) for axis in order])


@rules_for("Reshape", "Squeeze", "Unsqueeze", "Flatten")
def reshape(call: Call) -> Magnitude:
    before, after, x = call.sizes(call.node.inputs[0]), _sizes_after(call), call.x
    if x.value is not None and (len(call.node.inputs) < 2 or constant_of(call.node.inputs[1]) is not None):
        return exactly(call)
    size = call.size(0)
    if x.table or before is None or not after or x.axis != -1 or size is None:
        return x.elements()
    if after[-1] == size:
        return x.rows()
    if len(after) > 1 and after[-1] and after[-2] and after[-1] * after[-2] == size:
        return x.heads_split(size, after[-2])
    heads = call.size(0, -2)
    if heads and heads * size == after[-1]:
        return x.heads_merged(heads, size)
    return x.elements()


def _sizes_after(call: Call) -> tuple[int | None, ...] | None:
    """The sizes after a change of shape, also as its constant says them, which ONNX does not see in a loop."""
    inferred = call.sizes()
    asked = constant_of(call.node.inputs[1]) if call.node.op_type == "Reshape" else None
    if asked is None:
        return inferred
    known = inferred or (None,) * len(asked)
    return tuple(int(size) if size > 0 else other for size, other in zip(asked, known, strict=True))
