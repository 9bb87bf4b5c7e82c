"""The self-test passes if every fault is caught and placed and no healthy model is flagged."""

from typing import Any

import pytest

from vit2onnx.self_test.verdict import finding_of, judge_self_test

FAULT = {
    "fault": "epsilon",
    "planted_in": "model",
    "model": "ViT",
    "stage": "norm",
    "caught": True,
    "named_stage": "norm",
    "between": "equinox and transformers",
    "passed": True,
    "tripped": ["floors", "floors_double"],
    "not_told": [],
}
HEALTHY = {"model": "ViT", "seed": 3, "flagged": []}


def result(fault: dict[str, Any] | None = None, healthy: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "faults": [FAULT | (fault or {})],
        "healthy": [HEALTHY | (healthy or {})],
        "healthy_preprocessing": {"flagged": []},
        "tripped": {"floors": 1, "cosine": 1},
    }


def test_all_caught_and_none_flagged_passes():
    assert judge_self_test(result()) == []
    finding = finding_of(result() | {"wrong": []})
    assert finding.passed
    assert finding.sentence == (
        "The checks caught 1 of 1 planted fault, named the stage of 1 of 1 in weights, model and graph, and flagged"
        " none of 1 healthy model."
    )


def test_what_is_wrong_fails_every_verdict_by_the_same_checks():
    finding = finding_of(result() | {"wrong": ["a passes", "b passes", "c passes", "d passes"]})
    assert not finding.passed
    assert finding.sentence.startswith("a passes; b passes; c passes; and 1 more. The checks caught 1 of 1")


@pytest.mark.parametrize(
    "found, sentence",
    [
        (result({"caught": False, "passed": False}), "epsilon (model, ViT) passes"),
        (
            result({"caught": False, "passed": False, "model": None, "planted_in": "preprocessing"}),
            "epsilon (preprocessing) passes",
        ),
        (
            result({"named_stage": "patch_embed", "passed": False}),
            "epsilon (model, ViT) is placed at patch_embed, equinox and transformers, instead of at norm",
        ),
        (
            result({"named_stage": None, "between": None, "passed": False}),
            "epsilon (model, ViT) is placed nowhere instead of at norm",
        ),
        (result(healthy={"flagged": ["too far", "x"]}), "healthy ViT, seed 3, is flagged: too far"),
        (
            result({"tripped": ["floors_double"], "not_told": ["single"], "passed": False}),
            "epsilon (model, ViT) does not show in outputs in single precision; only floors_double caught it",
        ),
        (
            result({"tripped": ["cosine"], "not_told": ["single", "double"], "passed": False}),
            "epsilon (model, ViT) does not show in outputs in single and double precision; only cosine caught it",
        ),
        (result() | {"faults": []}, "nothing was tested"),
        (result() | {"healthy": []}, "nothing was tested"),
        (result() | {"tripped": {"floors": 1, "cosine": 0}}, "no fault is beyond cosine"),
        (
            result() | {"healthy_preprocessing": {"flagged": ["too far", "x"]}},
            "the preprocessing is flagged without a fault: too far",
        ),
    ],
)
def test_what_is_wrong_is_said(found: dict[str, Any], sentence: str):
    assert judge_self_test(found) == [sentence]
