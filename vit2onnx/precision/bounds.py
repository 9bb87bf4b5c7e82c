"""How large every value of a graph can become, whatever the input is: a certificate, from the weights alone.

The bounds follow from the mathematics of each operator (`rules`). They hold for each finite input within its limits,
and for runtimes that round each value to float16 and sum up in float32.
"""

from collections.abc import Mapping
from functools import partial

import numpy as np
import onnx_ir as ir

from vit2onnx.precision.kinds import Kind, Origin, bodies_of, computes_in_float32, kinds_of
from vit2onnx.precision.magnitude import Magnitude, unknown
from vit2onnx.precision.rules import apply
from vit2onnx.precision.rules.call import Call
from vit2onnx.weights.keytable import LazyTensor


def bounds(
    graph: ir.Model, tensors: Mapping[str, LazyTensor], limits_of_inputs: Mapping[str, float]
) -> dict[str, float]:
    """The largest absolute value of every float value that may be in float16, by name, for all inputs.

    `graph` has its parameters as inputs, called as `tensors`, of which one is read at a time. `limits_of_inputs` are
    the largest absolute values of the inputs that are floats; photographs of 8 bits have the limit of the pixel values
    that the graph makes of them. Parameters are among the values, and so are what a node has inside, as
    `{node}/logits`. What no rule bounds is infinite.
    """
    return _Interpreter(graph, tensors, limits_of_inputs).run()


class _Interpreter:
    def __init__(self, model: ir.Model, tensors: Mapping[str, LazyTensor], limits: Mapping[str, float]):
        self.model, self.tensors, self.limits = model, tensors, limits
        inputs = [value.name for value in model.graph.inputs if value.name not in tensors]
        self.kinds = kinds_of(model, inputs)
        self.known: dict[ir.Value, Magnitude] = {}
        self.found: dict[str, float] = {}

    def run(self) -> dict[str, float]:
        for value in self.model.graph.inputs:
            if value.name in self.tensors:
                self._set(value, Magnitude.of_constant(self.tensors[value.name].read))
            elif self._is_float(value):
                self._set(value, Magnitude.of(self.limits.get(value.name, np.inf)))
        self._walk(self.model.graph)
        return self.found

    def _walk(self, graph: ir.Graph) -> None:
        for value in graph.initializers.values():
            if value.const_value is not None and self._is_float(value):
                # Not noted, because a constant beyond float16 is cut to it.
                self.known[value] = Magnitude.of_constant(partial(_array, value))
        for node in graph:
            if node.op_type == "Loop":
                self._loop(node)
            elif self._is_float(node.outputs[0]) and node.op_type != "SequenceEmpty":
                found = apply(self._call(node))
                for value in node.outputs:
                    self._set(value, found)
        self._release(graph)

    def _call(self, node: ir.Node) -> Call:
        taken = [
            self._given(value, node) if value is not None and self._is_float(value) else None for value in node.inputs
        ]
        return Call(node, taken, self.kinds, self._bound_of, partial(self._note, node))

    def _given(self, value: ir.Value, node: ir.Node) -> Magnitude | None:
        before = value.producer()
        if before is not None and _prepares(before) and not _prepares(node):
            return Magnitude.of(self.limits.get("photographs", np.inf))
        return self.known.get(value)

    def _bound_of(self, value: ir.Value) -> Magnitude:
        return self.known.get(value) or unknown()

    def _note(self, node: ir.Node, name: str, bound: float) -> None:
        self.found[f"{node.name}/{name}"] = bound

    def _set(self, value: ir.Value, magnitude: Magnitude) -> None:
        self.known[value] = magnitude
        producer = value.producer()
        if producer is not None and computes_in_float32(producer):
            return
        if self.kinds[value.name].origin != Origin.GEOMETRY:
            self.found[value.name] = magnitude.most

    def _loop(self, node: ir.Node) -> None:
        """A loop whose body adds to sequences; any other value that it carries is unknown."""
        (body,) = bodies_of(node)
        for inner, outer in zip(body.inputs[2:], node.inputs[2:], strict=True):
            # Of a sequence that is empty at first nothing is known but what the body inserts.
            is_empty = self._kind(inner).is_sequence and outer not in self.known
            if self._is_float(inner) and not is_empty:
                self._set(inner, unknown())
        self._walk(body)
        for inner, outer in zip(body.outputs[1:], node.outputs, strict=True):
            if self._is_float(outer):
                self._set(outer, self._bound_of(inner))

    def _release(self, graph: ir.Graph) -> None:
        """Forget what is known of a subgraph, which is not taken from outside."""
        if graph is not self.model.graph:
            for node in graph:
                for value in node.outputs:
                    if value not in graph.outputs:
                        self.known.pop(value, None)

    def _kind(self, value: ir.Value) -> Kind:
        return self.kinds[value.name]

    def _is_float(self, value: ir.Value) -> bool:
        return value.name in self.kinds and self._kind(value).is_float


def _prepares(node: ir.Node) -> bool:
    return "photographs" in (node.name or "").split("/")


def _array(value: ir.Value) -> np.ndarray:
    return np.asarray(value.const_value.numpy())
