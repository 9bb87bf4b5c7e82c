"""Name the nodes of a graph, and what they give, by the part of the model that they belong to."""

import re
from collections import Counter
from collections.abc import Iterator

import onnx_ir as ir

from vit2onnx.exporting.lowerings import PART


def name_nodes(graph: ir.Graph, inputs: list[str]) -> None:
    """Name every node by its place in the model's tree and its operator, as in `blocks.7/attn/q/MatMul`.

    A node that takes a parameter belongs to the module that holds it. Any other belongs to the module around the one
    that its last input comes from, but at least to its part of the model.
    """
    modules: dict[ir.Value, str] = {}
    order: dict[ir.Value, int] = {}
    names: Counter[str] = Counter()
    for place, (node, part) in enumerate(zip(list(graph), _parts(list(graph)), strict=True)):
        taken = list(_taken(node))
        held = [value.name for value in taken if value.is_graph_input() and value.name not in inputs]
        if held:
            module = held[0].rpartition(".")[0] or part
            around = module.rpartition(".")[0]
        else:
            last = max((value for value in taken if value in order), key=lambda value: order[value], default=None)
            module = around = modules.get(last, "") if f"{modules.get(last, '')}.".startswith(f"{part}.") else part
        path = re.sub(r"\.(?!\d)", "/", module)
        name = f"{path}/{node.op_type}"
        node.name = f"{name}_{names[name]}" if names[name] else name
        names[name] += 1
        for number, value in enumerate(node.outputs):
            modules[value], order[value] = around, place
            if not value.is_graph_output():
                value.name = f"{node.name}/{number}" if number else node.name
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                _name_inner(attribute.as_graph(), node.name)


def _name_inner(graph: ir.Graph, around: str) -> None:
    """Name the nodes of a subgraph and all that it has by the node around it."""
    names: Counter[str] = Counter()
    for value in graph.inputs:
        value.name = f"{around}/{value.name}"
    for node in graph:
        name = f"{around}/{node.op_type}"
        node.name = f"{name}_{names[name]}" if names[name] else name
        names[name] += 1
        for value in node.outputs:
            value.name = node.name


def _taken(node: ir.Node) -> Iterator[ir.Value]:
    """The values that a node takes, also those that its subgraphs take from around them."""
    yield from filter(None, node.inputs)
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            inner = attribute.as_graph()
            own = {*inner.inputs, *(value for one in inner for value in one.outputs)}
            yield from (value for one in inner for value in _taken(one) if value not in own)


def _parts(nodes: list[ir.Node]) -> list[str]:
    """The part of the model that each node belongs to. Those that do not say are of the part before them.

    But JAX turns an image before a convolution, so a Transpose is of the part after it.
    """
    parts = [node.metadata_props.pop(PART, None) for node in nodes]
    before, after = list(parts), list(parts)
    for place in range(1, len(parts)):
        before[place] = parts[place] or before[place - 1]
        after[-place - 1] = parts[-place - 1] or after[-place]
    return [
        (next_ if node.op_type == "Transpose" else last) or last or next_ or ""
        for node, last, next_ in zip(nodes, before, after, strict=True)
    ]
