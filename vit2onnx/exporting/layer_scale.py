"""Fold LayerScale into the matrix product before it.

A block adds `gamma * (x @ weight + bias)` to its input. The folded graph adds `gamma * bias` to the input, and then
`x @ (weight * gamma)`. The products of parameters are nodes, which a runtime computes once, as it loads the file. So
the file holds the checkpoint's tensors as they are, and each run saves a pass over all tokens.
"""

from collections.abc import Collection
from dataclasses import dataclass

import onnx_ir as ir


def apply_folds(graph: ir.Graph, folds: Collection[str]) -> list[str]:
    """Apply folds, of `FOLDS`, in place; returns those that found something. Parameters must have no producer."""
    found = [scaled for node in graph if (scaled := _scaled_product(node))] if "layer_scale" in folds else []
    for one in found:
        _fold(graph, one)
    return ["layer_scale"] if found else []


@dataclass(frozen=True)
class _ScaledProduct:
    """The nodes of `residual(input, gamma * (x @ weight + bias))`."""

    product: ir.Node
    biased: ir.Node
    scaled: ir.Node
    residual: ir.Node


def _scaled_product(residual: ir.Node) -> _ScaledProduct | None:
    """The nodes before a sum, if they are these."""
    if residual.op_type != "Add":
        return None
    scaled = _of_parameter(residual.inputs[1], "Mul")
    biased = _of_parameter(scaled.inputs[0], "Add") if scaled else None
    product = _of_parameter(biased.inputs[0], "MatMul") if biased else None
    if not (scaled and biased and product):
        return None
    # One number per output channel, because only such can be multiplied into the weight.
    channels = tuple(product.inputs[1].shape)[-1:]
    is_per_channel = all(tuple(node.inputs[1].shape) == channels for node in (scaled, biased))
    return _ScaledProduct(product, biased, scaled, residual) if is_per_channel else None


def _of_parameter(value: ir.Value, op_type: str) -> ir.Node | None:
    """The node that makes a value, if it is this operator and its second input is a parameter."""
    node = value.producer()
    is_found = node is not None and node.op_type == op_type and node.inputs[1].producer() is None
    return node if is_found else None


def _fold(graph: ir.Graph, found: _ScaledProduct) -> None:
    """Fold one. Old nodes stay if something else still needs them, such as an output of the graph."""
    gamma, bias = found.scaled.inputs[1], found.biased.inputs[1]
    x, weight = found.product.inputs
    before = found.residual.inputs[0]
    path = found.scaled.name.rpartition("/")[0] + "/folded"

    def add(op_type: str, name: str, *inputs: ir.Value, like: ir.Value) -> ir.Value:
        value = ir.Value(name=f"{path}/{name}", shape=like.shape, type=like.type)
        graph.insert_before(found.residual, ir.Node("", op_type, inputs, outputs=[value], name=value.name))
        return value

    weight = add("Mul", "weight/Mul", weight, gamma, like=weight)
    change = add("MatMul", "MatMul", x, weight, like=found.product.outputs[0])
    bias = add("Mul", "bias/Mul", bias, gamma, like=bias)
    found.residual.replace_input_with(0, add("Add", "Add", before, bias, like=before))
    found.residual.replace_input_with(1, change)
    for node in (found.scaled, found.biased, found.product):
        if not any(value.uses() or value.is_graph_output() for value in node.outputs):
            graph.remove(node, safe=True)
