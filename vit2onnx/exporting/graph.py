"""Trace a model to an ONNX graph without its weights, then let the weights stream in."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import onnx
import onnx_ir as ir
from jax import export as jax_export
from jax2onnx import to_onnx

import vit2onnx.exporting.packing
import vit2onnx.exporting.photographs
import vit2onnx.exporting.portable  # noqa: F401  imported to register operators
from vit2onnx.errors import InputError, InternalError
from vit2onnx.exporting.folding import fold
from vit2onnx.exporting.layer_scale import apply_folds
from vit2onnx.exporting.lowerings import lowered_for
from vit2onnx.exporting.metadata import metadata_of
from vit2onnx.exporting.naming import name_nodes
from vit2onnx.exporting.weights import end_with_checksum, placed, write_data, write_embedded, write_external
from vit2onnx.files import atomic
from vit2onnx.nn.model import Model, Named, outputs_of_layers, run_stages
from vit2onnx.nn.photographs import inputs_of_model
from vit2onnx.onnx_file import data_beside
from vit2onnx.precision.reduction import Basis, reduced
from vit2onnx.spec.interface import Interface
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec
from vit2onnx.weights.keytable import LazyTensor
from vit2onnx.weights.leaves import leaf_names
from vit2onnx.weights.model_file import open_model

# The version of the file format that came with operator set 17; old runtimes refuse newer ones.
PORTABLE_IR = 8
# Of numpy's names for types.
ONNX_NAMES = {"float32": "float", "int32": "int32", "int64": "int64", "uint8": "uint8"}


def export(
    spec: VariantSpec,
    recipe: Recipe,
    weights: Path,
    graph: Path,
    record: Mapping[str, Any],
    *,
    model: Model | None = None,
    ledger_sha256: str = "",
    external: bool = False,
    basis: Basis | None = None,
) -> Path:
    """Export `weights`, a `model.eqx`, by a recipe; returns the path of the graph.

    `record` says what the checkpoint is, as `describe` does. `model` is another model of the same parameters. If
    `external`, the weights stay in `weights`, beside which the graph must lie; those of a small precision are in
    `data_beside` the graph, where `export_weights` writes them. A small precision needs a `basis`.
    """
    skeleton, tensors = open_model(weights)
    traced = trace(model or skeleton, spec, recipe)
    metadata, interface = metadata_of(spec, recipe, record, ledger_sha256), spec.interface_of(recipe)
    write(traced, graph, interface, recipe, metadata, tensors, weights=weights, external=external, basis=basis)
    return graph


def export_weights(spec: VariantSpec, recipe: Recipe, weights: Path, data: Path, basis: Basis) -> None:
    """Write the file of weights for a graph in a small precision that `export` writes with `external`."""
    graph, tensors = folded(spec, recipe, weights)
    made = reduced(graph, tensors, [port.name for port in spec.interface_of(recipe).inputs], recipe, basis)
    with atomic(data) as new:
        write_data(new, made)


def folded(spec: VariantSpec, recipe: Recipe, weights: Path) -> tuple[ir.Model, Mapping[str, LazyTensor]]:
    """The graph of `weights`, a `model.eqx`, by a recipe, with its constants folded, and the parameters that it has."""
    skeleton, tensors = open_model(weights)
    graph = trace(skeleton, spec, recipe)
    return graph, fold(graph, tensors, [port.name for port in spec.interface_of(recipe).inputs])


def trace(model: Model, spec: VariantSpec, recipe: Recipe, stages: Sequence[str] = ()) -> ir.Model:
    """The graph of a model for one recipe, with the parameters as graph inputs named by their path in the tree.

    `stages` are full names of stages that are to be outputs as well. One that is an output of the interface keeps the
    name that it has there.
    Only the shapes of the parameters are looked at, so `model` may hold `jax.ShapeDtypeStruct`s.
    """
    leaves, structure = jax.tree_util.tree_flatten(model)
    interface = spec.interface_of(recipe)
    names = [port.name for port in interface.inputs]
    inputs = _traced_inputs(interface, recipe, spec)

    def call(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        whole = jax.tree_util.tree_unflatten(structure, arrays[len(names) :])
        found = run_graph(whole, dict(zip(names, arrays, strict=False)))
        return tuple(found[name] for name in outputs)

    def run_graph(whole: Model, arrays: Mapping[str, jax.Array]) -> Named:
        given = inputs_of_model(dict(arrays), interface, recipe)
        made, found = run_stages(whole, given, interface.of_model)
        return found | made | outputs_of_layers(whole, interface.of_model, interface.outputs, found)

    with whole_numbers_of(interface), lowered_for(recipe):
        made = jax.eval_shape(run_graph, model, inputs)
        # What of a layer is a map in the model, and no tokens, is another value as an output.
        tokens = [one for one in interface.outputs if one.layer and len(one.axes) == len(made[one.layer].shape)]
        same = {port.layer for port in tokens if not port.normed}
        outputs = [*(port.name for port in interface.outputs), *(name for name in stages if name not in same)]
        graph: ir.Model = to_onnx(
            call,
            [*inputs.values(), *(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)],
            model_name=spec.name,
            opset=recipe.opset,
            return_mode="ir",
            input_names=[*names, *leaf_names(model)],
            output_names=outputs,
        )
    if recipe.operators == "portable":
        graph.ir_version = PORTABLE_IR
    _name_dimensions(graph, made, interface)
    name_nodes(graph.graph, names)
    return graph


@contextmanager
def whole_numbers_of(interface: Interface) -> Iterator[None]:
    """Let JAX have whole numbers of 64 bits while a model is traced, if an interface has such inputs.

    JAX makes 32 bits of them unless its double precision is on. Weights stay in single precision all the same, because
    each says its own dtype.
    """
    before = jax.config.read("jax_enable_x64")
    try:
        with jax.enable_x64(any(port.dtype == "int64" for port in interface.inputs)):
            yield
    finally:
        # jax2onnx takes this for the setting of the whole process, and leaves it so.
        jax.config.update("jax_enable_x64", before)


def _traced_inputs(interface: Interface, recipe: Recipe, spec: VariantSpec) -> dict[str, jax.ShapeDtypeStruct]:
    """The inputs as they are traced, in which free dimensions are symbols."""
    sizes = interface.of_recipe(recipe)
    for axis, minimum in interface.minimum.items():
        size = sizes[axis]
        if size is not None and size < minimum:
            raise InputError(
                f"exports.{recipe.name}.{axis} is {size}, but {spec.name} takes at least {minimum}; correct it or write"
                " 'dynamic'."
            )
    free = [axis for axis, size in sizes.items() if size is None]
    scope = jax_export.SymbolicScope([f"{axis} >= {interface.minimum[axis]}" for axis in free])
    found = {}
    for port in interface.inputs:
        shape: tuple[Any, ...] = interface.shape(port, sizes)
        if any(isinstance(size, str) for size in shape):
            shape = tuple(jax_export.symbolic_shape(", ".join(map(str, shape)), scope=scope))
        found[port.name] = jax.ShapeDtypeStruct(shape, np.dtype(port.dtype))
    return found


def _name_dimensions(graph: ir.Model, made: Mapping[str, jax.ShapeDtypeStruct], interface: Interface) -> None:
    """Name the sizes of outputs that are arithmetic on those of the input, as the interface does, and drop others.

    Inner values say nothing of their sizes where these are free: every reader infers them, and some, such as tract,
    take what is written for another size than what they infer.
    """
    names: dict[str, str] = {axis: axis for axis in interface.minimum}
    for port in interface.outputs:
        sizes = zip(port.axes, made[port.name].shape, strict=True)
        names |= {str(size): axis for axis, size in sizes if isinstance(axis, str)}
    for value in graph.graph.outputs:
        for axis, size in enumerate(value.shape or ()):
            if isinstance(size, ir.SymbolicDim):
                value.shape[axis] = names.get(str(size.value))
    for node in graph.graph:
        for value in node.outputs:
            known = value.type is not None and value.shape is not None and value.shape.is_static()
            # The type of a sequence is not inferred.
            if not (known or value.is_graph_output() or isinstance(value.type, ir.SequenceType)):
                value.type = value.shape = None


def detach(graph: ir.Model, tensors: Mapping[str, LazyTensor], inputs: Collection[str]) -> None:
    """Take the parameters off the graph's inputs, of which only `inputs` stay.

    Raises `InternalError` if they are not these tensors.
    """
    parameters = {value.name: value for value in graph.graph.inputs if value.name not in inputs}
    found = {name: (*value.shape, value.dtype.numpy().name) for name, value in parameters.items()}
    wanted = {name: (*tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
    names = [name for name in sorted(found.keys() | wanted.keys()) if found.get(name) != wanted.get(name)]
    if names:
        different = [f"{name} is {found.get(name)} instead of {wanted.get(name)}" for name in names]
        raise InternalError(f"parameters of the graph are not the model's: {', '.join(different)}")
    for value in parameters.values():
        graph.graph.inputs.remove(value)


def write(
    graph: ir.Model,
    path: Path,
    interface: Interface,
    recipe: Recipe,
    metadata: Mapping[str, str],
    tensors: Mapping[str, LazyTensor],
    *,
    weights: Path,
    external: bool,
    basis: Basis | None = None,
) -> None:
    """Write the graph, once it has passed ONNX's full check, with its metadata and weights.

    Constants are folded, and the graph is brought to the precision of its recipe; a small one needs a `basis`. If
    `external`, the weights stay in the file `weights`, which lies beside `path`, or are in `data_beside` it; else they
    are copied, one tensor in memory at a time.
    """
    graph.producer_name = "vit2onnx"
    graph.producer_version = metadata["version"]
    graph.metadata_props.update(metadata)
    meanings = {port.name: port.meaning for port in interface.outputs}
    for value in graph.graph.outputs:
        value.doc_string = meanings[value.name]
    inputs = [port.name for port in interface.inputs]
    tensors = fold(graph, tensors, inputs)
    # External weights are mapped from their file. A folded one would be computed, and so held in memory.
    if not (external or recipe.is_small) and (applied := apply_folds(graph.graph, recipe.folds)):
        graph.metadata_props["folds"] = ", ".join(applied)
    tensors = reduced(graph, tensors, inputs, recipe, basis)
    # While the parameters are inputs, so that there is nothing large to be checked.
    onnx.checker.check_model(ir.to_proto(graph), full_check=True)
    detach(graph, tensors, inputs)
    check_interface(graph, interface, recipe)
    model = ir.to_proto(graph)
    with atomic(path) as new:
        if external and recipe.is_small:
            write_external(new, model, placed(tensors), data_beside(path).name)
        elif external:
            write_external(new, model, tensors, weights.name)
        else:
            write_embedded(new, model, tensors)
        end_with_checksum(new)


def check_interface(graph: ir.Model, interface: Interface, recipe: Recipe) -> None:
    """Check names, dtypes and dimensions of the graph's edge against the recipe, both ways.

    Raises `InternalError`, because a difference is a fault of ours and not of what was given.
    """
    for what, ports, values in (
        ("inputs", interface.inputs, graph.graph.inputs),
        ("outputs", interface.outputs, graph.graph.outputs),
    ):
        if (found := [value.name for value in values]) != (wanted := [port.name for port in ports]):
            raise InternalError(f"graph {what} are {found} instead of {wanted}")
        for port, value in zip(ports, values, strict=True):
            sizes = tuple(size.value if isinstance(size, ir.SymbolicDim) else size for size in value.shape)
            dtype, shape = value.dtype.name.lower(), interface.shape(port, interface.of_recipe(recipe))
            if (dtype, sizes) != (ONNX_NAMES[port.dtype], shape):
                raise InternalError(
                    f"{port.name} is {dtype} {list(sizes)} instead of {ONNX_NAMES[port.dtype]} {list(shape)}"
                )
