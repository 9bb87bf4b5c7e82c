"""Graphs in float16: what is in it, what is not, and that they compute the same."""

import json
from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from tests.precision.small_graphs import GRAPHS, OPERATORS, Small, batches_for, run, small
from vit2onnx.errors import InputError, InternalError
from vit2onnx.precision.float16 import narrow, to_float16
from vit2onnx.precision.kinds import bodies_of, kinds_of
from vit2onnx.precision.simulation import lowest_cosine, simulate
from vit2onnx.precision.statement import REDUCTION, tensors_of

# The lowest cosine of a token, and what single precision comes to.
COSINE, SINGLE_COSINE = 0.9995, 0.9999999


def casts_of(model: ir.Model) -> set[str]:
    """The nodes that are there because of float16."""
    return {node.name or "" for node in model.graph if (node.name or "").endswith(("/float16", "/float32"))}


def all_values(graph: Small) -> list[str]:
    return [value.name or "" for node in graph.graph.graph for value in node.outputs] + list(graph.tensors)


def kept(names: Collection[str]) -> dict[str, str]:
    return dict.fromkeys(names, "for this test")


def float32_nodes(graph: Small, in_float32: Collection[str]) -> set[str]:
    """The names of nodes that compute in float32 because of such values, or by their place."""
    copy, kinds = graph.copy(), kinds_of(graph.graph, graph.inputs)
    _, values = narrow(copy, graph.inputs, in_float32)
    found = set()
    for node in copy.graph:
        given = [value for value in node.outputs if value.name in kinds and kinds[value.name].is_float]
        inside = [value for body in bodies_of(node) for one in body for value in one.outputs]
        if given and not {*values} & {*given, *inside}:
            found.add(node.name or "")
    return found


@pytest.mark.parametrize("operators", OPERATORS)
@pytest.mark.parametrize("which", GRAPHS)
def test_graphs_in_float16_compute_the_same(which: str, operators: str, tmp_path: Path) -> None:
    graph = small(which, operators)
    copy, batch = graph.copy(), batches_for(which)[0]
    tensors = to_float16(copy, graph.tensors, graph.inputs, {})
    found = run(copy, tensors, batch, tmp_path)
    exact = graph.exact([batch])
    assert lowest_cosine([found], exact) >= COSINE
    # float16 is seen, and its simulation comes as far.
    assert lowest_cosine([found], exact) < SINGLE_COSINE
    assert (
        COSINE <= lowest_cosine(simulate(graph.graph, graph.tensors, graph.inputs, (), [batch]), exact) < SINGLE_COSINE
    )
    assert {value.dtype for value in found.values()} == {np.dtype(np.float32)}
    weights = {name for name, tensor in graph.tensors.items() if len(tensor.shape) > 1}
    assert {name for name in weights if tensors[name].dtype != "float16"} == set()


def test_casts_stand_at_borders_alone() -> None:
    graph = small("vit")
    copy = graph.copy()
    to_float16(copy, graph.tensors, graph.inputs, {})
    assert casts_of(copy) == {
        "pixel_values/float16",
        "embed/Expand_4/float16",
        "embed/Expand_5/float16",
        "last_hidden_state/float32",
        "pooler_output/float32",
    }


def test_angles_and_their_periods_stay_in_float32() -> None:
    graph = small("vit")
    copy = graph.copy()
    tensors = to_float16(copy, graph.tensors, graph.inputs, {})
    periods = next(node for node in copy.graph if node.op_type == "Div" and node.inputs[1].name == "rope_periods")
    assert tensors.get("rope_periods", graph.tensors["rope_periods"]).dtype == "float32"
    assert periods.inputs[0].producer().op_type != "Cast" and "float16" not in periods.inputs[0].name


def test_logits_of_pairs_are_computed_in_float32() -> None:
    graph = small("siglip2_pair")
    single = [name for name in float32_nodes(graph, ()) if name]
    joint = [node.name for node in graph.graph.graph if (node.name or "").startswith("joint/")]
    assert len(joint) > 10
    assert set(single) == {*joint}


@pytest.mark.parametrize("which", ["vit", "packed_loop", "siglip2_pair"])
def test_a_graph_that_is_all_in_float32_is_as_it_was(which: str, tmp_path: Path) -> None:
    graph, batch = small(which), batches_for(which)[0]
    before = run(graph.copy(), graph.tensors, batch, tmp_path)
    copy = graph.copy()
    tensors = to_float16(copy, graph.tensors, graph.inputs, kept(all_values(graph)))
    assert casts_of(copy) == set()
    assert {tensor.dtype for tensor in tensors.values()} == {"float32"}
    after = run(copy, tensors, batch, tmp_path)
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("operators", OPERATORS)
@pytest.mark.parametrize("which", ["vit", "swiglu", "packed_loop", "packed_padded", "convnext", "siglip2_pair"])
def test_any_value_may_stay_in_float32(which: str, operators: str, tmp_path: Path) -> None:
    graph, batch = small(which, operators), batches_for(which)[0]
    exact = graph.exact([batch])
    rng = np.random.default_rng(0)
    names = [name for name, kind in kinds_of(graph.graph, graph.inputs).items() if kind.is_float]
    for _ in range(2):
        in_float32 = rng.choice(names, len(names) // 5, replace=False).tolist()
        copy = graph.copy()
        tensors = to_float16(copy, graph.tensors, graph.inputs, kept(in_float32))
        # It passes ONNX's check of types as well.
        assert lowest_cosine([run(copy, tensors, batch, tmp_path)], exact) >= COSINE
        given = {value.name: value for node in copy.graph for value in node.outputs}
        assert all(given[name].dtype != ir.DataType.FLOAT16 for name in in_float32 if name in given)


def test_nodes_that_take_or_give_such_values_are_in_float32_with_their_weights() -> None:
    graph = small("vit")
    in_float32 = ["blocks.0/Add"]
    assert {name for name in float32_nodes(graph, in_float32) if name.startswith("blocks.")} == {
        "blocks.0/Add",
        "blocks.0/norm2/LayerNormalization",
        "blocks.0/Add_1",
    }
    tensors = to_float16(graph.copy(), graph.tensors, graph.inputs, kept(in_float32))
    assert tensors["blocks.0.norm2.weight"].dtype == "float32"
    assert tensors["blocks.0.norm1.weight"].dtype == "float16"


@pytest.mark.parametrize("which", ["vit", "packed_loop"])
def test_attention_is_in_float32_if_its_logits_are(which: str) -> None:
    graph = small(which)
    name = {"vit": "blocks.0/attn/Attention", "packed_loop": "blocks.0/attn/Loop"}[which]
    inside = {"vit": f"{name}/logits", "packed_loop": f"{name}/Attention/logits"}[which]
    assert name not in float32_nodes(graph, ())
    assert name in float32_nodes(graph, [inside])


def test_the_statement_makes_the_same_parameters_again() -> None:
    graph = small("vit")
    copy = graph.copy()
    tensors = to_float16(copy, graph.tensors, graph.inputs, {"blocks.0/Add": "too large"})
    statement = json.loads(copy.metadata_props[REDUCTION])
    assert (statement["precision"], statement["float32"]) == ("float16", {"blocks.0/Add": "too large"})
    again = tensors_of(statement, graph.tensors)
    assert again.keys() == tensors.keys() == graph.tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(again[name].read(), tensor.read(), strict=True)
    name = "blocks.0.attn.q.weight"
    np.testing.assert_array_equal(tensors[name].read(), graph.tensors[name].read().astype(np.float16), strict=True)
    del statement["weights"][name]
    assert tensors_of(statement, graph.tensors)[name].dtype == "float32"
    statement["weights"]["other"] = {"as": "float16", "of": "nothing"}
    with pytest.raises(InputError, match="does not fit this checkpoint"):
        tensors_of(statement, graph.tensors)


def test_a_weight_beyond_float16_is_not_rounded_to_infinity() -> None:
    graph = small("vit", change=lambda name, value: value * (1e6 if name == "blocks.1.ls1.gamma" else 1))
    weights = {"blocks.1.ls1.gamma": {"as": "float16", "of": "blocks.1.ls1.gamma"}}
    tensors = tensors_of({"precision": "float16", "weights": weights}, graph.tensors)
    with pytest.raises(InternalError, match=r"blocks\.1\.ls1\.gamma has values beyond float16"):
        tensors["blocks.1.ls1.gamma"].read()
    parameters = to_float16(graph.copy(), graph.tensors, graph.inputs, kept(["blocks.1.ls1.gamma"]))
    assert parameters["blocks.1.ls1.gamma"].dtype == "float32"


def test_masks_are_finite(tmp_path: Path) -> None:
    graph, batch = small("naflex", "portable"), batches_for("naflex")[0]
    copy = graph.copy()
    tensors = to_float16(copy, graph.tensors, graph.inputs, {})
    (fill,) = (value for name, value in copy.graph.initializers.items() if name.startswith("float_scalar_-3.4"))
    assert float(fill.const_value.numpy()) == -65504
    assert np.isfinite(run(copy, tensors, batch, tmp_path)["last_hidden_state"]).all()


@pytest.mark.parametrize("operators", ["native", "portable"])
def test_a_row_of_an_output_in_float32_stays_that_row(operators: str, tmp_path: Path) -> None:
    graph, batch = small("vit", operators), batches_for("vit")[0]
    (norm,) = (node for node in graph.copy().graph if node.outputs[0].name == "last_hidden_state")
    copy = graph.copy()
    tensors = to_float16(copy, graph.tensors, graph.inputs, kept([norm.inputs[0].name, "last_hidden_state"]))
    found = run(copy, tensors, batch, tmp_path)
    np.testing.assert_array_equal(found["pooler_output"], found["last_hidden_state"][:, 0])
