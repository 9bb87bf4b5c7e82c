"""Make constants of what does not depend on a graph's input."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper
from onnx.numpy_helper import from_array

from vit2onnx.errors import InternalError
from vit2onnx.runners.onnx_constants import COMPUTED, compute
from vit2onnx.weights.keytable import LazyTensor

# What comes of a weight by these alone is still that weight, which a graph holds as the checkpoint does.
LAYOUT = {"Concat", "Expand", "Reshape", "Transpose"}
# Constants are computed from parameters of at most this many elements, because the file's metadata repeats the
# parameter as text.
LARGEST = 1024


def fold(model: ir.Model, tensors: Mapping[str, LazyTensor], inputs: Collection[str]) -> dict[str, LazyTensor]:
    """Compute in double precision what depends on none of the `inputs`, and put the result in the place of its nodes.

    The graph's metadata then says how, see `runners.onnx_constants`. Returns the tensors that are still parameters of
    the graph: not those of which nothing is left but constants.
    """
    graph = model.graph
    origins = _origins(graph, inputs)
    folded = [
        value
        for node in graph
        for value in node.outputs
        if origins.get(value) in ("constant", "computed")
        and any(origins.get(user.outputs[0]) in (None, "layout", "large") for user in value.consumers())
    ]
    read = cache(lambda name: tensors[name].read())
    exact = compute(_origin(model, folded, read))
    floats = [value for value in folded if exact[value.name].dtype == np.float64]
    if floats:
        origin = _origin(model, floats, read)
        for output in origin.graph.output:
            output.CopyFrom(
                helper.make_tensor_value_info(output.name, onnx.TensorProto.FLOAT, exact[output.name].shape)
            )
        model.metadata_props[COMPUTED] = onnx.printer.to_text(origin)
        again = compute(onnx.parser.parse_model(model.metadata_props[COMPUTED]))
        if any(not np.array_equal(again[name], exact[name]) for name in again):
            raise InternalError(f"ONNX's text does not say how to compute {list(again)}")
    for value in folded:
        array = exact[value.name]
        tensor = ir.tensor(array.astype(np.float32) if array.dtype == np.float64 else array)
        constant = ir.Value(
            name=value.name, shape=ir.Shape(tensor.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        value.replace_all_uses_with(constant)
        graph.register_initializer(constant)
    _remove_unused(graph, inputs)
    left = {value.name for value in graph.inputs}
    return {name: tensor for name, tensor in tensors.items() if name in left}


def _origins(graph: ir.Graph, inputs: Collection[str]) -> dict[ir.Value, str]:
    """What every value comes of that does not depend on the `inputs`: constants alone, weights, or both computed.

    A `layout` is a weight in another place or shape, or several times; it stays a node. So does all that is computed of
    a weight that is `large`.
    """
    origins = dict.fromkeys(graph.initializers.values(), "constant")
    for value in graph.inputs:
        if value.name not in inputs:
            origins[value] = "layout" if math.prod(value.shape) <= LARGEST else "large"
    for node in graph:
        found = {origins.get(value) for value in node.inputs if value is not None}
        # Constants are arrays, so a sequence is not folded.
        if isinstance(node.outputs[0].type, ir.SequenceType):
            continue
        if found <= {"constant"}:
            origins |= dict.fromkeys(node.outputs, "constant")
        elif None not in found and node.op_type in LAYOUT and "computed" not in found:
            origins |= dict.fromkeys(node.outputs, "large" if "large" in found else "layout")
        elif not found & {None, "large"}:
            origins |= dict.fromkeys(node.outputs, "computed")
    return origins


def _origin(model: ir.Model, values: Sequence[ir.Value], read: Callable[[str], np.ndarray]) -> onnx.ModelProto:
    """The part of a graph that makes some values, with the parameters that these come of; `read` gives them by name."""
    needed: dict[ir.Value, None] = {}
    rest = list(values)
    while rest:
        value = rest.pop()
        if value not in needed:
            needed[value] = None
            rest += [one for one in (value.producer().inputs if value.producer() else ()) if one is not None]
    held = {value.name: value.const_value for value in needed if value.producer() is None}
    graph = helper.make_graph(
        [ir.to_proto(node) for node in model.graph if node.outputs[0] in needed],
        "constants",
        [],
        [helper.make_empty_tensor_value_info(value.name) for value in values],
        [from_array(read(name) if held[name] is None else held[name].numpy(), name) for name in sorted(held)],
    )
    opsets = [helper.make_opsetid(domain, version) for domain, version in model.opset_imports.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=model.ir_version)


def _remove_unused(graph: ir.Graph, inputs: Collection[str]) -> None:
    """Remove nodes, constants and parameters that nothing takes."""
    for node in reversed(list(graph)):
        if not any(value.uses() or value.is_graph_output() for value in node.outputs):
            graph.remove(node, safe=True)
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        del graph.initializers[name]
    for value in [value for value in graph.inputs if not value.uses() and value.name not in inputs]:
        graph.inputs.remove(value)
