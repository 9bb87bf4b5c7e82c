"""The published logits of NaFlex: images as transformers' test draws them, and a judgement that cannot be misled.

No released weight is at hand, so graphs here give the logits that they are told to give.
"""

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from tests.toy_tokenizer import write_tokenizer
from vit2onnx.errors import InputError
from vit2onnx.families.siglip2 import golden
from vit2onnx.families.siglip2.golden import LIMIT, PUBLISHED, differences, drawn_images, feeds_of, logits_of, table_of
from vit2onnx.texts import Tokenizer

TRUE = np.array(list(PUBLISHED.values()), np.float32)
GRAPH = Path("model.onnx")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("golden") / "checkpoint")


@pytest.fixture(scope="module")
def feeds(tokenizer: Path) -> dict[str, np.ndarray]:
    return feeds_of(Tokenizer(tokenizer))


AXES: dict[str, list[int | str]] = {
    "input_ids": ["texts", 64],
    "pixel_values": ["images", "patches", 768],
    "pixel_attention_mask": ["images", "patches"],
    "spatial_shapes": ["images", 2],
}
DTYPES = dict(zip(AXES, (TensorProto.INT64, TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64), strict=True))


def write_graph(path: Path, logits: np.ndarray, axes: dict[str, list[int | str]] = AXES, vocabulary: int = 0) -> Path:
    """A graph that gives these logits, whatever it is asked; with a `vocabulary`, if all ids are in it."""
    inputs = [helper.make_tensor_value_info(name, DTYPES[name], shape) for name, shape in axes.items()]
    output = helper.make_tensor_value_info("logits_per_text", TensorProto.FLOAT, [None, None])
    nodes = [helper.make_node("Identity", ["told"], ["logits_per_text"])]
    constants = [numpy_helper.from_array(logits.astype(np.float32), "told")]
    if vocabulary:
        constants.append(numpy_helper.from_array(np.zeros((vocabulary, 1), np.float32), "table"))
        nodes = [
            helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
            helper.make_node("ReduceSum", ["rows"], ["nothing"], keepdims=0),
            helper.make_node("Add", ["told", "nothing"], ["logits_per_text"]),
        ]
    graph = helper.make_graph(nodes, "stub", inputs, [output], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def session(logits: np.ndarray, axes: dict[str, Any] = AXES) -> Any:
    """What a graph would be to onnxruntime."""
    return SimpleNamespace(
        get_inputs=lambda: [SimpleNamespace(name=name, shape=shape) for name, shape in axes.items()],
        get_outputs=lambda: [SimpleNamespace(name="logits_per_text")],
        run=lambda names, feeds: [logits],
    )


def test_images_are_drawn_as_in_the_test_of_transformers():
    """A disc of blue with a green border on red, in the middle; sizes of Pillow are width, then height."""
    images = drawn_images()
    assert [image.size for image in images] == [(224, 224), (1024, 1024), (1024, 224)]
    assert {image.mode for image in images} == {"RGB"}
    red, blue, green = (255, 0, 0), (0, 0, 255), (0, 128, 0)
    for image, radius, border in zip(images, (98, 448, 98), (11, 51, 51), strict=True):
        x, y = image.width // 2, image.height // 2
        assert image.getpixel((0, 0)) == image.getpixel((x, y - radius - 1)) == red
        assert image.getpixel((x, y)) == image.getpixel((x + radius - border - 2, y)) == blue
        assert image.getpixel((x - radius, y)) == image.getpixel((x, y + radius)) == green
        assert {colour for _, colour in image.getcolors()} == {red, blue, green}


def test_images_are_the_same_pixel_for_pixel():
    """Of Pillow 13; another version that draws another edge is named here before the logits are off."""
    found = [hashlib.sha256(image.tobytes()).hexdigest()[:16] for image in drawn_images()]
    assert found == ["5e0a84d4b7a2e40a", "23b0142d59d92ac1", "1c055099b59a11fe"]


def test_inputs_are_of_all_texts_and_images(feeds: dict[str, np.ndarray]):
    assert {name: (array.shape, str(array.dtype)) for name, array in feeds.items()} == {
        "input_ids": ((7, 64), "int64"),
        "pixel_values": ((3, 256, 768), "float32"),
        "pixel_attention_mask": ((3, 256), "int32"),
        "spatial_shapes": ((3, 2), "int64"),
    }
    assert feeds["spatial_shapes"].tolist() == [[16, 16], [16, 16], [7, 32]]
    assert feeds["pixel_attention_mask"].sum(axis=1).tolist() == [256, 256, 224]
    assert all(np.count_nonzero(ids == 1) == 1 for ids in feeds["input_ids"])
    # The first patch of each is red.
    np.testing.assert_allclose(feeds["pixel_values"][:, 0], np.tile([1, -1, -1], (3, 256)), atol=1e-6)


def test_inputs_are_those_of_transformers(feeds: dict[str, np.ndarray]):
    from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

    theirs = Siglip2ImageProcessorPil()(drawn_images(), return_tensors="np")
    for port, expected in theirs.items():
        np.testing.assert_allclose(feeds[port], expected, rtol=0, atol=1.3e-7, err_msg=port)


def test_published_logits_pass(tmp_path: Path, tokenizer: Path, capsys):
    graph = write_graph(tmp_path / "model.onnx", TRUE + 0.9 * LIMIT, vocabulary=400)
    assert golden.main([str(graph), str(tokenizer)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 1 + 21 + 1
    assert told[-1] == "All logits are as published: the largest difference is 0.0180, and 0.02 is allowed."
    assert told[1].split() == ["circle", "224x224", "1.0375", "1.0195", "0.0180"]


@pytest.mark.parametrize("row, column", [(0, 0), (6, 2), (3, 1)])
@pytest.mark.parametrize("wrong", [1.1 * LIMIT, -1.1 * LIMIT, np.nan, np.inf])
def test_one_logit_that_is_off_fails(tmp_path: Path, tokenizer: Path, capsys, row: int, column: int, wrong: float):
    logits = TRUE.copy()
    logits[row, column] += wrong
    graph = write_graph(tmp_path / "model.onnx", logits)
    assert golden.main([str(graph), str(tokenizer)]) == 1
    told = capsys.readouterr().out.splitlines()
    assert [number for number, line in enumerate(told) if line.endswith("  off")] == [1 + 3 * row + column]
    assert told[-1].startswith("These are not the published logits")


@pytest.mark.parametrize(
    "fault",
    [
        lambda logits: logits[:, ::-1],
        lambda logits: logits[::-1],
        lambda logits: logits + 0.05,
        lambda logits: 1 / (1 + np.exp(-logits)),
        # A temperature that is cut at 100, where 112 was learned.
        lambda logits: logits * 100 / 112,
    ],
    ids=["images", "texts", "bias", "sigmoid", "temperature"],
)
def test_faults_of_the_model_are_off(fault):
    assert differences(fault(TRUE)).max() > LIMIT
    assert differences(TRUE).max() < 1e-6
    assert sum(line.endswith("off") for line in table_of(fault(TRUE))) > 3


def test_another_graph_is_named(feeds: dict[str, np.ndarray]):
    """That of a fixed-resolution model, and that of one tower."""
    fixed = {"input_ids": ["texts", 64], "pixel_values": ["images", 3, 224, 224]}
    for axes in (fixed, {"input_ids": ["batch", 64]}, AXES | {"attention_mask": ["texts", 64]}):
        with pytest.raises(InputError, match=r"^model\.onnx: this is no graph of images and texts with NaFlex.*\.$"):
            logits_of(GRAPH, session(TRUE, axes), feeds)


@pytest.mark.parametrize(
    "name, shape",
    [
        ("input_ids", [1, 64]),
        ("input_ids", ["texts", 32]),
        ("pixel_values", [1, "patches", 768]),
        ("pixel_values", ["images", 576, 768]),
        ("pixel_values", ["images", "patches", 588]),
        ("pixel_values", ["images", 3, 224, 224]),
    ],
)
def test_fixed_sizes_that_do_not_fit_are_named(feeds: dict[str, np.ndarray], name: str, shape: list[int | str]):
    with pytest.raises(InputError, match=rf"^model\.onnx: its {name} has the shape .* is needed; .*\.$"):
        logits_of(GRAPH, session(TRUE, AXES | {name: shape}), feeds)


def test_logits_of_another_shape_are_not_compared(feeds: dict[str, np.ndarray]):
    for wrong in (TRUE.T, TRUE[:1], TRUE[:, :1]):
        with pytest.raises(InputError, match="came out as"):
            logits_of(GRAPH, session(wrong), feeds)


def test_a_tokenizer_of_another_checkpoint_is_named(tmp_path: Path, tokenizer: Path, capsys):
    """Its ids are beyond the table of the graph."""
    graph = write_graph(tmp_path / "model.onnx", TRUE, vocabulary=40)
    assert golden.main([str(graph), str(tokenizer)]) == 1
    assert "give the tokenizer.json of the same checkpoint." in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["graph", "tokenizer"])
def test_missing_files_are_named(tmp_path: Path, tokenizer: Path, capsys, missing: str):
    given = {"graph": str(write_graph(tmp_path / "model.onnx", TRUE)), "tokenizer": str(tokenizer)}
    assert golden.main(list((given | {missing: str(tmp_path / "none")}).values())) == 1
    told = capsys.readouterr()
    assert not told.out and "none cannot be opened" in told.err and told.err.endswith(".\n")


def test_another_file_is_no_graph(tmp_path: Path, tokenizer: Path, capsys):
    for content in (b"", b"text", bytes(1000)):
        path = tmp_path / "model.onnx"
        path.write_bytes(content)
        assert golden.main([str(path), str(tokenizer)]) == 1
        told = capsys.readouterr()
        assert not told.out and told.err.endswith(".\n") and "model.onnx" in told.err


def test_both_files_must_be_named(capsys):
    for arguments in ([], ["model.onnx"], ["a", "b", "c"]):
        with pytest.raises(SystemExit) as stop:
            golden.main(arguments)
        assert stop.value.code == 2
    capsys.readouterr()


def test_an_image_that_is_drawn_otherwise_gives_other_inputs(
    feeds: dict[str, np.ndarray], tokenizer: Path, monkeypatch
):
    monkeypatch.setattr(golden, "drawn_images", lambda: [Image.new("RGB", (224, 224), "red")] * 3)
    assert np.abs(feeds_of(Tokenizer(tokenizer))["pixel_values"] - feeds["pixel_values"]).max() > 1
