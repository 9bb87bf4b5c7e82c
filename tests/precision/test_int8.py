"""Files in int8: near the float32 file on photographs that were not measured, whatever the weights look like.

Weights have outliers planted: six channels after every norm and in every v are a hundred times as large, which changes
nothing in float32. A tiny model shows outliers, scales and zero points well. Its rounding noise is that of two layers.
"""

from collections.abc import Callable
from functools import cache, partial

import numpy as np
import onnx_ir as ir
import pytest

from tests.conftest import Spine
from tests.precision.int8_files import LIMIT, UNSEEN, Graph, file_of, lowest_cosine, planted
from vit2onnx.errors import InputError
from vit2onnx.packing import pack
from vit2onnx.precision import int8_plan
from vit2onnx.precision.ranges import Channels, Ranges
from vit2onnx.precision.smoothing import divisible
from vit2onnx.precision.statement import quantised
from vit2onnx.spec.recipe import ACTIVATIONS, OPERATORS, Recipe
from vit2onnx.weights.keytable import LazyTensor

VIT, SWIGLU, CONVNEXT = (f"dinov3_{name}_pretrain_lvd1689m" for name in ("vits16", "vits16plus", "convnext_tiny"))
DINOV2, SIGLIP2 = "dinov2_vitb14_reg4_pretrain", "siglip2_base_patch16_224"
INTERFACES = [
    (VIT, "images"),
    (SWIGLU, "images"),
    (CONVNEXT, "images"),
    (DINOV2, "images"),
    (SIGLIP2, "vision"),
    (SIGLIP2, "text"),
]
# How far the same function may move the tokens of a file. Two files are as far apart as two roundings.
APART = 5e-4


@pytest.fixture(scope="module")
def graphs(spines: Callable[[str], Spine]) -> Callable[..., Graph]:
    @cache
    def graph(name: str, interface: str = "images", operators: str = "native") -> Graph:
        spine = spines(name)
        ports = spine.spec.interface(interface)
        free = dict.fromkeys(axis for axis in ports.minimum if axis not in ports.recipe_defaults)
        return Graph(spine, Recipe("int8", OPERATORS[operators], free, interface=interface, operators=operators))

    return graph


@pytest.mark.parametrize("activations", ACTIVATIONS)
@pytest.mark.parametrize("name, interface", INTERFACES, ids=[f"{name}-{one}" for name, one in INTERFACES])
def test_outliers_do_not_matter(graphs, name, interface, activations):
    graph = graphs(name, interface)
    expected = file_of(graph, None).run(graph.given(UNSEEN))
    plain = file_of(graph, activations).run(graph.given(UNSEEN))
    found = file_of(graph, activations, planted(graph)).run(graph.given(UNSEEN))
    assert LIMIT < lowest_cosine(plain, expected) < 1 - 1e-7
    assert lowest_cosine(found, expected) > LIMIT
    assert lowest_cosine(found, plain) > 1 - APART


def test_operators_that_multiply_whole_numbers(graphs, tmp_path):
    for operators in OPERATORS:
        graph = graphs(VIT, operators=operators)
        expected = file_of(graph, None).run(graph.given(UNSEEN))
        for activations in ACTIVATIONS:
            file = file_of(graph, activations)
            assert lowest_cosine(file.run(graph.given(UNSEEN)), expected) > LIMIT
            found = file.operators(tmp_path)
            fused = sum(found.count(one) for one in ("MatMulIntegerToFloat", "DynamicQuantizeMatMul"))
            # Two blocks of six Linears. One node quantises what q, k and v take, and each is fused by itself otherwise.
            assert fused == 12 and "MatMulInteger" not in found and "DequantizeLinear" not in found
            assert found.count("DynamicQuantizeLinear") == (2 if activations == "dynamic" else 0)
            assert found.count("QuantizeLinear") == (0 if activations == "dynamic" else 8)


@pytest.mark.parametrize("operators", OPERATORS)
@pytest.mark.parametrize("activations", ACTIVATIONS)
def test_graphs_of_fixed_sizes_multiply_whole_numbers_too(spines, tmp_path, operators, activations):
    # onnxruntime would make a Gemm in float32 of a static product and its bias.
    sizes = {"batch": 1, "height": 64, "width": 96}
    graph = Graph(spines(VIT), Recipe("int8", OPERATORS[operators], sizes, operators=operators))
    expected = file_of(graph, None).run(graph.given(UNSEEN))
    file = file_of(graph, activations)
    assert lowest_cosine(file.run(graph.given(UNSEEN)), expected) > LIMIT
    found = file.operators(tmp_path)
    assert sum(found.count(one) for one in ("MatMulIntegerToFloat", "DynamicQuantizeMatMul")) == 12
    assert "Gemm" not in found and "DequantizeLinear" not in found


def without_negatives(made: ir.Model, values: dict[str, np.ndarray]) -> None:
    """As if ranges began at zero."""
    for name in values:
        if name.endswith(".zero_point"):
            values[name] = np.zeros_like(values[name])


def scales_of_rows(made: ir.Model, values: dict[str, np.ndarray]) -> None:
    """As if square weights had been divided along the other axis."""
    for name, value in list(values.items()):
        if name.endswith(".int8") and value.shape[0] == value.shape[1]:
            scale = name.removesuffix("int8") + "scale"
            real = value * values[scale]
            values[name], by_row = quantised(real.astype(np.float64), axis=1)
            values[scale] = by_row[:, 0]


def without_zero_points(made: ir.Model, values: dict[str, np.ndarray]) -> None:
    for node in made.graph:
        if node.op_type == "MatMulInteger":
            node.replace_input_with(2, None)


@pytest.mark.parametrize(
    "activations, fault",
    [
        ("dynamic", without_zero_points),
        ("dynamic", scales_of_rows),
        ("static", without_negatives),
        ("static", scales_of_rows),
    ],
)
def test_a_fault_of_the_file_shows(graphs, activations, fault):
    graph = graphs(VIT)
    expected = file_of(graph, None).run(graph.given(UNSEEN))
    assert lowest_cosine(file_of(graph, activations, fault=fault).run(graph.given(UNSEEN)), expected) < LIMIT


@pytest.mark.parametrize("activations", ACTIVATIONS)
@pytest.mark.parametrize("name", [VIT, SWIGLU])
def test_an_outlier_that_is_not_folded_shows(graphs, name, activations, monkeypatch):
    graph = graphs(name)
    expected = file_of(graph, None).run(graph.given(UNSEEN))
    whole = int8_plan._smoothing_of

    def all_but(place, linears, tensors, ranges):
        return None if place in linears.weights[0] else whole(linears, tensors, ranges)

    # Of each kind of neighbours alone.
    for place in ("attn.q", "attn.proj", *(("mlp.w1", "mlp.w3") if name == SWIGLU else ("mlp.fc1",))):
        monkeypatch.setattr(int8_plan, "_smoothing_of", partial(all_but, place))
        found = file_of(graph, activations, planted(graph)).run(graph.given(UNSEEN))
        assert lowest_cosine(found, expected) < LIMIT, place


def test_a_packed_image_does_not_depend_on_its_neighbours(graphs):
    graph = graphs(VIT, "packed")
    patch = graph.spine.spec.interface("packed").patch_size
    noise = np.random.default_rng(0)
    images = [
        noise.standard_normal((3, *size), np.float32) for size in ((4 * patch, 3 * patch), (2 * patch, 5 * patch))
    ]
    session = file_of(graph, "static").session()
    tokens, *_ = session.run(None, pack(images, patch))
    alone = [session.run(None, pack([image], patch))[0] for image in images]
    again, *_ = session.run(None, pack(images[::-1], patch))
    first = alone[0].shape[-2]
    assert np.array_equal(np.concatenate(alone, axis=-2), tokens)
    assert np.array_equal(again[..., -first:, :], alone[0])


def test_packed_outliers_fold_through_the_loop(graphs):
    graph = graphs(VIT, "packed")
    assert not [name for name in file_of(graph, "static", planted(graph)).tensors if name.endswith(".inverse")]


def with_loud_channels(tensors: dict[str, LazyTensor], by: float) -> dict[str, LazyTensor]:
    """Weights whose GELU gives some large channels, which later weights make small."""
    found = dict(tensors)
    for name, tensor in tensors.items():
        value = tensor.read().copy()
        if name.endswith("fc1.bias"):
            value[:6] += by
        elif name.endswith("fc2.weight"):
            value[:6] /= by
        found[name] = LazyTensor(value.shape, "float32", partial(np.array, value))
    return found


def test_channels_of_gelu_are_evened_out_by_a_node(graphs):
    graph = graphs(VIT)
    loud = with_loud_channels(graph.tensors, by=200)
    expected = file_of(graph, None, loud).run(graph.given(UNSEEN))
    for activations in ACTIVATIONS:
        file = file_of(graph, activations, loud)
        inverse = [name for name in file.tensors if name.endswith(".inverse")]
        assert inverse == [f"blocks.{index}/mlp/Gelu.inverse" for index in range(2)]
        assert lowest_cosine(file.run(graph.given(UNSEEN)), expected) > LIMIT
    quiet = file_of(graph, "dynamic")
    assert not [name for name in quiet.tensors if name.endswith(".inverse")]


def test_what_8_bits_cannot_hold_stays_in_single_precision(graphs):
    graph = graphs(VIT)
    ranges = graph.ranges(graph.tensors)
    name = "blocks.1/norm2/LayerNormalization"
    of = ranges.channels[name]
    # As if few tokens were huge in all channels.
    peaked = Ranges(ranges.largest, {**ranges.channels, name: Channels(of.lowest, of.highest, of.squares / 1e4)})
    file = file_of(graph, "dynamic", ranges=peaked)
    assert list(file.reduction["float32"]) == ["blocks.1.mlp.fc1.weight"]
    assert "noise" in file.reduction["float32"]["blocks.1.mlp.fc1.weight"]
    assert file.tensors["blocks.1.mlp.fc1.weight"] is graph.tensors["blocks.1.mlp.fc1.weight"]
    assert "blocks.1.mlp.fc2.weight.int8" in file.tensors


def test_the_norm_that_gives_the_output_stays(graphs):
    graph = graphs(SIGLIP2, "text")
    file = file_of(graph, "dynamic")
    assert file.tensors["text.norm.weight"] is graph.tensors["text.norm.weight"]
    assert "text.head.weight.int8" in file.tensors
    node = next(one for one in graph.fresh().graph if one.name == "text/norm/LayerNormalization")
    assert divisible(node.outputs[0], list(node.outputs[0].consumers()), 1, graph.tensors) is None


def test_all_large_weights_are_int8(graphs):
    for name, interface in INTERFACES:
        graph = graphs(name, interface)
        file = file_of(graph, "dynamic")
        whole = {key for key, tensor in file.tensors.items() if tensor.dtype == "int8"}
        left = {key for key, tensor in file.tensors.items() if tensor.dtype == "float32" and len(tensor.shape) == 2}
        taken = {f"{entry['of']}" for entry in file.reduction["weights"].values() if entry["as"].startswith("int8")}
        linears = {key for key, tensor in graph.tensors.items() if key.endswith("weight") and len(tensor.shape) == 2}
        assert len(whole) == len(taken) and linears - taken <= {"vision.head.attn.q.weight"}, name
        assert {one.rpartition(".")[2] for one in left} <= {"weight", "positions", "scale_rows"}, name


def test_ranges_of_another_graph_are_refused(graphs):
    with pytest.raises(InputError, match="measure them on this graph"):
        file_of(graphs(VIT), "static", ranges=graphs(SWIGLU).ranges(graphs(SWIGLU).tensors))
