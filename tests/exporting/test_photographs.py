"""Graphs that prepare photographs, in onnxruntime, against our preprocessing; and faults planted in them.

The photographs are those of the project and made ones, at sizes that are not square.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from jax import export as jax_export
from jax2onnx import to_onnx
from onnx.numpy_helper import from_array, to_array
from PIL import Image

import vit2onnx.exporting.photographs  # noqa: F401  registers the operators
from tests.conftest import RELEASED
from tests.limits import PREPARED
from vit2onnx.exporting.lowerings import lowered_for
from vit2onnx.images import load_image, preprocess
from vit2onnx.nn.photographs import prepare
from vit2onnx.parity.finding import Finding
from vit2onnx.parity.preprocessing import (
    GRAPH,
    compare_photographs,
    judge_preprocessing,
    lacking_photographs,
    made_photographs,
)
from vit2onnx.photographs import photograph_of
from vit2onnx.runners.onnx_double import run_nodes
from vit2onnx.runners.photographs import preparing
from vit2onnx.spec.recipe import Recipe

IMAGES = {
    path.stem: np.asarray(load_image(path))
    for path in sorted((Path(__file__).parents[2] / "resources" / "images").glob("*.jpg"))
}
PHOTOGRAPHS = IMAGES | dict(made_photographs())
# Bilinear, and bicubic with a cut.
DINOV3, DINOV2 = (RELEASED[name] for name in ("dinov3_vits16_pretrain_lvd1689m", "dinov2_vits14_pretrain"))
SMALL = (160, 288)
# The second is larger than most. In the third, the last block of places is filled up on both axes.
SIZES = [SMALL, (518, 560), (24, 37)]
Change = Callable[[onnx.ModelProto], None]


@cache
def graph(name: str, size: tuple[int, int], interpolation: str | None = None) -> onnx.ModelProto:
    """A graph that prepares any number of photographs of any size, in plain operators of the oldest set."""
    how = RELEASED[name].preprocessing
    recipe = Recipe("photographs", 17, {}, operators="portable")
    scope = jax_export.SymbolicScope(["b >= 1", "h >= 1", "w >= 1"])
    shape = jax_export.symbolic_shape("b, h, w, 3", scope=scope)
    if interpolation:
        how = type(how)(interpolation, how.mean, how.std, how.crop_pct)
    with lowered_for(recipe):
        found: ir.Model = to_onnx(
            lambda x: prepare(x, size, how),
            [jax.ShapeDtypeStruct(shape, np.uint8)],
            opset=17,
            return_mode="ir",
            input_names=["photographs"],
            output_names=["pixel_values"],
        )
    for node in found.graph:
        for value in node.outputs:
            # As in every graph that is written: sizes without a type are those that jax2onnx guessed.
            if value.type is None:
                value.shape = None
    return ir.to_proto(found)


def rows(spec: Any, size: tuple[int, int], model: onnx.ModelProto, names: Any = PHOTOGRAPHS) -> list[dict[str, Any]]:
    photographs = [(name, PHOTOGRAPHS[name]) for name in names]
    ours = lambda pixels: preprocess(Image.fromarray(pixels), *size, spec.preprocessing)  # noqa: E731
    return compare_photographs(photographs, size, spec, ours, preparing(model, threads=1))


def judged(found: list[dict[str, Any]]) -> list[Finding]:
    return [one for one in judge_preprocessing(found, PREPARED) if one.other == GRAPH]


@pytest.mark.parametrize("size", SIZES)
def test_bilinear_is_ours_to_the_bit(size: tuple[int, int]):
    found = rows(DINOV3, size, graph(DINOV3.name, size))
    assert not lacking_photographs(found, IMAGES)
    assert {row["normalised"] for row in found} == {0}
    assert [one.passed for one in judged(found)] == [True] * 3


@pytest.mark.parametrize("size", SIZES[::2])
def test_bicubic_and_cut_is_within_a_grey_level(size: tuple[int, int]):
    found = rows(DINOV2, size, graph(DINOV2.name, size))
    assert [one.passed for one in judged(found)] == [True] * 3
    assert {row["residual"] for row in found} == {0}
    # Keys' kernel is rounded. Measured 2.0e-4 in photographs, and 6.8e-3 in one of 120 pixels.
    assert max(row["differing_share"] for row in found if row["image"] in IMAGES) < 2e-3


@pytest.mark.parametrize("spec, size", [(DINOV3, (211, 227)), (DINOV2, (98, 77))], ids=["as it is", "cut"])
def test_double_precision_keeps_what_has_the_right_size(spec: Any, size: tuple[int, int]):
    """So a graph in double precision is judged by its model alone."""
    expected = preprocess(Image.fromarray(IMAGES["coffee"]), *size, spec.preprocessing)
    model = onnx.ModelProto()
    model.CopyFrom(graph(spec.name, size))
    weights: dict[str, Any] = {}
    photograph = photograph_of(expected, spec.preprocessing)
    (found,) = run_nodes(model, weights, [{"photographs": photograph[None]}])
    assert found["pixel_values"].dtype == np.float64
    assert np.array_equal(found["pixel_values"][0], expected.astype(np.float64))


def test_a_batch_is_its_photographs():
    size, one = (48, 32), IMAGES["chelsea"]
    session = preparing(graph(DINOV3.name, size), threads=1)
    both = np.stack([one, 255 - one])
    whole = ort.InferenceSession(graph(DINOV3.name, size).SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = whole.run(None, {"photographs": both})
    for values, photograph in zip(found, both, strict=True):
        assert np.array_equal(values, session(photograph))


def replaced(model: onnx.ModelProto, operator: str, number: int, by: Callable[[onnx.NodeProto], list[str]]) -> None:
    """Replace one node of an operator by what passes on the named inputs."""
    node = [node for node in model.graph.node if node.op_type == operator][number]
    inputs = by(node)
    node.op_type = "Identity"
    del node.input[:], node.attribute[:]
    node.input.extend(inputs)


def constant(model: onnx.ModelProto, change: Callable[[np.ndarray], np.ndarray], *values: float) -> None:
    """Change the constant that has these values, and is no scalar unless there is one."""
    found = [one for one in model.graph.initializer if to_array(one).ravel().tolist() == list(values)]
    assert found
    for one in found:
        one.CopyFrom(from_array(change(to_array(one)), one.name))


def not_antialiased(model: onnx.ModelProto) -> None:
    """The filter of what is resized by a factor of one, whatever that is."""
    for node in [node for node in model.graph.node if node.op_type == "Max"]:
        sizes = [name for name in node.input if name in ("int64_160", "int64_288")]
        if sizes:
            node.input[:] = sizes * 2


def bgr(model: onnx.ModelProto) -> None:
    constant(model, lambda x: np.ascontiguousarray(x[::-1]), 0, 256, 512)


def half_a_pixel_off(model: onnx.ModelProto) -> None:
    """Pixels lie at their corners instead of their middles."""
    made = {node.output[0]: node for node in model.graph.node}
    middles = [
        made[name]
        for node in model.graph.node
        for name, other in zip(node.input, reversed(node.input), strict=True)
        if node.op_type == "Mul"
        and other in ("int64_160", "int64_288")
        and name in made
        and made[name].op_type == "Add"
    ]
    assert len(middles) == 2
    for node in middles:
        node.input[1] = "int64_0"


def not_rounded_between(model: onnx.ModelProto) -> None:
    """Of the Floors, each axis has one of the second digit, then one of the sum."""
    replaced(model, "Floor", 1, lambda node: [node.input[0]])


def rounded_down(model: onnx.ModelProto) -> None:
    constant(model, lambda x: np.zeros_like(x), 1024)


def without_second_digit(model: onnx.ModelProto) -> None:
    for number in (0, 1):
        divisions = [node for node in model.graph.node if node.op_type == "Floor"]
        divided = divisions[2 * number].input[0]
        division = next(node for node in model.graph.node if node.output[0] == divided)
        division.input[1] = "nothing"
    model.graph.initializer.append(from_array(np.array(1e9, np.float32), "nothing"))


FAULTS: dict[str, Change] = {
    "not antialiased": not_antialiased,
    "BGR": bgr,
    "half a pixel off": half_a_pixel_off,
    "not rounded between both axes": not_rounded_between,
    "rounded down": rounded_down,
    "weights of eleven bits": without_second_digit,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_graph_is_caught(fault: str):
    model = onnx.ModelProto()
    model.CopyFrom(graph(DINOV3.name, SMALL))
    FAULTS[fault](model)
    assert any(not one.passed for one in judged(rows(DINOV3, SMALL, model, IMAGES)))


def test_another_filter_is_caught():
    found = rows(DINOV3, SMALL, graph(DINOV3.name, SMALL, "bicubic"), IMAGES)
    assert any(not one.passed for one in judged(found))


def test_sides_exchanged_are_caught():
    model = graph(DINOV3.name, SMALL[::-1])
    ours = lambda pixels: preprocess(Image.fromarray(pixels), *SMALL, DINOV3.preprocessing)  # noqa: E731
    prepared = preparing(model, threads=1)
    found = compare_photographs(IMAGES.items(), SMALL, DINOV3, ours, lambda x: prepared(x).swapaxes(1, 2))
    assert any(not one.passed for one in judged(found))


def test_a_photograph_that_was_left_out_is_named():
    found = rows(DINOV3, (24, 37), graph(DINOV3.name, (24, 37)), [*IMAGES][1:])
    lacking = lacking_photographs(found, IMAGES)
    assert lacking[0] == f"{next(iter(IMAGES))} as the graph prepares it"
    assert any("made 1x1 " in one for one in lacking)
