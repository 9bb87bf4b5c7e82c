"""What float16 makes of a model's outputs, computed in double precision and without a runtime."""

from collections.abc import Collection, Iterable, Mapping

import numpy as np
import onnx
import onnx_ir as ir
from onnx.numpy_helper import from_array, to_array

from vit2onnx.parity.metrics import token_cosines
from vit2onnx.precision.float16 import float16_statement, narrow
from vit2onnx.precision.statement import tensors_of
from vit2onnx.runners.onnx_double import run_nodes
from vit2onnx.weights.keytable import LazyTensor


def simulate(
    model: ir.Model,
    tensors: Mapping[str, LazyTensor],
    inputs: Collection[str],
    in_float32: Collection[str],
    batches: Iterable[Mapping[str, np.ndarray]],
) -> list[dict[str, np.ndarray]]:
    """The outputs by name of every batch, float64, if each value in float16 is rounded to it.

    The graph is left as it is. What is inside a node is not rounded, as runtimes add up in float32 at least.
    A value beyond float16 is infinite.
    """
    copy = model.clone()
    parameters, made = narrow(copy, inputs, in_float32)
    for value in made:
        _round(value)
    weights = {name: tensor.read for name, tensor in tensors_of(float16_statement(parameters, {}), tensors).items()}
    proto = ir.to_proto(copy)
    for one in proto.graph.initializer:
        if one.data_type == onnx.TensorProto.FLOAT16:
            one.CopyFrom(from_array(to_array(one).astype(np.float32), one.name))
    with np.errstate(over="ignore", invalid="ignore"):
        return run_nodes(proto, weights, batches)


def lowest_cosine(outputs: Iterable[Mapping[str, np.ndarray]], exact: Iterable[Mapping[str, np.ndarray]]) -> float:
    """The lowest cosine between a row of an output and the exact one; minus one if a number is not finite."""
    pairs = [
        (given[name], exactly) for given, wanted in zip(outputs, exact, strict=True) for name, exactly in wanted.items()
    ]
    if not all(np.isfinite(found).all() for found, _ in pairs):
        return -1.0
    return min((float(token_cosines(*pair).min(initial=1.0)) for pair in pairs), default=1.0)


def _round(value: ir.Value) -> None:
    """Round a value, and have all that take it go on in double precision."""
    producer = value.producer()
    if producer is None or producer.graph is None:
        return
    there = ir.node("Cast", [value], {"to": int(ir.DataType.FLOAT16)}, name=f"{value.name}/rounded")
    back = ir.node("Cast", [there.outputs[0]], {"to": int(ir.DataType.DOUBLE)}, name=f"{value.name}/back")
    for node in (there, back):
        node.outputs[0].name = node.name
    value.replace_all_uses_with(back.outputs[0])
    there.replace_input_with(0, value)
    producer.graph.insert_after(producer, [there, back])
