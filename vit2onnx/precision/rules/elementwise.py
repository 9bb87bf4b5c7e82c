"""Operators that take one element of each input to one of their output."""

import numpy as np

from vit2onnx.precision.bound_arrays import LARGEST_FLOAT16, ROUNDING, finite, least, of_groups
from vit2onnx.precision.magnitude import Magnitude, unknown
from vit2onnx.precision.rules.call import Call, exactly, rules_for
from vit2onnx.precision.rules.patterns import is_own_length, rotation


@rules_for("Identity", "Dropout", "SequenceInsert", "ConcatFromSequence", "Cast")
def same(call: Call) -> Magnitude:
    if call.node.op_type == "Cast" and not call.floats:
        return unknown()
    if call.node.op_type == "SequenceInsert":
        # Nothing is known of a sequence that is empty.
        return call.given(1).rows() if call.taken[0] is None else Magnitude.any_of([call.given(0), call.given(1)])
    return call.x


@rules_for("Relu", "Gelu", "Swish", "Neg", "Abs", "Floor", "Ceil", "Round")
def no_larger(call: Call) -> Magnitude:
    grows = call.node.op_type in ("Floor", "Ceil", "Round")
    return call.x.weakened(call.x.largest + 1) if grows else call.x.weakened(call.x.largest)


@rules_for("Erf", "Tanh", "Sigmoid", "Cos", "Sin")
def at_most_one(call: Call) -> Magnitude:
    return Magnitude.of(1.0)


@rules_for("Sqrt")
def root(call: Call) -> Magnitude:
    return Magnitude(np.sqrt(call.x.largest) * (1 + ROUNDING))


@rules_for("Exp")
def exponential(call: Call) -> Magnitude:
    with np.errstate(over="ignore"):
        return Magnitude(np.exp(call.x.largest) * (1 + ROUNDING))


@rules_for("Pow")
def power(call: Call) -> Magnitude:
    exponent = call.given(1)
    if exponent.value is None or np.size(exponent.value()) != 1 or float(exponent.value()) < 0:
        return unknown()
    return Magnitude(call.x.largest ** float(exponent.value()) * (1 + ROUNDING))


@rules_for("Div")
def quotient(call: Call) -> Magnitude:
    by = call.given(1)
    if by.value is not None:
        return call.x.times(1 / by.value())
    if is_own_length(call.node):
        return Magnitude.of(1 + ROUNDING)
    return unknown()


@rules_for("Mul")
def product(call: Call) -> Magnitude:
    x, y = call.given(0), call.given(1)
    if x.value is not None:
        x, y = y, x
    if y.value is not None and x.value is None:
        return x.times(y.value())
    if x.value is not None and y.value is not None:
        return exactly(call)
    largest = finite(x.largest * y.largest) * (1 + ROUNDING)
    if x.axis != -1 or y.axis != -1:
        return Magnitude(largest)

    def lengths(groups: int) -> np.ndarray | None:
        candidates = []
        for one, other in ((x, y), (y, x)):
            length = one.length_of(groups)
            if length is not None:
                candidates.append(finite(length * of_groups(other.largest, groups)))
        return least(candidates) if candidates else None

    return Magnitude(largest, lengths=lengths, groups=max(x.groups, y.groups))


@rules_for("Add", "Sub")
def total(call: Call) -> Magnitude:
    x, y = call.given(0), call.given(1)
    if call.node.op_type == "Add":
        if (rotated := rotation(call)) is not None:
            return rotated
        if x.value is not None and y.value is not None:
            return exactly(call)
        if x.value is not None:
            x, y = y, x
        if y.value is not None and x.affine is not None and x.axis == -1 and _fits(y.value(), x.affine.shift):
            affine = x.affine.plus(np.broadcast_to(y.value().reshape(-1), x.affine.shift.shape))
            return Magnitude(affine.largest, groups=x.groups, affine=affine)
    largest = (x.largest + y.largest) * (1 + ROUNDING)
    if x.axis != -1 or y.axis != -1:
        return Magnitude(largest)

    def lengths(groups: int) -> np.ndarray | None:
        found = x.length_of(groups), y.length_of(groups)
        return None if found[0] is None or found[1] is None else (found[0] + found[1]) * (1 + ROUNDING)

    return Magnitude(largest, lengths=lengths, groups=max(x.groups, y.groups), table=x.table and y.table)


@rules_for("Where")
def choice(call: Call) -> Magnitude:
    found = []
    for one in (call.given(1), call.given(2)):
        # Such a constant stands for infinity, and is cut to what float16 holds.
        cut = one.value is not None and one.most >= LARGEST_FLOAT16
        found.append(Magnitude.of(LARGEST_FLOAT16) if cut else one)
    return Magnitude.any_of(found)


@rules_for("Max", "Min")
def extremum(call: Call) -> Magnitude:
    return Magnitude.any_of(call.floats) if len(call.floats) == len(call.taken) else unknown()


def _fits(values: np.ndarray, channels: np.ndarray) -> bool:
    return values.size in (1, channels.size) and values.size == values.reshape(-1).size
