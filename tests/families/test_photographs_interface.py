"""The interface `photographs` of every family: what goes in, that the model is the same, and that it is proved."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import RELEASED, Spine
from tests.limits import BY_PRECISION
from vit2onnx.check_inputs import check_inputs
from vit2onnx.checkpoints.identity import describe
from vit2onnx.errors import InputError
from vit2onnx.exporting.graph import export
from vit2onnx.exporting.stages import write_stages
from vit2onnx.handover.passport import sample_of
from vit2onnx.images import load_image, preprocess
from vit2onnx.onnx_file import described
from vit2onnx.parity.preprocessing import GRAPH
from vit2onnx.runners import equinox
from vit2onnx.runners.batches import filled_batches
from vit2onnx.runners.onnx_stages import run_stage_graphs
from vit2onnx.runners.photographs import preparation_of, preparing
from vit2onnx.runners.session import session_of
from vit2onnx.spec.case import Case
from vit2onnx.spec.cases import cases_of
from vit2onnx.spec.configuration import sizes_of_photographs
from vit2onnx.spec.recipe import OPERATORS, Recipe
from vit2onnx.spec.variant import VariantSpec
from vit2onnx.spine import prove
from vit2onnx.weights.model_file import open_model

IMAGES = Path(__file__).parents[2] / "resources" / "images"
COFFEE = load_image(IMAGES / "coffee.jpg")
LIMITS = BY_PRECISION["float32"] | BY_PRECISION["preprocessing"]
# Of each family, with a batch, a height and a width as a recipe may have them. SigLIP2's size is the model's.
MODELS: dict[str, dict[str, int | None]] = {
    "dinov3_vits16_pretrain_lvd1689m": {"batch": None, "height": 80, "width": 112},
    "dinov2_vits14_reg4_pretrain": {"batch": 2, "height": 98, "width": 70},
    "dinov3_convnext_tiny_pretrain_lvd1689m": {"batch": None, "height": 96, "width": 67},
    "siglip2_base_patch16_224": {"batch": 1},
}
DINOV3, DINOV2, *_ = MODELS
# The same graph with inputs that are prepared outside gave the same features to the bit.
LIMIT = 1e-6


def recipe_of(name: str, interface: str = "photographs", operators: str = "native") -> Recipe:
    opset = OPERATORS[operators]
    return Recipe(f"{interface}_{operators}", opset, MODELS[name], interface, operators=operators)


@pytest.fixture(params=MODELS)
def spine(spines: Callable[[str], Spine], request: pytest.FixtureRequest) -> tuple[str, Spine]:
    return request.param, spines(request.param)


def size_of(spec: VariantSpec, name: str) -> tuple[int, int]:
    single = spec.interface("photographs").compared_as
    return tuple((single.fixed or MODELS[name])[axis] for axis in ("height", "width"))  # type: ignore[return-value]


def test_every_family_offers_it_but_for_images_that_keep_their_shape():
    for spec in RELEASED.values():
        takes_any_shape = getattr(spec.architecture, "is_naflex", False)
        assert ("photographs" in spec.interfaces) is not takes_any_shape
        if not takes_any_shape:
            interface = spec.interface("photographs")
            (port,), single = interface.inputs, interface.compared_as
            assert (port.name, port.dtype) == ("photographs", "uint8")
            assert port.axes == ("batch", "photograph_height", "photograph_width", 3)
            assert interface.outputs == single.outputs
            assert interface.preprocessing is spec.preprocessing
            assert interface.of_model == single.name
            assert spec.interface(single.name).ports == single.ports


def test_it_is_compared_on_the_cases_of_prepared_images_of_its_size():
    spec = RELEASED[DINOV3]
    interface, recipe = spec.interface("photographs"), recipe_of(DINOV3)
    chosen_by = interface.compared_recipe(recipe)
    assert (chosen_by.interface, chosen_by.sizes) == ("images", MODELS[DINOV3])
    asked = {"images": ["one"], "texts": [], "sizes": [(224, 224), (80, 112)], "pairs": []}
    assert cases_of(interface.compared_as, [chosen_by], **asked) == [Case("one", 80, 112)]


def test_the_size_to_resize_to_is_a_number_and_that_of_photographs_is_free():
    interface = RELEASED[DINOV3].interface("photographs")
    assert not list(sizes_of_photographs(recipe_of(DINOV3), interface))
    wrong = Recipe("p", 23, {"batch": 1, "height": None, "width": 32, "photograph_width": 640}, "photographs")
    assert list(sizes_of_photographs(wrong, interface)) == [
        "exports.p.height: photographs are resized to one size; give a number",
        "exports.p.photograph_width: photographs are of any size; leave it out",
    ]
    assert not list(sizes_of_photographs(wrong, RELEASED[DINOV3].interface("images")))


@pytest.mark.parametrize("operators", ["native", "portable"])
def test_features_are_those_of_prepared_images(spine: tuple[str, Spine], operators: str):
    name, own = spine
    single = own.spec.interface("photographs").compared_as.name
    of_images = session_of(own.export(recipe_of(name, single, operators=operators)), threads=1)
    graph = own.export(recipe_of(name, operators=operators))
    session = session_of(graph, threads=1)
    batch = MODELS[name]["batch"] or 2
    prepared = preprocess(COFFEE, *size_of(own.spec, name), own.spec.preprocessing)
    given = {"photographs": np.repeat(np.asarray(COFFEE)[None], batch, axis=0)}
    check_inputs(session, given)
    expected = of_images.run(None, {"pixel_values": np.repeat(prepared[None], batch, axis=0)})
    for ours, theirs in zip(session.run(None, given), expected, strict=True):
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() <= LIMIT
    if own.spec.preprocessing.interpolation == "bilinear":
        assert np.array_equal(preparing(preparation_of(graph), 1)(np.asarray(COFFEE)), prepared)


def test_the_file_says_that_it_prepares_photographs_itself(spines: Callable[[str], Spine]):
    said = described(spines(DINOV3).export(recipe_of(DINOV3)))
    assert "preprocessing" not in said
    assert said["preparation"]["input"] == "uint8 RGB, [batch, photograph_height, photograph_width, 3]"
    assert said["preparation"]["interpolation"] == "bilinear"


def test_a_free_size_to_resize_to_is_refused(spines: Callable[[str], Spine], tmp_path: Path):
    own = spines(DINOV3)
    recipe = Recipe("p", 23, {"batch": 1, "height": 32, "width": None}, "photographs")
    with pytest.raises(InputError, match=r"exports\.p: photographs are resized to one size"):
        export(own.spec, recipe, own.model_file, tmp_path / "p.onnx", {"weights": "synthetic"})


def test_a_graph_is_proved(spines: Callable[[str], Spine], tmp_path: Path):
    """Features of what has the right size are held to noise floors; photographs of any size to grey levels."""
    own = spines(DINOV2)
    photographs = {name: IMAGES / f"{name}.jpg" for name in ("coffee", "chelsea")}
    verdict = prove(
        own.spec, recipe_of(DINOV2), own.checkpoint, tmp_path, photographs, LIMITS, weights="synthetic", threads=1
    )
    assert verdict.passed, verdict.faults
    judged = {finding.limit_name for finding in verdict.findings if finding.other == GRAPH}
    assert judged == {"grey_levels", "differing_share", "residual"}


def test_stages_are_those_of_prepared_images(spines: Callable[[str], Spine], tmp_path: Path):
    own = spines(DINOV2)
    skeleton, tensors = open_model(own.model_file)
    inputs = {"pixel_values": preprocess(COFFEE, 98, 70, own.spec.preprocessing)}
    found = {}
    for interface in ("images", "photographs"):
        recipe, folder = recipe_of(DINOV2, interface), tmp_path / interface
        folder.mkdir()
        weights = folder / "model.eqx"
        weights.write_bytes(own.model_file.read_bytes())
        graphs = {kind: folder / f"{kind}.onnx" for kind in ("exported", "accumulated", "injected")}
        export(own.spec, recipe, weights, graphs["exported"], _record(own), external=True)
        write_stages(skeleton, own.spec, recipe, tensors, weights=weights, **graphs)
        layers = {"blocks.1": np.ones((5 + 35, own.spec.architecture.embed_dim), np.float32)}
        layers |= {"blocks.0": -layers["blocks.1"], "norm": layers["blocks.1"]}
        of_graph = own.spec.interface(interface)
        found[interface] = run_stage_graphs(graphs["accumulated"], graphs["injected"], inputs, layers, 1, of_graph)
    ours, theirs = found["photographs"], found["images"]
    assert ours.keys() == theirs.keys()
    for stage, values in ours.items():
        assert np.abs(values - theirs[stage]).max() <= LIMIT, stage


def test_the_sample_holds_a_photograph(spines: Callable[[str], Spine]):
    own = spines(DINOV2)
    interface, recipe = own.spec.interface("photographs"), recipe_of(DINOV2)
    case = "coffee@98x70"
    inputs = {case: preprocess(COFFEE, 98, 70, own.spec.preprocessing)}
    features = equinox.features(*open_model(own.model_file), inputs, interface.compared_as)
    sample = sample_of(interface, recipe, inputs, features, features)
    photograph = sample[f"photographs/{case}"]
    # The whole, of which the input is the middle.
    assert (photograph.shape, photograph.dtype) == ((112, 80, 3), np.uint8)
    session = session_of(own.export(recipe), threads=1)
    (tokens, _) = session.run(None, {"photographs": np.stack([photograph, photograph])})
    assert np.abs(tokens[0] - sample[f"last_hidden_state/{case}"]).max() < 1e-4


def test_a_photograph_alone_is_put_beside_its_negative_mirror_image():
    photograph = np.asarray(COFFEE)[:40, :60]
    ((first, batch), _) = filled_batches({"one": {"photographs": photograph}}, 2)
    assert first == ["one", ""]
    assert np.array_equal(
        batch["photographs"][1], np.asarray(Image.eval(Image.fromarray(photograph), _negative))[:, ::-1]
    )


def _negative(level: int) -> int:
    return 255 - level


def _record(own: Spine) -> dict[str, object]:
    return describe(own.spec, own.checkpoint, origin={"kind": "synthetic"}, weights="synthetic")
