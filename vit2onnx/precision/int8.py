"""Linears in int8, which a runtime multiplies in whole numbers.

Weights are int8, symmetric, with a scale for each column (output channel). What a Linear takes becomes 8 bits while
the graph runs, by one scale for the whole value:

* `dynamic`: uint8 by the lowest and highest of the value itself (DynamicQuantizeLinear). So an image's features
  depend a little on the other images of its batch.
* `static`: uint8 by the range of the value on photographs (QuantizeLinear and DequantizeLinear, which onnxruntime and
  OpenVINO fuse with the MatMul). What is beyond the range is cut off. No number depends on another image. Not int8
  around 0, as TensorRT wants: onnxruntime does not fuse that on x86, and takes 1.6 times as long.

All else stays float32: attention, softmax, norms, RoPE, geometry, patch embeddings, and Linears whose input cannot be
evened out (`precision.smoothing`) and would lose too much, which the statement lists with the reason. A table of tokens
is int8 with a scale for each row, because it is most of a text file.

The products of uint8 and int8 are exact where the processor adds them up in 32 bits: x86 with VNNI, ARM. Other x86
processors add two products in 16 bits, and 65534 becomes 32767. By simulation on ViT-S, 2 of 10000 pairs are cut off
there, which adds an error of 0.02 of the products, twice that of rounding. Weights of 7 bits would avoid it, and double
the error of weights everywhere. So they have 8 bits; onnxruntime's session option `session.x64quantprecision=1` avoids
it on such processors.
"""

import json
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from vit2onnx.precision.int8_nodes import quantise_nodes
from vit2onnx.precision.int8_plan import Int8Plan, plan_int8
from vit2onnx.precision.ranges import Channels, Ranges
from vit2onnx.precision.statement import (
    FLOAT32,
    INT8,
    INT8_ROWS,
    INVERSE,
    REDUCTION,
    SCALE,
    SCALE_ROWS,
    encoded,
    tensors_of,
)
from vit2onnx.weights.keytable import LazyTensor

# How much wider static ranges are than what was seen, because other photographs go beyond it. `precision.calibration`
# has what it changes.
MARGIN = 1.25


def to_int8(
    graph: ir.Model,
    tensors: Mapping[str, LazyTensor],
    inputs: Collection[str],
    ranges: Ranges,
    activations: str,
) -> dict[str, LazyTensor]:
    """Make int8 of a graph's Linears in place; returns its tensors, of which some are new.

    `tensors` are the graph's parameters, its inputs besides `inputs`. The changed ones get names, dtypes and values of
    their own, and the graph's metadata say how (`precision.statement`). `ranges` are of this graph, and `activations`
    is one of `spec.recipe.ACTIVATIONS`. Raises `InputError` if the ranges are of another graph.
    """
    plan = plan_int8(graph.graph, tensors, inputs, ranges)
    statement = int8_statement(plan, ranges, activations)
    made = tensors_of(statement, tensors)
    quantise_nodes(graph.graph, plan, statement, made)
    graph.metadata_props[REDUCTION] = json.dumps(statement, sort_keys=True)
    return made


def int8_statement(plan: Int8Plan, ranges: Ranges, activations: str) -> dict[str, Any]:
    """What the file says of its initializers, see `precision.statement`."""
    factors = {of.value.name: encoded(smoothing.factors) for of, smoothing in plan.quantised if smoothing}
    columns = {name: of.value.name for of, smoothing in plan.quantised if smoothing for name in smoothing.divided}
    entries: dict[str, dict[str, Any]] = {}
    for linears, smoothing in plan.quantised:
        name = linears.value.name
        if activations == "static":
            scale, zero = _scale_and_zero(ranges.channels[name], smoothing.factors if smoothing else 1.0)
            entries[f"{name}.scale"] = {"as": FLOAT32, "value": scale}
            entries[f"{name}.zero_point"] = {"as": "uint8", "value": zero}
        if smoothing and not smoothing.divided:
            entries[f"{name}.inverse"] = {"as": INVERSE, "value": name}
        for weight in linears.weights:
            how = {"of": weight, "rows": name if smoothing else None, "columns": columns.pop(weight, None)}
            how = {key: value for key, value in how.items() if value is not None}
            entries |= {f"{weight}.{kind}": {"as": kind, **how} for kind in (INT8, SCALE)}
    for node in plan.tables:
        table = node.inputs[0].name
        entries |= {f"{table}.{kind}": {"as": kind, "of": table} for kind in (INT8_ROWS, SCALE_ROWS)}
    entries |= {f"{name}.smoothed": {"as": FLOAT32, "of": name, "columns": of} for name, of in columns.items()}
    return {
        "precision": "int8",
        "activations": activations,
        "weights": entries,
        "factors": factors,
        "float32": dict(plan.float32),
    }


def _scale_and_zero(channels: Channels, factors: np.ndarray | float) -> tuple[float, int]:
    """The scale, a number of single precision, and the zero point of a value by its range. The scale of zeros is 1."""
    lowest, highest = (MARGIN * limit for limit in channels.limits(factors))
    scale = np.float32((highest - lowest) / 255) or np.float32(1)
    return float(scale), round(-lowest / float(scale))
