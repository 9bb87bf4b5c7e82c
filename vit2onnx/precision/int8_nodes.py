"""The nodes of a graph in int8."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from vit2onnx.precision.int8_plan import Int8Plan, Linears
from vit2onnx.precision.statement import INT8, INT8_ROWS, INVERSE, SCALE, SCALE_ROWS
from vit2onnx.weights.keytable import LazyTensor


def quantise_nodes(
    graph: ir.Graph, plan: Int8Plan, statement: Mapping[str, Any], tensors: Mapping[str, LazyTensor]
) -> None:
    """Put whole numbers in the place of a plan's Linears and tables, in place.

    `tensors` are those that the statement makes; they become inputs of the graph.
    """
    parameters = _renamed(graph, statement["weights"], tensors)
    make = _Maker(graph)
    multiply = _multiply_static if statement["activations"] == "static" else _multiply_dynamic
    for linears, _ in plan.quantised:
        value, name, first = linears.value, linears.value.name, linears.nodes[0]
        if f"{name}.{INVERSE}" in parameters:
            (value,) = make("Mul", first, _place_of(value), [value, parameters[f"{name}.{INVERSE}"]])
        multiply(make, linears, value, parameters)
    for node in plan.tables:
        table, place = node.inputs[0], _place(node.name)
        scales = parameters[_beside(table, INT8_ROWS, SCALE_ROWS)]
        whole, scale = (make("Gather", node, place, [one, node.inputs[1]], axis=0)[0] for one in (table, scales))
        (real,) = make("Cast", node, place, [whole], to=ir.DataType.FLOAT)
        make.instead(node, make("Mul", node, place, [real, scale])[0])


def _renamed(
    graph: ir.Graph, entries: Mapping[str, Mapping[str, Any]], tensors: Mapping[str, LazyTensor]
) -> dict[str, ir.Value]:
    """The new parameters as inputs of a graph, by name. One of the same shape as the old takes its place."""
    before = {value.name: value for value in graph.inputs}
    found = {}
    for name, entry in entries.items():
        takes_place = "of" in entry and entry["as"] not in (SCALE, SCALE_ROWS)
        value = before[entry["of"]] if takes_place else ir.Value(name=name)
        value.name, value.shape = name, ir.Shape(tensors[name].shape)
        value.dtype = ir.DataType.from_numpy(np.dtype(tensors[name].dtype))
        found[name] = value
    graph.inputs.extend(value for value in found.values() if not value.is_graph_input())
    return found


def _multiply_dynamic(make: "_Maker", linears: Linears, value: ir.Value, parameters: Mapping[str, ir.Value]) -> None:
    """Quantise the value by its own range, as onnxruntime fuses it with products, scales and biases."""
    place, first = _place_of(linears.value), linears.nodes[0]
    whole, scale, zero = make("DynamicQuantizeLinear", first, place, [value], outputs=("", "/scale", "/zero_point"))
    for node in linears.nodes:
        weight, place = node.inputs[1], _place(node.name)
        (product,) = make("MatMulInteger", node, place, [whole, weight, zero])
        (real,) = make("Cast", node, place, [product], to=ir.DataType.FLOAT)
        (both,) = make("Mul", node, place, [scale, parameters[_beside(weight, INT8, SCALE)]])
        make.instead(node, make("Mul", node, place, [real, both])[0])


def _multiply_static(make: "_Maker", linears: Linears, value: ir.Value, parameters: Mapping[str, ir.Value]) -> None:
    """Quantise the value by constants. The MatMuls stay; runtimes fuse them with what is before."""
    name, first, place = linears.value.name, linears.nodes[0], _place_of(linears.value)
    by = [parameters[f"{name}.{what}"] for what in ("scale", "zero_point")]
    (whole,) = make("QuantizeLinear", first, place, [value, *by])
    (rounded,) = make("DequantizeLinear", first, place, [whole, *by])
    for node in linears.nodes:
        weight = node.inputs[1]
        scales = parameters[_beside(weight, INT8, SCALE)]
        (real,) = make("DequantizeLinear", node, _place(node.name), [weight, scales], axis=1)
        node.replace_input_with(0, rounded)
        node.replace_input_with(1, real)
        _keep_bias_apart(make, node)


def _keep_bias_apart(make: "_Maker", product: ir.Node) -> None:
    """Give the bias of a product of fixed sizes [batch, tokens, channels] two axes more.

    onnxruntime would make one Gemm of product and bias otherwise, and that in float32: 1.65 times as slow as float32
    instead of half the time.
    """
    (value,) = product.outputs
    if value.shape is None or len(value.shape) < 3:
        return
    for use in list(value.uses()):
        bias = use.node.inputs[1 - use.idx] if use.node.op_type == "Add" else None
        if bias is not None and bias.is_graph_input() and bias.shape is not None and len(bias.shape) == 1:
            (wide,) = make("Unsqueeze", use.node, _place(use.node.name), [bias, make.axes(0, 1)])
            use.node.replace_input_with(1 - use.idx, wide)


def _beside(value: ir.Value, kind: str, other: str) -> str:
    """The name of a parameter that was made of the same tensor."""
    return f"{value.name.removesuffix(kind)}{other}"


class _Maker:
    """Makes nodes whose names, and those of the values they give, are their places, as in `exporting.naming`."""

    def __init__(self, graph: ir.Graph):
        self.graph = graph
        self.names = Counter(f"{_place(node.name)}/{node.op_type}" for node in graph)

    def __call__(
        self,
        operator: str,
        before: ir.Node,
        place: str,
        inputs: Sequence[ir.Value],
        outputs: Iterable[str] = ("",),
        **attributes: Any,
    ) -> Sequence[ir.Value]:
        """Put a node before another; returns what it gives, whose names end with `outputs`."""
        path = f"{place}/{operator}"
        name = f"{path}_{self.names[path]}" if self.names[path] else path
        self.names[path] += 1
        given = [ir.Value(name=f"{name}{end}") for end in outputs]
        node = ir.node(operator, inputs, attributes, outputs=given, name=name)
        self.graph.insert_before(before, node)
        return given

    def axes(self, *numbers: int) -> ir.Value:
        """Constant numbers, once in a graph."""
        name = f"int64_{'_'.join(map(str, numbers))}"
        if name not in self.graph.initializers:
            tensor = ir.tensor(np.array(numbers, np.int64), name=name)
            type_, shape = ir.TensorType(ir.DataType.INT64), ir.Shape([len(numbers)])
            self.graph.register_initializer(ir.Value(name=name, type=type_, shape=shape, const_value=tensor))
        return self.graph.initializers[name]

    def instead(self, node: ir.Node, new: ir.Value) -> None:
        """Have `new` in the place of what a node gives, and remove the node."""
        (old,) = node.outputs
        if old.is_graph_output():
            new.name, new.type, new.shape = old.name, old.type, old.shape
            self.graph.outputs[self.graph.outputs.index(old)] = new
        old.replace_all_uses_with(new)
        self.graph.remove(node, safe=True)


def _place(name: str) -> str:
    """The place in the model of a node."""
    return name.rpartition("/")[0]


def _place_of(value: ir.Value) -> str:
    return _place(value.producer().name)
