"""What the nodes of an ONNX graph take."""

import onnx


def bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The subgraphs of a node."""
    return [attribute.g for attribute in node.attribute if attribute.HasField("g")]


def inner_inputs(node: onnx.NodeProto) -> list[str]:
    """The values that the subgraphs of a node take from around them."""
    found = []
    for graph in bodies(node):
        own = {"", *(value.name for value in graph.input), *(name for one in graph.node for name in one.output)}
        found += [name for one in graph.node for name in (*one.input, *inner_inputs(one)) if name not in own]
    return list(dict.fromkeys(found))
