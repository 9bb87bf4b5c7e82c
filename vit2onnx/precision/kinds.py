"""The types of a graph's values, and which of them are about content, and which about geometry."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import partial

import onnx
import onnx_ir as ir

# Parts of the model that compute in float32: the logits of pairs, and the preparation of photographs.
IN_FLOAT32 = {"joint", "photographs"}
FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)


class Origin(IntEnum):
    """What a value is computed of. What is computed of several is of the last of theirs."""

    # Parameters and constants.
    CONSTANT = 0
    # Sizes, places and numbers of tokens.
    GEOMETRY = 1
    # What the input holds.
    CONTENT = 2


@dataclass(frozen=True)
class Kind:
    """What is known of a value: its type in ONNX's words, whether of a sequence, its sizes, and what it comes of.

    `sizes` is nothing if even their number is unknown, and has nothing in the place of an unknown size.
    """

    dtype: int
    is_sequence: bool
    sizes: tuple[int | None, ...] | None
    origin: Origin = Origin.CONSTANT

    @property
    def is_float(self) -> bool:
        return self.dtype in FLOATS


def kinds_of(model: ir.Model, inputs: Collection[str]) -> dict[str, Kind]:
    """What is known of every value of a graph and its subgraphs, by name.

    The content of `inputs` is numbers that are no integers, pixels of 8 bits, and rows of tables that ids choose.
    """
    found = _types_of(ir.to_proto(model))
    origins: dict[str, Origin] = {}
    for value in model.graph.inputs:
        if value.name in inputs:
            whole = found[value.name].dtype in (onnx.TensorProto.INT32, onnx.TensorProto.INT64)
            origins[value.name] = Origin.GEOMETRY if whole else Origin.CONTENT
    _note_origins(model.graph, found, origins)
    return {
        name: Kind(one.dtype, one.is_sequence, one.sizes, origins.get(name, Origin.CONSTANT))
        for name, one in found.items()
    }


def computes_in_float32(node: ir.Node) -> bool:
    """Whether a node belongs to a part of the model that computes in float32."""
    return not IN_FLOAT32.isdisjoint((node.name or "").split("/"))


def bodies_of(node: ir.Node) -> Iterator[ir.Graph]:
    """The subgraphs of a node."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()


def taken_by(node: ir.Node) -> Iterator[ir.Value]:
    """The values that a node takes, also those that its subgraphs take from around them."""
    yield from filter(None, node.inputs)
    for body in bodies_of(node):
        own = {*body.inputs, *(value for one in body for value in one.outputs)}
        yield from (value for one in body for value in taken_by(one) if value not in own)


def _types_of(model: onnx.ModelProto) -> dict[str, Kind]:
    """What ONNX infers of types and sizes; and what loops insert into sequences, which it does not infer."""
    while True:
        found: dict[str, Kind] = {}
        _note_types(onnx.shape_inference.infer_shapes(model, data_prop=True).graph, found)
        known = [info for info in map(partial(_joined, model.graph, found), model.graph.node) if info is not None]
        if not known:
            return found
        model.graph.value_info.extend(known)


def _joined(graph: onnx.GraphProto, found: Mapping[str, Kind], node: onnx.NodeProto) -> onnx.ValueInfoProto | None:
    """The type of a joined sequence that a loop has made, if it was unknown and can be told."""
    if node.op_type != "ConcatFromSequence" or found[node.output[0]].sizes is not None:
        return None
    (loop,) = (one for one in graph.node if node.input[0] in one.output)
    bodies = [attribute.g for attribute in loop.attribute if attribute.HasField("g")]
    inserted = [one.input[1] for body in bodies for one in body.node if one.op_type == "SequenceInsert"]
    if len(inserted) != 1 or (kind := found.get(inserted[0])) is None or kind.sizes is None:
        return None
    # The number of axes alone, because not all sizes are told within loops.
    return onnx.helper.make_tensor_value_info(node.output[0], kind.dtype, [None] * len(kind.sizes))


def _note_types(graph: onnx.GraphProto, found: dict[str, Kind]) -> None:
    for tensor in graph.initializer:
        found[tensor.name] = Kind(tensor.data_type, False, tuple(tensor.dims))
    for value in (*graph.input, *graph.value_info, *graph.output):
        is_sequence = value.type.HasField("sequence_type")
        one = value.type.sequence_type.elem_type.tensor_type if is_sequence else value.type.tensor_type
        sizes = None
        if one.HasField("shape"):
            # A size of zero is one that inference got wrong.
            sizes = tuple(size.dim_value or None for size in one.shape.dim)
        found[value.name] = Kind(one.elem_type, is_sequence, sizes)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _note_types(attribute.g, found)


def _note_origins(graph: ir.Graph, types: Mapping[str, Kind], origins: dict[str, Origin]) -> None:
    for value in graph.initializers.values():
        # What was folded is made of geometry, unless it is one number.
        origins[value.name] = Origin.GEOMETRY if types[value.name].sizes else Origin.CONSTANT
    for node in graph:
        for body in bodies_of(node):
            _note_origins(body, types, origins)
        taken = [value.name for value in taken_by(node)]
        # Numbers of rows and sizes do not matter where a node takes numbers that are none.
        floats = [name for name in taken if name in types and types[name].is_float] or taken
        origin = max((origins.get(name, Origin.CONSTANT) for name in floats), default=Origin.CONSTANT)
        if node.op_type in ("Shape", "Size", "Range"):
            origin = Origin.GEOMETRY
        elif node.op_type == "Gather":
            ids = origins.get(taken[1], Origin.CONSTANT)
            # Rows of parameters that ids choose; and what grey levels stand for, which a table of constants tells.
            origin = (
                Origin.CONTENT
                if ids == Origin.CONTENT or (ids, origin) == (Origin.GEOMETRY, Origin.CONSTANT)
                else origin
            )
        origins.update(dict.fromkeys((value.name for value in node.outputs), origin))
