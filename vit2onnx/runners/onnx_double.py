"""Run an exported graph in double precision, by ONNX's own reference implementation of its operators."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_conv import Conv as GeneralConv
from onnx.reference.ops.op_layer_normalization import LayerNormalization as SinglePrecisionLayerNormalization
from scipy import special

from vit2onnx.onnx_file import Initializer, initializers
from vit2onnx.runners.onnx_constants import computed_constants, meant, read, widen_constants
from vit2onnx.runners.onnx_nodes import inner_inputs
from vit2onnx.weights.header import CRC, check_array, read_header


class Erf(OpRun):
    """Computes in the precision of its input; ONNX's own computes in single."""

    op_domain = ""

    def _run(self, x: np.ndarray) -> tuple[np.ndarray]:
        return (special.erf(x),)


class Gelu(OpRun):
    """Computes in the precision of its input; ONNX's own computes the error function in single."""

    op_domain = ""

    def _run(self, x: np.ndarray, approximate: str) -> tuple[np.ndarray]:
        if approximate == "tanh":
            return (0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),)
        return (0.5 * x * (1 + special.erf(x / math.sqrt(2))),)


class Conv(GeneralConv):
    """The same sums as ONNX's own, without its copy of every window, which takes many times as long."""

    op_domain = ""

    def _run(self, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None, **how: Any) -> tuple[np.ndarray]:
        pads, (rows, columns) = how["pads"] or [0] * 4, how["strides"] or [1, 1]
        if how["auto_pad"] not in (None, "NOTSET") or set(how["dilations"] or [1]) != {1}:
            found: tuple[np.ndarray] = super()._run(x, weight, bias, **how)
            return found
        x = np.pad(x, [(0, 0), (0, 0), *zip(pads[:2], pads[2:], strict=True)])
        windows = sliding_window_view(x, weight.shape[2:], axis=(2, 3))[:, :, ::rows, ::columns]
        batch, channels, height, width = windows.shape[:4]
        groups = how["group"]
        windows = windows.reshape(batch, groups, channels // groups, *windows.shape[2:])
        weight = weight.reshape(groups, -1, *weight.shape[1:])
        # As one matrix product, unless every channel has a kernel of its own.
        y = np.einsum("bgchwij,gocij->bgohw", windows, weight, optimize=groups == 1)
        y = y.reshape(batch, -1, height, width)
        return (y if bias is None else y + bias[:, None, None],)


class LayerNormalization(SinglePrecisionLayerNormalization):
    """With the epsilon that was meant; an attribute holds it in single precision."""

    op_domain = ""

    def _run(self, *inputs: np.ndarray, epsilon: float, **attributes: Any) -> tuple[np.ndarray, ...]:
        found: tuple[np.ndarray, ...] = super()._run(*inputs, epsilon=meant(epsilon), **attributes)
        return found


def run_in_double(path: Path, batches: Iterable[Mapping[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    """All outputs [batch, ...] by name, in float64, of every batch of inputs by their names.

    Constants that were computed from parameters are proved to be roundings, and run in double precision too. Raises
    `InputError` if they are not, and `DamagedError` if a weight in another file is not as it was written.
    """
    model = onnx.load(path, load_external_data=False)
    weights = _take_off_weights(model.graph, initializers(path), path)
    computed = {name: partial(_same, values) for name, values in computed_constants(path).items()}
    return run_nodes(model, weights | computed, batches)


def run_nodes(
    model: onnx.ModelProto,
    weights: Mapping[str, Callable[[], np.ndarray]],
    batches: Iterable[Mapping[str, np.ndarray]],
    observe: Callable[[str, np.ndarray], None] = lambda name, value: None,
) -> list[dict[str, np.ndarray]]:
    """The same for a graph whose `weights` are read by their names; its other constants are widened in place.

    `observe` is shown every value that a node gives, with its name. Runs the nodes in order, each on all batches, and
    reads a weight when its node comes. So memory grows with what is between nodes, and not with the model.
    """
    widen_constants(model.graph)
    evaluator = ReferenceEvaluator(model, new_ops=[Conv, Erf, Gelu, LayerNormalization])
    outputs = [output.name for output in model.graph.output]
    taken = [[*node.input, *inner_inputs(node.onnx_node)] for node in evaluator.rt_nodes_]
    uses = Counter([*outputs, *(name for names in taken for name in names)])
    states: list[dict[str, Any]] = [
        {"": None, **{name: _widened(values) for name, values in batch.items()}} for batch in batches
    ]
    for node, names in zip(evaluator.rt_nodes_, taken, strict=True):
        shared = evaluator.rt_inits_ | {name: _widened(weights[name]()) for name in names if name in weights}
        uses.subtract(names)
        for state in states:
            given = {name: shared[name] if name in shared else state[name] for name in names}
            # A loop takes values from around it besides its inputs.
            around = {"context": given} if node.need_context() else {}
            made = node.run(*(given[name] for name in node.input), **around)
            for name, value in zip(node.output, made, strict=False):
                observe(name, value)
                state[name] = value
            for name in names:
                if name and not uses[name]:
                    state.pop(name, None)
    return [{name: state[name] for name in outputs} for state in states]


def _same(values: np.ndarray) -> np.ndarray:
    return values


def _widened(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float64, copy=False) if values.dtype.kind == "f" else values


def _take_off_weights(
    graph: onnx.GraphProto, stored: Mapping[str, Initializer], path: Path
) -> dict[str, Callable[[], np.ndarray]]:
    """Take the weights off a graph; returns how to read each."""
    weights = {
        one.name: stored[one.name] for one in graph.initializer if one.data_type == TensorProto.FLOAT and one.dims
    }
    constants = [one for one in graph.initializer if one.name not in weights]
    del graph.initializer[:]
    graph.initializer.extend(constants)
    checksums: dict[Path, Mapping[str, str]] = {}
    for other in {place.file for place in weights.values()} - {path}:
        with other.open("rb") as file:
            checksums[other] = read_header(other, file)[CRC]
    return {name: partial(_read, place, checksums.get(place.file)) for name, place in weights.items()}


def _read(place: Initializer, checksums: Mapping[str, str] | None) -> np.ndarray:
    values = read(place)
    if checksums is not None:
        check_array(place.file, place.name, values.reshape(-1).data, checksums[place.name])
    return values
