"""What each operator makes of bounds, as `magnitude` has them. An operator without a rule makes them infinite."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from vit2onnx.precision.kinds import CONSTANT, GEOMETRY, Kind
from vit2onnx.precision.magnitude import ROUNDING, Affine, Magnitude, Read, unknown

# ASSUME: the absolute values of a row of a matrix that resizes a position table, along both axes, have at most this
# sum. Those of the cubic kernels are 1.25 and 1.375 along one axis; tests try all sizes.
RESIZING = 2.25
# Beyond this a constant of its own in `Where` stands for infinity, and is cut to what half precision holds.
MASK = 65504.0

Rule = Callable[["Call"], Magnitude]
RULES: dict[str, Rule] = {}


@dataclass(frozen=True)
class Call:
    """A node with what is known of all that it takes. `note` takes the bound of an inner value by its short name."""

    node: ir.Node
    taken: Sequence[Magnitude | None]
    kinds: Mapping[str, Kind]
    whole: Callable[[ir.Value], np.ndarray | None]
    bound_of: Callable[[ir.Value], Magnitude]
    note: Callable[[str, float], None]

    def sizes(self, value: ir.Value | None = None) -> tuple[int | None, ...] | None:
        """The sizes of a value, or of the node's first output."""
        return self.kinds[(value or self.node.outputs[0]).name].sizes

    def size(self, place: int, axis: int | None = -1) -> int | None:
        """The size of an axis of an input, if it is known."""
        sizes = self.sizes(self.node.inputs[place])
        axis = None if axis is None else self.axis(place, axis)
        if axis is None:
            return None
        if sizes is not None and -len(sizes) <= axis and sizes[axis] is not None:
            return sizes[axis]
        largest = self.given(place).largest
        # Bounds of several channels tell their number.
        return largest.shape[axis] if largest.ndim >= -axis and largest.shape[axis] > 1 else None

    def attribute(self, name: str, default: Any = None) -> Any:
        found = self.node.attributes.get(name)
        return default if found is None else found.value

    def given(self, place: int) -> Magnitude:
        """What is known of an input."""
        return (self.taken[place] if place < len(self.taken) else None) or unknown()

    @property
    def x(self) -> Magnitude:
        return self.given(0)

    @property
    def floats(self) -> list[Magnitude]:
        """What is known of the inputs that are bounded."""
        return [one for one in self.taken if one is not None]

    def axis(self, place: int, axis: int) -> int | None:
        """An axis of an input, counted from its end; nothing if the number of axes is unknown."""
        sizes = self.sizes(self.node.inputs[place])
        return axis if axis < 0 else None if sizes is None else axis - len(sizes)


def rules_for(*operators: str) -> Callable[[Rule], Rule]:
    """Register a rule."""

    def register(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(operators, rule))
        return rule

    return register


def apply(call: Call) -> Magnitude:
    """What is known of the first output of a node."""
    return RULES.get(call.node.op_type, lambda _: unknown())(call)


def constant(read: Read) -> Magnitude:
    """What is known of an array that is read when it is needed, and of which the largest of each channel is kept."""
    value = read()
    rows = value.reshape(-1, value.shape[-1]) if value.ndim else value.reshape(1, 1)
    # Not the largest absolute value, which takes the memory of the array once more.
    largest = np.maximum(rows.max(axis=0), -rows.min(axis=0)).astype(np.float64)
    return Magnitude(largest if value.ndim else largest[0], value=lambda: read().astype(np.float64))


def folded(node: ir.Node, arrays: Sequence[np.ndarray | None]) -> np.ndarray:
    """What a node makes of constants."""
    proto = ir.to_proto(node)
    names = [name for name in proto.input if name]
    found = ReferenceEvaluator(proto).run(None, dict(zip(names, (a for a in arrays if a is not None), strict=True)))
    return np.asarray(found[0])


@rules_for("Identity", "Dropout", "SequenceInsert", "ConcatFromSequence", "Cast")
def same(call: Call) -> Magnitude:
    if call.node.op_type == "Cast" and not call.floats:
        return unknown()
    if call.node.op_type == "SequenceInsert":
        # Nothing is known of a sequence that is empty.
        return _rows(call.given(1)) if call.taken[0] is None else joined([call.given(0), call.given(1)])
    return call.x


@rules_for("Relu", "Gelu", "Swish", "Neg", "Abs", "Floor", "Ceil", "Round")
def no_larger(call: Call) -> Magnitude:
    grows = call.node.op_type in ("Floor", "Ceil", "Round")
    return call.x.weakened(call.x.largest + 1) if grows else call.x.weakened(call.x.largest)


@rules_for("Erf", "Tanh", "Sigmoid", "Cos", "Sin")
def at_most_one(call: Call) -> Magnitude:
    return Magnitude(np.asarray(1.0))


@rules_for("Softmax")
def softmax(call: Call) -> Magnitude:
    last = call.axis(0, int(call.attribute("axis", -1)))
    return Magnitude(np.asarray(1.0), total=1 + ROUNDING if last == -1 else np.inf)


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
        return _scaled(call.x, 1 / by.value())
    if _is_own_length(call.node):
        return Magnitude(np.asarray(1 + ROUNDING))
    return unknown()


@rules_for("Mul")
def product(call: Call) -> Magnitude:
    x, y = call.given(0), call.given(1)
    if x.value is not None:
        x, y = y, x
    if y.value is not None and x.value is None:
        return _scaled(x, y.value())
    if x.value is not None and y.value is not None:
        return _exactly(call)
    largest = _finite(x.largest * y.largest) * (1 + ROUNDING)
    if x.axis != -1 or y.axis != -1:
        return Magnitude(largest)

    def lengths(groups: int) -> np.ndarray | None:
        candidates = []
        for one, other in ((x, y), (y, x)):
            length = one.length_of(groups)
            if length is not None:
                candidates.append(_finite(length * _grouped(other.largest, groups)))
        return np.minimum.reduce(np.broadcast_arrays(*candidates)) if candidates else None

    return Magnitude(largest, lengths=lengths, groups=max(x.groups, y.groups))


@rules_for("Add", "Sub")
def total(call: Call) -> Magnitude:
    x, y = call.given(0), call.given(1)
    if call.node.op_type == "Add":
        if (rotated := rotation(call)) is not None:
            return rotated
        if x.value is not None and y.value is not None:
            return _exactly(call)
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


@rules_for("LayerNormalization")
def layer_norm(call: Call) -> Magnitude:
    gain, shift = call.given(1), call.given(2)
    if call.attribute("axis", -1) != -1 or gain.value is None:
        return unknown()
    if call.attribute("stash_type", 1) != 1:
        # The standard has its sums in this precision.
        size = call.size(0) or gain.value().size
        call.note("squares", float(_finite(np.asarray(size * (2 * call.x.most) ** 2))))
    weight = gain.value()
    bias = np.zeros_like(weight) if len(call.taken) < 3 or shift.value is None else shift.value()
    affine = Affine.of_norm(weight, bias)
    return Magnitude(affine.largest, affine=affine)


@rules_for("RotaryEmbedding")
def rotary_embedding(call: Call) -> Magnitude:
    return _rotated(call.x, int(call.attribute("num_heads", 0)), call.size(0))


@rules_for("Attention")
def attention(call: Call) -> Magnitude:
    heads = int(call.attribute("q_num_heads", 0))
    query, key, value = (call.given(place) for place in range(3))
    size = call.size(0) or query.largest.shape[-1] if query.largest.ndim else call.size(0)
    if not heads or not size:
        return unknown()
    lengths = query.length(heads, size), key.length(heads, size)
    if lengths[0] is None or lengths[1] is None:
        call.note("logits", np.inf)
    else:
        scale = float(call.attribute("scale", 0.0) or math.sqrt(heads / size))
        call.note("logits", float(_finite(lengths[0] * lengths[1] * scale).max()) * (1 + ROUNDING))

    def mixed(groups: int) -> np.ndarray | None:
        # Each head is mixed by itself.
        return value.length_of(groups) if groups % heads == 0 else _merged(value.length_of(heads), groups)

    return Magnitude(value.largest * (1 + ROUNDING), lengths=mixed, groups=heads)


@rules_for("MatMul")
def matrix_product(call: Call) -> Magnitude:
    x, y = call.given(0), call.given(1)
    sizes = call.sizes(call.node.inputs[1])
    if x.value is not None and y.value is not None and call.kinds[call.node.inputs[0].name].origin == CONSTANT:
        return _exactly(call)
    if call.kinds[call.node.inputs[0].name].origin == GEOMETRY and _is_of_positions(call.node.inputs[1]):
        return Magnitude(np.asarray(y.most * RESIZING), table=True)
    if y.value is not None and sizes is not None and len(sizes) == 2:
        return _times_weight(x, y.value)
    if x.total < np.inf and y.axis == -1:
        return _mean_of_rows(x.total, y)
    size = call.size(0) or call.size(1, -2)
    found = [] if size is None else [np.asarray(size * _product(x.most, y.most))]
    if x.axis == -1 and y.axis == -2:
        lengths = x.length(1, size), y.length(1, size)
        if lengths[0] is not None and lengths[1] is not None:
            found.append(_finite(lengths[0] * lengths[1]))
    return Magnitude(np.minimum.reduce(np.broadcast_arrays(*found)) * (1 + ROUNDING)) if found else unknown()


def _times_weight(x: Magnitude, weight: Read) -> Magnitude:
    """A value times a matrix [in, out]."""
    matrix = weight()
    if x.axis != -1:
        return unknown()
    box = np.broadcast_to(_finite(x.largest), np.broadcast_shapes(x.largest.shape, matrix.shape[:1]))
    with np.errstate(invalid="ignore", over="ignore"):
        largest = _finite(box @ np.abs(matrix))
    affine = None
    if x.affine is not None and x.affine.weight is None:
        affine = x.affine.times_matrix(weight)
        largest = np.minimum(largest, affine.largest)
    elif (length := x.length(x.groups, len(matrix))) is not None:
        parts = matrix.reshape(length.shape[-1] if length.ndim else 1, -1, matrix.shape[1])
        largest = np.minimum(largest, _finite(np.atleast_1d(length) @ np.linalg.norm(parts, axis=1)))
    largest = largest * (1 + ROUNDING)
    return Magnitude(largest, affine=affine)


def _mean_of_rows(weight: float, rows: Magnitude) -> Magnitude:
    """Sums of rows, weighted by numbers whose absolute values sum up to `weight` at most."""
    return Magnitude(
        _without(rows.largest, -2) * weight * (1 + ROUNDING),
        lengths=lambda groups: _times(rows.length_of(groups), weight * (1 + ROUNDING)),
        groups=rows.groups,
    )


@rules_for("Conv")
def convolution(call: Call) -> Magnitude:
    x, weight, bias = call.given(0), call.given(1), call.given(2)
    if weight.value is None or call.attribute("auto_pad", "NOTSET") != "NOTSET":
        return unknown()
    kernel = weight.value()
    groups = int(call.attribute("group", 1))
    channels = kernel.shape[1] * groups
    box = x.largest if x.largest.ndim == 0 else _without(_without(x.largest, -1), -2)
    box = np.broadcast_to(box.reshape(-1) if box.size == channels else box.max(), channels)
    # Each group of kernels takes its own channels.
    own = box.reshape(groups, 1, -1, 1, 1)
    parts = kernel.reshape(groups, -1, *kernel.shape[1:])
    largest = _finite(np.abs(parts) * own).sum(axis=(2, 3, 4)).reshape(-1)
    if groups == 1 and x.axis == -3:
        places = np.moveaxis(kernel.reshape(*kernel.shape[:2], -1), 2, 0).swapaxes(1, 2)
        found = []
        if x.affine is not None and x.affine.weight is None:
            found = [x.affine.times_matrix(partial(_same, place)).largest for place in places]
        elif (length := x.length(1, channels)) is not None:
            found = [np.linalg.norm(place, axis=0) * length.max() for place in places]
        if found:
            largest = np.minimum(largest, np.sum(found, axis=0))
    if len(call.taken) > 2 and bias.value is not None:
        largest = largest + np.abs(bias.value())
    return Magnitude((largest * (1 + ROUNDING)).reshape(-1, 1, 1), axis=-3)


@rules_for("Gather", "Split", "Slice")
def some(call: Call) -> Magnitude:
    """Some places along an axis."""
    if call.node.op_type == "Slice":
        found = call.whole(call.node.inputs[3]) if len(call.node.inputs) > 3 else None
        axes = [None] if found is None else [call.axis(0, int(axis)) for axis in found]
    else:
        axes = [call.axis(0, int(call.attribute("axis", 0)))]
    return _rows(call.x) if not {None, -1} & {*axes} else _any_channels(call.x)


@rules_for("Pad", "Expand")
def more(call: Call) -> Magnitude:
    """The same elements repeated, or padded with zeros."""
    before, after = call.size(0), call.sizes()
    kept = before is not None and after is not None and len(after) > 0 and after[-1] == before
    return _rows(call.x) if kept else _any_channels(call.x)


@rules_for("ReduceMean", "ReduceMax", "ReduceMin")
def reduced(call: Call) -> Magnitude:
    """A mean or an extremum along axes."""
    axes = call.attribute("axes")
    if axes is None and len(call.node.inputs) > 1:
        axes = call.whole(call.node.inputs[1])
    found = [None] if axes is None else [call.axis(0, int(axis)) for axis in axes]
    if {None, -1} & {*found}:
        return Magnitude(np.asarray(call.x.most))
    # An extremum of each channel may be longer than any row.
    return _rows(call.x) if call.node.op_type == "ReduceMean" else Magnitude(_rows(call.x).largest)


@rules_for("ReduceSum")
def reduce_sum(call: Call) -> Magnitude:
    axes = call.whole(call.node.inputs[1]) if len(call.node.inputs) > 1 else None
    sizes = None if axes is None else [call.size(0, int(axis)) for axis in axes]
    if sizes is None or None in sizes:
        return unknown()
    return Magnitude(np.asarray(_product(call.x.most, float(np.prod([size or 0 for size in sizes]))) * (1 + ROUNDING)))


@rules_for("Concat")
def concat(call: Call) -> Magnitude:
    axis = call.axis(0, int(call.attribute("axis", 0)))
    if len(call.floats) != len(call.taken):
        return unknown()
    last = [call.size(place) for place in range(len(call.taken))]
    if axis == -1 and all(size is not None for size in last):
        parts = [_with_last(one.largest, size or 0) for one, size in zip(call.floats, last, strict=True)]
        shape = np.broadcast_shapes(*(one.shape[:-1] for one in parts))
        return Magnitude(np.concatenate([np.broadcast_to(one, (*shape, one.shape[-1])) for one in parts], axis=-1))
    if axis is None or axis == -1:
        return Magnitude(np.asarray(max(one.most for one in call.floats)))
    return joined([_rows(one) for one in call.floats])


@rules_for("Where")
def choice(call: Call) -> Magnitude:
    found = []
    for one in (call.given(1), call.given(2)):
        cut = one.value is not None and one.most >= MASK
        found.append(Magnitude(np.asarray(MASK)) if cut else one)
    return joined(found)


@rules_for("Max", "Min")
def extremum(call: Call) -> Magnitude:
    return joined(call.floats) if len(call.floats) == len(call.taken) else unknown()


@rules_for("Transpose")
def transpose(call: Call) -> Magnitude:
    order = call.attribute("perm")
    x = call.x
    if x.value is not None:
        return _exactly(call)
    if order is None:
        return Magnitude(np.asarray(x.most))
    order = [int(axis) for axis in order]
    rank = len(order)
    padded = x.largest.reshape((1,) * (rank - x.largest.ndim) + x.largest.shape)
    axis = order.index(rank + x.axis) - rank
    return replace(
        x,
        largest=padded.transpose(order),
        axis=axis,
        lengths=lambda groups: _transposed(x.length_of(groups), order),
        total=np.inf,
    )


@rules_for("Reshape", "Squeeze", "Unsqueeze", "Flatten")
def reshape(call: Call) -> Magnitude:
    before, after, x = call.sizes(call.node.inputs[0]), _sizes_after(call), call.x
    if x.value is not None and (len(call.node.inputs) < 2 or call.whole(call.node.inputs[1]) is not None):
        return _exactly(call)
    plain = Magnitude(np.asarray(x.most), table=x.table)
    size = call.size(0)
    if x.table or before is None or not after or x.axis != -1 or size is None:
        return plain
    flat = np.broadcast_to(_of_last(x.largest), size)
    if after[-1] == size:
        return _rows(x)
    if len(after) > 1 and after[-1] and after[-2] and after[-1] * after[-2] == size:
        return _split_heads(x, flat, after[-2])
    heads = call.size(0, -2)
    if heads and heads * size == after[-1]:
        return _merged_heads(x, heads, size)
    return plain


def _sizes_after(call: Call) -> tuple[int | None, ...] | None:
    """The sizes after a change of shape, also as its constant says them, which ONNX does not see in a loop."""
    inferred = call.sizes()
    asked = call.whole(call.node.inputs[1]) if call.node.op_type == "Reshape" else None
    if asked is None:
        return inferred
    known = inferred or (None,) * len(asked)
    return tuple(int(size) if size > 0 else other for size, other in zip(asked, known, strict=True))


def _split_heads(x: Magnitude, flat: np.ndarray, heads: int) -> Magnitude:
    """Channels as heads: [..., heads, channels of a head]."""

    def lengths(groups: int) -> np.ndarray | None:
        found = _of_last(x.length_of(heads)) if groups == 1 else None
        return None if found is None else np.broadcast_to(found, heads).reshape(heads, 1)

    return Magnitude(flat.reshape(heads, -1), lengths=lengths)


def _merged_heads(x: Magnitude, heads: int, size: int) -> Magnitude:
    """Heads [..., heads, channels of a head] as channels."""
    whole = np.broadcast_to(x.largest, np.broadcast_shapes(x.largest.shape, (heads, size)))
    flat = whole.reshape(-1, heads * size).max(axis=0)

    def lengths(groups: int) -> np.ndarray | None:
        found = x.length_of(1)
        if found is None:
            return None
        each = np.broadcast_to(found, np.broadcast_shapes(found.shape, (heads, 1))).reshape(-1, heads).max(axis=0)
        return _merged(each, groups)

    return Magnitude(flat, lengths=lengths, groups=heads)


def rotation(call: Call) -> Magnitude | None:
    """What is known of `x * cos + turned(x) * sin`, if the node is that, for `turned` half a head to the other side."""
    left, right = (value.producer() for value in call.node.inputs)
    if left is None or right is None or {left.op_type, right.op_type} != {"Mul"}:
        return None
    turned = right.inputs[0].producer()
    if turned is None or turned.op_type != "Concat" or len(turned.inputs) != 2:
        return None
    negated, x = turned.inputs[0].producer(), left.inputs[0]
    if negated is None or negated.op_type != "Neg":
        return None
    size = _last_size(call, x)
    halves = [_part_of(call, value, x) for value in (turned.inputs[1], negated.inputs[0])]
    if size is None or halves != [(0, size // 2), (size // 2, size)]:
        return None
    if not _are_of_one_angle(call, left.inputs[1], right.inputs[1], size):
        return None
    return _rotated(call.bound_of(x), 1, size)


def _is_of_positions(value: ir.Value) -> bool:
    """Whether a value is a position table, or one that is being resized."""
    while (node := value.producer()) is not None:
        if node.op_type not in ("Reshape", "Transpose", "MatMul"):
            return False
        value = node.inputs[1 if node.op_type == "MatMul" else 0]
    return value.is_graph_input() and "positions" in (value.name or "").split(".")


def _rotated(x: Magnitude, heads: int, size: int | None) -> Magnitude:
    """Pairs of channels, half a head apart, rotated: which changes no length of a pair."""
    if not heads or not size:
        return unknown()
    box = np.broadcast_to(x.largest, np.broadcast_shapes(x.largest.shape, (size,)))
    halves = box.reshape(*box.shape[:-1], heads, 2, -1)
    pairs = np.linalg.norm(halves, axis=-2, keepdims=True)
    largest = np.broadcast_to(pairs, halves.shape).reshape(box.shape)

    def lengths(groups: int) -> np.ndarray | None:
        return _times(x.length(groups, size), 1 + ROUNDING) if heads % groups == 0 else None

    return Magnitude(largest * (1 + ROUNDING), lengths=lengths, groups=heads)


def _last_size(call: Call, value: ir.Value) -> int | None:
    sizes, largest = call.sizes(value), call.bound_of(value).largest
    found = sizes[-1] if sizes else None
    return found or (largest.shape[-1] if largest.ndim and largest.shape[-1] > 1 else None)


def _part_of(call: Call, value: ir.Value, whole: ir.Value) -> tuple[int, int] | None:
    """From where to where along the last axis a value is part of another; nothing if it is not."""
    node, size = value.producer(), _last_size(call, whole)
    if node is None or size is None or node.inputs[0] is not whole:
        return None
    rank = len(call.sizes(whole) or ())
    if node.op_type == "Slice":
        found = [call.whole(one) for one in node.inputs[1:]]
        if len(found) not in (3, 4) or any(one is None or one.size != 1 for one in found):
            return None
        start, end, axis, step = (*(int(one.item()) for one in found if one is not None), 1)[:4]
        return (start, min(end, size)) if axis in (-1, rank - 1) and step == 1 and start >= 0 else None
    if node.op_type == "Split" and node.attributes["axis"].value in (-1, rank - 1) and len(node.outputs) == 2:
        lengths = call.whole(node.inputs[1]) if len(node.inputs) > 1 else np.array([size // 2, size // 2])
        if lengths is None or lengths.sum() != size:
            return None
        first = int(lengths[0])
        return (0, first) if value is node.outputs[0] else (first, size)
    return None


def _are_of_one_angle(call: Call, cos: ir.Value, sin: ir.Value, size: int) -> bool:
    """Whether two tables are cosine and sine of the same angles, equal in both halves of the last axis."""
    arrays = call.bound_of(cos).value, call.bound_of(sin).value
    if arrays[0] is not None and arrays[1] is not None:
        x, y = arrays[0](), arrays[1]()
        half = size // 2
        same = all(np.array_equal(one[..., :half], one[..., half:]) for one in (x, y))
        return same and x.shape == y.shape and bool(np.all(x * x + y * y <= 1 + ROUNDING))
    origins = [_origin(one) for one in (cos, sin)]
    if None in origins:
        return False
    (x_ways, x_from), (y_ways, y_from) = origins  # type: ignore[misc]
    return (
        (x_from.op_type, y_from.op_type) == ("Cos", "Sin")
        and x_from.inputs[0] is y_from.inputs[0]
        and x_ways == y_ways
        and any(way[0] == "Concat" for way in x_ways)
    )


def _origin(value: ir.Value) -> tuple[list[tuple[object, ...]], ir.Node] | None:
    """The node that computes what a value only repeats in another place, and the nodes between."""
    ways: list[tuple[object, ...]] = []
    while (node := value.producer()) is not None:
        if node.op_type in ("Cos", "Sin"):
            return ways, node
        twice = node.op_type == "Concat" and len(node.inputs) == 2 and node.inputs[0] is node.inputs[1]
        if not twice and node.op_type not in ("Expand", "Unsqueeze", "Slice", "Identity"):
            return None
        axis = node.attributes["axis"].value if node.op_type == "Concat" else None
        if axis not in (None, -1):
            return None
        # The sizes that a `Slice` or an `Expand` takes are their own nodes, though they say the same.
        ways.append((node.op_type, axis))
        (value,) = {node.inputs[0]}
    return None


def _is_own_length(node: ir.Node) -> bool:
    """Whether a division is by the Euclidean length of what is divided."""
    x, by = node.inputs
    root = by.producer()
    total = None if root is None or root.op_type != "Sqrt" else root.inputs[0].producer()
    square = None if total is None or total.op_type != "ReduceSum" else total.inputs[0].producer()
    return square is not None and square.op_type == "Mul" and square.inputs[0] is square.inputs[1] is x


def _exactly(call: Call) -> Magnitude:
    """What a node makes of constants."""
    node, taken, whole = call.node, list(call.taken), call.whole

    def read() -> np.ndarray:
        arrays = [
            None if value is None else one.value() if one is not None and one.value is not None else whole(value)
            for value, one in zip(node.inputs, taken, strict=True)
        ]
        return folded(node, arrays)

    return constant(read)


def _scaled(x: Magnitude, factors: np.ndarray) -> Magnitude:
    """A value times constants, of which the last axis counts."""
    most = _of_last(np.abs(factors))
    largest = _finite(x.largest * most) * (1 + ROUNDING)
    if x.axis != -1:
        return Magnitude(largest)
    affine = None
    if x.affine is not None and factors.size in (1, x.affine.shift.size):
        affine = x.affine.times(factors.reshape(-1))

    def lengths(groups: int) -> np.ndarray | None:
        found = x.length_of(groups)
        return None if found is None else _finite(found * _grouped(most, groups)) * (1 + ROUNDING)

    return Magnitude(largest, lengths=lengths, groups=x.groups, affine=affine, table=x.table)


def _rows(x: Magnitude) -> Magnitude:
    """Any of the rows along the last axis, or a mean of some."""
    if x.axis != -1:
        return Magnitude(_of_last(x.largest))
    return Magnitude(
        _of_last(x.largest),
        lengths=lambda groups: _of_last(x.length_of(groups)),
        groups=x.groups,
        affine=x.affine,
        table=x.table or x.value is not None,
    )


def _any_channels(x: Magnitude) -> Magnitude:
    """Some of the elements."""
    return Magnitude(np.asarray(x.most), table=x.table)


def _grouped(largest: np.ndarray, groups: int) -> np.ndarray:
    """The largest of each group of channels."""
    flat = _of_last(largest)
    return flat.reshape(groups, -1).max(axis=1) if flat.size % groups == 0 and flat.size > 1 else np.asarray(flat.max())


def _merged(lengths: np.ndarray | None, groups: int) -> np.ndarray | None:
    """The lengths of fewer groups, of those of more."""
    if lengths is None or lengths.ndim == 0 or lengths.shape[-1] % groups:
        return None
    return np.linalg.norm(lengths.reshape(*lengths.shape[:-1], groups, -1), axis=-1)


def _transposed(lengths: np.ndarray | None, order: Sequence[int]) -> np.ndarray | None:
    if lengths is None:
        return None
    padded = lengths.reshape((1,) * (len(order) - lengths.ndim) + lengths.shape)
    return padded.transpose(order)


def _of_last(array: np.ndarray | None) -> Any:
    """The largest of each channel of the last axis."""
    return array if array is None or array.ndim == 0 else array.reshape(-1, array.shape[-1]).max(axis=0)


def _with_last(array: np.ndarray, size: int) -> np.ndarray:
    return np.broadcast_to(array, (*array.shape[:-1], size)) if array.ndim else np.full(size, array)


def _without(array: np.ndarray, axis: int) -> np.ndarray:
    """The largest along an axis."""
    return array.max(axis=axis, keepdims=True) if array.ndim >= -axis else array


def _times(array: np.ndarray | None, factor: float) -> np.ndarray | None:
    return None if array is None else array * factor


def _finite(array: np.ndarray) -> np.ndarray:
    """With infinity in the place of infinity times zero."""
    return np.where(np.isnan(array), np.inf, array)


def _same(values: np.ndarray) -> np.ndarray:
    return values


def _fits(values: np.ndarray, channels: np.ndarray) -> bool:
    return values.size in (1, channels.size) and values.size == values.reshape(-1).size


def _product(x: float, y: float) -> float:
    return 0.0 if not x or not y else x * y


def joined(found: Sequence[Magnitude]) -> Magnitude:
    """What is known of a value that is one of several."""
    axes = {one.axis for one in found}
    largest = np.maximum.reduce(np.broadcast_arrays(*(one.largest for one in found)))
    if axes != {-1}:
        return Magnitude(largest)

    def lengths(groups: int) -> np.ndarray | None:
        lengths = [one.length_of(groups) for one in found]
        known = [one for one in lengths if one is not None]
        return np.maximum.reduce(np.broadcast_arrays(*known)) if len(known) == len(found) else None

    return Magnitude(largest, lengths=lengths, groups=max(one.groups for one in found))
