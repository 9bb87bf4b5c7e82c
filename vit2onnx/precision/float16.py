"""Rewrite a graph to float16, but for what must stay in float32.

A node computes in float16, and gives float16, unless
* it gives or takes a value that is to stay in float32, or has such a value inside;
* it computes geometry: tables of rotations, the resizing of position tables;
* it belongs to the logits of pairs or to the preparation of photographs.

`Cast` nodes stand between the two parts alone. Inputs and outputs are in float32. Norms take and give float16 where
the values between blocks do, and add up in float32 inside, as the standard has it (`stash_type`) and as the runtimes'
kernels do: a sum of squares would overflow float16 at values of a few dozen.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from vit2onnx.precision.bound_arrays import LARGEST_FLOAT16
from vit2onnx.precision.kinds import Kind, Origin, bodies_of, computes_in_float32, kinds_of, taken_by
from vit2onnx.precision.statement import FLOAT16, FLOAT32, REDUCTION, tensors_of
from vit2onnx.weights.keytable import LazyTensor

# Operators that give the size of their input, and none of its numbers.
SIZES = {"Shape", "Size"}
# What gives the same numbers, or some of them.
MOVES = {"Gather", "Identity", "Reshape", "Slice", "Squeeze"}


def to_float16(
    model: ir.Model, tensors: Mapping[str, LazyTensor], inputs: Collection[str], float32: Mapping[str, str]
) -> dict[str, LazyTensor]:
    """Rewrite a graph in place to float16; returns its parameters, of which most are now in float16.

    `float32` names the values, parameters, and inner values (`{node}/logits`) that float16 may not hold, each with the
    reason. The graph's metadata then have a statement, of which `tensors_of` makes the same parameters.
    """
    parameters, _ = narrow(model, inputs, float32.keys())
    statement = float16_statement(parameters, float32)
    model.metadata_props[REDUCTION] = json.dumps(statement, separators=(",", ":"))
    return tensors_of(statement, tensors)


def narrow(model: ir.Model, inputs: Collection[str], in_float32: Collection[str]) -> tuple[list[str], list[ir.Value]]:
    """Rewrite a graph in place; returns the names of parameters, and the tensors that nodes give, in float16."""
    narrowing = _Narrowing(model, inputs, kinds_of(model, inputs), frozenset(in_float32))
    narrowing.rewrite()
    return narrowing.parameters, narrowing.made


def float16_statement(parameters: Iterable[str], float32: Mapping[str, str]) -> dict[str, Any]:
    """What a file says of its parameters that are in float16, see `precision.statement`."""
    return {
        "precision": FLOAT16,
        "float32": dict(sorted(float32.items())),
        "weights": {name: {"as": FLOAT16, "of": name} for name in parameters},
    }


class _Narrowing:
    """A graph while it is rewritten."""

    def __init__(self, model: ir.Model, inputs: Collection[str], kinds: Mapping[str, Kind], in_float32: frozenset[str]):
        self.graph, self.kinds, self.in_float32 = model.graph, kinds, in_float32
        self.made: list[ir.Value] = []
        self.users: dict[ir.Value, list[ir.Node]] = {}
        for node in model.graph:
            for value in taken_by(node):
                self.users.setdefault(value, []).append(node)
        # What was made of a value for each precision that it has not by itself.
        self.casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        self.are_narrow = {node for node in model.graph if self.has_floats(node) and self._may_be_narrow(node)}
        self._keep_parts_with_outputs()
        self._keep_sequences_whole()
        self.given = {value for node in self.are_narrow for value in node.outputs if self.is_float(value)}
        self.parameters = [
            value.name for value in self.graph.inputs if value.name not in inputs and self._is_stored_in_float16(value)
        ]

    def rewrite(self) -> None:
        for value in self.graph.inputs:
            if value.name in self.parameters:
                value.type = ir.TensorType(ir.DataType.FLOAT16)
                self.given.add(value)
        for node in list(self.graph):
            if node in self.are_narrow:
                self._make_narrow(node)
            elif self.has_floats(node) and node.op_type not in SIZES:
                self._replace(node, node, ir.DataType.FLOAT)
        for place, value in enumerate(self.graph.outputs):
            if value in self.given:
                self._give(place, value)
        for value, _ in self.casts:
            if value.is_initializer() and not value.uses():
                del self.graph.initializers[value.name]

    def has_floats(self, node: ir.Node) -> bool:
        return any(self.is_float(value) for value in (*taken_by(node), *node.outputs))

    def _keep_parts_with_outputs(self) -> None:
        """Have what is only moved out of an output in float32 stay in float32, so that it remains a part of that."""
        for node in self.graph:
            whole = node.inputs[0] if node.op_type in MOVES else None
            if whole is not None and whole.is_graph_output() and whole.producer() not in self.are_narrow:
                self.are_narrow.discard(node)

    def _keep_sequences_whole(self) -> None:
        """Have all that make or take a sequence in one precision, because none can be cast."""
        for node in self.graph:
            for value in node.outputs:
                is_made = (
                    self.is_float(value) and self.kinds[value.name].is_sequence and node.op_type != "SequenceEmpty"
                )
                around = [node, *self.users.get(value, [])] if is_made else []
                if not self.are_narrow.issuperset(around):
                    self.are_narrow.difference_update(around)

    def _may_be_narrow(self, node: ir.Node) -> bool:
        """Whether nothing of a node itself keeps it in float32."""
        if computes_in_float32(node) or node.op_type in SIZES or node.op_type == "Constant":
            return False
        floats = [value for value in (*taken_by(node), *node.outputs) if self.is_float(value)]
        if all(self.kinds[value.name].origin == Origin.GEOMETRY for value in node.outputs):
            return False
        return not any(name in self.in_float32 for name in (*(value.name for value in floats), *self._inside(node)))

    def is_float(self, value: ir.Value) -> bool:
        return value.name in self.kinds and self.kinds[value.name].is_float

    def _inside(self, node: ir.Node) -> Iterator[str]:
        """What names of values to stay in float32 a node may have inside."""
        yield from (f"{node.name}/logits", f"{node.name}/squares")
        for body in bodies_of(node):
            for one in body:
                yield from (value.name or "" for value in one.outputs)
                yield from self._inside(one)

    def _is_stored_in_float16(self, value: ir.Value) -> bool:
        """Whether a parameter is in float16: where no node in float32 takes it.

        So are position tables, though what is made of them is resized in float32.
        """
        is_narrow = self.is_float(value) and value.name not in self.in_float32
        return is_narrow and all(node in self.are_narrow for node in self.users.get(value, []))

    def _make_narrow(self, node: ir.Node) -> None:
        self._replace(node, node, ir.DataType.FLOAT16)
        self._retype(node)

    def _retype(self, node: ir.Node) -> None:
        """Have a node of float16 say so."""
        for name in ("to", "dtype"):
            if name in node.attributes and node.attributes[name].value == ir.DataType.FLOAT:
                node.attributes[name] = ir.AttrInt64(name, int(ir.DataType.FLOAT16))
        for value in node.outputs:
            if self.is_float(value):
                _retype(value)
                if not self.kinds[value.name].is_sequence:
                    self.made.append(value)
        for body in bodies_of(node):
            for value in body.inputs:
                if self.is_float(value):
                    _retype(value)
            for one in body:
                self._retype(one)

    def _replace(self, node: ir.Node, outer: ir.Node, dtype: ir.DataType) -> None:
        """Have a node, or one of the body of an `outer` one, take its inputs in a precision."""
        for place, value in enumerate(node.inputs):
            if value is not None and self.is_float(value) and self._is_around(value):
                node.replace_input_with(place, self._cast(value, dtype, outer))
        for body in bodies_of(node):
            for one in body:
                self._replace(one, outer, dtype)

    def _is_around(self, value: ir.Value) -> bool:
        """Whether a value is of the graph itself, and not of a body."""
        return value.graph is self.graph

    def _cast(self, value: ir.Value, dtype: ir.DataType, before: ir.Node) -> ir.Value:
        """A value as `dtype`: itself, or what a node makes of it that is put in front of another."""
        if (value in self.given) == (dtype == ir.DataType.FLOAT16):
            return value
        key = value, dtype
        if key not in self.casts:
            self.casts[key] = self._made(value, dtype, before)
        return self.casts[key]

    def _made(self, value: ir.Value, dtype: ir.DataType, before: ir.Node) -> ir.Value:
        name = f"{value.name}/{FLOAT16 if dtype == ir.DataType.FLOAT16 else FLOAT32}"
        producer = value.producer()
        if value.is_initializer() and value.const_value is not None and not value.shape.rank():
            # A number of its own is one of float16; infinity is the largest.
            number = np.clip(value.const_value.numpy(), -LARGEST_FLOAT16, LARGEST_FLOAT16).astype(np.float16)
            constant = ir.Value(
                name=name,
                shape=ir.Shape([]),
                type=ir.TensorType(ir.DataType.FLOAT16),
                const_value=ir.tensor(number, name=name),
            )
            self.graph.register_initializer(constant)
            return constant
        if producer is not None and producer.op_type == "SequenceEmpty":
            node = ir.node("SequenceEmpty", [], {"dtype": int(dtype)}, name=name)
            node.outputs[0].type = ir.SequenceType(ir.TensorType(dtype))
        else:
            node = ir.node("Cast", [value], {"to": int(dtype)}, name=name)
            if dtype == ir.DataType.FLOAT16:
                self.made.append(node.outputs[0])
            if value.shape is not None:
                node.outputs[0].type, node.outputs[0].shape = ir.TensorType(dtype), value.shape
        node.outputs[0].name = name
        self.graph.insert_before(before, node)
        return node.outputs[0]

    def _give(self, place: int, value: ir.Value) -> None:
        """Have the graph give a value of float16 in float32, under its name."""
        producer, shape, name = value.producer(), value.shape, value.name
        cast = ir.node("Cast", [value], {"to": int(ir.DataType.FLOAT)}, name=f"{name}/{FLOAT32}")
        (out,) = cast.outputs
        self.graph.append(cast)
        self.graph.outputs[place] = out
        value.name = f"{name}/{FLOAT16}" if producer is None or producer.name == name else producer.name
        out.name, out.type, out.shape = name, ir.TensorType(ir.DataType.FLOAT), shape
        out.doc_string, value.doc_string = value.doc_string, None
        value.shape = shape if shape is not None and shape.is_static() else None
        if value.shape is None:
            value.type = None


def _retype(value: ir.Value) -> None:
    if isinstance(value.type, ir.SequenceType):
        value.type = ir.SequenceType(ir.TensorType(ir.DataType.FLOAT16))
    elif value.type is not None:
        value.type = ir.TensorType(ir.DataType.FLOAT16)
