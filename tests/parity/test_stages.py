"""A ledger of real stages: a healthy one has no divergence, and what is wrong is named where it is."""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import transformers_model
from tests.limits import LIMITS
from tests.planted import AMPLIFIED, IN_CHAIN, MODELS
from vit2onnx.families.fault import InWeights
from vit2onnx.handover.judging import lacking_stages
from vit2onnx.parity.divergence import StageComparison
from vit2onnx.parity.floors import rms
from vit2onnx.parity.stages import compare_implementations
from vit2onnx.parity.tables import csv_of
from vit2onnx.parity.verdict import faults_of
from vit2onnx.runners import equinox as equinox_runner
from vit2onnx.runners.onnx_stages import run_stage_graphs
from vit2onnx.self_test.chain import Chain, recipe_of, shrink
from vit2onnx.self_test.planting import examine
from vit2onnx.spec.case import MODES
from vit2onnx.spec.case import Case as Image
from vit2onnx.spec.subject import TRUTH

FLOORS = LIMITS["floors"]
# Neither square nor a multiple of the patch.
IMAGE = np.random.default_rng(0).standard_normal((3, 70, 101), np.float32)
KINDS = ("float32", "float64")
Stages = Mapping[str, np.ndarray]


class Case:
    """A small variant's chain, and its ledger when one of the implementations is another."""

    def __init__(self, chain: Chain):
        self.chain = chain
        self.healthy = chain.examine(chain.folder)
        graphs, given = (chain.folder / f"{mode}.onnx" for mode in MODES), (chain.first, chain.of_layers)
        self.stages: dict[str, Stages] = {
            "transformers": chain.reference,
            "equinox": dict(equinox_runner.stages(chain.model, chain.tensors, *given, chain.interface)),
            "onnx": run_stage_graphs(*graphs, *given, threads=1, interface=chain.interface),
        }

    def ledger(self, **other: Stages) -> StageComparison:
        about = {"variant": self.chain.spec.name, "export": "dynamic", "case": "noise@70x101"}
        return compare_implementations(about, self.stages | other)


@pytest.fixture(scope="module")
def case_of(released, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Case]:
    """A case by what the self-test calls its model."""

    @cache
    def get(model: str) -> Case:
        folder = tmp_path_factory.mktemp("chain") / "healthy"
        images = {str(Image("noise", *IMAGE.shape[1:])): IMAGE}
        spec = shrink(released[MODELS[model]])
        return Case(Chain(spec, 0, folder, recipe_of(spec, "images"), images, LIMITS, AMPLIFIED.get(model)))

    return get


@pytest.mark.parametrize("name", MODELS)
def test_healthy_stages_diverge_nowhere(case_of: Callable[[str], Case], name: str):
    ledger = case_of(name).healthy.stages
    assert lacking_stages(ledger) == []
    assert all(finding.passed for finding in ledger.judge(LIMITS))
    assert [ledger.first_divergence(mode, FLOORS) for mode in MODES] == [None, None]
    pairs = {(row["subject"], row["other"]) for row in ledger.stages}
    singles = ("transformers", "equinox", "onnx")
    assert pairs == {
        *((name, TRUTH) for name in (*singles, "equinox_float64")),
        ("equinox", "transformers"),
        ("onnx", "transformers"),
        ("onnx", "equinox"),
    }
    # Measured 2.9 floors between any two, and 2.7 of those of double precision between the truths.
    alone = [row for row in ledger.stages if row["subject"] in singles and row["mode"] == "injected"]
    assert max(row["floors"] for row in alone) < FLOORS / 2
    assert all(row["floors"] <= 1 for row in ledger.stages if row["subject"] == "transformers")


def test_a_floor_is_the_references_own_error_over_all_tokens(case_of: Callable[[str], Case]):
    case = case_of("ViT")
    for row in case.healthy.stages.stages:
        single, truth = (case.stages["transformers"][f"{kind}/{row['mode']}/{row['stage']}"] for kind in KINDS)
        floor = max(rms(single - truth), 2**-23 * rms(truth))
        assert (row["floor"], row["scale"]) == (pytest.approx(floor), pytest.approx(rms(truth)))
        unit = floor * (2**-29 if row["subject"].endswith("_float64") else 1)
        assert row["floors"] == pytest.approx(row["rms"] / unit)


@pytest.mark.parametrize(("multiple", "diverges"), [(0.5, False), (2, True)])
def test_an_equinox_model_that_rounds_further_diverges(case_of: Callable[[str], Case], multiple: float, diverges: bool):
    """It raises no floor here: those are the reference's alone."""
    case = case_of("ViT")
    key = "injected/blocks.1.mlp_raw"
    single, truth = (case.stages["transformers"][f"{kind}/{key}"] for kind in KINDS)
    noise = multiple * FLOORS * rms(single - truth) * np.random.default_rng(0).standard_normal(truth.shape)
    own = case.stages["equinox"]
    spoilt = {**own, f"float32/{key}": own[f"float32/{key}"] + noise.astype(np.float32)}
    found = case.ledger(equinox=spoilt).first_divergence("injected", FLOORS)
    assert (found and (found.stage, found.subject)) == (("blocks.1.mlp_raw", "equinox") if diverges else None)


def test_a_stage_of_zeros_has_no_floor(case_of: Callable[[str], Case]):
    case = case_of("ViT")
    key = "injected/blocks.1.mlp_raw"
    zeros = {
        name: {k: np.zeros_like(x) if k.endswith(key) else x for k, x in stages.items()}
        for name, stages in case.stages.items()
    }

    def rows() -> list[dict[str, Any]]:
        return [row for row in case.ledger(**zeros).stages if f"{row['mode']}/{row['stage']}" == key]

    assert {(row["floor"], row["floors"]) for row in rows()} == {(0, 0)}
    zeros["onnx"][f"float32/{key}"][3, 5] = 1e-30
    assert {row["floors"] for row in rows() if row["subject"] == "onnx"} == {None}


def test_every_stage_of_a_vision_transformer_is_there(case_of: Callable[[str], Case]):
    ledger = case_of("ViT").ledger()
    found = {mode: dict.fromkeys(r["stage"] for r in ledger.stages if r["mode"] == mode) for mode in MODES}
    inner = [
        "input",
        "attn_in",
        "q",
        "k",
        "attn_raw",
        "attn_scaled",
        "post_attn",
        "mlp_in",
        "mlp_raw",
        "mlp_scaled",
        "output",
    ]
    stages = ["patch_embed", *(f"blocks.{i}.{stage}" for i in range(2) for stage in inner), "norm"]
    assert list(found["accumulated"]) == stages
    assert list(found["injected"]) == [stage for stage in stages if not stage.endswith(".input")]


def test_every_stage_of_a_convnext_is_there(case_of: Callable[[str], Case]):
    ledger = case_of("ConvNeXt").ledger()
    found = list(dict.fromkeys(row["stage"] for row in ledger.stages if row["mode"] == "accumulated"))
    block = ["input", "dwconv", "norm", "raw", "scaled", "output"]
    stages: list[str] = []
    for index, depth in enumerate((1, 1, 2, 1)):
        between = ("input", "norm", "output") if index else ("conv", "output")
        stages += [f"stages.{index}.downsample.{stage}" for stage in between]
        stages += [f"stages.{index}.blocks.{number}.{stage}" for number in range(depth) for stage in block]
    assert found == [*stages, "norm_in", "norm"]


def test_a_ledger_is_the_same_twice(case_of: Callable[[str], Case]):
    case = case_of("ViT")
    chain = case.chain
    graphs, given = (chain.folder / f"{mode}.onnx" for mode in MODES), (chain.first, chain.of_layers)
    again = case.ledger(
        transformers=dict(transformers_model.stages(chain.spec, chain.checkpoint, IMAGE)),
        equinox=dict(equinox_runner.stages(chain.model, chain.tensors, *given, chain.interface)),
        onnx=run_stage_graphs(*graphs, *given, threads=1, interface=chain.interface),
    )
    assert json.dumps(again.stages, allow_nan=False) == json.dumps(case.healthy.stages.stages)
    assert csv_of(again.stages) == csv_of(case.healthy.stages.stages)
    assert csv_of(again.stages).count("\n") == 1 + len(again.stages)


FAULTS = {fault.name: fault for fault in IN_CHAIN if isinstance(fault, InWeights)}


@pytest.mark.parametrize(
    "name", ["a bias off by 1e-3", "bias of queries missing", "gamma skipped", "registers exchanged"]
)
def test_a_fault_shows_in_its_own_layer_and_in_what_follows(case_of: Callable[[str], Case], tmp_path: Path, name: str):
    """That each is named at its stage is for the self-test to show."""
    fault = FAULTS[name]
    outcome = examine(case_of(fault.model).chain, fault, tmp_path / "fault")
    first = [outcome.stages.first_divergence(mode, FLOORS) for mode in MODES]
    assert [place and place.stage for place in first] == [fault.stage] * 2
    assert re.fullmatch(
        rf"first divergence: {fault.stage}, equinox and transformers, .*e.*, .* x the noise floor",
        outcome.verdict.faults[-1],
    )
    layer = fault.stage.rpartition(".")[0]
    pair = [row for row in outcome.stages.stages if (row["subject"], row["other"]) == ("equinox", "transformers")]
    others = [row for row in pair if layer and not row["stage"].startswith(f"{layer}.")]
    assert all(row["floors"] <= FLOORS for row in others if row["mode"] == "injected")
    assert next(row for row in pair if row["stage"] == "norm" and row["mode"] == "accumulated")["floors"] > FLOORS


def test_two_truths_that_differ_are_a_fault(case_of: Callable[[str], Case]):
    case = case_of("ViT")
    key = "float64/injected/blocks.1.attn_raw"
    other = case.stages["equinox"][key].copy()
    other[3, 5] += 1e-8
    (fault,) = faults_of(case.ledger(equinox={**case.stages["equinox"], key: other}).judge(LIMITS))
    assert fault.startswith("equinox_float64 - truth, first apart at blocks.1.attn_raw: ")
    without = {key: x for key, x in case.stages["equinox"].items() if key.startswith("float32/")}
    assert faults_of(case.ledger(equinox=without).judge(LIMITS)) == [
        "in double precision: there is no second implementation"
    ]


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["transformers", "equinox", "onnx"])
def test_what_is_not_finite_diverges(case_of: Callable[[str], Case], name: str, value: float):
    case = case_of("ViT")
    key = "float32/injected/blocks.1.mlp_in"
    stages = case.stages[name]
    other = stages[key].copy()
    other[3, 5] = value
    ledger = case.ledger(**{name: {**stages, key: other}})
    json.dumps(asdict(ledger), allow_nan=False)
    found = ledger.first_divergence("injected", FLOORS)
    assert found is not None
    assert (found.stage, str(found).endswith(", not finite")) == ("blocks.1.mlp_in", True)
    assert ledger.first_divergence("accumulated", FLOORS) is None


def test_a_missing_stage_is_an_error(case_of: Callable[[str], Case]):
    case = case_of("ViT")
    fewer = {key: x for key, x in case.stages["onnx"].items() if not key.endswith("blocks.1.q")}
    with pytest.raises(ValueError, match=r"only one of transformers and onnx has the stages blocks\.1\.q"):
        case.ledger(onnx=fewer)
