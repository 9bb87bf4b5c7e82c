"""Which Linears and tables of a graph become int8, by what they were seen to take."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from vit2onnx.errors import InputError
from vit2onnx.precision.nodes import attribute
from vit2onnx.precision.ranges import Ranges
from vit2onnx.precision.smoothing import Product, divisible
from vit2onnx.precision.statement import noise_of_rows
from vit2onnx.weights.keytable import LazyTensor

# The expected noise of a product (`Product.noise`): up to the first, its input is left as it is if evening it out would
# take a node of its own; above the second, it is not quantised. On synthetic ViT-S all are below 0.02.
TOLERATED, MOST = 0.03, 0.06
TOO_NOISY = "8 bits would add noise of {:.3f}, more than {}"


@dataclass(frozen=True)
class Linears:
    """A value, and the MatMuls that take it beside a weight."""

    value: ir.Value
    nodes: tuple[ir.Node, ...]

    @property
    def weights(self) -> tuple[str, ...]:
        """The names of the weights, which are graph inputs."""
        return tuple(node.inputs[1].name for node in self.nodes)


@dataclass(frozen=True)
class Smoothing:
    """By what a value is divided, and the parameters by whose division it is; by a node if there are none."""

    factors: np.ndarray
    divided: tuple[str, ...]


@dataclass(frozen=True)
class Int8Plan:
    """Which Linears and tables become int8, and why others do not, by the names of their weights."""

    quantised: tuple[tuple[Linears, Smoothing | None], ...]
    tables: tuple[ir.Node, ...]
    float32: Mapping[str, str]


def plan_int8(graph: ir.Graph, tensors: Mapping[str, LazyTensor], inputs: Collection[str], ranges: Ranges) -> Int8Plan:
    """Decide for each Linear and each table of a graph. See `precision.int8.to_int8`."""
    quantised: list[tuple[Linears, Smoothing | None]] = []
    float32: dict[str, str] = {}
    for linears in _linears_of(graph, inputs):
        what = _reason_against(linears, inputs) or _smoothing_of(linears, tensors, ranges)
        if isinstance(what, str):
            float32 |= dict.fromkeys(linears.weights, what)
        else:
            quantised.append((linears, what))
    tables = []
    for node in _lookups_of(graph, inputs):
        name = node.inputs[0].name
        noise = noise_of_rows(tensors[name].read())
        if noise > TOLERATED:
            float32[name] = TOO_NOISY.format(noise, TOLERATED)
        else:
            tables.append(node)
    return Int8Plan(tuple(quantised), tuple(tables), float32)


def _linears_of(graph: ir.Graph, inputs: Collection[str]) -> list[Linears]:
    """All MatMuls of a matrix that is a parameter, those of one value together, in the graph's order."""
    found: dict[ir.Value, list[ir.Node]] = {}
    for node in graph:
        if node.op_type == "MatMul" and node.inputs[1].is_graph_input() and node.inputs[1].name not in inputs:
            found.setdefault(node.inputs[0], []).append(node)
    return [Linears(value, tuple(nodes)) for value, nodes in found.items()]


def _lookups_of(graph: ir.Graph, inputs: Collection[str]) -> list[ir.Node]:
    """All nodes that take rows of a table that is a parameter and that nothing else takes, such as that of tokens."""
    return [
        node
        for node in graph
        if node.op_type == "Gather"
        and node.inputs[0].is_graph_input()
        and node.inputs[0].name not in inputs
        and len(node.inputs[0].shape) == 2
        and len(node.inputs[0].uses()) == 1
        and attribute(node, "axis", 0) == 0
    ]


def _reason_against(linears: Linears, inputs: Collection[str]) -> str | None:
    """Why MatMuls are not quantised, whatever the ranges are."""
    if linears.value.name in inputs:
        return "takes an input of the graph"
    if linears.value.producer() is None:
        return "takes a parameter"
    if any(len(node.inputs[1].uses()) > 1 for node in linears.nodes):
        return "shares its weight"
    return None


def _smoothing_of(linears: Linears, tensors: Mapping[str, LazyTensor], ranges: Ranges) -> Smoothing | str | None:
    """How the value is evened out before it is quantised; or why it is not quantised."""
    name = linears.value.name
    if name not in ranges.channels:
        raise InputError(f"The ranges say nothing of {name}; measure them on this graph.")
    product = Product.of(ranges.channels[name], (tensors[weight].read() for weight in linears.weights))
    factors = product.factors
    divided = divisible(linears.value, linears.nodes, len(factors), tensors)
    if divided is None and product.noise() <= TOLERATED:
        return None
    if (noise := product.noise(factors)) > MOST:
        return TOO_NOISY.format(noise, MOST)
    return Smoothing(factors, divided or ())
