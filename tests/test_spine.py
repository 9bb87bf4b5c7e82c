"""The whole way in Python: what README and docs/python.md show."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.limits import BY_PRECISION
from vit2onnx.checkpoints.identity import known_variants
from vit2onnx.errors import InputError
from vit2onnx.onnx_file import described, initializers
from vit2onnx.spec.limits import limits_of
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


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_large_weights_are_beside_the_graph(tiny, tmp_path: Path, monkeypatch, precision: str):
    photographs = PHOTOGRAPHS | {"cup": PHOTOGRAPHS["cat"].with_name("coffee.jpg")}
    limits, how = limits_of(BY_PRECISION, precision), {"sizes": [(48, 112)], "weights": "synthetic"}
    folds = ("layer_scale",) if precision == "float32" else ()
    recipe = replace(RECIPE, precision=precision, activations="static" if precision == "int8" else None, folds=folds)
    (tmp_path / "within").mkdir()
    prove(tiny.spec, recipe, tiny.checkpoint, tmp_path / "within", photographs, limits, **how)
    monkeypatch.setattr("vit2onnx.spine.MOST_BYTES", 0)
    verdict = prove(tiny.spec, recipe, tiny.checkpoint, tmp_path, photographs, limits, **how)
    assert (verdict.passed, verdict.faults) == (True, [])
    graph = tmp_path / "wide.onnx"
    found, within = initializers(graph), initializers(tmp_path / "within" / "wide.onnx")
    assert {name: one.sha256() for name, one in found.items()} == {name: one.sha256() for name, one in within.items()}
    beside = {one.file.name for one in found.values()} - {graph.name}
    assert beside == {"model.eqx" if precision == "float32" else "wide.onnx_data"}
    # As ONNX asks; model.eqx is as Equinox writes it.
    alignment = 4 if precision == "float32" else 64
    assert all(one.offset % alignment == 0 for one in found.values() if one.file != graph)
    assert verdict.bytes - graph.stat().st_size == sum(one.nbytes for one in found.values() if one.file != graph)
    # A fold would read them into memory.
    assert "folds" not in described(graph)
    assert described(tmp_path / "within" / "wide.onnx").get("folds", "") == ", ".join(recipe.folds)


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
