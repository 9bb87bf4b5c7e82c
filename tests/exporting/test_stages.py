"""Graphs that show all stages: the exported graph's nodes, and values that tell one stage from another."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tests.rounding import LAYER_LIMIT, floors
from vit2onnx.checkpoints.fetch import describe
from vit2onnx.errors import InternalError
from vit2onnx.exporting.graph import trace, write
from vit2onnx.exporting.metadata import metadata_of
from vit2onnx.exporting.stages import check_same_nodes, inject, stage_outputs, write_stages
from vit2onnx.nn.model import layers_of
from vit2onnx.runners import equinox as equinox_runner
from vit2onnx.spec.recipe import Recipe
from vit2onnx.weights.model_file import open_model

RECIPES = {
    "static": Recipe("static", 23, {"batch": 1, "height": 128, "width": 160}),
    "dynamic": Recipe("dynamic", 23, {"batch": None, "height": None, "width": None}),
    "portable": Recipe("portable", 17, {"batch": None, "height": None, "width": None}, operators="portable"),
    "folded": Recipe("folded", 23, {"batch": None, "height": None, "width": None}, folds=("layer_scale",)),
}
IMAGE = np.random.default_rng(0).standard_normal((3, 128, 160), np.float32)
Written = Callable[..., Mapping[str, Path]]


@pytest.fixture(scope="module")
def written(spines, tmp_path_factory: pytest.TempPathFactory) -> Written:
    """The exported graph and both graphs of its stages, beside a copy of model.eqx."""

    def run(name: str, recipe: str) -> Mapping[str, Path]:
        spine, export = spines(f"dinov3_{name}_pretrain_lvd1689m"), RECIPES[recipe]
        folder = tmp_path_factory.mktemp(recipe)
        paths = {kind: folder / f"{kind}.onnx" for kind in ("exported", "accumulated", "injected")}
        paths["weights"] = folder / "model.eqx"
        paths["weights"].write_bytes(spine.model_file.read_bytes())
        record = describe(
            spine.spec, spine.checkpoints["meta"], origin={"kind": "synthetic", "seed": 0}, weights="synthetic"
        )
        skeleton, tensors = open_model(paths["weights"])
        graph, metadata = trace(skeleton, spine.spec, export), metadata_of(spine.spec, export, record, "")
        interface = spine.spec.interface()
        write(graph, paths["exported"], interface, export, metadata, tensors, weights=paths["weights"], external=False)
        write_stages(skeleton, spine.spec, export, tensors, **paths)
        return paths

    return run


def session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    # External weights are not packed, and those of the exported graph would round otherwise if they were.
    options.add_session_config_entry("session.disable_prepacking", "1")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", ["vits16", "vits16plus", "convnext_tiny"])
def test_both_graphs_show_what_the_model_computes(spines, written: Written, name: str, recipe: str):
    spine, paths = spines(f"dinov3_{name}_pretrain_lvd1689m"), written(name, recipe)
    pixel_values = {"pixel_values": IMAGE[None]}
    plain = session(paths["exported"]).run(None, pixel_values)
    run = session(paths["accumulated"])
    names = [value.name for value in run.get_outputs()]
    found = dict(zip(names, run.run(None, pixel_values), strict=True))
    # The same nodes in the same order: the same bits.
    np.testing.assert_array_equal(found["last_hidden_state"], plain[0])
    np.testing.assert_array_equal(found["pooler_output"], plain[1])

    rng = np.random.default_rng(1)
    run = session(paths["injected"])
    fed = {value.name: value for value in run.get_inputs() if value.name != "pixel_values"}
    before = [*(["patch_embed"] if "patch_embed" in names else []), *(n for n in names if n.endswith(".output"))]
    # Noise, so that a layer that goes on from anything else shows.
    injected = {layer: rng.standard_normal(found[n].shape, np.float32) for layer, n in zip(fed, before, strict=True)}
    parted = dict(zip(names, run.run(None, pixel_values | injected), strict=True))
    given = {layer.removesuffix(".input"): value[0] for layer, value in injected.items()}
    interface = spine.spec.interface()
    expected = dict(equinox_runner.stages(*open_model(spine.model_file), {"pixel_values": IMAGE}, given, interface))
    assert stage_outputs(open_model(spine.model_file)[0], spine.spec, spine.spec.interface()) == names[2:]
    for mode, stages in (("accumulated", found), ("injected", parted)):
        for stage, value in {**stages, "norm": stages["last_hidden_state"]}.items():
            if stage in ("last_hidden_state", "pooler_output"):
                continue
            single, double = (expected[f"{precision}/{mode}/{stage}"] for precision in ("float32", "float64"))
            # Measured 1.3 at most.
            assert floors(value[0].reshape(double.shape), double, single) <= LAYER_LIMIT, f"{mode}/{stage}"


def test_stages_are_in_the_order_of_the_model_and_only_those_that_are_no_output_are_told(spines):
    spine = spines("dinov3_vits16_pretrain_lvd1689m")
    found = stage_outputs(open_model(spine.model_file)[0], spine.spec, spine.spec.interface())
    inner = ("attn_in", "q", "k", "attn_raw", "attn_scaled", "post_attn", "mlp_in", "mlp_raw", "mlp_scaled", "output")
    assert found == ["patch_embed", *(f"blocks.{number}.{stage}" for number in range(2) for stage in inner)]
    spine = spines("dinov3_convnext_tiny_pretrain_lvd1689m")
    found = stage_outputs(open_model(spine.model_file)[0], spine.spec, spine.spec.interface())
    # The last norm is an output, and norms within layers are stages like others.
    assert found[:2] == ["stages.0.downsample.conv", "stages.0.downsample.output"] and found[-1] == "norm_in"
    assert "stages.3.blocks.0.norm" in found and "norm" not in found


@pytest.mark.parametrize("recipe", ["dynamic", "folded"])
@pytest.mark.parametrize("name", ["vits16", "convnext_tiny"])
def test_nodes_have_the_names_of_the_exported_ones(written: Written, name: str, recipe: str):
    paths = written(name, recipe)
    models = [onnx.load(paths[kind], load_external_data=False) for kind in ("exported", "accumulated")]
    exported, accumulated = ([node.name for node in model.graph.node] for model in models)
    assert [name for name in accumulated if name in exported] == exported
    # Stages that a fold removes are still computed.
    besides = sorted(name.rpartition("/")[2] for name in accumulated if name not in exported)
    folded = sum(name.endswith("/folded/MatMul") for name in exported)
    assert besides == sorted(["MatMul", "Add", "Mul"] * folded)
    assert bool(folded) == (recipe == "folded")
    assert all(re.match(r"(patch_embed|embed|blocks\.\d|stages\.\d/.*|norm|head)/", name) for name in exported)


def test_weights_stay_in_the_models_file(written: Written):
    paths = written("vits16", "static")
    for kind in ("accumulated", "injected"):
        model = onnx.load(paths[kind], load_external_data=False)
        external = [t for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
        assert {entry.value for t in external for entry in t.external_data if entry.key == "location"} == {"model.eqx"}
        # Of the periods, only tables are left.
        assert {t.name for t in external} == set(open_model(paths["weights"])[1]) - {"rope_periods"}
        assert paths[kind].stat().st_size < 100_000
        assert {prop.key for prop in model.metadata_props} >= {"variant", "weights", "licence"}


def other_epsilon(model: onnx.ModelProto) -> None:
    norm = next(node for node in model.graph.node if node.op_type == "LayerNormalization")
    next(a for a in norm.attribute if a.name == "epsilon").f = 1e-6


def other_operator(model: onnx.ModelProto) -> None:
    next(node for node in model.graph.node if node.op_type == "Gelu").op_type = "Relu"


def other_input(model: onnx.ModelProto) -> None:
    first, second = [node for node in model.graph.node if node.op_type == "RotaryEmbedding"][:2]
    first.input[0], second.input[0] = second.input[0], first.input[0]


def other_weight(model: onnx.ModelProto) -> None:
    first, second = [node for node in model.graph.node if node.op_type == "LayerNormalization"][:2]
    first.input[1], second.input[1] = second.input[1], first.input[1]


def other_constant(model: onnx.ModelProto) -> None:
    rope = next(node for node in model.graph.node if node.op_type == "RotaryEmbedding")
    (table,) = [t for t in model.graph.initializer if t.name == rope.input[1]]
    table.raw_data = table.raw_data[:-4] + np.float32(3).tobytes()


def one_node_less(model: onnx.ModelProto) -> None:
    model.graph.node.pop()


@pytest.mark.parametrize(
    "spoil", [other_epsilon, other_operator, other_input, other_weight, other_constant, one_node_less]
)
def test_another_graph_is_not_taken_for_the_exported_one(written: Written, tmp_path: Path, spoil):
    paths = written("vits16", "static")
    parameters = open_model(paths["weights"])[1]
    graph = onnx.load(paths["accumulated"], load_external_data=False)
    own = [t for t in graph.graph.initializer if t.name not in parameters]
    del graph.graph.initializer[:]
    graph.graph.initializer.extend(own)
    check_same_nodes(paths["exported"], graph, parameters, 2)
    spoilt = onnx.load(paths["exported"])
    spoil(spoilt)
    onnx.save(spoilt, tmp_path / "spoilt.onnx")
    with pytest.raises(InternalError):
        check_same_nodes(tmp_path / "spoilt.onnx", graph, parameters, 2)


def test_a_layer_that_sees_more_than_its_input_is_an_error(written: Written):
    graph = onnx.load(written("vits16", "static")["accumulated"], load_external_data=False)
    layers = layers_of(open_model(written("vits16", "static")["weights"])[0], "images")
    assert layers == {"blocks.0": "patch_embed", "blocks.1": "blocks.0.output", "norm": "blocks.1.output"}
    inject(graph, layers)
    # Something of the first block goes to the second past its output.
    last = next(node for node in graph.graph.node if node.output[0] == "blocks.1.output")
    last.input[0] = "blocks.0.post_attn"
    with pytest.raises(InternalError, match=r"blocks\.1\.output depends on"):
        inject(graph, layers)
