"""What the self-test says of one fault, and that it does not pass when the checks are blind or too keen."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.limits import LIMITS, OF_MAPS, PREPARED
from tests.planted import AMPLIFIED, FAULTS_OF, IN_CHAIN, IN_PREPROCESSING, MODELS
from vit2onnx.errors import InputError
from vit2onnx.families.dinov3_convnext.faults import CONVNEXT
from vit2onnx.families.dinov3_vit.faults import SHARP, VIT
from vit2onnx.families.fault import InModel, InRounding
from vit2onnx.images import load_image, preprocess
from vit2onnx.self_test.chain import Chain, recipe_of, shrink
from vit2onnx.self_test.planting import (
    GREY,
    chain_row,
    examine,
    healthy_row,
    judge_with,
    plant_faults,
    preprocessing_row,
    small_inputs,
)
from vit2onnx.spec.case import Case
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec

ROOT = Path(__file__).parents[2]
DYNAMIC = Recipe("dynamic", 23, {"batch": None, "height": None, "width": None})
BIAS = next(fault for fault in IN_CHAIN if fault.name == "a bias off by 1e-3")
IMAGES = {str(Case("noise", 70, 101)): np.random.default_rng(0).standard_normal((3, 70, 101), np.float32)}
PHOTOGRAPHS = {"cat": load_image(ROOT / "resources" / "images" / "chelsea.jpg")}


def bias_row(spec: VariantSpec, folder: Path, **limits: float) -> Mapping[str, object]:
    chain = Chain(shrink(spec), 0, folder / "healthy", DYNAMIC, IMAGES, LIMITS | limits)
    chain.examine(chain.folder)
    return chain_row(BIAS, examine(chain, BIAS, folder / "fault"))


def test_the_row_of_a_fault_says_how_it_was_caught_and_where_it_is(released, tmp_path: Path):
    row = bias_row(released[MODELS[VIT]], tmp_path)
    assert row["caught"] and row["passed"]
    # Of dense maps, similarities are blind to so little.
    assert (row["tripped"], row["not_told"]) == (["dense_colour", "dense_feature", "floors", "floors_double"], [])
    assert str(row["caught_by"]).startswith(
        "equinox_float64 - truth, error of a token (root mean square) in noise floors"
    )
    assert row["floors"] > 3 * LIMITS["floors"] and row["floors_double"] > 1e6 * LIMITS["floors_double"]
    assert (row["named_stage"], row["between"]) == ("blocks.1.mlp_raw", "equinox and transformers")


LOOSE = {"floors": 1e6, "floors_double": 1e15, "neighbour_margin": 1.0, "subspace_angle": 1.0, "cosine": 0.5}
LOOSE |= dict.fromkeys(OF_MAPS, 1.0)


def test_limits_that_let_a_fault_pass_are_found_out(released, tmp_path: Path):
    row = bias_row(released[MODELS[VIT]], tmp_path, **LOOSE, rounding_ratio=1e6)
    assert (row["caught"], row["caught_by"], row["passed"]) == (False, None, False)
    assert row["not_told"] == ["single", "double"]
    # A limit on stages that names none, too.
    assert (row["named_stage"], row["between"]) == (None, None)


@pytest.mark.parametrize(
    ("loosened", "not_told", "stage"),
    [("floors", ["single"], None), ("floors_double", ["double"], "blocks.1.mlp_raw")],
)
def test_each_precision_has_to_tell(released, tmp_path: Path, loosened: str, not_told: list[str], stage: str | None):
    row = bias_row(released[MODELS[VIT]], tmp_path, **{loosened: LOOSE[loosened]})
    assert (row["caught"], row["not_told"], row["named_stage"], row["passed"]) == (True, not_told, stage, False)


def test_a_model_that_rounds_much_further_shows_by_its_rounding_alone(released, tmp_path: Path):
    """It raises the noise floor by a factor of five at most, and is right in double precision."""
    (fault,) = (fault for fault in IN_CHAIN if isinstance(fault, InRounding))
    chain = Chain(shrink(released[MODELS[VIT]]), 0, tmp_path / "healthy", DYNAMIC, IMAGES, LIMITS)
    row = chain_row(fault, examine(chain, fault, tmp_path / "fault"))
    assert (row["passed"], row["tripped"]) == (True, [*sorted(OF_MAPS), "floors", "rounding_ratio"])
    assert row["floors"] > 2 * LIMITS["floors"] and row["floors_double"] < LIMITS["floors_double"]
    # Measured 260.
    assert row["rounding_ratio"] > 10 * LIMITS["rounding_ratio"]


@pytest.mark.parametrize("model", AMPLIFIED)
def test_healthy_models_that_amplify_rounding_pass(released, tmp_path: Path, model: str):
    """Beside a photograph of one colour, in batches of all three, and although single precision takes them far."""
    spec = shrink(released[MODELS[model]])
    shown = {**PHOTOGRAPHS, "grey": GREY}
    chain = Chain(
        spec, 0, tmp_path / "healthy", DYNAMIC, IMAGES | small_inputs(spec, "images", shown), LIMITS, AMPLIFIED[model]
    )
    outcome = chain.examine(chain.folder)
    assert not outcome.verdict.faults
    assert outcome.max_abs > 1e-5
    row = healthy_row(model, 0, outcome)
    # Measured 0.5 at most, over 30 seeds.
    assert all(0 <= share < 0.8 for share in row["shares"].values())


def test_the_frame_of_faults_in_preprocessing_is_healthy(released):
    spec = released[MODELS[VIT]]
    assert all(finding.passed for finding in judge_with(preprocess, spec, PHOTOGRAPHS, PREPARED))
    row = preprocessing_row(IN_PREPROCESSING[0], spec, PHOTOGRAPHS, dict.fromkeys(PREPARED, 1000.0))
    assert (row["caught"], row["named_stage"], row["passed"]) == (False, None, False)


def test_a_model_without_its_fault_is_the_model(released, tmp_path: Path):
    """What a fault in the model changes is what its name says: with the right epsilon again nothing is wrong."""
    chain = Chain(shrink(released[MODELS[CONVNEXT]]), 0, tmp_path / "healthy", DYNAMIC, IMAGES, LIMITS)
    in_model = (fault for fault in IN_CHAIN if isinstance(fault, InModel) and fault.model == CONVNEXT)
    epsilon = next(fault for fault in in_model if fault.name.startswith("epsilon"))
    outcome = chain.examine(tmp_path / "again", model=epsilon.plant(epsilon.plant(chain.model)))
    assert outcome.verdict.passed


def test_every_fault_is_planted_once_in_a_model_that_there_is():
    keys = [(fault.planted_in, fault.model, fault.name) for fault in IN_CHAIN]
    assert len(set(keys)) == len(keys) == sum(len(faults.FAULTS) for faults in FAULTS_OF)
    # The weights of the others amplify rounding even more, and have to pass only.
    assert MODELS.keys() - {fault.model for fault in IN_CHAIN} == AMPLIFIED.keys() - {SHARP}


def test_a_missing_variant_is_one_sentence(tmp_path: Path):
    with pytest.raises(
        InputError, match=r"needs .*dinov3_vits16_pretrain_lvd1689m, .* in config/variants; put them back"
    ):
        plant_faults({}, PHOTOGRAPHS, LIMITS, PREPARED, 1, tmp_path)


def test_the_recipe_of_a_small_model_leaves_free_what_can_be(released):
    assert recipe_of(released[MODELS[VIT]], "images") == DYNAMIC
