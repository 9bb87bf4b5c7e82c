"""Bounds hold for all inputs that are tried, at every value, and are no larger than need be where that can be told."""

import math
from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from tests.precision.small_graphs import GRAPHS, OPERATORS, PIXELS, Small, batches_for, small
from vit2onnx.precision.affine import spectral_norms
from vit2onnx.precision.bound_arrays import LARGEST_FLOAT16, ROUNDING
from vit2onnx.precision.bounds import bounds
from vit2onnx.precision.parts import places_of, summary
from vit2onnx.precision.rules.products import RESIZING
from vit2onnx.weights.keytable import LazyTensor

LIMITS = {"pixel_values": PIXELS, "photographs": PIXELS}
# What a bound may be above what an input can be found for.
TIGHT = 1 + 8 * ROUNDING


def adversarial(name: str, value: np.ndarray) -> np.ndarray:
    """Weights as trained models have them, and worse: a few channels of norms and rows a hundred times as large."""
    rng = np.random.default_rng(len(name))
    factors = np.where(rng.random(value.shape) < 0.02, 100.0, 1.0)
    return value if name == "rope_periods" else value * factors + 0.1 * rng.standard_normal(value.shape[-1:])


def within(graph: Small, which: str, seed: int) -> dict[str, tuple[float, float]]:
    """The values that exceed their bounds on any batch, each with both."""
    found = bounds(graph.graph, graph.tensors, LIMITS)
    seen = graph.largest(batches_for(which, seed))
    assert len(seen.keys() & found.keys()) > 30
    # Files in float16 have it for infinity in masks.
    return {
        name: (most, found[name]) for name, most in seen.items() if min(most, LARGEST_FLOAT16) > found.get(name, np.inf)
    }


@pytest.mark.parametrize("operators", OPERATORS)
@pytest.mark.parametrize("which", GRAPHS)
def test_no_value_of_any_image_exceeds_its_bound(which: str, operators: str) -> None:
    assert within(small(which, operators), which, 1) == {}
    assert within(small(which, operators, adversarial), which, 2) == {}


@pytest.mark.parametrize("operators", OPERATORS)
@pytest.mark.parametrize("which", GRAPHS)
def test_every_value_that_may_be_in_float16_has_a_finite_bound(which: str, operators: str) -> None:
    graph = small(which, operators)
    found = bounds(graph.graph, graph.tensors, LIMITS)
    assert {name: bound for name, bound in found.items() if not bound < 1e5} == {}


def test_plain_operators_are_bounded_as_native_ones() -> None:
    logits = {}
    for operators, name in (("native", "blocks.1/attn/Attention/logits"), ("portable", "blocks.1/attn/MatMul")):
        graph = small("vit", operators)
        found = bounds(graph.graph, graph.tensors, LIMITS)
        logits[operators] = found[name]
        residual = found["blocks.1/Add_1"]
    assert logits["portable"] == pytest.approx(logits["native"], rel=0.01)
    assert residual == pytest.approx(bounded("vit")["blocks.1/Add_1"], rel=0.01)


def test_without_a_limit_of_the_pixels_only_norms_help() -> None:
    graph = small("vit")
    found = bounds(graph.graph, graph.tensors, {})
    assert found["patch_embed/Conv"] == found["blocks.0/Add"] == math.inf
    assert found["blocks.0/attn/q/Add"] < 100


def test_the_summary_says_where_each_part_is_largest() -> None:
    graph = small("vit")
    found = bounds(graph.graph, graph.tensors, LIMITS)
    rows = summary(found, places_of(graph.graph.graph), graph.largest(batches_for("vit")))
    first = {row["part"]: row for row in rows if row["block"] == "blocks.0"}
    assert set(first) == {"residual", "norm", "qkv", "logits", "attention", "hidden", "output"}
    assert first["logits"] | {"bound": 0} == {
        "block": "blocks.0",
        "part": "logits",
        "bound": 0,
        "at": "blocks.0/attn/Attention/logits",
        "seen": None,
    }
    assert first["residual"]["bound"] == max(found[name] for name in ("blocks.0/Add", "blocks.0/Add_1"))
    assert all(row["seen"] is None or row["seen"] <= row["bound"] for row in rows)


@pytest.mark.parametrize(("which", "kinds"), [("convnext", {"norm", "hidden", "output", "residual"})])
def test_blocks_of_stages_have_parts_too(which: str, kinds: set[str]) -> None:
    graph = small(which)
    rows = summary(bounds(graph.graph, graph.tensors, LIMITS), places_of(graph.graph.graph))
    assert {row["part"] for row in rows if row["block"] == "stages.2/blocks.1"} == kinds
    assert "stages.1/downsample" in {row["block"] for row in rows}


def bounded(which: str) -> Mapping[str, float]:
    graph = small(which)
    return bounds(graph.graph, graph.tensors, LIMITS)


# Graphs of a few nodes, written in ONNX's text.


def of_text(text: str, opset: int = 23) -> ir.Model:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]> {text}')
    for node in model.graph.node:
        node.name = node.output[0]
    return ir.from_proto(model)


def bounds_of(text: str, limits: Mapping[str, float], **weights: np.ndarray) -> dict[str, float]:
    def tensor(array: np.ndarray) -> LazyTensor:
        return LazyTensor(array.shape, "float32", lambda: array.astype(np.float32))

    return bounds(of_text(text), {name: tensor(array) for name, array in weights.items()}, limits)


def values_of(text: str, inputs: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    found = ReferenceEvaluator(ir.to_proto(of_text(text))).run(
        None, {n: a.astype(np.float32) for n, a in inputs.items()}
    )
    outputs = [value.name for value in of_text(text).graph.outputs]
    return np.asarray(found[outputs.index(name)])


LINEAR = """linear (float[n, 24] x, float[24] gamma, float[24] beta, float[24, 7] w, float[7] c, float[7] g)
=> (float[n, 7] y) {
    normed = LayerNormalization <axis = -1, epsilon = 1e-6> (x, gamma, beta)
    product = MatMul (normed, w)
    sum = Add (product, c)
    y = Mul (sum, g)
}"""


def test_the_bound_of_a_linear_layer_behind_a_norm_is_reached() -> None:
    rng = np.random.default_rng(0)
    weights = {"gamma": rng.standard_normal(24), "beta": rng.standard_normal(24), "w": rng.standard_normal((24, 7))}
    weights |= {"c": rng.standard_normal(7), "g": rng.standard_normal(7)}
    found = bounds_of(LINEAR, {}, **weights)
    # The direction that moves each output most, both ways; its length does not matter to a norm.
    directions = (weights["gamma"][:, None] * weights["w"]).T
    directions = directions - directions.mean(axis=1, keepdims=True)
    x = 100 * np.concatenate([directions, -directions])
    reached = np.abs(values_of(LINEAR, {"x": x, **weights}, "y")).max()
    assert reached <= found["y"] <= reached * TIGHT


ATTENTION = """attention (float[1, n, 8] x, float[8] gamma, float[8] beta, float[8, 8] q, float[8, 8] k, float[8, 8] v)
=> (float[1, n, 8] y) {
    normed = LayerNormalization <axis = -1, epsilon = 1e-6> (x, gamma, beta)
    query = MatMul (normed, q)
    key = MatMul (normed, k)
    value = MatMul (normed, v)
    y = Attention <q_num_heads = 2, kv_num_heads = 2> (query, key, value)
}"""


def test_the_bound_of_logits_is_reached() -> None:
    rng = np.random.default_rng(0)
    q, v = np.zeros((8, 8)), rng.standard_normal((8, 8))
    q[:, :4] = np.linalg.qr(np.concatenate([np.ones((8, 1)), rng.standard_normal((8, 4))], axis=1))[0][:, 1:5]
    weights = {"gamma": np.ones(8), "beta": np.zeros(8), "q": 3 * q, "k": 5 * q, "v": v}
    found = bounds_of(ATTENTION, {}, **weights)
    # A token whose query is as long as can be, and its own key.
    reached = 3 * 5 * 8 / math.sqrt(4)
    assert reached <= found["y/logits"] <= reached * TIGHT
    assert found["y"] <= found["value"] * TIGHT


def test_the_sums_of_a_norm_in_float16_are_bounded() -> None:
    text = LINEAR.replace("epsilon = 1e-6", "epsilon = 1e-6, stash_type = 10")
    weights = {name: np.ones(shape) for name, shape in {"gamma": 24, "beta": 24, "w": (24, 7), "c": 7, "g": 7}.items()}
    assert "normed/squares" not in bounds_of(LINEAR, {"x": 300.0}, **weights)
    assert bounds_of(text, {"x": 300.0}, **weights)["normed/squares"] >= 24 * 300.0**2


ROTATION = """rotation (float[1, 1, n, 4] x, float[1, 1, n, 4] angles, float[1, 1, n, 4] others)
=> (float[1, 1, n, 4] y) {
    half = Constant <value = int64[2] {2, 2}> ()
    first, second = Split <axis = -1> (x, half)
    negative = Neg (second)
    turned = Concat <axis = -1> (negative, first)
    cos = Cos (angles)
    sin = Sin (OTHERS)
    left = Mul (x, cos)
    right = Mul (turned, sin)
    y = Add (left, right)
}"""


def test_only_a_rotation_keeps_the_length_of_pairs() -> None:
    # Not of one angle: both halves add up.
    bound = bounds_of(ROTATION.replace("OTHERS", "others"), {"x": 1.0, "angles": 1.0, "others": 1.0})["y"]
    x, zero, right = np.ones((1, 1, 1, 4)), np.zeros((1, 1, 1, 4)), np.full((1, 1, 1, 4), np.pi / 2)
    reached = values_of(ROTATION.replace("OTHERS", "others"), {"x": x, "angles": zero, "others": right}, "y")
    assert np.abs(reached).max() == pytest.approx(2.0)
    assert bound >= 2.0


@pytest.mark.parametrize(
    ("node", "limit"),
    [
        ("y = Softsign (x)", math.inf),
        ("y = Reciprocal (x)", math.inf),
        ("y = Div (x, x)", math.inf),
        ("y = Abs (x)", 3.0),
        ("y = Gelu (x)", 3.0),
        ("y = Add (x, x)", 6.0),
        ("y = Sub (x, x)", 6.0),
        ("y = Mul (x, x)", 9.0),
        ("y = Exp (x)", math.exp(3.0)),
        ("y = Tanh (x)", 1.0),
        ("y = Softmax <axis = -1> (x)", 1.0),
        ("y = ReduceMean <keepdims = 0> (x)", 3.0),
    ],
)
def test_operators_have_their_own_bounds_and_others_none(node: str, limit: float) -> None:
    found = bounds_of(f"one (float[n, 4] x) => (float y) {{ {node} }}", {"x": 3.0})["y"]
    assert limit <= found <= limit * TIGHT


CONVOLUTION = """conv (float[1, 2, 4, 4] x, float[3, 2, 2, 2] w, float[3] b) => (float[1, 3, 3, 3] y) {
    y = Conv <strides = [1, 1]> (x, w, b)
}"""


def test_the_bound_of_a_convolution_is_reached() -> None:
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((3, 2, 2, 2)), "b": np.abs(rng.standard_normal(3))}
    bound = bounds_of(CONVOLUTION, {"x": 2.0}, **weights)["y"]
    reached = []
    for kernel in weights["w"]:
        x = np.zeros((1, 2, 4, 4))
        x[0, :, :2, :2] = 2 * np.sign(kernel)
        reached.append(values_of(CONVOLUTION, {"x": x, **weights}, "y").max())
    assert max(reached) <= bound <= max(reached) * TIGHT


def test_the_bound_of_a_rotation_is_reached() -> None:
    text = """rotary (float[1, n, 8] x, float[1, n, 2] cos, float[1, n, 2] sin) => (float[1, n, 8] y) {
        y = RotaryEmbedding <num_heads = 2, interleaved = 0> (x, cos, sin)
    }"""
    half = np.full((1, 1, 2), math.sqrt(0.5))
    reached = np.abs(values_of(text, {"x": np.ones((1, 1, 8)), "cos": half, "sin": half}, "y")).max()
    assert reached == pytest.approx(math.sqrt(2))
    assert reached <= bounds_of(text, {"x": 1.0})["y"] <= reached * TIGHT


def test_the_length_of_a_vector_divides_it() -> None:
    text = """l2 (float[n, 4] x) => (float[n, 4] y) {
        axis = Constant <value = int64[1] {-1}> ()
        square = Mul (x, x)
        sum = ReduceSum <keepdims = 1> (square, axis)
        root = Sqrt (sum)
        y = Div (x, root)
    }"""
    found = bounds_of(text, {"x": 1e4})
    assert 1 <= found["y"] <= TIGHT
    assert found["sum"] == pytest.approx(4e8, rel=0.01)
    # By another number it may be anything.
    assert bounds_of(text.replace("Div (x, root)", "Div (x, sum)"), {"x": 1e4})["y"] == math.inf


@pytest.mark.parametrize("rows", [(30, 20), (20, 30), (3, 1)])
def test_the_norms_of_matrices_are_bounded(rows: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    matrices = np.random.default_rng(0).standard_normal((5, *rows))
    exact = np.linalg.norm(matrices, 2, axis=(1, 2))
    np.testing.assert_allclose(spectral_norms(matrices), exact, rtol=1e-12)
    monkeypatch.setattr("vit2onnx.precision.affine.LARGE", 1)
    assert np.all(spectral_norms(matrices) >= exact * (1 - 1e-12))
    assert np.all(spectral_norms(matrices) <= exact * 1.2)


@pytest.mark.parametrize("which", ["dinov2", "dinov2_free"])
def test_no_resizing_of_positions_sums_up_to_more_than_is_assumed(which: str) -> None:
    graph = small(which)
    node = next(node for node in graph.graph.graph if node.name == "embed/MatMul")
    sums = []

    def observe(name: str, value: np.ndarray) -> None:
        if name == node.inputs[0].name:
            np.testing.assert_allclose(value.sum(axis=1), 1)
            sums.append(np.abs(value).sum(axis=1).max())

    sizes = (1, 2, 3, 5, 6, 7, 9, 11, 15, 16, 17, 30)
    graph.exact([{"pixel_values": np.zeros((1, 3, 14 * size, 14), np.float32)} for size in sizes], observe)
    assert len(sums) == len(sizes)
    # Along both axes.
    assert 1.2 < max(sums) ** 2 <= RESIZING
