"""The command that puts a packed model to the test."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from tests.conftest import Spine
from vit2onnx.align import main
from vit2onnx.families.fault import from_first_on, of_keys
from vit2onnx.spec.recipe import Recipe

PACKED = Recipe("packed", 23, {}, "packed", "loop")
DYNAMIC = Recipe("dynamic", 23, {"batch": None, "height": None, "width": None})
ROOT = Path(__file__).parents[1]
PHOTOGRAPHS = [str(ROOT / "resources" / "images" / f"{name}.jpg") for name in ("chelsea", "camera")]


@pytest.fixture(scope="module")
def spine(spines: Callable[[str], Spine]) -> Spine:
    return spines("dinov3_vits16_pretrain_lvd1689m")


def test_a_graph_that_is_right_passes(spine: Spine, capsys: pytest.CaptureFixture[str]):
    graph, single = (str(spine.export(recipe)) for recipe in (PACKED, DYNAMIC))
    assert main([graph, *PHOTOGRAPHS, "--against", single, "--max-patches", "40"]) == 0
    said = capsys.readouterr()
    assert said.out.endswith("Passed: no image depends on another.\n")
    assert "against each image by itself" in said.out and "rows and columns exchanged (a fault)" in said.out
    assert said.err == ""


def test_a_graph_that_leaks_fails(spine: Spine, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    proto = onnx.load(spine.export(PACKED))
    of_keys(from_first_on)(proto.graph, next(node for node in proto.graph.node if node.op_type == "Loop"))
    onnx.save(proto, tmp_path / "leaking.onnx")
    assert main([str(tmp_path / "leaking.onnx"), *PHOTOGRAPHS, "--max-patches", "40"]) == 1
    said = capsys.readouterr().out
    assert "camera.jpg, beside other images: differs by" in said and said.endswith("FAILED\n")


def test_a_folder_of_hugging_face_is_compared_with_transformers(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    torch.manual_seed(0)
    config = DINOv3ViTConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2)
    DINOv3ViTModel(config).save_pretrained(tmp_path)
    assert main([str(tmp_path), *PHOTOGRAPHS, "--max-patches", "40"]) == 0
    assert "against each image by itself" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("{folder}", "is neither a packed ONNX file nor a Hugging Face folder: it has no config.json."),
        ("{folder}/gone.onnx", "gone.onnx"),
        ("{single}", "takes single images; export a packed graph"),
    ],
)
def test_what_is_no_packed_model_is_one_sentence(
    spine: Spine, tmp_path: Path, capsys: pytest.CaptureFixture[str], model: str, sentence: str
):
    named = model.format(folder=tmp_path, single=spine.export(DYNAMIC))
    assert main([named, *PHOTOGRAPHS]) == 1
    said = capsys.readouterr()
    assert sentence in said.err and said.err.count("\n") == 1 and said.out == ""
