"""Inputs fit the graphs that they are made for, and a graph of free sizes gets two that are unlike each other."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from tests.conftest import RELEASED, Spine
from vit2onnx.check_inputs import check_inputs
from vit2onnx.errors import InputError
from vit2onnx.files import write_arrays
from vit2onnx.onnx_file import sample_beside
from vit2onnx.runtimes.feeds import Port, made, ports_of, sets_for
from vit2onnx.spec.recipe import Recipe

NAFLEX = next(name for name in RELEASED if "siglip2" in name and "naflex" in name)
FREE = {"batch": None, "height": None, "width": None}
RECIPES = {
    "static": ("tiny", Recipe("static", 23, {"batch": 2, "height": 32, "width": 48})),
    "dynamic": ("tiny", Recipe("dynamic", 23, FREE)),
    "packed": ("tiny", Recipe("packed", 23, {"patches": None, "images": None}, "packed", "loop")),
    "fixed pack": ("tiny", Recipe("fixed_pack", 23, {"patches": 9, "images": 3}, "packed", "loop")),
    "pair": (NAFLEX, Recipe("pair", 23, {"images": None, "texts": None, "patches": None, "length": None}, "pair")),
}


@pytest.mark.parametrize("name", RECIPES)
def test_made_inputs_are_what_the_file_asks_for(name: str, tiny: Spine, spines) -> None:
    model, recipe = RECIPES[name]
    graph = (tiny if model == "tiny" else spines(model)).export(recipe)
    inputs, outputs = ports_of(graph)
    sets = sets_for(graph, inputs)
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    assert [port.name for port in outputs] == [port.name for port in session.get_outputs()]
    for one in sets:
        check_inputs(session, one)
        assert all(np.isfinite(values).all() for values in session.run(None, dict(one)))
    is_free = None in recipe.sizes.values()
    assert len(sets) == 1 + is_free
    if is_free:
        first, second = ([array.shape for array in one.values()] for one in sets)
        assert all(a != b for a, b in zip(first, second, strict=True))


def test_the_sample_comes_first(tiny: Spine, tmp_path: Path) -> None:
    graph = tmp_path / "static.onnx"
    graph.write_bytes(tiny.export(RECIPES["static"][1]).read_bytes())
    recorded = np.random.default_rng(1).standard_normal((3, 32, 48), np.float32)
    write_arrays(
        sample_beside(graph), {"pixel_values/one_32x48": recorded, "pooler_output/one_32x48": recorded}.items()
    )
    (found,) = sets_for(graph, ports_of(graph)[0])
    np.testing.assert_array_equal(found["pixel_values"], np.stack([recorded, recorded]))


def test_the_same_inputs_are_made_each_time() -> None:
    ports = [Port("photographs", "uint8", ("batch", "photograph_height", "photograph_width", 3))]
    first, again, other = (made(ports, {}, number)["photographs"] for number in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert first.dtype == np.uint8 and first.std() > 50
    assert (first.shape, other.shape) == ((1, 97, 131, 3), (2, 40, 24, 3))


def test_what_is_no_graph_is_named(tmp_path: Path) -> None:
    (tmp_path / "other.onnx").write_bytes(b"\xff\xff")
    with pytest.raises(InputError, match=r"other\.onnx is no ONNX file"):
        ports_of(tmp_path / "other.onnx")
