"""What other tests here make by hand has the form of what a run really writes."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import RELEASED
from tests.limits import LIMITS, PREPARED
from vit2onnx.families.dinov3_vit import architecture, faults
from vit2onnx.images import load_image
from vit2onnx.parity.comparison import Comparison
from vit2onnx.parity.divergence import StageComparison
from vit2onnx.parity.outputs import compare_golden, known_differences
from vit2onnx.self_test import planting
from vit2onnx.self_test.chain import Outcome
from vit2onnx.spec.case import Case
from vit2onnx.spec.variant import VariantSpec

Plain = dict[str, Any]
HIDDEN = "last_hidden_state"
PROJECT = Path(__file__).parents[2]


def form(value: Any) -> Any:
    """The keys of all mappings in plain data; of a list, every form that its items have, once."""
    if isinstance(value, Mapping):
        return {key: form(item) for key, item in sorted(value.items())}
    if isinstance(value, list):
        return sorted({json.dumps(form(item)) for item in value})
    return None


def pairs(rows: list[Plain]) -> set[tuple[str, str]]:
    return {(row["subject"], row.get("other", "")) for row in rows}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, dict[str, Any]]:
    """What the checks say of a small healthy model, and a self-test of that with one fault of each kind."""
    outcomes = []

    def healthy_row(model: str, seed: int, outcome: Outcome) -> dict[str, Any]:
        outcomes.append(outcome)
        return row_of(model, seed, outcome)

    photograph = load_image(PROJECT / "resources" / "images" / "chelsea.jpg")
    row_of = planting.healthy_row
    in_chain = [fault for fault in faults.FAULTS if fault.model == faults.VIT]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planting, "healthy_row", healthy_row)
        patch.setattr(planting, "families", lambda: ["dinov3_vit"])
        patch.setattr(architecture, "MODELS", {faults.VIT: architecture.MODELS[faults.VIT]})
        patch.setattr(faults, "FAULTS", in_chain[:1])
        patch.setattr(faults, "PREPROCESSING", faults.PREPROCESSING[:1])
        tested = planting.plant_faults(
            RELEASED,
            {"chelsea": photograph},
            LIMITS,
            PREPARED,
            seeds=1,
            folder=tmp_path_factory.mktemp("self_test"),
        )
    # As files have it, in which tuples are lists.
    return outcomes[0], json.loads(json.dumps(tested))


def test_comparisons(healthy: Comparison, real: tuple[Outcome, Plain]) -> None:
    made = real[0].comparison
    assert form(asdict(healthy)) == form(asdict(made))
    for part in ("rounding", "differences", "distributions", "semantics", "error_maps", "pairs"):
        assert pairs(getattr(healthy, part)) == pairs(getattr(made, part)), part


def test_ledgers_of_stages(stages: StageComparison, real: tuple[Outcome, Plain]) -> None:
    made = real[0].stages
    assert form(asdict(stages)) == form(asdict(made))
    assert stages.implementations == made.implementations
    assert pairs(stages.stages) == pairs(made.stages)


def test_self_tests(tested: Plain, real: tuple[Outcome, Plain]) -> None:
    # With one fault of three, not every limit has one beyond it.
    assert form(tested) == form(real[1] | {"wrong": []})


def test_known_differences_and_published_features(
    known_difference: Plain, healthy: Comparison, with_published: Any, real_spec: VariantSpec
) -> None:
    case, golden = Case("cat", 48, 112), Case("golden", 224, 224)
    features = {case: {HIDDEN: np.ones((26, 8))}, golden: {HIDDEN: np.ones((201, 8))}}
    kinds = dict.fromkeys(("float32", "float64", "native"), features)
    floors = {one: {HIDDEN: np.ones(len(x[HIDDEN]))} for one, x in features.items()}
    (made, _) = known_differences("its own periods", "transformers", features, kinds, kinds, floors)
    assert known_difference.keys() == made.keys()
    published = [row for row in with_published(healthy, 0.5).differences if row["other"] == "published"]
    features = {golden: {HIDDEN: np.ones((201, 8), np.float32)}}
    assert {*form(published)} <= {*form(list(compare_golden("equinox", features, real_spec, 1)))}
