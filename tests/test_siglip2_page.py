"""The code on the page about SigLIP2 runs as it stands there, with graphs that have the inputs of the real ones."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.toy_tokenizer import write_tokenizer

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "siglip2.md").read_text(), re.M | re.S)
PORTS: dict[str, tuple[int, list[int | str]]] = {
    "input_ids": (TensorProto.INT64, ["texts", 64]),
    "pixel_values": (TensorProto.FLOAT, ["images", 3, 224, 224]),
}


def write_graph(path: Path, inputs: list[str], output: str) -> None:
    """A graph whose embedding of an input is its first numbers, and whose logits are small products of these."""
    nodes, embeds = [], []
    for name in inputs:
        nodes += [
            helper.make_node("Cast", [name], [f"{name}.float"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", [f"{name}.float"], [f"{name}.flat"]),
            helper.make_node("Slice", [f"{name}.flat", "zero", "eight", "one"], [f"{name}.embedding"]),
        ]
        embeds.append(f"{name}.embedding")
    if len(embeds) == 2:
        nodes.append(helper.make_node("Gemm", [embeds[1], embeds[0]], [output], alpha=1e-4, transB=1))
    else:
        nodes.append(helper.make_node("Identity", embeds, [output]))
    graph = helper.make_graph(
        nodes,
        "stub",
        [helper.make_tensor_value_info(name, *PORTS[name]) for name in inputs],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [None, None])],
        [
            helper.make_tensor(name, TensorProto.INT64, [1], [it])
            for name, it in (("zero", 0), ("eight", 8), ("one", 1))
        ],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """All names after all blocks."""
    folder = tmp_path / "results" / "official" / "siglip2_base_patch16_224"
    write_graph(folder / "model.onnx", ["input_ids", "pixel_values"], "logits_per_image")
    write_graph(folder / "vision_model.onnx", ["pixel_values"], "pooler_output")
    write_graph(folder / "text_model.onnx", ["input_ids"], "pooler_output")
    write_tokenizer(tmp_path / "checkpoints")
    (tmp_path / "resources").symlink_to(ROOT / "resources")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec("".join(BLOCKS), names)
    return names


def test_the_code_on_the_page_runs(told: dict[str, Any]):
    assert len(BLOCKS) == 8
    np.testing.assert_array_equal(told["input_ids"], told["same_ids"], strict=True)
    assert told["probabilities"].shape == (3, 2)
    assert told["nearest"].shape == (2, 3)
    assert sorted(told["nearest"][0]) == [0, 1, 2]
    np.testing.assert_allclose(np.linalg.norm(told["of_texts"], axis=1), 1, atol=1e-6)


def test_patches_in_numpy_are_those_of_the_library(told: dict[str, Any]):
    first = {"pixel_values": told["padded"], "pixel_attention_mask": told["mask"], "spatial_shapes": told["shapes"]}
    for name, array in told["inputs"][0].items():
        np.testing.assert_array_equal(first[name], array, strict=True)
    assert {name: array.shape for name, array in told["images"].items()} == {
        "pixel_values": (3, 256, 768),
        "pixel_attention_mask": (3, 256),
        "spatial_shapes": (3, 2),
    }
