"""What a file says of its reduction, and the initializers that are made of a checkpoint by it."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from vit2onnx.errors import InputError
from vit2onnx.precision.statement import (
    REDUCTION,
    ROWS,
    decoded,
    encoded,
    noise_of_rows,
    quantised,
    quantised_rows,
    reduction_of,
    tensors_of,
)
from vit2onnx.weights.keytable import LazyTensor

NOISE = np.random.default_rng(0)
WEIGHT, GAMMA = NOISE.standard_normal((6, 4)).astype(np.float32), NOISE.standard_normal(6).astype(np.float32)
IN, OUT = NOISE.uniform(0.1, 10, 6).astype(np.float32), NOISE.uniform(0.1, 10, 4).astype(np.float32)


def statement(**changed: Any) -> dict[str, Any]:
    """Of a Linear whose input and output are divided, a norm before it, a table, and constants."""
    how = {"of": "w", "rows": "in", "columns": "out"}
    weights = {
        "w.int8": {"as": "int8", **how},
        "w.scale": {"as": "scale", **how},
        "g.smoothed": {"as": "float32", "of": "g", "columns": "in"},
        "t.int8_rows": {"as": "int8_rows", "of": "t"},
        "t.scale_rows": {"as": "scale_rows", "of": "t"},
        "x.inverse": {"as": "inverse", "value": "in"},
        "x.zero_point": {"as": "uint8", "value": 131},
    }
    factors = {"in": encoded(IN), "out": encoded(OUT)}
    return {"precision": "int8", "activations": "static", "weights": weights, "factors": factors, **changed}


def tensors(read: list[str]) -> dict[str, LazyTensor]:
    """A checkpoint that notes what is read of it."""
    values = {"w": WEIGHT, "g": GAMMA, "t": WEIGHT, "b": GAMMA}

    def lazy(name: str) -> LazyTensor:
        return LazyTensor(values[name].shape, "float32", lambda: read.append(name) or values[name])

    return {name: lazy(name) for name in values}


def test_initializers_are_what_the_statement_says():
    read: list[str] = []
    found = tensors_of(json.loads(json.dumps(statement())), tensors(read))
    assert list(found) == ["b", *statement()["weights"]]
    assert not read
    values = {name: tensor.read() for name, tensor in found.items()}
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in found.items()} == {
        name: (value.shape, value.dtype.name) for name, value in values.items()
    }
    exact = WEIGHT.astype(np.float64) * IN[:, None] / OUT
    step = np.abs(exact).max(axis=0) / 127
    assert np.allclose(values["w.scale"], step, rtol=1e-7)
    assert np.all(np.abs(values["w.int8"] * values["w.scale"] - exact) <= step * 0.5000001)
    assert np.abs(values["w.int8"]).max(axis=0).tolist() == [127] * 4
    assert np.array_equal(values["g.smoothed"], (GAMMA.astype(np.float64) / IN).astype(np.float32))
    assert np.array_equal(values["x.inverse"], (1 / IN.astype(np.float64)).astype(np.float32))
    assert np.allclose(values["t.scale_rows"][:, 0], np.abs(WEIGHT).max(axis=1) / 127)
    assert values["x.zero_point"] == 131 and values["b"] is GAMMA


def test_a_matrix_is_read_once_for_both_its_parts():
    read: list[str] = []
    found = tensors_of(statement(), tensors(read))
    for name in ("w.int8", "w.scale", "t.int8_rows", "t.scale_rows"):
        found[name].read()
    assert read == ["w", "t"]


def without(what: str, key: str, inner: str | None = None) -> dict[str, Any]:
    found = json.loads(json.dumps(statement()))
    del (found[what][key] if inner else found[what])[inner or key]
    return found


@pytest.mark.parametrize(
    "damaged",
    [
        without("factors", "in"),
        without("weights", "w.int8", "as"),
        statement(factors={"in": encoded(OUT), "out": encoded(OUT)}),
        statement(factors={"in": "no base64!", "out": encoded(OUT)}),
        statement(factors={"in": encoded(IN)[:-4], "out": encoded(OUT)}),
        statement(weights={"w.int8": {"as": "int4", "of": "w"}}),
        statement(weights={"w.int8": {"as": "int8", "of": "another"}}),
        statement(weights={"x.zero_point": {"as": "uint8", "value": 500}}),
        statement(weights=7),
    ],
    ids=range(9),
)
def test_a_statement_that_does_not_fit_is_refused_before_anything_is_read(damaged: Mapping[str, Any]):
    read: list[str] = []
    with pytest.raises(InputError, match="does not fit"):
        tensors_of(damaged, tensors(read))
    assert not read


def test_the_statement_in_the_metadata():
    assert reduction_of({}) is None
    assert reduction_of({REDUCTION: json.dumps(statement())}) == statement()
    for text in ("{", "[]", "{}"):
        with pytest.raises(InputError, match="damaged"):
            reduction_of({REDUCTION: text})


def test_rounding_goes_no_further_than_half_a_step():
    values = NOISE.standard_normal((50, 20)) * np.logspace(-30, 30, 20)
    for axis in (0, 1):
        whole, scales = quantised(values, axis)
        assert whole.min() >= -127 and whole.dtype == np.int8
        assert np.all(np.abs(whole * scales.astype(np.float64) - values) <= scales * 0.50001)
    whole, scales = quantised(np.zeros((3, 2)), 0)
    assert not whole.any() and scales.tolist() == [[1, 1]]


def test_a_table_is_the_same_in_parts():
    table = NOISE.standard_normal((ROWS + 3, 5)).astype(np.float32)
    whole, scales = quantised(table.astype(np.float64), axis=1)
    found = quantised_rows(table)
    assert np.array_equal(found[0], whole) and np.array_equal(found[1], scales)
    rounding = np.sqrt(np.mean(np.square(whole * scales - table), axis=1) / np.mean(np.square(table), axis=1))
    assert 0.3 < noise_of_rows(table) / rounding.max() < 3
    peaked = np.array([[1, 1, 1, 1000.0]] * 2 + [[0, 0, 0, 0]], np.float32)
    assert noise_of_rows(peaked) == pytest.approx(1000 / 127 / np.sqrt(12) / 500, rel=1e-3)


def test_factors_are_little_endian_single_precision():
    assert encoded(np.array([1.0, 2.0])) == "AACAPwAAAEA="
    assert decoded("AACAPwAAAEA=").tolist() == [1, 2]


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("g", {"as": "float32", "value": 0.5}),
        ("g.scale", {"as": "float32", "value": [0.5, 0.25]}),
        ("other", {"as": "float32", "of": "g", "columns": "in"}),
        ("w.smoothed", {"as": "float32", "of": "g", "columns": "in"}),
        ("g.anything", {"as": "uint8", "value": 3}),
    ],
)
def test_no_initializer_stands_for_another(name: str, entry: Mapping[str, Any]):
    changed = statement()
    changed["weights"][name] = entry
    with pytest.raises(InputError, match="does not fit this checkpoint"):
        tensors_of(changed, tensors([]))
