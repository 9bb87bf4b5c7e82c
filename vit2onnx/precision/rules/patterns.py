"""Nodes that are bounded together, because one by one they would be bounded worse."""

import numpy as np
import onnx_ir as ir

from vit2onnx.precision.bound_arrays import ROUNDING
from vit2onnx.precision.magnitude import Magnitude
from vit2onnx.precision.nodes import attribute, constant_of
from vit2onnx.precision.rules.call import Call


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
    return call.bound_of(x).rotated(1, size)


def is_own_length(node: ir.Node) -> bool:
    """Whether a division is by the Euclidean length of what is divided."""
    x, by = node.inputs
    root = by.producer()
    total = None if root is None or root.op_type != "Sqrt" else root.inputs[0].producer()
    square = None if total is None or total.op_type != "ReduceSum" else total.inputs[0].producer()
    return square is not None and square.op_type == "Mul" and square.inputs[0] is square.inputs[1] is x


def is_of_positions(value: ir.Value) -> bool:
    """Whether a value is a position table, or one that is being resized."""
    while (node := value.producer()) is not None:
        if node.op_type not in ("Reshape", "Transpose", "MatMul"):
            return False
        value = node.inputs[1 if node.op_type == "MatMul" else 0]
    return value.is_graph_input() and "positions" in (value.name or "").split(".")


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
        found = [constant_of(one) for one in node.inputs[1:]]
        if len(found) not in (3, 4) or any(one is None or one.size != 1 for one in found):
            return None
        start, end, axis, step = (*(int(one.item()) for one in found if one is not None), 1)[:4]
        return (start, min(end, size)) if axis in (-1, rank - 1) and step == 1 and start >= 0 else None
    if node.op_type == "Split" and attribute(node, "axis", 0) in (-1, rank - 1) and len(node.outputs) == 2:
        lengths = constant_of(node.inputs[1]) if len(node.inputs) > 1 else np.array([size // 2, size // 2])
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
        axis = attribute(node, "axis") if node.op_type == "Concat" else None
        if axis not in (None, -1):
            return None
        # The sizes that a `Slice` or an `Expand` takes are their own nodes, though they say the same.
        ways.append((node.op_type, axis))
        (value,) = {node.inputs[0]}
    return None
