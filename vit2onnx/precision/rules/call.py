"""A node with what is known of all that it takes; and the register of rules."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from vit2onnx.precision.kinds import Kind
from vit2onnx.precision.magnitude import Magnitude, unknown
from vit2onnx.precision.nodes import attribute, constant_of

Rule = Callable[["Call"], Magnitude]
RULES: dict[str, Rule] = {}


@dataclass(frozen=True)
class Call:
    """A node with what is known of all that it takes. `note` takes the bound of an inner value by its short name."""

    node: ir.Node
    taken: Sequence[Magnitude | None]
    kinds: Mapping[str, Kind]
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
        """An attribute of the node."""
        return attribute(self.node, name, default)

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
        if axis < 0:
            return axis
        return None if sizes is None else axis - len(sizes)


def rules_for(*operators: str) -> Callable[[Rule], Rule]:
    """Register a rule."""

    def register(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(operators, rule))
        return rule

    return register


def exactly(call: Call) -> Magnitude:
    """What a node makes of constants."""
    node, known = call.node, [None if one is None else one.value for one in call.taken]

    def read() -> np.ndarray:
        pairs = zip(node.inputs, known, strict=True)
        return folded(node, [constant_of(value) if array is None else array() for value, array in pairs])

    return Magnitude.of_constant(read)


def folded(node: ir.Node, arrays: Sequence[np.ndarray | None]) -> np.ndarray:
    """What a node makes of constants."""
    proto = ir.to_proto(node)
    names = [name for name in proto.input if name]
    found = ReferenceEvaluator(proto).run(None, dict(zip(names, (a for a in arrays if a is not None), strict=True)))
    return np.asarray(found[0])
