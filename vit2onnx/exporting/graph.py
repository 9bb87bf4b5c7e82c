"""Trace a model to an ONNX graph without its weights, then let the weights stream in."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import onnx
import onnx_ir as ir
from jax import export as jax_export
from jax2onnx import to_onnx

import vit2onnx.exporting.lowerings  # noqa: F401  registers the primitives' operators
from vit2onnx.errors import InputError, InternalError
from vit2onnx.exporting.weights import write_embedded, write_external
from vit2onnx.families.models import Model
from vit2onnx.files import atomic
from vit2onnx.nn.features import run_stages
from vit2onnx.onnx_file import INPUT, OUTPUTS
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec
from vit2onnx.weights.archive import leaf_names
from vit2onnx.weights.keytable import LazyTensor


def trace(model: Model, spec: VariantSpec, export: Recipe, stages: Sequence[str] = ()) -> ir.Model:
    """The graph of a model for one recipe, with the parameters as graph inputs named by their path in the tree.

    `stages` are full names of stages that are to be outputs as well.
    Only the shapes of the parameters are looked at, so `model` may hold `jax.ShapeDtypeStruct`s.
    """
    leaves, structure = jax.tree_util.tree_flatten(model)
    pixel_values = jax.ShapeDtypeStruct(_input_shape(spec, export), jnp.float32)

    def call(pixel_values: jax.Array, *leaves: jax.Array) -> tuple[jax.Array, ...]:
        whole = jax.tree_util.tree_unflatten(structure, leaves)
        if not stages:
            return tuple(whole(pixel_values))
        features, found = run_stages(whole, pixel_values)
        return (*features, *(found[stage] for stage in stages))

    graph: ir.Model = to_onnx(
        call,
        [pixel_values, *(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)],
        model_name=spec.name,
        opset=export.opset,
        return_mode="ir",
        input_names=[INPUT, *leaf_names(model)],
        output_names=[*OUTPUTS, *stages],
    )
    _name_dimensions(graph, model, pixel_values)
    return graph


def _input_shape(spec: VariantSpec, export: Recipe) -> tuple[Any, ...]:
    patch = spec.architecture.patch_size
    for key in ("height", "width"):
        size = getattr(export, key)
        if size is not None and size < patch:
            raise InputError(
                f"exports.{export.name}.{key} is {size}, smaller than one patch of {spec.name}; make it at least"
                f" {patch} or 'dynamic'."
            )
    sizes = {"batch": export.batch, "height": export.height, "width": export.width}
    names = [name if size is None else str(size) for name, size in sizes.items()]
    least = {"batch": 1, "height": patch, "width": patch}
    free = [name for name, size in sizes.items() if size is None]
    if not free:
        return (export.batch, 3, export.height, export.width)
    text = ", ".join([names[0], "3", *names[1:]])
    return tuple(jax_export.symbolic_shape(text, constraints=[f"{name} >= {least[name]}" for name in free]))


def _name_dimensions(graph: ir.Model, model: Model, pixel_values: jax.ShapeDtypeStruct) -> None:
    """Name the number of tokens where a graph has it as arithmetic on the image's size, and drop other arithmetic."""
    tokens = jax.eval_shape(lambda m, x: m(x), model, pixel_values).last_hidden_state.shape[1]
    kept = {"batch", "height", "width"}
    for node in graph.graph:
        for value in node.outputs:
            if value.type is None:
                value.type = ir.TensorType(ir.DataType.INT64)
            for axis, size in enumerate(value.shape or ()):
                if isinstance(size, ir.SymbolicDim) and size.value not in kept:
                    value.shape[axis] = "tokens" if size.value == str(tokens) else None


def detach(graph: ir.Model, tensors: Mapping[str, LazyTensor]) -> None:
    """Take the parameters off the graph's inputs. Raises `InternalError` if they are not these tensors."""
    parameters = {value.name: value for value in graph.graph.inputs if value.name != INPUT}
    found = {name: tuple(value.shape) for name, value in parameters.items()}
    wanted = {name: tensor.shape for name, tensor in tensors.items()}
    names = [name for name in sorted(found.keys() | wanted.keys()) if found.get(name) != wanted.get(name)]
    if names:
        different = [f"{name} is {found.get(name)} instead of {wanted.get(name)}" for name in names]
        raise InternalError(f"parameters of the graph are not the model's: {', '.join(different)}")
    for value in parameters.values():
        graph.graph.inputs.remove(value)


def write(
    graph: ir.Model,
    path: Path,
    export: Recipe,
    metadata: Mapping[str, str],
    tensors: Mapping[str, LazyTensor],
    *,
    weights: Path,
    external: bool,
) -> None:
    """Write the graph, once it has passed ONNX's full check, with its metadata and weights.

    If `external`, the weights stay in the file `weights`, which lies beside `path`; else they are copied, one tensor in
    memory at a time.
    """
    graph.producer_name = "vit2onnx"
    graph.producer_version = metadata["version"]
    graph.metadata_props.update(metadata)
    for value in graph.graph.outputs:
        value.doc_string = OUTPUTS[value.name]
    # While the parameters are inputs, so that there is nothing large to be checked.
    onnx.checker.check_model(ir.to_proto(graph), full_check=True)
    detach(graph, tensors)
    check_interface(graph, export)
    model = ir.to_proto(graph)
    with atomic(path) as new:
        if external:
            write_external(new, model, tensors, weights.name)
        else:
            write_embedded(new, model, tensors)


def check_interface(graph: ir.Model, export: Recipe) -> None:
    """Check names, dtypes and free dimensions of the graph's edge against the recipe, both ways.

    Raises `InternalError`, because a difference is a fault of ours and not of what was given.
    """
    inputs = {value.name: value for value in graph.graph.inputs}
    outputs = {value.name: value for value in graph.graph.outputs}
    if list(inputs) != [INPUT]:
        raise InternalError(f"graph inputs are {list(inputs)} instead of {[INPUT]}")
    if list(outputs) != list(OUTPUTS):
        raise InternalError(f"graph outputs are {list(outputs)} instead of {list(OUTPUTS)}")
    for value in (*inputs.values(), *outputs.values()):
        if value.dtype != ir.DataType.FLOAT:
            raise InternalError(f"{value.name} is {value.dtype} instead of {ir.DataType.FLOAT}")
    wanted = [export.batch or "batch", 3, export.height or "height", export.width or "width"]
    found = [size.value if isinstance(size, ir.SymbolicDim) else size for size in inputs[INPUT].shape]
    if found != wanted:
        raise InternalError(f"{INPUT} is {found} instead of {wanted}")
    is_free = None in (export.height, export.width)
    for value, axes in zip(outputs.values(), (["batch", "tokens"], ["batch"]), strict=True):
        sizes = [size.value if isinstance(size, ir.SymbolicDim) else size for size in value.shape][: len(axes)]
        free = [axis for axis in axes if (axis == "batch" and export.batch is None) or (axis == "tokens" and is_free)]
        if [size for size in sizes if not isinstance(size, int)] != free:
            raise InternalError(f"{value.name} is {sizes}, in which {free} should be free and nothing else")
