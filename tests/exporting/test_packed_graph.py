"""Packed graphs against the graph of single images, in onnxruntime."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tests.conftest import Spine
from vit2onnx.families.fault import from_first_on, of_keys
from vit2onnx.packing import pack, unpack
from vit2onnx.packing.probes import EXACT, EXCHANGED, ROUNDED, Run, noise, probe
from vit2onnx.runners.packing import LEVELS, refusals_of, run_of
from vit2onnx.runners.session import session_of
from vit2onnx.self_test.chain import shrink
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec
from vit2onnx.weights.model_file import open_model

RECIPES = {
    "loop": Recipe("packed", 23, {}, "packed", "loop"),
    "padded": Recipe("padded", 24, {}, "packed", "padded"),
}
DYNAMIC = Recipe("dynamic", 23, {"batch": None, "height": None, "width": None})
# Heights and widths in pixels: wide, one patch, square, and one that is no multiple of a patch.
SIZES = [(48, 112), (16, 16), (64, 64), (250, 170)]
# |difference| of features of about 1: measured 3.2e-6 from the graph of single images, and 0.0 or 2.1e-6 alone.
FROM_SINGLE, ALONE = 1e-5, 5e-6
# A release of each way to place patches: rotated, and added with and without registers.
MODELS = ["dinov3_vits16_pretrain_lvd1689m", "dinov2_vits14_pretrain", "dinov2_vits14_reg4_pretrain"]
either = pytest.mark.parametrize("attention", RECIPES)


def images(patch_size: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {str(size): rng.standard_normal((3, *size), np.float32) for size in SIZES} | noise(patch_size)


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max())


def run(spine: Spine, attention: str, level: str = "all") -> Run:
    return run_of(session_of(spine.export(RECIPES[attention]), LEVELS[level], threads=1, quiet=True))


def tokens(run: Run, some: list[np.ndarray], patch_size: int) -> list[np.ndarray]:
    inputs = pack(some, patch_size)
    return [image.tokens for image in unpack(run(**inputs), inputs["grid_thw"])]


@pytest.fixture(scope="module", params=MODELS)
def spine(spines: Callable[[str], Spine], request: pytest.FixtureRequest) -> Spine:
    return spines(request.param)


@pytest.fixture(scope="module")
def vit(spines: Callable[[str], Spine]) -> Spine:
    return spines(MODELS[0])


@either
@pytest.mark.parametrize("level", ["as written", "all"])
def test_each_image_is_as_by_itself(spine: Spine, attention: str, level: str):
    patch_size = spine.spec.architecture.patch_size
    given = {name: image for name, image in images(patch_size).items() if min(image.shape[1:]) >= patch_size}
    single = session_of(spine.export(DYNAMIC), LEVELS[level], threads=1)
    together = tokens(run(spine, attention, level), [*given.values()], patch_size)
    for image, found in zip(given.values(), together, strict=True):
        alone = single.run(["last_hidden_state"], {"pixel_values": image[None]})[0][0]
        assert found.shape == alone.shape
        assert difference(found, alone) <= FROM_SINGLE


@either
def test_no_image_depends_on_others(vit: Spine, attention: str):
    for one in probe(run(vit, attention), images(16), 16):
        measured = difference(one.tokens, one.expected)
        assert np.isfinite(one.tokens).all()
        if one.probe in EXACT:
            assert measured == 0, one
        if one.probe in ROUNDED:
            assert measured <= ALONE, one
        if one.probe == EXCHANGED:
            assert measured > 100 * FROM_SINGLE


@either
def test_a_thousand_images_of_one_patch_and_a_large_one_among_them(vit: Spine, attention: str):
    rng = np.random.default_rng(0)
    small = [rng.standard_normal((3, 16, 16), np.float32) for _ in range(1000)]
    # Padding a thousand images to 4096 patches would take ten times the memory of this test.
    large = rng.standard_normal((3, 1024, 1024) if attention == "loop" else (3, 64, 64), np.float32)
    together = tokens(run(vit, attention), [*small[:700], large, *small[700:]], 16)
    assert difference(together[700], tokens(run(vit, attention), [large], 16)[0]) <= ALONE
    some = [0, 1, 699, 701, 1000]
    few = tokens(run(vit, attention), [(*small[:700], large, *small[700:])[number] for number in some], 16)
    assert max(difference(together[number], image) for number, image in zip(some, few, strict=True)) <= ALONE


@either
def test_wrong_inputs_are_refused_at_every_level(vit: Spine, attention: str):
    inputs = pack(images(16).values(), 16)
    refusals = list(refusals_of(vit.export(RECIPES[attention]), inputs))
    assert [one for one in refusals if not one["refused"]] == []
    assert {one["level"] for one in refusals} == {*LEVELS}
    # The node's name says what is wrong.
    own = [one for one in refusals if "patch size" not in one["wrong"]]
    assert all("grid_thw_must_fit_pixel_values" in one["message"] for one in own)


@either
def test_a_type_that_is_not_promised_is_refused(vit: Spine, attention: str):
    inputs = pack(images(16).values(), 16)
    for wrong in (
        {**inputs, "grid_thw": inputs["grid_thw"].astype(np.int32)},
        {**inputs, "pixel_values": inputs["pixel_values"].astype(np.float64)},
    ):
        with pytest.raises(Exception, match="Unexpected input data type"):
            run(vit, attention)(**wrong)


def test_a_clip_is_its_frames(vit: Spine):
    clip = np.random.default_rng(0).standard_normal((3, 3, 48, 64), np.float32)
    inputs = pack([clip], 16)
    assert inputs["grid_thw"].tolist() == [[1, 3, 4]] * 3
    for found, frame in zip(tokens(run(vit, "loop"), [clip], 16), clip, strict=True):
        assert difference(found, tokens(run(vit, "loop"), [frame], 16)[0]) <= ALONE


def weights(spine: Spine, recipe: Recipe) -> Mapping[str, bytes]:
    """The bytes of those parameters of the model that are in a graph, by name."""
    parameters = open_model(spine.model_file)[1]
    proto = onnx.load(spine.export(recipe))
    return {one.name: one.raw_data for one in proto.graph.initializer if one.name in parameters}


def test_weights_are_those_of_the_graph_of_single_images(spine: Spine):
    single = weights(spine, DYNAMIC)
    assert single
    for recipe in RECIPES.values():
        assert weights(spine, recipe) == single


def test_a_leak_shows(vit: Spine, tmp_path):
    proto = onnx.load(vit.export(RECIPES["loop"]))
    loops = [node for node in proto.graph.node if node.op_type == "Loop"]
    of_keys(from_first_on)(proto.graph, loops[1])
    onnx.save(proto, tmp_path / "leaking.onnx")
    changed = run_of(ort.InferenceSession(str(tmp_path / "leaking.onnx")))
    found = {one.probe for one in probe(changed, images(16), 16) if difference(one.tokens, one.expected) > FROM_SINGLE}
    assert found >= {"in reverse order", "beside other images", "alone", "in two calls"}


def test_a_mask_that_is_missing_shows(vit: Spine, tmp_path):
    """Without it, images attend to what fills them up; only the largest does not."""
    proto = onnx.load(vit.export(RECIPES["padded"]))
    for node in proto.graph.node:
        if node.op_type == "Attention":
            del node.input[3:]
    onnx.save(proto, tmp_path / "unmasked.onnx")
    changed = run_of(ort.InferenceSession(str(tmp_path / "unmasked.onnx")))
    found = {one.probe for one in probe(changed, images(16), 16) if difference(one.tokens, one.expected) > FROM_SINGLE}
    assert found >= {"alone", "in two calls"}


# Of 36 channels in 3 heads, 6 are angles, which is no multiple of what processors compute at once. A row of 9 weights
# of positions begins at other places in memory for other patches.
ODD = {
    MODELS[0]: {"embed_dim": 36, "num_heads": 3, "depth": 1, "ffn_hidden": 40},
    MODELS[2]: {"position_grid": 9, "depth": 1},
}


@pytest.mark.parametrize("name", ODD)
def test_no_image_depends_on_others_if_sizes_are_odd(released: Mapping[str, VariantSpec], tmp_path, name: str):
    arch = replace(shrink(released[name]).architecture, **ODD[name])
    odd = Spine(replace(released[name], architecture=arch, parameters=arch.trunk_parameters), tmp_path)
    rng, patch_size = np.random.default_rng(0), arch.patch_size
    model = run(odd, "loop")
    # Several packs, because a last bit differs by chance.
    for grids in rng.integers(1, 13, (8, 5, 2)):
        sizes = [(patch_size * int(rows), patch_size * int(columns)) for rows, columns in grids]
        given = {str(number): rng.standard_normal((3, *size), np.float32) for number, size in enumerate(sizes)}
        for one in probe(model, given, patch_size):
            if one.probe in EXACT:
                assert difference(one.tokens, one.expected) == 0, one.probe
