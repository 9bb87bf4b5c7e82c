"""A graph in double precision is the reference in double precision, and with a fault it is not."""

import json
import math
import re
import shutil
from collections.abc import Callable, Mapping
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tests import transformers_model
from tests.conftest import DISTINCT, Spine, short
from tests.planted import AMPLIFIED, IN_GRAPH, MODELS
from tests.rounding import floors
from vit2onnx.errors import InputError
from vit2onnx.families.fault import InGraph
from vit2onnx.parity.floors import rms
from vit2onnx.parity.outputs import Check, Features, checks_of_run, outputs_of
from vit2onnx.runners.onnx import run_graph
from vit2onnx.runners.onnx_constants import COMPUTED, compute, meant
from vit2onnx.runners.onnx_double import Conv, Gelu, LayerNormalization, run_in_double
from vit2onnx.runners.session import session_of
from vit2onnx.self_test.chain import shrink
from vit2onnx.spec.case import Case
from vit2onnx.spec.recipe import Recipe

DYNAMIC = Recipe("dynamic", 23, {"batch": None, "height": None, "width": None})
# A batch of two, because all of it is repeated in every place.
STATIC = Recipe("static", 23, {"batch": 2, "height": 70, "width": 101})
# Wide, one ConvNeXt patch high, tall; all but the second are no multiples of a patch.
SIZES = [(70, 101), (32, 96), (131, 47)]
IMAGES = {str(Case("noise", *size)): np.random.default_rng(0).standard_normal((3, *size), np.float32) for size in SIZES}
FIRST = next(iter(IMAGES))


@pytest.fixture(scope="module")
def truth() -> Callable[[Spine], Mapping[str, np.ndarray]]:
    """Transformers' features of the images, in double precision."""

    @cache
    def run(spine: Spine) -> Mapping[str, np.ndarray]:
        found = transformers_model.features(spine.spec, spine.checkpoints["meta"], IMAGES)
        return {case: found[f"float64/{case}"] for case in IMAGES}

    return run


def features(path: Path, images: Mapping[str, np.ndarray], batch: int = 1) -> dict[str, np.ndarray]:
    """Those of every image, at the first place of the batch, of whose outputs all but the first are rows."""
    found = run_in_double(path, [{"pixel_values": np.stack([image] * batch)} for image in images.values()])
    for outputs in found:
        np.testing.assert_array_equal(outputs["last_hidden_state"][:, 0], outputs["pooler_output"])
    return {case: outputs["last_hidden_state"][0] for case, outputs in zip(images, found, strict=True)}


@pytest.mark.parametrize("name", DISTINCT, ids=short)
def test_the_graph_of_every_release_is_the_reference(spines, truth, name: str):
    spine = spines(name)
    expected = truth(spine)
    for recipe, external in product((DYNAMIC, STATIC), (False, True)):
        interface = spine.spec.interface()
        accepted = {c: x for c, x in IMAGES.items() if interface.accepts(Case.parse(c), recipe)}
        found = features(spine.export(recipe, external=external), accepted, recipe.batch or 1)
        assert found.keys() == accepted.keys()
        for case, x in found.items():
            assert x.dtype == np.float64
            # Features are about one, and in single precision 1e-7 or more off. Measured 3.6e-15 at most.
            assert np.abs(x - expected[case]).max() < 1e-13, (recipe.name, external, case)


@pytest.fixture(scope="module")
def of_model(released, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Spine]:
    """The spine of a model of the self-test, by its name there."""

    @cache
    def get(model: str) -> Spine:
        spine = Spine(shrink(released[MODELS[model]]), tmp_path_factory.mktemp("model"))
        if model in AMPLIFIED:
            tensors = torch.load(spine.checkpoints["meta"], weights_only=True)
            AMPLIFIED[model](tensors)
            torch.save(tensors, spine.checkpoints["meta"])
        return spine

    return get


@pytest.mark.parametrize("fault", IN_GRAPH, ids=[f"{fault.model}: {fault.name}" for fault in IN_GRAPH])
def test_a_planted_fault_is_far_beyond_double_precision(of_model, truth, tmp_path: Path, fault: InGraph):
    spine = of_model(fault.model)
    path, spoilt, image = spine.export(DYNAMIC), tmp_path / "spoilt.onnx", {FIRST: IMAGES[FIRST]}
    model = onnx.load(path)
    fault.change(model)
    onnx.save(model, spoilt)
    healthy, found = (rms(features(graph, image)[FIRST] - truth(spine)[FIRST]) for graph in (path, spoilt))
    # Measured 1.3e-15 at most, where attention is sharp, and 2.6e-5 at least.
    assert healthy < 1e-13
    assert found > 1e-6


def table_of(model: onnx.ModelProto) -> onnx.TensorProto:
    """The cosines of a static graph's rotations."""
    rope = next(node for node in model.graph.node if node.op_type == "RotaryEmbedding")
    (table,) = [one for one in model.graph.initializer if one.name == rope.input[1]]
    return table


def other_element(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[onnx.ModelProto], None]:
    """One angle of one patch is another; the first tokens are not rotated."""

    def plant(model: onnx.ModelProto) -> None:
        table = table_of(model)
        values = numpy_helper.to_array(table).copy()
        values[:, 9, 3] = change(values[:, 9, 3])
        table.CopyFrom(numpy_helper.from_array(values, table.name))

    return plant


def other_origin(old: str, new: str) -> Callable[[onnx.ModelProto], None]:
    def plant(model: onnx.ModelProto) -> None:
        (text,) = [entry for entry in model.metadata_props if entry.key == COMPUTED]
        assert old in text.value
        text.value = text.value.replace(old, new)

    return plant


def spoilt(spine: Spine, plant: Callable[[onnx.ModelProto], None], path: Path) -> Path:
    model = onnx.load(spine.export(STATIC))
    plant(model)
    onnx.save(model, path)
    return path


# Of an element, of the periods, and of the formula, in table or origin.
OTHER_CONSTANTS = {
    "off by a last place": other_element(lambda x: np.nextafter(x, np.float32(2))),
    "off by 1e-3": other_element(lambda x: x + np.float32(1e-3)),
    "not finite": other_element(lambda x: x * np.float32(np.nan)),
    "another period": other_origin("3.15625", "3.1562502"),
    "another formula": other_origin("= Cos (", "= Sin ("),
    "another shape": lambda model: table_of(model).dims.append(1),
    "another name": lambda model: other_origin(table_of(model).name, "other")(model),
}


@pytest.mark.parametrize("plant", OTHER_CONSTANTS.values(), ids=OTHER_CONSTANTS)
def test_a_constant_that_is_not_the_rounding_of_its_origin_is_refused(tiny: Spine, tmp_path: Path, plant):
    path = spoilt(tiny, plant, tmp_path / "spoilt.onnx")
    with pytest.raises(InputError, match="is not what its origin computes"):
        run_in_double(path, [{"pixel_values": np.stack([IMAGES[FIRST]] * 2)}])
    given, check = tried(path, tiny, STATIC)
    assert (given, check.name, check.passed) == ({}, "runs", False)


def test_a_wrong_element_shows_in_single_precision_too(tiny: Spine, truth, tmp_path: Path):
    healthy, wrong = tiny.export(STATIC), spoilt(tiny, OTHER_CONSTANTS["off by 1e-3"], tmp_path / "spoilt.onnx")
    images = np.repeat(IMAGES[FIRST][None], 2, axis=0)
    found = [session_of(path).run(None, {"pixel_values": images})[0][0] for path in (healthy, wrong)]
    expected = truth(tiny)[FIRST]
    assert floors(found[1], expected, found[0]) > 10


def test_a_constant_that_is_as_wrong_as_its_origin_is_another_model(tiny: Spine, truth, tmp_path: Path):
    def plant(model: onnx.ModelProto) -> None:
        other_origin("3.15625", "3.1562502")(model)
        (text,) = [entry.value for entry in model.metadata_props if entry.key == COMPUTED]
        exact = compute(onnx.parser.parse_model(text))
        for table in model.graph.initializer:
            if table.name in exact:
                table.CopyFrom(numpy_helper.from_array(exact[table.name].astype(np.float32), table.name))

    found = features(spoilt(tiny, plant, tmp_path / "spoilt.onnx"), {FIRST: IMAGES[FIRST]}, 2)[FIRST]
    assert np.abs(found - truth(tiny)[FIRST]).max() > 1e-10


def test_all_places_of_a_batch_and_all_outputs_are_given(tiny: Spine):
    model = onnx.load(tiny.export(DYNAMIC))
    (norm,) = [node for node in model.graph.node if "last_hidden_state" in node.output]
    norm.output[0] = "normed"
    # What is added to an image depends on its place.
    places = np.array([0.0, 1.0], np.float32).reshape(2, 1, 1)
    model.graph.initializer.append(numpy_helper.from_array(places, "places"))
    model.graph.node.insert(
        list(model.graph.node).index(norm) + 1, helper.make_node("Add", ["normed", "places"], ["last_hidden_state"])
    )
    path = tiny.folder / "places.onnx"
    onnx.save(model, path)
    alone = features(tiny.export(DYNAMIC), {FIRST: IMAGES[FIRST]})[FIRST]
    (both,) = run_in_double(path, [{"pixel_values": np.stack([IMAGES[FIRST]] * 2)}])
    np.testing.assert_allclose(both["last_hidden_state"], [alone, alone + 1], rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (2 * math.pi, 2 * math.pi),
        (1e-5, 1e-5),
        (1e-6, 1e-6),
        (0.5, 0.5),
        (0.1, 0.1),
        (1 / 255, float("0.003921569")),
        (1.0, 1.0),
        (-2.5, -2.5),
        (0.0, 0.0),
        (math.inf, math.inf),
    ],
)
def test_a_constant_is_the_number_that_was_meant(value: float, number: float):
    # As an attribute or a scalar holds it.
    assert meant(float(np.float32(value))) == number


def one_node(operator: str, *inputs: str, **attributes: Any) -> onnx.ModelProto:
    node = helper.make_node(operator, inputs, ["y"], **attributes)
    values = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, None) for name in (*inputs, "y")]
    graph = helper.make_graph([node], "one", values[:-1], values[-1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


def run(model: onnx.ModelProto, *ours: type, **inputs: np.ndarray) -> np.ndarray:
    (found,) = ReferenceEvaluator(model, new_ops=list(ours)).run(None, inputs)
    return found


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("channels", "out", "groups", "kernel", "strides", "pads"),
    [
        # Patches, a depthwise kernel, downsampling, and what no model has.
        (3, 8, 1, (16, 16), (16, 16), (0, 0, 0, 0)),
        (6, 6, 6, (7, 7), (1, 1), (3, 3, 3, 3)),
        (6, 8, 1, (2, 2), (2, 2), (0, 0, 0, 0)),
        (6, 9, 3, (3, 2), (2, 1), (1, 0, 1, 0)),
        (4, 8, 4, (3, 5), (1, 2), (2, 1, 2, 1)),
    ],
)
def test_our_convolution_is_that_of_torch_and_onnx(
    channels: int,
    out: int,
    groups: int,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    pads: tuple[int, int, int, int],
    bias: bool,
):
    rng = np.random.default_rng(0)
    inputs = {
        "x": rng.standard_normal((2, channels, 34, 51)),
        "w": rng.standard_normal((out, channels // groups, *kernel)),
    }
    inputs |= {"b": rng.standard_normal(out)} if bias else {}
    model = one_node("Conv", *inputs, group=groups, kernel_shape=kernel, strides=strides, pads=pads)
    found = run(model, Conv, **inputs)
    tensors = map(torch.from_numpy, inputs.values())
    expected = torch.nn.functional.conv2d(*tensors, stride=strides, padding=pads[:2], groups=groups).numpy()
    assert found.dtype == np.float64
    # A sum of at most 768 products.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found, run(model, **inputs), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({}, {}),
        ({"dilations": (1, 1), "group": 1}, {}),
        ({"dilations": (2, 1)}, {"dilation": (2, 1)}),
        ({"auto_pad": "SAME_UPPER"}, {"padding": "same"}),
        ({"auto_pad": "VALID", "strides": (2, 3)}, {"stride": (2, 3)}),
    ],
)
def test_what_no_model_of_ours_has_is_computed_too(attributes: dict[str, Any], expected: dict[str, Any]):
    """Attributes that are not given have ONNX's defaults."""
    rng = np.random.default_rng(0)
    inputs = {"x": rng.standard_normal((1, 4, 9, 12)), "w": rng.standard_normal((5, 4, 3, 3))}
    found = run(one_node("Conv", *inputs, **attributes), Conv, **inputs)
    torchs = torch.nn.functional.conv2d(*map(torch.from_numpy, inputs.values()), **expected).numpy()
    np.testing.assert_allclose(found, torchs, rtol=0, atol=1e-13)


@pytest.mark.parametrize("pads", [(1, 0, 2, 3), (0, 2, 0, 0)])
def test_each_side_is_padded_by_its_own(pads: tuple[int, int, int, int]):
    rng = np.random.default_rng(0)
    inputs = {"x": rng.standard_normal((1, 4, 9, 12)), "w": rng.standard_normal((5, 4, 3, 3))}
    model = one_node("Conv", *inputs, group=1, kernel_shape=(3, 3), strides=(2, 1), pads=pads)
    top, left, bottom, right = pads
    padded = torch.nn.functional.pad(torch.from_numpy(inputs["x"]), (left, right, top, bottom))
    expected = torch.nn.functional.conv2d(padded, torch.from_numpy(inputs["w"]), stride=(2, 1)).numpy()
    np.testing.assert_allclose(run(model, Conv, **inputs), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_our_gelu_is_that_of_torch_and_onnx(approximate: str):
    x = np.linspace(-9, 9, 5001).reshape(3, -1)
    model = one_node("Gelu", "x", approximate=approximate)
    found = run(model, Gelu, x=x)
    expected = torch.nn.functional.gelu(torch.from_numpy(x), approximate=approximate).numpy()
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)
    # Whose error function is in single precision.
    np.testing.assert_allclose(found, run(model, x=x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("epsilon", [1e-5, 1e-6])
def test_our_norm_has_the_epsilon_that_was_meant(epsilon: float):
    rng = np.random.default_rng(0)
    # Of a variance that is not large beside epsilon, which an attribute rounds to single precision.
    inputs = {"x": 1e-3 * rng.standard_normal((2, 7, 32)), "w": rng.standard_normal(32), "b": rng.standard_normal(32)}
    model = one_node("LayerNormalization", *inputs, axis=-1, epsilon=epsilon)
    x, *parameters = map(torch.from_numpy, inputs.values())
    expected = torch.nn.functional.layer_norm(x, (32,), *parameters, eps=epsilon).numpy()
    np.testing.assert_allclose(run(model, LayerNormalization, **inputs), expected, rtol=0, atol=1e-13)
    assert np.abs(run(model, **inputs) - expected).max() > 1e-10


def without_a_kernel(model: onnx.ModelProto) -> None:
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    del conv.input[1:]


def unknown_operator(model: onnx.ModelProto) -> None:
    model.graph.node[3].op_type = "NoSuchOperator"


def of_other_width(model: onnx.ModelProto) -> None:
    (weight,) = [one for one in model.graph.initializer if one.name == "norm.weight"]
    weight.CopyFrom(numpy_helper.from_array(np.ones(7, np.float32), weight.name))


def tried(path: Path, spine: Spine, recipe: Recipe = DYNAMIC) -> tuple[Features, Check]:
    """What double precision gives, and the first thing that was seen of it."""
    interface = spine.spec.interface()
    arrays = dict(run_graph(path, interface, recipe, {FIRST: IMAGES[FIRST]}, [1], threads=1))
    run = json.loads(str(arrays["seen"]))["runs"][-1]
    assert run["run"] == "onnx_float64"
    (features, *_), seen = outputs_of(arrays, run, interface)
    check, *_ = checks_of_run(run, seen, interface, recipe)
    return features, check


@pytest.mark.parametrize(
    "plant", [without_a_kernel, unknown_operator, of_other_width], ids=lambda plant: plant.__name__
)
def test_a_graph_that_does_not_run_is_a_finding(tiny: Spine, tmp_path: Path, plant: Callable[[onnx.ModelProto], None]):
    model = onnx.load(tiny.export(DYNAMIC))
    plant(model)
    onnx.save(model, tmp_path / "spoilt.onnx")
    features, check = tried(tmp_path / "spoilt.onnx", tiny)
    assert (features, check.name, check.passed) == ({}, "runs", False)
    assert re.match(r"\w+: .", check.detail)


def test_a_graph_without_its_weights_is_a_finding(tiny: Spine, tmp_path: Path):
    shutil.copy(tiny.export(DYNAMIC, external=True), tmp_path / "graph.onnx")
    features, check = tried(tmp_path / "graph.onnx", tiny)
    assert (features, check.name, check.passed) == ({}, "runs", False)
    assert "model.eqx" in check.detail


def test_features_of_a_wrong_shape_are_left_out(tiny: Spine, tmp_path: Path):
    model = onnx.load(tiny.export(DYNAMIC))
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = ["all" if name == "last_hidden_state" else name for name in names]
    bounds = {"start": [1], "end": [1000], "axis": [1]}
    model.graph.initializer.extend(numpy_helper.from_array(np.array(x, np.int64), name) for name, x in bounds.items())
    model.graph.node.append(helper.make_node("Slice", ["all", *bounds], ["last_hidden_state"]))
    onnx.save(model, tmp_path / "spoilt.onnx")
    features, check = tried(tmp_path / "spoilt.onnx", tiny)
    assert (features, check.name, check.passed) == ({}, "shapes", False)
    assert check.detail == "; ".join(["noise@70x101: last_hidden_state 2 x 28 x 48 float64"] * 2)


def test_a_graph_that_runs_is_a_finding_too(tiny: Spine):
    features, check = tried(tiny.export(DYNAMIC), tiny)
    assert list(features) == [Case.parse(FIRST)]
    assert (check.name, check.passed, check.detail) == ("shapes", True, "batch 2: 1 inputs")
