"""Two diagnostic copies of an exported graph that also output every intermediate result.

Both read the weights from model.eqx. In the second, each layer has an input of its own instead of the output of the
layer before it, so an error in one layer shows in no other.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
import onnx
import onnx_ir as ir

from vit2onnx import onnx_file
from vit2onnx.errors import InternalError
from vit2onnx.exporting.folding import fold
from vit2onnx.exporting.graph import trace, whole_numbers_of
from vit2onnx.exporting.layer_scale import apply_folds
from vit2onnx.exporting.weights import end_with_checksum, write_external
from vit2onnx.files import atomic
from vit2onnx.nn.model import Model, layers_of, run_stages
from vit2onnx.runners.onnx_nodes import bodies, inner_inputs
from vit2onnx.spec.case import AS_OUTPUT, last_word, path_of
from vit2onnx.spec.interface import Interface
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec
from vit2onnx.weights.keytable import LazyTensor


def stage_outputs(model: Model, spec: VariantSpec, interface: Interface) -> list[str]:
    """The full names of all stages that are outputs: not a layer's input, which the layer before it gives, nor what is
    an output anyhow.
    """
    ports = {port.name for port in interface.outputs}
    towers = model.towers(interface.name)
    # A packed graph gives the tokens of an image in several outputs, of which none is the stage.
    as_output = {} if interface.packs else AS_OUTPUT
    same = {path_of(tower, stage) for tower in towers for stage, port in as_output.items() if port in ports}
    smallest = {**interface.minimum, **interface.fixed}
    inputs = {
        port.name: jax.ShapeDtypeStruct(interface.shape(port, smallest), np.dtype(port.dtype))
        for port in interface.inputs
    }
    found: list[str] = []

    def call(whole: Model, arrays: Mapping[str, jax.Array]) -> None:
        # Here, because JAX would return them sorted by name.
        found.extend(run_stages(whole, dict(arrays), interface.name)[1])

    with whole_numbers_of(interface):
        jax.eval_shape(call, model, inputs)
    return [name for name in found if not name.endswith(".input") and name not in same | ports]


def write_stages(
    model: Model,
    spec: VariantSpec,
    recipe: Recipe,
    tensors: Mapping[str, LazyTensor],
    *,
    exported: Path,
    weights: Path,
    accumulated: Path,
    injected: Path,
) -> None:
    """Write both graphs of a recipe, beside the file `weights`, if their nodes are those of `exported`.

    Raises `InternalError` if they are not.
    """
    interface = spec.interface_of(recipe)
    stages = stage_outputs(model, spec, interface.prepares or interface)
    graph = trace(model, spec, recipe, stages)
    graph.producer_name = "vit2onnx"
    # Of the same nodes, the same is true.
    graph.metadata_props.update(onnx_file.metadata(exported))
    tensors = fold(graph, tensors, [port.name for port in interface.inputs])
    apply_folds(graph.graph, graph.metadata_props.get("folds", "").split(", "))
    whole = ir.to_proto(graph)
    check_same_nodes(exported, whole, tensors, len(interface.outputs))
    whole = _of_stages(whole, interface, stages)
    cut = inject(whole, layers_of(model, interface.of_model))
    for path, proto in ((accumulated, whole), (injected, cut)):
        # While the parameters are inputs, so that there is nothing large to be checked.
        onnx.checker.check_model(proto, full_check=True)
        parameters = {value.name: value for value in proto.graph.input if value.name in tensors}
        if parameters.keys() != tensors.keys():
            raise InternalError(f"the graph lacks the parameters {sorted(tensors.keys() - parameters.keys())}")
        for value in parameters.values():
            proto.graph.input.remove(value)
        with atomic(path) as new:
            write_external(new, proto, tensors, weights.name)
            end_with_checksum(new)


def _of_stages(graph: onnx.ModelProto, interface: Interface, stages: Sequence[str]) -> onnx.ModelProto:
    """A graph without those outputs of its interface that are of layers; what is left are the others and all `stages`.

    A stage that was such an output is called as stages are.
    """
    of_layers = [port for port in interface.outputs if port.layer]
    if not of_layers:
        return graph
    present = {value.name for value in graph.graph.output}
    names = {port.name: port.layer for port in of_layers if not port.normed and port.layer not in present}
    found = onnx.ModelProto()
    found.CopyFrom(graph)
    for values in (value for node in found.graph.node for value in (node.input, node.output)):
        values[:] = [names.get(name, name) for name in values]
    for value in found.graph.output:
        value.name = names.get(value.name, value.name)
    outputs = {value.name: value for value in found.graph.output}
    kept = [*(port.name for port in interface.outputs if not port.layer), *stages]
    nodes = _leading_to(kept, found.graph.node)
    taken = {name for node in nodes for name in (*node.input, *inner_inputs(node))}
    constants = [one for one in found.graph.initializer if one.name in taken]
    for field, values in (("output", [outputs[name] for name in kept]), ("node", nodes), ("initializer", constants)):
        found.graph.ClearField(field)
        getattr(found.graph, field).extend(values)
    return found


def check_same_nodes(
    exported: Path, graph: onnx.ModelProto, parameters: Mapping[str, LazyTensor], outputs: int
) -> None:
    """Check that a graph computes what an ONNX file computes: node by node the same operator with the same attributes,
    on the same values, whatever these are called. Nodes that lead to none of its first `outputs` are left out.

    Raises `InternalError` if it does not.
    """
    names = {name: name for name in (*(value.name for value in graph.graph.input), *parameters)}
    nodes = _leading_to([value.name for value in graph.graph.output[:outputs]], graph.graph.node)
    _check_nodes(exported, [onnx.NodeProto.FromString(data) for data in onnx_file.nodes(exported)], nodes, names)
    if len(set(names.values())) != len(names):
        raise InternalError(f"two values of {exported} are one in the graph of its stages")
    constants = {tensor.name: tensor for tensor in graph.graph.initializer}
    for name, its in onnx_file.initializers(exported).items():
        if name not in parameters:
            ours = constants.pop(names.get(name, ""), None)
            if ours is None or its.sha256() != hashlib.sha256(ours.raw_data).hexdigest():
                raise InternalError(f"the constant {name} of {exported} has another value, or none, in this graph")
    if constants:
        raise InternalError(f"{exported} lacks the constants {list(constants)}")


def _leading_to(outputs: Sequence[str], nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The nodes that some outputs come of, in order."""
    needed, found = {*outputs}, []
    for node in reversed(nodes):
        if needed & {*node.output}:
            needed |= {*node.input, *inner_inputs(node)}
            found.append(node)
    return found[::-1]


def _check_nodes(
    path: Path, others: Sequence[onnx.NodeProto], nodes: Sequence[onnx.NodeProto], names: dict[str, str]
) -> None:
    """Check that nodes do the same in order, also in loops; `names` are ours of the values of the others."""
    if len(others) != len(nodes):
        raise InternalError(f"{path} has {len(others)} nodes instead of {len(nodes)}")
    for other, node in zip(others, nodes, strict=True):
        if _operation(other) != _operation(node):
            raise InternalError(
                f"{node.name} is {other.op_type} in {path} instead of {node.op_type}, or has other attributes"
            )
        both = list(zip(bodies(other), bodies(node), strict=True))
        values = [*zip([*other.input, *other.output], [*node.input, *node.output], strict=True)]
        values += [pair for one in both for pair in zip(*map(_ports, one), strict=True)]
        for its, ours in values:
            if (before := names.setdefault(its, ours)) != ours:
                raise InternalError(f"{node.name} takes or gives {before} in {path} instead of {ours}")
        for its_body, our_body in both:
            _check_nodes(path, its_body.node, our_body.node, names)


def _operation(node: onnx.NodeProto) -> tuple[object, ...]:
    """What a node computes, but for the values that it takes and its subgraphs."""
    attributes = [attribute for attribute in node.attribute if not attribute.HasField("g")]
    return node.op_type, node.domain, attributes, len(node.input), len(node.output), len(bodies(node))


def _ports(body: onnx.GraphProto) -> list[str]:
    """The inputs of a subgraph, and its outputs."""
    return [value.name for value in (*body.input, *body.output)]


def inject(graph: onnx.ModelProto, layers: Mapping[str, str]) -> onnx.ModelProto:
    """A graph whose layers each begin with an input of their own, `{layer}.input`, in the place of the stage that
    `layers` has for them.

    A first layer that begins with the image does so anyhow.
    """
    injected = onnx.ModelProto()
    injected.CopyFrom(graph)
    outputs = {value.name: value for value in injected.graph.output}
    inputs = {before: f"{layer}.input" for layer, before in layers.items()}
    for before, name in inputs.items():
        value = onnx.ValueInfoProto()
        value.CopyFrom(outputs[before])
        value.name = name
        injected.graph.input.append(value)
    instead, turned = dict(inputs), []
    for node in injected.graph.node:
        if node.op_type == "Transpose" and node.output[0] in inputs:
            # The exporter has the next layer take what is not transposed yet, instead of transposing it back.
            name = inputs[node.output[0]]
            back = [int(axis) for axis in np.argsort(node.attribute[0].ints)]
            turned.append(onnx.helper.make_node("Transpose", [name], [f"{name}.transposed"], perm=back))
            instead[node.input[0]] = f"{name}.transposed"
    for node in injected.graph.node:
        if node.output[0] not in inputs or node.op_type != "Transpose":
            node.input[:] = [instead.get(name, name) for name in node.input]
    for node in reversed(turned):
        injected.graph.node.insert(0, node)
    _check_apart(injected, set(inputs.values()), {name for name in inputs if not name.endswith(".output")})
    return injected


def _check_apart(graph: onnx.ModelProto, injected: set[str], embedded: set[str]) -> None:
    """Check that no stage depends on a stage of another layer: a layer's on its injected input only, what `embed` makes
    on none, and what is made of heads on those of heads.

    Raises `InternalError` if one does.
    """
    # Of every value, the injected inputs that it depends on.
    origins: dict[str, set[str]] = {name: {name} for name in injected}
    for node in graph.graph.node:
        # Sizes are the same whatever is injected.
        taken = [] if node.op_type == "Shape" else [*node.input, *inner_inputs(node)]
        found = set().union(*(origins.get(name, set()) for name in taken))
        origins |= dict.fromkeys(node.output, found)
    heads = {name for name in injected if last_word(name.removesuffix(".input")) == "norm"}
    towers = {name.removesuffix("norm.input").rstrip(".") for name in heads}
    for value in graph.graph.output:
        found, layer = origins.get(value.name, set()), value.name.rpartition(".")[0]
        if f"{layer}.input" in injected:
            is_apart = found == {f"{layer}.input"}
        elif layer in {*towers, ""} and value.name not in embedded:
            is_apart = bool(found) and found <= heads
        else:
            is_apart = not found
        if not is_apart:
            raise InternalError(f"{value.name} depends on {sorted(found)} and not on its own layer only")
