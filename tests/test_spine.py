"""The whole way in Python: what README and docs/python.md show."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.limits import BY_PRECISION
from vit2onnx.checkpoints.identity import known_variants
from vit2onnx.errors import InputError
from vit2onnx.onnx_file import described
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spine import prove

ROOT = Path(__file__).parents[1]
PHOTOGRAPHS = {"cat": ROOT / "resources" / "images" / "chelsea.jpg"}
LIMITS = BY_PRECISION["float32"] | BY_PRECISION["preprocessing"]
RECIPE = Recipe("wide", opset=23, sizes={"batch": None, "height": 48, "width": None})


def test_a_checkpoint_becomes_a_graph_that_passes(tiny, tmp_path: Path):
    checkpoint = tiny.checkpoints["huggingface5"]
    verdict = prove(
        tiny.spec, RECIPE, checkpoint, tmp_path, PHOTOGRAPHS, LIMITS, sizes=[(48, 112), (64, 48)], weights="synthetic"
    )
    assert (verdict.passed, verdict.faults) == (True, [])
    assert verdict.bytes == (tmp_path / "wide.onnx").stat().st_size
    # Of the two sizes one fits the graph.
    assert (verdict.figures["images"], verdict.figures["sizes"]) == (1, 1)
    assert 0 < verdict.figures["floors"] < 10


def test_layers_can_be_outputs(tiny, tmp_path: Path):
    recipe = Recipe("layers", 23, {"batch": 1, "height": 48, "width": 64}, outputs=("block_0_norm", "block_1"))
    verdict = prove(tiny.spec, recipe, tiny.checkpoint, tmp_path, PHOTOGRAPHS, LIMITS, weights="synthetic")
    assert (verdict.passed, verdict.faults) == (True, [])
    outputs = described(tmp_path / "layers.onnx")["outputs"]
    assert list(outputs) == ["last_hidden_state", "pooler_output", "block_0_norm", "block_1"]
    assert outputs["block_0_norm"].startswith("all tokens after block 0 and the final norm: CLS, registers, patches")
    wrong = replace(recipe, name="wrong", outputs=("block_2",))
    with pytest.raises(InputError, match=r"outputs of dinov3_tiny: .* no block_2, only block_0 to block_1"):
        prove(tiny.spec, wrong, tiny.checkpoint, tmp_path, PHOTOGRAPHS, LIMITS, weights="synthetic")
    assert not (tmp_path / "wrong.onnx").exists()


def test_a_checkpoint_of_another_variant_is_refused(tiny, tmp_path: Path, released):
    other = released["dinov3_vits16_pretrain_lvd1689m"]
    with pytest.raises(InputError, match=r"is no complete dinov3_vits16_pretrain_lvd1689m"):
        prove(other, RECIPE, tiny.checkpoints["meta"], tmp_path, PHOTOGRAPHS, LIMITS, sizes=[(48, 112)])
    assert not list(tmp_path.iterdir())


def test_a_recipe_without_a_size_to_compare_at_is_refused(tiny, tmp_path: Path):
    with pytest.raises(InputError, match="The recipe wide accepts none of the sizes"):
        prove(tiny.spec, RECIPE, tiny.checkpoints["meta"], tmp_path, PHOTOGRAPHS, LIMITS, weights="synthetic")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "interface", "given", "lacking"),
    [
        ("text_model", "text", {"photographs": PHOTOGRAPHS}, "texts"),
        ("model", "pair", {"photographs": PHOTOGRAPHS}, "texts"),
        ("model", "pair", {"photographs": {}, "texts": {"first": [5, 1]}}, "photographs"),
        ("model", "pair", {"photographs": PHOTOGRAPHS, "texts": {"first": [5, 1]}, "pairs": []}, "pairs"),
        ("vision_model", "vision", {"photographs": {}}, "photographs"),
    ],
)
def test_something_to_compare_on_is_asked_for(tmp_path: Path, name: str, interface: str, given, lacking: str):
    free = {"pair": ["images", "texts"]}.get(interface, ["batch"])
    recipe, spec = Recipe(name, 23, dict.fromkeys(free), interface), known_variants()["siglip2_base_patch16_224"]
    with pytest.raises(InputError, match=f"The recipe {name} is compared on .*; give some {lacking}[.]"):
        prove(spec, recipe, tmp_path / "model.safetensors", tmp_path, limits=LIMITS, **given)


def test_a_recipe_without_a_size_is_refused(tiny, tmp_path: Path):
    recipe = Recipe("wide", 23, {"height": 48})
    with pytest.raises(InputError, match="The recipe wide sets no batch, width; give a number, or None for any"):
        prove(tiny.spec, recipe, tiny.checkpoints["meta"], tmp_path, PHOTOGRAPHS, LIMITS, weights="synthetic")
    assert not list(tmp_path.iterdir())
