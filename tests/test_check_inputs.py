"""What does not fit a graph is one sentence, and what fits passes."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from vit2onnx.check_inputs import check_inputs
from vit2onnx.errors import InputError

FLOAT, INT32, INT64 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64
PORTS = {
    "pixel_values": (FLOAT, ["images", "patches", 12]),
    "pixel_attention_mask": (INT32, ["images", "patches"]),
    "spatial_shapes": (INT64, ["images", 2]),
    "input_ids": (INT64, ["texts", 4]),
    "whole": (FLOAT, ["images", 3, 6, 6]),
}
HALF = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"}
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def session_of(path: Path, ports: dict[str, Any], said: dict[str, Any]) -> ort.InferenceSession:
    """A graph that takes inputs and gives them back."""
    inputs = [helper.make_tensor_value_info(name, *port) for name, port in ports.items()]
    outputs = [helper.make_tensor_value_info(f"{name}_out", *port) for name, port in ports.items()]
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in ports]
    model = helper.make_model(
        helper.make_graph(nodes, "all", inputs, outputs),
        opset_imports=[helper.make_opsetid("", 23)],
        ir_version=10,
    )
    helper.set_model_props(model, {name: json.dumps(one) for name, one in said.items()})
    onnx.save(model, path)
    return ort.InferenceSession(path)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> ort.InferenceSession:
    """A graph that takes all kinds of inputs."""
    said = {"text": {"vocabulary": 100, "end": "1"}, "preprocessing": HALF}
    return session_of(tmp_path_factory.mktemp("graph") / "all.onnx", PORTS, said)


def fitting() -> dict[str, np.ndarray]:
    return {
        "pixel_values": np.zeros((2, 6, 12), np.float32),
        "pixel_attention_mask": np.array([[1] * 6, [1, 1, 0, 0, 0, 0]], np.int32),
        "spatial_shapes": np.array([[2, 3], [1, 2]]),
        "input_ids": np.array([[5, 99, 1, 0]]),
        "whole": np.zeros((2, 3, 6, 6), np.float32),
    }


def test_what_fits_passes(session: ort.InferenceSession):
    check_inputs(session, fitting())


@pytest.mark.parametrize("ids", [[1, 0, 0, 0], [5, 6, 7, 1], [5, 1, 1, 0]], ids=["empty", "full", "ends with eos"])
def test_every_text_as_the_tokenizer_prepares_it_passes(session: ort.InferenceSession, ids: list[int]):
    check_inputs(session, fitting() | {"input_ids": np.array([ids])})


def test_patches_behind_the_mask_may_have_any_finite_numbers(session: ort.InferenceSession):
    check_inputs(session, fitting() | changed("pixel_values", (1, 2, 0), 255))


def test_a_file_that_does_not_say_how_texts_end_takes_all_ids_of_its_vocabulary(tmp_path: Path):
    """As of a model with another tokenizer."""
    other = session_of(tmp_path / "text.onnx", {"input_ids": PORTS["input_ids"]}, {"text": {"vocabulary": 100}})
    for ids in ([0, 0, 0, 0], [2, 5, 7, 9], [0, 0, 7, 1]):
        check_inputs(other, {"input_ids": np.array([ids])})
    with pytest.raises(InputError, match="The token id 100"):
        check_inputs(other, {"input_ids": np.array([[100, 1, 0, 0]])})


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_each_channel_of_an_image_has_its_own_range(tmp_path: Path, interpolation: str):
    """Black and white of ImageNet's normalisation pass. Grey levels, and those of another channel, do not."""
    said = {"preprocessing": IMAGENET | {"interpolation": interpolation}}
    images = session_of(tmp_path / "image.onnx", {"pixel_values": PORTS["whole"]}, said)
    mean, std = (np.array(IMAGENET[name], np.float32)[:, None, None] for name in ("mean", "std"))
    grey = np.zeros((1, 3, 6, 6), np.float32)
    grey[..., 3:] = 1
    check_inputs(images, {"pixel_values": (grey - mean) / std})
    # Not to be told from a normalised photograph with little contrast.
    check_inputs(images, {"pixel_values": grey})
    with pytest.raises(InputError, match=r"Channel 0 .* is 0 to 255, and this file takes -2\.118 to 2\.249; .*\.$"):
        check_inputs(images, {"pixel_values": grey * 255})
    exchanged = {"pixel_values": ((grey - mean) / std)[:, ::-1]}
    if interpolation == "bilinear":
        with pytest.raises(InputError, match=r"Channel 0 .* is -1\.804 to 2\.64"):
            check_inputs(images, exchanged)
    else:
        # Its filter goes beyond black and white.
        check_inputs(images, exchanged)


def changed(name: str, place: tuple[int, ...], value: float) -> dict[str, np.ndarray]:
    array = fitting()[name]
    array[place] = value
    return {name: array}


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        ({"attention_mask": np.ones((1, 4))}, "and no attention_mask; leave it out"),
        ({"input_ids": np.array([[5, 1, 0, 0]], np.int32)}, "input_ids must be int64 [texts x 4] and is int32"),
        ({"input_ids": [[5, 1, 0, 0]]}, "input_ids must be int64 [texts x 4] and is list"),
        ({"input_ids": np.zeros((1, 65), np.int64)}, "input_ids must be texts x 4 and is 1 x 65"),
        ({"input_ids": np.zeros(4, np.int64)}, "input_ids must be texts x 4 and is 4"),
        ({"input_ids": np.zeros((0, 4), np.int64)}, "input_ids must be texts x 4 and is 0 x 4"),
        (changed("input_ids", (0, 0), 100), "The token id 100 is not one of the 100 of the model, 0 to 99"),
        (changed("input_ids", (0, 0), -1), "The token id -1 is not one"),
        ({"whole": np.zeros((2, 3, 8, 6), np.float32)}, "whole must be images x 3 x 6 x 6 and is 2 x 3 x 8 x 6"),
        ({"whole": np.zeros((1, 3, 6, 6), np.float32)}, "images is 2 in pixel_values and 1 in whole"),
        (changed("whole", (0, 0, 0, 0), np.nan), "whole holds values that are not finite"),
        ({"pixel_attention_mask": np.ones((2, 5), np.int32)}, "patches is 6 in pixel_values and 5 in pixel_attention"),
        (changed("pixel_attention_mask", (1, 5), 1), "pixel_attention_mask must be 1 for the patches"),
        (changed("pixel_attention_mask", (0, 0), 2), "pixel_attention_mask must be 1 for the patches"),
        ({"input_ids": np.array([[5, 1, 0, 0], [5, 7, 9, 9]])}, "Text 1 of input_ids does not end with <eos> (1); app"),
        ({"input_ids": np.array([[5, 7, 0, 0]])}, "does not end with <eos> (1); append it"),
        ({"input_ids": np.array([[0, 5, 7, 1]])}, "begins with <pad> (0); fill it up on the right"),
        ({"input_ids": np.array([[5, 0, 7, 1]])}, "has <pad> (0) between its tokens; fill it up on the right"),
        ({"input_ids": np.array([[5, 1, 1, 1]])}, "is filled up with <eos> (1); fill it up with <pad> (0)"),
        ({"input_ids": np.zeros((1, 4), np.int64)}, "is <pad> (0) only; give an empty text as <eos> (1)"),
        ({"input_ids": np.array([[2, 5, 1, 0]])}, "begins with <bos> (2); leave it out"),
        ({"input_ids": np.ma.masked_array([[5, 1, 0, 0]])}, "is MaskedArray; give a plain numpy.ndarray"),
        (changed("pixel_values", (0, 0, 0), 255), "Channel 0 of pixel_values is 0 to 255, and this file takes -1 to 1"),
        (changed("pixel_values", (1, 1, 10), -2.1), "Channel 1 of pixel_values is -2.1 to 0"),
        # 2 to the power of 64, and 6 more than three times that: as int64 they are the 0 and 6 patches of the mask.
        ({"spatial_shapes": np.full((2, 2), 2**32)}, "spatial_shapes say 18446744073709551616 patches"),
        ({"spatial_shapes": np.array([[6148914691236517206, 9], [1, 2]])}, "say 55340232221128654854 patches"),
        (changed("spatial_shapes", (0, 0), 0), "spatial_shapes hold 0"),
        (changed("spatial_shapes", (1, 1), 7), "spatial_shapes say 7 patches, and there are 6"),
        (changed("spatial_shapes", (1, 1), 1), "pixel_attention_mask must be 1 for the patches"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_what_does_not_fit_is_one_sentence(session: ort.InferenceSession, other, sentence: str):
    with pytest.raises(InputError, match=re.escape(sentence)):
        check_inputs(session, fitting() | other)


def test_a_missing_input_is_named(session: ort.InferenceSession):
    inputs = fitting()
    del inputs["spatial_shapes"]
    with pytest.raises(InputError, match="spatial_shapes is missing"):
        check_inputs(session, inputs)


def test_patches_of_a_pack_are_those_of_its_grid_and_have_a_range_by_channel(tmp_path: Path):
    """Rows of packed patches are rows of columns of channels, as those behind a mask are."""
    said = {"preprocessing": IMAGENET | {"interpolation": "bilinear"}, "tokens": {"patch_size": 2}}
    ports = {"pixel_values": (FLOAT, ["patches", 12]), "grid_thw": (INT64, ["images", 3])}
    packed = session_of(tmp_path / "packed.onnx", ports, said)
    mean, std = (np.array(IMAGENET[name], np.float32) for name in ("mean", "std"))
    white = np.tile((1 - mean) / std, (8, 4))
    inputs = {"pixel_values": white, "grid_thw": np.array([[1, 2, 3], [1, 1, 2]])}
    check_inputs(packed, inputs)
    one_beyond, exchanged = white.copy(), np.tile(((1 - mean) / std)[::-1], (8, 4))
    one_beyond[7, 10] = 9
    for name, values, sentence in (
        ("grid_thw", np.array([[1, 2, 3]]), "grid_thw says 6 patches, and pixel_values has 8 rows"),
        ("grid_thw", np.array([[4, 1, 2]]), "Row 0 of grid_thw has 4 frames"),
        ("grid_thw", np.array([[1, 0, 8], [1, 1, 8]]), "Row 0 of grid_thw is [1, 0, 8]"),
        ("pixel_values", white[:, :9], "pixel_values must be patches x 12 and is 8 x 9"),
        ("pixel_values", exchanged, "Channel 0 of pixel_values is 2.64 to 2.64, and this file takes -2.118 to 2.249"),
        ("pixel_values", one_beyond, "Channel 1 of pixel_values is 2.429 to 9"),
    ):
        with pytest.raises(InputError, match=re.escape(sentence)):
            check_inputs(packed, {**inputs, name: values})
