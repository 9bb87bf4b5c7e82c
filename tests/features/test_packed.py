"""Photographs of any sizes through a packed graph: each gets what a graph of single images gives for it alone."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from PIL import Image

from tests.conftest import Spine
from vit2onnx.check_inputs import check_inputs
from vit2onnx.errors import InputError
from vit2onnx.features import Packed, packed
from vit2onnx.images import load_image, preprocess
from vit2onnx.packing import ImageFeatures, native_size
from vit2onnx.runners.session import session_of
from vit2onnx.spec.recipe import Recipe

FOLDER = Path(__file__).parents[2] / "resources" / "images"
PHOTOGRAPHS = [FOLDER / f"{name}.jpg" for name in ("chelsea", "astronaut", "camera", "coffee")]
PACKED = Recipe("packed", 23, {}, "packed", "loop")
DYNAMIC = Recipe("dynamic", 23, {"batch": None, "height": None, "width": None})
# As of packed graphs in general; measured 2e-6.
LIMIT = 1e-5
WAY_OUT = "export a packed graph: exports: {packed: {interface: packed, opset: 23}}."


@pytest.fixture(scope="module")
def graph(tiny: Spine) -> Path:
    return tiny.export(PACKED)


@pytest.fixture(scope="module")
def model(graph: Path) -> Packed:
    return Packed(graph, threads=1)


@pytest.fixture
def calls(model: Packed, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The patches of each image of each call of the graph."""
    found: list[list[int]] = []
    run = model.run

    def counted(pixel_values: np.ndarray, grid_thw: np.ndarray) -> dict[str, np.ndarray]:
        found.append(grid_thw.prod(1).tolist())
        return run(pixel_values, grid_thw)

    monkeypatch.setattr(model, "run", counted)
    return found


def resaved(graph: Path, path: Path, change: Callable[[onnx.ModelProto, dict[str, Any]], None]) -> Path:
    """A graph with something changed, in itself or in its metadata."""
    file = onnx.load(graph)
    said = {one.key: one.value for one in file.metadata_props}
    change(file, said)
    del file.metadata_props[:]
    onnx.helper.set_model_props(file, said)
    onnx.save(file, path)
    return path


def same(found: list[ImageFeatures], wanted: list[ImageFeatures], limit: float = 0) -> bool:
    return all(np.abs(a.tokens - b.tokens).max() <= limit for a, b in zip(found, wanted, strict=True))


def test_each_photograph_has_the_features_that_it_has_alone(model: Packed, tiny: Spine):
    """Prepared as a graph of single images would be given it at its native size."""
    alone = session_of(tiny.export(DYNAMIC), threads=1)
    found = model.features(PHOTOGRAPHS, max_patches=64)
    for path, features in zip(PHOTOGRAPHS, found, strict=True):
        image = load_image(path)
        size = native_size(image.height, image.width, 16, 64)
        tokens, cls = alone.run(None, {"pixel_values": preprocess(image, *size, tiny.spec.preprocessing)[None]})
        assert features.patches.shape == (size[0] // 16, size[1] // 16, 48)
        assert features.registers.shape == (4, 48)
        np.testing.assert_allclose(features.tokens, tokens[0], rtol=0, atol=LIMIT)
        np.testing.assert_allclose(features.cls, cls[0], rtol=0, atol=LIMIT)
    # Not of one size, and not square, so that rows are not taken for columns.
    assert len({features.patches.shape for features in found}) == 3


def test_a_photograph_keeps_its_size_unless_it_has_too_many_patches(model: Packed):
    small = Image.effect_noise((100, 50), 64)
    assert model.features([small])[0].patches.shape[:2] == (3, 6)
    sizes = [one.patches.shape[:2] for one in model.features([small, Image.new("RGB", (800, 700))], None)]
    assert sizes == [(3, 6), (44, 50)]
    (shrunk,) = model.features([Image.new("RGB", (800, 700))])
    assert shrunk.patches.shape[:2] == (29, 34)


def test_images_of_pillow_are_as_their_files(model: Packed):
    camera = load_image(PHOTOGRAPHS[2])
    grey = camera.convert("L")
    with Image.open(PHOTOGRAPHS[2]) as opened:
        found = model.features([PHOTOGRAPHS[2], str(PHOTOGRAPHS[2]), camera, grey, opened], 16)
    assert same(found[1:], found[:1] * 4)


def test_calls_are_split_and_order_is_kept(model: Packed, calls: list[list[int]]):
    whole = model.features(PHOTOGRAPHS * 2, 64)
    each = calls[0]
    assert len(calls) == 1 and len(each) == 8
    # A photograph counts as the largest beside it.
    found = model.features(PHOTOGRAPHS * 2, 64, max_pack=3 * 64)
    assert calls[1:] == [each[:3], each[3:6], each[6:]]
    assert same(found, whole, LIMIT)
    calls.clear()
    assert same(model.features(PHOTOGRAPHS, 64, max_pack=1), whole[:4], LIMIT)
    assert calls == [[count] for count in each[:4]]
    calls.clear()
    sizes = [(16, 16), (16, 16), (64, 64), (16, 16), (16, 16), (16, 16), (16, 16)]
    model.features([Image.new("RGB", size) for size in sizes], max_pack=32)
    assert calls == [[1, 1], [16, 1], [1, 1, 1]]


def test_a_stream_reads_photographs_when_they_are_needed(model: Packed):
    """One more than a call needs, which shows that it is full."""
    opened = []

    def each() -> Any:
        for path in PHOTOGRAPHS:
            opened.append(path)
            yield path

    stream = model.stream(each(), 16, max_pack=32)
    assert not opened
    next(stream)
    assert len(opened) == 3
    assert len(list(stream)) == 3
    assert model.features([]) == []


def test_inputs_and_outputs_are_by_name(model: Packed, graph: Path):
    inputs = model.inputs(PHOTOGRAPHS, 64)
    outputs = model.run(**inputs)
    patches = int(inputs["grid_thw"].prod(1).sum())
    assert {name: array.shape for name, array in outputs.items()} == {
        "last_hidden_state": (patches, 48),
        "pooler_output": (4, 48),
        "registers": (4, 4, 48),
    }
    session = session_of(graph)
    check_inputs(session, inputs)
    for name, values, sentence in (
        ("grid_thw", inputs["grid_thw"][1:], f"and pixel_values has {patches} rows; make them fit"),
        ("pixel_values", inputs["pixel_values"] * 255, "Channel 0 of pixel_values is -"),
        ("pixel_values", inputs["pixel_values"][:, ::-1].copy(), "Channel 0 of pixel_values is -"),
    ):
        with pytest.raises(InputError, match=sentence):
            check_inputs(session, {**inputs, name: values})
    with pytest.raises(InputError, match=f"and pixel_values has {patches} rows; make them fit"):
        model.run(inputs["pixel_values"], inputs["grid_thw"][1:])


def test_photographs_are_prepared_as_the_file_says_but_not_cut(graph: Path, tmp_path: Path):
    """The whole photograph is used, whatever `crop_pct` the file has; the rest is as it says."""
    said = {"interpolation": "bicubic", "crop_pct": 0.875, "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7]}
    other = resaved(graph, tmp_path / "packed.onnx", lambda _, of: of.update(preprocessing=json.dumps(said)))
    image = Image.new("RGB", (400, 300), (255, 0, 51))
    image.paste((0, 0, 0), (0, 0, 16, 300))
    pixels = Packed(other).inputs([image], None)["pixel_values"].reshape(19, 25, 16, 16, 3)
    assert np.allclose(pixels[:, :1], [-0.1 / 0.5, -0.2 / 0.6, -0.3 / 0.7], atol=1e-6)
    assert np.allclose(pixels[:, 2:], [0.9 / 0.5, -0.2 / 0.6, -0.1 / 0.7], atol=1e-6)


def test_a_graph_of_single_images_is_refused_with_the_way_out(tiny: Spine):
    path = tiny.export(DYNAMIC)
    with pytest.raises(InputError, match=re.escape(f"{path} takes single images; {WAY_OUT}") + "$"):
        Packed(path)


def forget_metadata(_: onnx.ModelProto, said: dict[str, Any]) -> None:
    said.clear()


def prepare_in_plain_words(_: onnx.ModelProto, said: dict[str, Any]) -> None:
    said["tokens"] = "some"


def raise_opset(file: onnx.ModelProto, _: dict[str, Any]) -> None:
    file.opset_import[0].version = 999


@pytest.mark.parametrize(
    "change, sentence",
    [
        (forget_metadata, f"is no graph of vit2onnx that takes photographs; {WAY_OUT}"),
        (prepare_in_plain_words, f"is no graph of vit2onnx that takes photographs; {WAY_OUT}"),
        (raise_opset, "cannot load"),
    ],
)
def test_another_file_is_named(change: Callable[..., None], sentence: str, graph: Path, tmp_path: Path):
    path = resaved(graph, tmp_path / "mine.onnx", change)
    with pytest.raises(InputError, match=re.escape(sentence)) as caught:
        Packed(path)
    assert str(path) in str(caught.value)


def test_what_is_no_onnx_file_is_named(tmp_path: Path):
    for path, sentence in (
        (tmp_path / "gone.onnx", r"gone\.onnx cannot be opened"),
        (tmp_path, "is a folder and not a file"),
        (PHOTOGRAPHS[0], r"chelsea\.jpg is no complete ONNX file"),
    ):
        with pytest.raises(InputError, match=sentence):
            Packed(path)


@pytest.mark.parametrize(
    "given, sentence",
    [
        (["gone.jpg"], "gone.jpg: there is no such photograph; correct its path or put the file there."),
        ("cat.jpg", "cat.jpg is one photograph; give a list of photographs."),
        (PHOTOGRAPHS[0], "chelsea.jpg is one photograph; give a list of photographs."),
        ([PHOTOGRAPHS[0], np.zeros((3, 16, 16))], "Photograph 1 is of type ndarray; give a path or a PIL image."),
        ([Image.new("I;16", (16, 16))], "Photograph 0 has more than 8 bits per channel; convert it to 8."),
        ([Image.new("F", (16, 16))], "Photograph 0 has more than 8 bits per channel; convert it to 8."),
        ([Image.new("RGB", (0, 16))], "Photograph 0: There is no size for an image of 16 x 0 pixels"),
        ([Image.new("RGB", (1, 10_000_000))], "Photograph 0: A photograph of 10000000 x 1 pixels is too narrow"),
    ],
)
def test_what_is_no_photograph_is_named(model: Packed, given: Any, sentence: str):
    with pytest.raises(InputError, match=re.escape(sentence)):
        model.features(given)


def test_an_image_of_a_broken_file_is_named(model: Packed):
    """Pillow opens it, and finds out when the pixels are needed."""
    broken = Image.open(io.BytesIO(PHOTOGRAPHS[0].read_bytes()[:9000]))
    with pytest.raises(InputError, match=r"^Photograph 1 cannot be read \(.*\); give one that is complete\.$"):
        model.features([PHOTOGRAPHS[0], broken])


def test_no_photograph_is_no_input(model: Packed):
    with pytest.raises(InputError, match="There are no images to pack"):
        model.inputs([])


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "5"])
def test_limits_are_whole_numbers(model: Packed, wrong: Any):
    for limit in ("max_patches", "max_pack"):
        with pytest.raises(InputError, match=rf"^{limit} is {wrong!r}; give a whole number of at least 1\.$"):
            model.features(PHOTOGRAPHS, **{limit: wrong})


def test_a_graph_that_fails_is_named(model: Packed, monkeypatch: pytest.MonkeyPatch):
    class Full:
        def run(self, *_: Any) -> None:
            raise RuntimeError("Failed to allocate memory")

    monkeypatch.setattr(model, "_session", Full())
    with pytest.raises(InputError) as caught:
        model.features(PHOTOGRAPHS[:2], 16)
    assert "does not run on 2 images with " in str(caught.value)
    assert str(caught.value).endswith("give a smaller max_pack or max_patches (Failed to allocate memory).")


def test_the_way_out_of_the_messages_is_a_recipe():
    """As it stands in the config."""
    (name, recipe), *_ = yaml.safe_load(packed.WAY_OUT.partition("exports: ")[2]).items()
    assert Recipe.from_mapping(name, recipe).interface == "packed"
