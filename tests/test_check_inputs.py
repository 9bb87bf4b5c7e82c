"""What does not fit a graph is one sentence, and what fits passes."""

import json
import re
from pathlib import Path

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


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> ort.InferenceSession:
    """A graph that takes all kinds of inputs and gives them back."""
    inputs = [helper.make_tensor_value_info(name, *port) for name, port in PORTS.items()]
    outputs = [helper.make_tensor_value_info(f"{name}_out", *port) for name, port in PORTS.items()]
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in PORTS]
    model = helper.make_model(
        helper.make_graph(nodes, "all", inputs, outputs),
        opset_imports=[helper.make_opsetid("", 23)],
        ir_version=10,
    )
    half = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"}
    said = {"text": {"vocabulary": 100, "end": "1"}, "preprocessing": half}
    helper.set_model_props(model, {name: json.dumps(one) for name, one in said.items()})
    path: Path = tmp_path_factory.mktemp("graph") / "all.onnx"
    onnx.save(model, path)
    return ort.InferenceSession(path)


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
        ({"input_ids": np.array([[5, 7, 9, 9]])}, "no text that ends with 1 and is filled up with 0"),
        ({"input_ids": np.array([[0, 5, 7, 1]])}, "no text that ends with 1"),
        ({"input_ids": np.array([[5, 1, 1, 1]])}, "no text that ends with 1"),
        ({"input_ids": np.zeros((1, 4), np.int64)}, "no text that ends with 1"),
        ({"input_ids": np.array([[2, 5, 1, 0]])}, "begin with 2 (<bos>)"),
        ({"input_ids": np.ma.masked_array([[5, 1, 0, 0]])}, "is MaskedArray"),
        (changed("pixel_values", (0, 0, 0), 255), "pixel_values are 0 to 255, and those of this file -1 to 1"),
        (changed("pixel_values", (0, 0, 0), -2.1), "pixel_values are -2.1 to 0"),
        ({"spatial_shapes": np.full((2, 2), 2**32)}, "spatial_shapes say 4294967296 patches"),
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
