"""LayerScale folded into the product before it: the same numbers, and nothing left to compute in each run."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import helper

from tests.conftest import Spine
from vit2onnx.exporting.layer_scale import apply_folds
from vit2onnx.runners.onnx_double import run_in_double
from vit2onnx.spec.recipe import OPERATORS, Recipe

# How many factors a small model of each kind has: two per block of a transformer, one per block of a ConvNeXt.
SCALED = {
    "dinov3_vits16plus_pretrain_lvd1689m": 4,
    "dinov3_convnext_tiny_pretrain_lvd1689m": 5,
    "dinov2_vits14_reg4_pretrain": 4,
}
IMAGES = {"pixel_values": np.random.default_rng(0).standard_normal((2, 3, 64, 96), np.float32)}


def both(spine: Spine, operators: str = "native") -> tuple[Path, Path]:
    """The graph with LayerScale folded, and as it is by default."""
    free = dict.fromkeys(spine.spec.interface("images").minimum)
    recipes = [
        Recipe(f"{name}_{operators}", OPERATORS[operators], free, operators=operators, **given)
        for name, given in (("folded", {"folds": ("layer_scale",)}), ("apart", {}))
    ]
    return spine.export(recipes[0]), spine.export(recipes[1])


def scales(graph: Path) -> int:
    """How many nodes of a graph multiply with a parameter of LayerScale."""
    return sum(
        node.op_type == "Mul" and "gamma" in node.input[1]
        for node in onnx.load(graph, load_external_data=False).graph.node
    )


@pytest.mark.parametrize("operators", OPERATORS)
@pytest.mark.parametrize(("name", "count"), SCALED.items())
def test_it_is_the_same_function(spines: Callable[[str], Spine], name: str, count: int, operators: str) -> None:
    folded, apart = both(spines(name), operators)
    # Of a product and of its bias.
    assert (scales(folded), scales(apart)) == (2 * count, count)
    ((exact,), (expected,)) = (run_in_double(graph, [IMAGES]) for graph in (folded, apart))
    assert all(np.abs(exact[port] - expected[port]).max() <= 1e-12 for port in expected)


@pytest.mark.parametrize("name", SCALED)
def test_onnxruntime_folds_it_as_it_loads_the_file(spines: Callable[[str], Spine], tmp_path: Path, name: str) -> None:
    folded, apart = both(spines(name))
    left = {}
    for graph in (folded, apart):
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / graph.name)
        ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        left[graph] = [node.op_type for node in onnx.load(tmp_path / graph.name).graph.node].count("Mul")
    assert left[apart] - left[folded] == scales(apart)


@pytest.mark.parametrize("what", ["weight", "bias"])
def test_a_factor_of_another_channel_would_show(spines: Callable[[str], Spine], tmp_path: Path, what: str) -> None:
    folded, _ = both(spines("dinov2_vits14_reg4_pretrain"))
    model = onnx.load(folded)
    first, second = [node for node in model.graph.node if node.name.endswith(f"folded/{what}/Mul")][:2]
    first.input[1], second.input[1] = second.input[1], first.input[1]
    onnx.save(model, tmp_path / "spoilt.onnx")
    ((spoilt,), (right,)) = (run_in_double(graph, [IMAGES]) for graph in (tmp_path / "spoilt.onnx", folded))
    assert np.abs(spoilt["last_hidden_state"] - right["last_hidden_state"]).max() > 1e-6


@pytest.mark.parametrize(("factors", "count"), [([4], 1), ([1], 0), ([3, 1], 0)])
def test_only_factors_of_channels_are_folded(factors: list[int], count: int) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["product"], "product/MatMul"),
        helper.make_node("Add", ["product", "bias"], ["biased"], "product/Add"),
        helper.make_node("Mul", ["biased", "gamma"], ["scaled"], "scale/Mul"),
        helper.make_node("Add", ["residual", "scaled"], ["y"], "Add"),
    ]
    shapes = {"x": [3, 5], "weight": [5, 4], "bias": [4], "gamma": factors, "residual": [3, 4]}
    inputs = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    outputs = [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [3, 4])]
    graph = ir.from_proto(helper.make_model(helper.make_graph(nodes, "graph", inputs, outputs)))
    assert apply_folds(graph.graph, ["layer_scale"]) == ["layer_scale"] * count
    assert sum(node.op_type == "Mul" for node in graph.graph) == 1 + count
