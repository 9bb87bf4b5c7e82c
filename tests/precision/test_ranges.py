"""Ranges of values on inputs; more inputs of few; planted outliers, and the factors that even them out."""

from functools import partial

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from tests.precision.planting import neighbours, plant
from vit2onnx.errors import InputError
from vit2onnx.precision.calibration import more_of, variants
from vit2onnx.precision.ranges import Channels, Ranges, measure
from vit2onnx.precision.smoothing import Product, divisible
from vit2onnx.weights.keytable import LazyTensor

NOISE = np.random.default_rng(0)
CHANNELS, HIDDEN = 8, 12
BATCHES = [{"x": NOISE.standard_normal((1, tokens, CHANNELS)).astype(np.float32)} for tokens in (3, 5)]


def lazy(**values: np.ndarray) -> dict[str, LazyTensor]:
    return {
        name.replace("__", "."): LazyTensor(value.shape, "float32", partial(np.array, value, np.float32))
        for name, value in values.items()
    }


def block() -> dict[str, LazyTensor]:
    """A norm and two Linears, called as those of a transformer."""
    draw = NOISE.standard_normal
    return lazy(
        norm2__weight=1 + 0.1 * draw(CHANNELS),
        norm2__bias=0.1 * draw(CHANNELS),
        mlp__w1__weight=draw((CHANNELS, HIDDEN)),
        mlp__w2__weight=draw((CHANNELS, HIDDEN)),
        mlp__w2__bias=draw(HIDDEN),
        mlp__w3__weight=draw((HIDDEN, CHANNELS)),
    )


TENSORS = block()


def graph(*outputs: str) -> ir.Model:
    """`w3(silu(w1(norm(x))) * w2(norm(x)))`, of which other values may be outputs too."""
    make = onnx.helper.make_node
    nodes = [
        make("LayerNormalization", ["x", "norm2.weight", "norm2.bias"], ["norm"]),
        make("MatMul", ["norm", "mlp.w1.weight"], ["gate"]),
        make("Sigmoid", ["gate"], ["sigmoid"]),
        make("Mul", ["gate", "sigmoid"], ["silu"]),
        make("MatMul", ["norm", "mlp.w2.weight"], ["product"]),
        make("Add", ["product", "mlp.w2.bias"], ["up"]),
        make("Mul", ["silu", "up"], ["hidden"]),
        make("MatMul", ["hidden", "mlp.w3.weight"], ["y"]),
    ]
    info = onnx.helper.make_tensor_value_info
    float32 = onnx.TensorProto.FLOAT
    inputs = [info("x", float32, [1, "n", CHANNELS])]
    inputs += [info(name, float32, tensor.shape) for name, tensor in TENSORS.items()]
    found = [info(name, float32, None) for name in ("y", *outputs)]
    proto = onnx.helper.make_graph(nodes, "block", inputs, found)
    return ir.from_proto(onnx.helper.make_model(proto, opset_imports=[onnx.helper.make_opsetid("", 23)]))


def value_of(model: ir.Model, name: str) -> ir.Value:
    return next(value for node in model.graph for value in node.outputs if value.name == name)


def test_ranges_are_those_of_the_values():
    found = measure(graph(), TENSORS, BATCHES)
    values = {name: tensor.read().astype(np.float64) for name, tensor in TENSORS.items()}
    normed = []
    for batch in BATCHES:
        x = batch["x"][0].astype(np.float64)
        centred = x - x.mean(axis=1, keepdims=True)
        z = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5)
        normed.append(z * values["norm2.weight"] + values["norm2.bias"])
    rows = np.concatenate(normed)
    seen = found.channels["norm"]
    assert np.allclose(seen.lowest, rows.min(axis=0), atol=1e-12)
    assert np.allclose(seen.highest, rows.max(axis=0), atol=1e-12)
    assert np.allclose(seen.squares, (rows**2).mean(axis=0), atol=1e-12)
    assert np.allclose(seen.largest, np.abs(rows).max(axis=0), atol=1e-12)
    assert found.largest["norm"] == pytest.approx(np.abs(rows).max(), abs=1e-12)
    assert found.largest["up"] == pytest.approx(np.abs(rows @ values["mlp.w2.weight"] + values["mlp.w2.bias"]).max())
    assert found.channels.keys() == {"norm", "hidden"}
    assert found.largest.keys() == {value.name for node in graph().graph for value in node.outputs}


def test_ranges_in_a_file(tmp_path):
    found = measure(graph(), TENSORS, BATCHES)
    for name in ("a.npz", "b.npz"):
        found.write(tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    again = Ranges.read(tmp_path / "a.npz")
    assert again.largest == found.largest
    for name, seen in found.channels.items():
        for key in ("lowest", "highest", "squares"):
            assert np.array_equal(getattr(again.channels[name], key), getattr(seen, key))


def test_a_file_of_another_kind_is_refused(tmp_path):
    np.savez(tmp_path / "other.npz", weights=np.zeros(3))
    with pytest.raises(InputError, match="is no range"):
        Ranges.read(tmp_path / "other.npz")


def test_values_that_are_not_finite_are_refused():
    broken = {**TENSORS, **lazy(mlp__w3__weight=np.full((HIDDEN, CHANNELS), np.nan))}
    with pytest.raises(InputError, match="y is not finite"):
        measure(graph(), broken, BATCHES)


def test_limits_have_zero_between_them():
    seen = Channels(np.array([1.0, 2.0]), np.array([3.0, 8.0]), np.array([4.0, 9.0]))
    assert seen.limits() == (0, 8)
    assert seen.limits(np.array([1.0, 8.0])) == (0, 3)


def test_variants_have_other_pixels_of_the_same_shape():
    ramp = np.linspace(-2, 2, 3 * 8 * 6, dtype=np.float32).reshape(1, 3, 8, 6)
    negative, dark, bright, half, detail = variants(ramp)
    assert np.allclose(negative, -ramp) and dark.max() == -1 and bright.min() == 1
    assert np.array_equal(half[0, 0, :, 0], ramp[0, 0, [2, 2, 3, 3, 4, 4, 5, 5], 1])
    assert (detail.max(axis=(2, 3)) - detail.min(axis=(2, 3))).max() < (
        half.max(axis=(2, 3)) - half.min(axis=(2, 3))
    ).min()
    for one in (negative, dark, bright, half, detail):
        assert (one.shape, one.dtype) == (ramp.shape, ramp.dtype) and one.min() >= -2 and one.max() <= 2
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    assert [one.dtype.name for one in variants(levels)] == ["uint8"] * 3
    assert np.array_equal(next(variants(levels)), 255 - levels)


def test_more_inputs_have_the_same_names():
    patches = {"pixel_values": np.arange(12.0).reshape(1, 4, 3), "spatial_shapes": np.array([[2, 2]])}
    found = list(more_of([patches, {"input_ids": np.array([[1, 2]])}]))
    assert len(found) == 5 and all(one["spatial_shapes"] is patches["spatial_shapes"] for one in found[:4])
    assert found[0] is patches and found[4].keys() == {"input_ids"}


def test_planting_changes_no_output():
    for factor in (100.0, 0.01):
        changed = plant(TENSORS, channels=2, factor=factor)
        seen, planted = (measure(graph(), tensors, BATCHES) for tensors in (TENSORS, changed))
        assert planted.largest["y"] == pytest.approx(seen.largest["y"], rel=1e-5)
        for name in ("norm", "hidden"):
            ratios = planted.channels[name].largest / seen.channels[name].largest
            assert np.allclose(sorted(np.log(ratios) / np.log(factor)), [*[0] * (len(ratios) - 2), 1, 1], atol=1e-4)
    assert dict(neighbours(TENSORS)) == {"norm2": ["mlp.w1", "mlp.w2"], "mlp.w2": ["mlp.w3"]}


def test_factors_follow_planted_outliers():
    def factors(tensors: dict[str, LazyTensor]) -> np.ndarray:
        seen = measure(graph(), tensors, BATCHES).channels["norm"]
        return Product.of(seen, (tensors[f"mlp.{name}.weight"].read() for name in ("w1", "w2"))).factors

    changed = plant(TENSORS, channels=2)
    gammas = changed["norm2.weight"].read() / TENSORS["norm2.weight"].read()
    assert np.allclose(factors(changed) / factors(TENSORS), gammas, rtol=1e-5)


def test_noise_is_that_of_rounding():
    rows = NOISE.standard_normal((4000, CHANNELS)) * np.logspace(0, 1, CHANNELS)
    weight = NOISE.standard_normal((CHANNELS, 50))
    seen = Channels(rows.min(axis=0), rows.max(axis=0), np.square(rows).mean(axis=0))
    product = Product.of(seen, [weight])
    for factors in (np.ones(CHANNELS), product.factors):
        lowest, highest = seen.limits(factors)
        step = (highest - lowest) / 255
        rounded = np.rint(rows / factors / step) * step * factors
        # Of each column by itself, so that large columns do not hide small ones.
        error = np.sqrt(
            (np.square((rounded - rows) @ weight).mean(axis=0) / np.square(rows @ weight).mean(axis=0)).mean()
        )
        assert product.noise(factors) == pytest.approx(error, rel=0.05)
    assert product.noise(product.factors) < product.noise()


def test_channels_that_are_never_used_are_left_finite():
    seen = Channels(np.array([-1.0, 0, 0, -2]), np.array([1.0, 0, 0, 1]), np.array([1.0, 0, 0, 1]))
    product = Product.of(seen, [np.array([[1.0], [1], [0], [0]])])
    assert np.all(np.isfinite(product.factors)) and product.factors.min() > 0
    # A channel that no weight takes must not decide the range.
    assert max(seen.limits(product.factors)) == pytest.approx(1)
    silent = Product.of(Channels(*np.zeros((3, 2))), [np.zeros((2, 3))])
    assert silent.factors.tolist() == [1, 1] and silent.noise() == 0


def test_parameters_that_divide_a_value():
    model = graph()
    hidden, norm = (value_of(model, name) for name in ("hidden", "norm"))
    takers = [node for node in model.graph if node.name is not None and node.op_type == "MatMul"]
    assert divisible(hidden, takers[2:], HIDDEN, TENSORS) == ("mlp.w2.weight", "mlp.w2.bias")
    assert divisible(norm, takers[:2], CHANNELS, TENSORS) == ("norm2.weight", "norm2.bias")
    # Another node, or the user, would see it; or it is no channel of the parameters.
    assert divisible(norm, takers[:1], CHANNELS, TENSORS) is None
    assert divisible(hidden, takers[2:], CHANNELS, TENSORS) is None
    for seen in ("norm", "up", "product"):
        model = graph(seen)
        name, count = ("norm", CHANNELS) if seen == "norm" else ("hidden", HIDDEN)
        found = value_of(model, name)
        assert divisible(found, list(found.consumers()), count, TENSORS) is None
