"""What the self-test says of one fault, and that it does not pass when the checks are blind or too keen."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import yaml

from vit2onnx.cases import Case
from vit2onnx.errors import InputError
from vit2onnx.images import load_image, preprocess
from vit2onnx.parity.verdict import numbers_of, rounding_factors
from vit2onnx.self_test import MODELS, SHARPENED
from vit2onnx.self_test.chain import Chain, shrink
from vit2onnx.self_test.faults import CONVNEXT, IN_CHAIN, IN_MODEL, IN_PREPROCESSING, IN_WEIGHTS, SHARP, VIT
from vit2onnx.self_test.planting import chain_row, examine, judge_with, plant_faults, preprocessing_row
from vit2onnx.variants import VariantSpec

ROOT = Path(__file__).parents[2]
PARITY = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())["parity"]
LIMITS, PREPARED = numbers_of(PARITY["limits"]), numbers_of(PARITY["preprocessing"])
BIAS = next(fault for fault in IN_WEIGHTS if fault.name == "a bias off by 1e-3")
IMAGES = {Case("noise", 70, 101): np.random.default_rng(0).standard_normal((3, 70, 101), np.float32)}
PHOTOGRAPHS = {"cat": load_image(ROOT / "resources" / "images" / "chelsea.jpg")}


def bias_row(spec: VariantSpec, folder: Path, **limits: float) -> Mapping[str, object]:
    chain = Chain(shrink(spec), 0, folder / "healthy", IMAGES, LIMITS | limits)
    chain.examine(chain.folder)
    return chain_row(BIAS, examine(chain, BIAS, folder / "fault"))


def test_the_row_of_a_fault_says_how_it_was_caught_and_where_it_is(released, tmp_path: Path):
    row = bias_row(released[MODELS[VIT]], tmp_path)
    assert row["caught"] and row["passed"]
    assert str(row["caught_by"]).startswith("onnx - transformers, max |difference| (worst at noise 70x101")
    assert (row["named_stage"], row["between"]) == ("blocks.1.mlp_raw", "equinox and transformers")


def test_limits_that_let_a_fault_pass_are_found_out(released, tmp_path: Path):
    loose = dict.fromkeys(("max_abs", "truth_agreement", "neighbour_margin", "subspace_angle"), 1.0)
    row = bias_row(released[MODELS[VIT]], tmp_path, **loose, cosine=0.5, truth_ratio=1e6)
    assert (row["caught"], row["caught_by"], row["passed"]) == (False, None, False)
    # The stages have a limit of their own.
    assert row["named_stage"] == "blocks.1.mlp_raw"


def test_a_limit_on_stages_that_names_none_is_found_out(released, tmp_path: Path):
    row = bias_row(released[MODELS[VIT]], tmp_path, noise_floors=1e6)
    assert (row["caught"], row["named_stage"], row["between"], row["passed"]) == (True, None, None, False)


def test_where_rounding_is_amplified_the_stages_may_tell_alone(released, tmp_path: Path):
    fault = next(fault for fault in IN_CHAIN if fault.model == SHARP)
    loose = dict.fromkeys(("max_abs", "truth_agreement", "neighbour_margin", "subspace_angle"), 1.0)
    limits = LIMITS | loose | {"cosine": 0.5, "truth_ratio": 1e6}
    chain = Chain(shrink(released[MODELS[SHARP]]), 0, tmp_path / "healthy", IMAGES, limits, SHARPENED[SHARP])
    outcome = chain.examine(chain.folder)
    assert max(rounding_factors(outcome.comparison, "transformers", LIMITS).values()) > 2
    row = chain_row(fault, examine(chain, fault, tmp_path / "fault"))
    assert (row["caught"], row["tripped"], row["passed"]) == (True, ["noise_floors"], True)


def test_the_frame_of_faults_in_preprocessing_is_healthy(released):
    spec = released[MODELS[VIT]]
    assert all(finding.passed for finding in judge_with(preprocess, spec, PHOTOGRAPHS, PREPARED))
    row = preprocessing_row(IN_PREPROCESSING[0], spec, PHOTOGRAPHS, dict.fromkeys(PREPARED, 1000.0))
    assert (row["caught"], row["named_stage"], row["passed"]) == (False, None, False)


def test_a_model_without_its_fault_is_the_model(released, tmp_path: Path):
    """What a fault in the model changes is what its name says: with the right epsilon again nothing is wrong."""
    chain = Chain(shrink(released[MODELS[CONVNEXT]]), 0, tmp_path / "healthy", IMAGES, LIMITS)
    epsilon = next(fault for fault in IN_MODEL if fault.model == CONVNEXT and fault.name.startswith("epsilon"))
    outcome = chain.examine(tmp_path / "again", model=epsilon.plant(epsilon.plant(chain.model)))
    assert outcome.verdict.passed and not outcome.stage_faults


def test_every_fault_is_planted_once_in_a_model_that_there_is():
    keys = [(fault.planted_in, fault.model, fault.name) for fault in IN_CHAIN]
    assert len(set(keys)) == len(keys)
    assert {fault.model for fault in IN_CHAIN} == set(MODELS)


def test_a_missing_variant_is_one_sentence(tmp_path: Path):
    with pytest.raises(
        InputError, match=r"needs dinov3_vits16_pretrain_lvd1689m, .* in config/variants; put them back"
    ):
        plant_faults({}, PHOTOGRAPHS, LIMITS, PREPARED, 1, tmp_path)
