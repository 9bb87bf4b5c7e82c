"""Dense features are the same from all runners, and are those that the outputs and stages of a model have."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vit2onnx import spine
from vit2onnx.checkpoints.fetch import fetch_synthetic
from vit2onnx.exporting.graph import export
from vit2onnx.exporting.stages import write_stages
from vit2onnx.files import sha256_of
from vit2onnx.inputs import inputs_of
from vit2onnx.runners import equinox, onnx_dense
from vit2onnx.runners import torch as torch_runner
from vit2onnx.self_test.chain import recipe_of, shrink
from vit2onnx.spec.case import Case
from vit2onnx.spec.family import PUBLISHER, layout_of
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec, read_variants
from vit2onnx.weights.model_file import open_model

ROOT = Path(__file__).parents[2]
PHOTOGRAPHS = {name: ROOT / "resources" / "images" / f"{name}.jpg" for name in ("astronaut", "chelsea")}
# Variant, interface of the graph, and further layers: those of one resolution, and of others.
MODELS = {
    "ViT": ("dinov3_vits16_pretrain_lvd1689m", "images", [0]),
    "packed ViT": ("dinov3_vits16_pretrain_lvd1689m", "packed", [0]),
    "ViT, positions": ("dinov2_vits14_reg4_pretrain", "images", [0]),
    "ConvNeXt": ("dinov3_convnext_tiny_pretrain_lvd1689m", "images", [0, 1, 3]),
    "two towers": ("siglip2_base_patch16_224", "vision", [0]),
    "two towers, NaFlex": ("siglip2_base_patch16_naflex", "vision", [0]),
}
ROWS, COLUMNS = 4, 6
VARIANTS = read_variants(ROOT / "config" / "variants")


def small(name: str) -> VariantSpec:
    return shrink(VariantSpec.from_mapping(name, VARIANTS[name]))


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """A small model with its dense features by runner, and the recipe of its graph."""
    name, interface_name, layers = MODELS[request.param]
    spec, folder = small(name), tmp_path_factory.mktemp("dense")
    of_graph = spec.interface(interface_name)
    interface = of_graph.compared_as
    size = (
        interface.fixed.get("height", ROWS * interface.patch_size),
        interface.fixed.get("width", COLUMNS * interface.patch_size),
    )
    checkpoint = folder / "checkpoint.pth"
    record = fetch_synthetic(spec, checkpoint, seed=0, layout=layout_of(spec.family, PUBLISHER))
    spine.convert(spec, checkpoint, folder)
    skeleton, tensors = open_model(folder / "model.eqx")
    inputs = inputs_of(spec, interface, [Case(image, *size) for image in PHOTOGRAPHS], PHOTOGRAPHS, {})
    recipe, graphs = recipe_of(spec, interface_name), [folder / f"{name}.onnx" for name in ("exported", "a", "b")]
    export(spec, recipe, folder / "model.eqx", graphs[0], record, external=True)
    paths = dict(zip(("exported", "accumulated", "injected"), graphs, strict=True))
    write_stages(skeleton, spec, recipe, tensors, weights=folder / "model.eqx", **paths)
    reference = torch_runner.reference_of(spec, "transformers", checkpoint)
    found = {
        "transformers": dict(torch_runner.dense_features(reference, inputs, interface, layers)),
        "equinox": dict(equinox.dense_features(skeleton, tensors, inputs, interface, layers)),
        "onnx": dict(onnx_dense.dense_features(*graphs[:2], of_graph, recipe, inputs, layers, 1)),
    }
    plain = torch_runner.features(torch_runner.reference_of(spec, "transformers", checkpoint), inputs, interface)
    return spec, interface, found, plain


def test_all_runners_give_the_same(model) -> None:
    _, _, found, _ = model
    keys = {key for key in found["transformers"] if key.startswith("float32/")}
    for arrays in found.values():
        assert {key for key in arrays if key.startswith("float32/")} == keys
        for key in keys:
            truth = found["transformers"][key.replace("float32", "float64")]
            assert arrays[key].dtype == np.float32
            assert truth.dtype == np.float64
            assert arrays[key].shape == truth.shape
            assert np.abs(arrays[key] - truth).max() <= 5e-6 * max(1, np.abs(truth).max()), key


def test_the_last_layer_is_what_the_model_gives(model) -> None:
    _, _, found, plain = model
    for case in {key.split("/")[1] for key in found["equinox"]}:
        tokens = plain[f"float64/{case}"]
        patches = found["transformers"][f"float64/{case}/patches"]
        rows, columns, channels = patches.shape
        np.testing.assert_array_equal(patches.reshape(-1, channels), tokens[-rows * columns :])
        pooled = plain.get(f"float64/{case}/pooler_output", tokens[0])
        np.testing.assert_array_equal(found["transformers"][f"float64/{case}/pooled"], pooled)


def test_norms_are_of_layers_before_the_final_norm(model) -> None:
    _, interface, found, _ = model
    truth = found["transformers"]
    for case in {key.split("/")[1] for key in truth}:
        last = len(interface.layers) - 1
        lengths = np.linalg.norm(truth[f"float64/{case}/before_norm"], axis=-1)
        np.testing.assert_allclose(truth[f"float64/{case}/norms.{last}"], lengths, rtol=1e-12)
        np.testing.assert_allclose(
            truth[f"float64/{case}/norms.0"], np.linalg.norm(truth[f"float64/{case}/layers.0"], axis=-1), rtol=1e-12
        )


def test_earlier_layers_are_normed_where_the_norm_fits(model) -> None:
    _, interface, found, _ = model
    truth = found["transformers"]
    case = next(iter(truth)).split("/")[1]
    has_one_width = truth[f"float64/{case}/layers.0"].shape[-1] == truth[f"float64/{case}/before_norm"].shape[-1]
    assert (f"float64/{case}/layers.0.norm" in truth) == has_one_width
    if f"float64/{case}/layers.{len(interface.layers) - 1}.norm" in truth:
        last = truth[f"float64/{case}/layers.{len(interface.layers) - 1}.norm"]
        np.testing.assert_array_equal(last, truth[f"float64/{case}/patches"])


def test_registers_are_ablated_where_there_are_any(model) -> None:
    spec, _, found, _ = model
    ablated = {key.removeprefix("ablated/"): value for key, value in found["equinox"].items() if "ablated/" in key}
    assert bool(ablated) == bool(getattr(spec.architecture, "num_registers", 0))
    for key, value in ablated.items():
        own = found["equinox"][f"float32/{key}"]
        assert own.shape == value.shape
    changed = [np.abs(value - found["equinox"][f"float32/{key}"]).max() for key, value in ablated.items()]
    assert min(changed, default=1) > 1e-4


def test_without_registers_a_model_is_one_that_never_had_any(tmp_path: Path) -> None:
    spec = small("dinov2_vits14_reg4_pretrain")
    bare = replace(spec, architecture=replace(spec.architecture, num_registers=0))
    checkpoint = tmp_path / "checkpoint.pth"
    fetch_synthetic(spec, checkpoint, seed=0, layout="meta")
    spine.convert(spec, checkpoint, tmp_path)
    interface = spec.interface()
    inputs = inputs_of(spec, interface, [Case("chelsea", 56, 84)], {"chelsea": PHOTOGRAPHS["chelsea"]}, {})
    ours = dict(equinox.dense_features(*open_model(tmp_path / "model.eqx"), inputs, interface))
    tensors = torch.load(checkpoint, weights_only=True)
    del tensors["register_tokens"]
    torch.save(tensors, checkpoint)
    theirs = dict(
        torch_runner.dense_features(
            torch_runner.reference_of(bare, "transformers", checkpoint), inputs, bare.interface()
        )
    )
    ablated, wanted = ours["ablated/chelsea@56x84/patches"], theirs["float64/chelsea@56x84/patches"]
    assert np.abs(ablated - wanted).max() < 1e-5


def test_a_recipe_of_a_fixed_batch_gives_the_same(tmp_path: Path) -> None:
    spec = small("dinov3_vits16_pretrain_lvd1689m")
    record = fetch_synthetic(spec, tmp_path / "checkpoint.pth", seed=0, layout="meta")
    spine.convert(spec, tmp_path / "checkpoint.pth", tmp_path)
    skeleton, tensors = open_model(tmp_path / "model.eqx")
    recipe = Recipe("static", 23, {"batch": 3, "height": 64, "width": 96})
    graph, stages = tmp_path / "static.onnx", tmp_path / "stages.onnx"
    export(spec, recipe, tmp_path / "model.eqx", graph, record, external=True)
    other = {"exported": graph, "accumulated": stages, "injected": tmp_path / "injected.onnx"}
    write_stages(skeleton, spec, recipe, tensors, weights=tmp_path / "model.eqx", **other)
    interface = spec.interface()
    inputs = inputs_of(spec, interface, [Case(image, 64, 96) for image in PHOTOGRAPHS], PHOTOGRAPHS, {})
    ours = dict(onnx_dense.dense_features(graph, stages, interface, recipe, inputs, [], 1))
    theirs = dict(equinox.dense_features(skeleton, tensors, inputs, interface))
    assert ours.pop("graph_sha256") == sha256_of(graph)
    assert ours.keys() == {key for key in theirs if key.startswith("float32/")}
    assert max(np.abs(ours[key] - theirs[key]).max() for key in ours) < 2e-5
