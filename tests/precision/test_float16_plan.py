"""What stays in float32, and why; checkpoints that overflow are caught and repaired."""

import json
import math
from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from tests.precision.small_graphs import PIXELS, batches_for, run, small
from tests.precision.test_bounds import of_text
from vit2onnx.errors import InputError
from vit2onnx.precision.bounds import bounds
from vit2onnx.precision.float16 import to_float16
from vit2onnx.precision.float16_plan import Float16Plan, fewest, plan_float16, refined, with_logits
from vit2onnx.precision.parts import Place, places_of
from vit2onnx.precision.simulation import lowest_cosine, simulate


def large(name: str, value: np.ndarray) -> np.ndarray:
    """A model whose first block adds numbers beyond float16 to the tokens."""
    return value * (1e5 if name == "blocks.0.ls2.gamma" else 1)


def test_what_the_bound_clears_is_not_measured() -> None:
    found = plan_float16(
        {"a": 65504.0, "b": 65505.0, "c": 1e6, "d": 1e6, "e": math.inf}, {"a": 1e9, "b": 1.0, "c": 8188.0, "d": 8187.0}
    )
    assert found.cleared == 1
    assert found.measured == {"b": (65505.0, 1.0), "d": (1e6, 8187.0)}
    assert found.float32 == {"c": "bound 1e+06, measured 8.2e+03", "e": "bound inf, not measured"}
    assert json.loads(json.dumps(found.as_json(), allow_nan=False))["float32"] == found.float32


def test_what_is_no_number_stays_in_float32() -> None:
    assert list(plan_float16({"a": math.nan, "b": math.inf}, {"b": math.nan}).float32) == ["a", "b"]


def test_a_model_that_overflows_is_caught_and_repaired(tmp_path: Path) -> None:
    graph, batches = small("vit", change=large), batches_for("vit")[:2]
    exact = graph.exact(batches)
    copy = graph.copy()
    overflowing = run(
        copy, to_float16(copy, graph.tensors, graph.inputs, {"blocks.0.ls2.gamma": ""}), batches[0], tmp_path
    )
    assert not np.isfinite(overflowing["last_hidden_state"]).all()
    assert (
        lowest_cosine(simulate(graph.graph, graph.tensors, graph.inputs, ["blocks.0.ls2.gamma"], batches), exact) == -1
    )
    found = plan_float16(bounds(graph.graph, graph.tensors, {"pixel_values": PIXELS}), graph.largest(batches))
    assert {"blocks.0/ls2/Mul", "blocks.0/Add_1", "blocks.1/Add", "blocks.1/Add_1"} <= found.float32.keys()
    assert not {name for name in found.float32 if "attn/" in name or "mlp" in name or "norm" in name}
    copy = graph.copy()
    repaired = run(copy, to_float16(copy, graph.tensors, graph.inputs, found.float32), batches[0], tmp_path)
    assert lowest_cosine([repaired], exact[:1]) >= 0.9999


NORM = """norm (float[n, 64] x) => (float[n, 64] y) {
    axis = Constant <value = int64[1] {-1}> ()
    square = Mul (x, x)
    variance = ReduceMean <keepdims = 1> (square, axis)
    epsilon = Constant <value = float {0.00001}> ()
    whole = Add (variance, epsilon)
    deviation = Sqrt (whole)
    y = Div (x, deviation)
}"""


def test_a_norm_whose_squares_overflow_is_caught() -> None:
    batch = {"x": np.random.default_rng(0).uniform(-400, 400, (2, 64)).astype(np.float32)}
    exact = [{"y": batch["x"] / np.sqrt(np.square(batch["x"]).mean(axis=1, keepdims=True))}]

    def in_float16(in_float32: Collection[str]) -> float:
        # onnxruntime's CPU would compute in float32 whatever the graph says.
        return lowest_cosine(simulate(of_text(NORM), {}, ["x"], in_float32, [batch]), exact)

    found = bounds(of_text(NORM), {}, {"x": 400.0})
    assert found["square"] >= 160000
    assert in_float16(()) < 0.9
    planned = plan_float16(found, {"square": 160000.0, "y": 4.0, "x": 400.0})
    assert {"square", "variance"} <= planned.float32.keys()
    assert in_float16(planned.float32) >= 0.99999


def test_what_follows_for_logits_is_no_less_than_they_are() -> None:
    graph = small("vit")
    seen = with_logits(graph.graph, graph.inputs, graph.largest(batches_for("vit")))
    plain = small("vit", "portable").largest(batches_for("vit"))
    assert plain["blocks.1/attn/MatMul"] <= seen["blocks.1/attn/Attention/logits"] < 50 * plain["blocks.1/attn/MatMul"]


PARTS = {
    f"blocks.{block}/{kind}": Place(f"blocks.{block}", kind) for block in range(6) for kind in ("norm", "hidden", "qkv")
}
NOTHING = Float16Plan({"other": "bound inf, not measured"}, {}, 0)


def test_nothing_more_stays_in_float32_if_the_plan_suffices() -> None:
    found = refined(NOTHING, PARTS, lambda in_float32: float(in_float32 == ["other"]), 1.0)
    assert (found.parts, found.float32, found.trials) == ((), NOTHING.float32, {"as planned": 1.0})
    assert found.accuracy == 1.0


def test_the_fewest_first_blocks_are_found_by_bisection() -> None:
    tried: list[Collection[str]] = []

    def accuracy(in_float32: Collection[str]) -> float:
        tried.append(in_float32)
        return (
            0.9
            + 0.01 * ("blocks.0/hidden" in in_float32)
            + 0.05 * ("blocks.1/norm" in in_float32 and "blocks.0/norm" in in_float32 and "blocks.1/qkv" in in_float32)
        )

    found = refined(NOTHING, PARTS, accuracy, 0.95)
    assert list(found.parts) == ["blocks.0", "blocks.1"]
    assert len(found.float32) == 7
    assert found.float32["blocks.1/qkv"] == "for accuracy: blocks.1"
    assert found.float32["other"] == "bound inf, not measured"
    assert found.accuracy == found.trials["first 2 blocks"] >= 0.95 > found.trials["as planned"]
    # As planned, three parts, and all six, three, one and two blocks.
    assert len(tried) == len(found.trials) == 8


def test_a_part_that_is_fewer_values_is_preferred() -> None:
    found = refined(NOTHING, PARTS, lambda in_float32: float(sum("hidden" in name for name in in_float32) >= 6), 1.0)
    assert list(found.parts) == ["hidden"]
    kept = {name: "for accuracy: hidden" for name in PARTS if "hidden" in name}
    assert found.float32 == NOTHING.float32 | kept


def test_a_model_that_float16_does_not_suit_is_refused() -> None:
    with pytest.raises(InputError, match=r"not accurate enough for this model: 0.500000 instead of 0.9.*float32"):
        refined(NOTHING, PARTS, lambda _: 0.5, 0.9)


@pytest.mark.parametrize("wanted", range(1, 8))
def test_bisection_finds_the_least_number(wanted: int) -> None:
    assert fewest(7, lambda count: count >= wanted) == wanted
    assert fewest(7, lambda count: False) is None


def test_accuracy_is_what_a_simulation_says() -> None:
    graph, batches = small("vit"), batches_for("vit")[:1]
    exact = graph.exact(batches)

    def accuracy(in_float32: Collection[str]) -> float:
        return lowest_cosine(simulate(graph.graph, graph.tensors, graph.inputs, in_float32, batches), exact)

    parts = places_of(graph.graph.graph)
    before, best = accuracy(()), accuracy(list(parts))
    found = refined(plan_float16({}, {}), parts, accuracy, before + (best - before) / 2)
    assert before < accuracy(found.float32) <= best
    assert 0 < len(found.float32) < len(parts)


def test_the_graph_is_left_as_it_is_by_a_simulation() -> None:
    graph = small("vit")
    before = onnx.printer.to_text(ir.to_proto(graph.graph))
    simulate(graph.graph, graph.tensors, graph.inputs, (), batches_for("vit")[:1])
    assert onnx.printer.to_text(ir.to_proto(graph.graph)) == before
