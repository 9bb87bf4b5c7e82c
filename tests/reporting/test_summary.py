"""The summary: a row per graph with its verdict, none of whose numbers hides the worst one."""

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
from docutils.core import publish_string

from vit2onnx.parity.comparison import Comparison
from vit2onnx.parity.divergence import StageComparison
from vit2onnx.parity.verdict import Verdict
from vit2onnx.reporting.summary import (
    summarise,
    summary_csv,
    summary_json,
    summary_page,
    verdict_line,
    verdict_rst,
)

Plain = dict[str, Any]
Judged = Callable[..., Verdict]
OFFICIAL = {"weights": "official", "official_file": "dinov3_tiny-feedbeef.pth"}
WithPublished = Callable[[Comparison, float], Comparison]


def test_healthy_graph(healthy: Comparison, judged: Judged) -> None:
    (row,) = summarise([judged(healthy)]).to_dict("records")
    assert row.pop("cosine") == pytest.approx(1 - 2e-13, abs=1e-15)
    assert row == {
        "variant": "dinov3_tiny",
        "export": "dynamic",
        "precision": "float32",
        "weights": "synthetic",
        "verdict": "passed",
        "references": "transformers",
        "floors": 1.5,
        "limit": 10.0,
        "worst_at": "cat 48x112, batch 1, patch 1,2",
        "floors_double": 1.25,
        "limit_double": 100.0,
        "max_abs": 5e-6,
        "images": 2,
        "sizes": 2,
        "kind": "image",
        "bytes": 86_454_796,
        "failed_gates": [],
        "faults": [],
        "told": [],
        "diagnosis": "",
    }


def test_graph_beyond_a_limit_fails_and_says_where(beyond: Comparison, judged: Judged) -> None:
    (row,) = summarise([judged(beyond)]).to_dict("records")
    assert row["verdict"] == "FAILED"
    assert (row["floors"], row["max_abs"]) == (304.0, 1e-3)
    assert row["worst_at"] == "tree 224x224, batch 3, cls 0"
    (fault,) = row["faults"]
    assert "3.04e+02 > 1.00e+01" in fault
    (told,) = row["told"]
    assert told == (
        "ONNX, not optimised against float64, error of a token (root mean square) in noise floors (worst at tree"
        " 224x224, batch 3, cls 0): 304, limit 10"
    )


def test_a_fault_in_double_precision_alone_fails(healthy: Comparison, judged: Judged) -> None:
    for row in healthy.differences:
        if row["subject"] == "onnx_float64":
            row |= {"floors": 2e4, "max_abs": 5e-11}
    (row,) = summarise([judged(healthy)]).to_dict("records")
    assert (row["verdict"], row["floors"], row["floors_double"]) == ("FAILED", 1.5, 2e4)
    assert row["told"][0].startswith("ONNX in float64 against float64, error of a token")


def test_value_that_is_no_number_is_not_skipped(not_finite: Comparison, judged: Judged) -> None:
    summary = summarise([judged(not_finite)])
    (row,) = summary.to_dict("records")
    assert row["verdict"] == "FAILED"
    assert summary[["floors", "max_abs", "cosine"]].isna().all(axis=None)
    assert row["worst_at"].startswith("tree 48x112")
    assert "finite: NaN or infinity in an output" in row["faults"]


@pytest.mark.parametrize("emptied", [{"pairs": []}, {"differences": []}, {"checks": []}])
def test_missing_leg_fails(healthy: Comparison, judged: Judged, emptied: Plain) -> None:
    (row,) = summarise([judged(replace(healthy, **emptied))]).to_dict("records")
    assert row["verdict"] == "FAILED"
    assert row["faults"]


def test_all_references_count(healthy: Comparison, judged: Judged) -> None:
    healthy.references.append("publisher")
    for rows, other in ((healthy.pairs, {}), (healthy.differences, {"max_abs": 3e-4, "cosine": 1 - 1e-5})):
        rows += [row | {"other": "publisher"} | other for row in rows if row["other"] == "transformers"]
    summary = summarise([judged(healthy, record=OFFICIAL)])
    assert summary["max_abs"].item() == 3e-4
    assert (
        verdict_line(summary)
        == "FAILED: 1 of 1 graph is not at parity with transformers and publisher (official weights)"
    )


def test_weights_that_nothing_confirms_are_not_called_official(healthy: Comparison, judged: Judged) -> None:
    assert verdict_line(summarise([judged(healthy, record=OFFICIAL)])).endswith("(official weights)")
    summary = summarise([judged(healthy, record=OFFICIAL | {"official_file": None})])
    assert verdict_line(summary).endswith("at parity with transformers (unconfirmed weights)")
    assert "NOT CONFIRMED" in summary_page(summary)


def test_table_opens_as_csv(healthy: Comparison, beyond: Comparison, judged: Judged) -> None:
    text = summary_csv(summarise([judged(healthy), judged(beyond)]))
    table = pd.read_csv(io.StringIO(text))
    assert table["verdict"].tolist() == ["passed", "FAILED"]
    assert table["max_abs"].tolist() == [5e-6, 1e-3]
    assert table["floors"].tolist() == [1.5, 304.0]
    assert "3.04e+02 > 1.00e+01" in table["faults"][1]


def test_page_says_why_a_graph_failed(healthy: Comparison, beyond: Comparison, judged: Judged) -> None:
    page = summary_page(summarise([judged(healthy), judged(beyond)]))
    assert "FAILED: 1 of 2 graphs is not at parity with transformers (synthetic weights)." in page
    assert "ONNX, not optimised against float64, error of a token (root mean square) in noise floors" in page
    assert "304, limit 10" in page
    assert "SYNTHETIC WEIGHTS" in page
    assert "In double precision the graph is right, so onnxruntime is at fault." in page
    assert "<code>make proof</code> names the first stage" in page
    assert page.count('href="dinov3_tiny/parity.html"') == 3


def test_all_gates_count(
    healthy: Comparison, diverging: StageComparison, prepared: list[Plain], judged: Judged
) -> None:
    prepared = [one | {"differing_share": 0.5} for one in prepared]
    (row,) = summarise([judged(healthy, preprocessing=prepared, stages=diverging)]).to_dict("records")
    assert row["verdict"] == "FAILED"
    stages, preprocessing = row["faults"]
    assert stages == "stages: first divergence: blocks.1.mlp_raw, onnx and equinox, 3.1e-03, 400 x the noise floor"
    assert preprocessing.startswith("preprocessing: ours - publisher, share of values at another grey level")


def test_checks_that_fail_their_own_test_let_no_graph_pass(healthy: Comparison, tested: Plain, judged: Judged) -> None:
    assert summarise([judged(healthy, self_test=tested)])["verdict"].tolist() == ["passed"]
    tested["faults"][0] |= {"caught": False, "passed": False}
    summary = summarise([judged(healthy, self_test=tested)])
    (fault,) = summary["faults"].item()
    assert fault.startswith(
        "self-test: w1 and w2 exchanged (weights, ViT with SwiGLU) passes. The checks caught 2 of 3"
    )
    assert not json.loads(summary_json(summary))["passed"]
    assert "**FAILED: the checks fail their own test" in verdict_rst(summary)
    assert "FAILED: the checks fail their own test" in summary_page(summary)


def test_features_that_are_not_the_published_ones_speak_of_the_checkpoint(
    healthy: Comparison, with_published: WithPublished, judged: Judged
) -> None:
    (found,) = summarise([judged(with_published(healthy, 0.5), record=OFFICIAL)]).to_dict("records")
    (fault,) = found["faults"]
    assert fault.startswith("checkpoint or photograph: equinox, max |difference| from the published features: 5.00e-01")


def test_json_and_front_page_tell_the_same(healthy: Comparison, not_finite: Comparison, judged: Judged) -> None:
    not_finite.checks.append(
        {"name": "runs", "passed": False, "subject": "", "detail": "Fail: `MatMul`\n\n  * in\n=====\nnode"}
    )
    summary = summarise([judged(healthy), judged(replace(not_finite, export="large"))])
    found = json.loads(summary_json(summary))
    assert (found["verdict"], found["passed"]) == (verdict_line(summary), False)
    assert [row["verdict"] for row in found["graphs"]] == ["passed", "FAILED"]
    assert [row["max_abs"] for row in found["graphs"]] == [5e-6, None]
    assert found["graphs"][0]["cosine"] == summary["cosine"][0]
    page = publish_string(verdict_rst(summary), writer="html", settings_overrides={"halt_level": 2}).decode()
    text = " ".join(re.sub("<[^>]*>", "", page).split())
    assert "FAILED: 1 of 2 graphs is not at parity with transformers (synthetic weights)." in text
    assert "dinov3_tiny/dynamic.onnx: passed dinov3_tiny/large.onnx: FAILED" in text
    assert "finite: NaN or infinity in an output runs: Fail: 'MatMul' * in ===== node" in text
