"""The summary: a row per graph with its verdict, none of whose numbers hides the worst one."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from vit2onnx.reporting.summary import summarise, summary_csv, summary_page, verdict_line

Comparison = dict[str, Any]
Limits = dict[str, dict[str, Any]]
Written = Callable[..., dict[Path, Path]]


def test_healthy_graph(written: Written, healthy: Comparison, limits: Limits) -> None:
    (row,) = summarise(written(healthy), limits, "synthetic").to_dict("records")
    assert row.pop("cosine") == pytest.approx(1 - 2e-13, abs=1e-15)
    assert row == {
        "variant": "dinov3_tiny",
        "export": "dynamic",
        "weights": "synthetic",
        "verdict": "passed",
        "references": "transformers",
        "max_abs": 5e-6,
        "worst_at": "cat 48x112, batch 1, patch 1,2",
        "truth_ratio": 0.5,
        "images": 2,
        "sizes": 2,
        "bytes": 86_454_796,
        "faults": [],
    }


def test_graph_beyond_a_limit_fails_and_says_where(written: Written, beyond: Comparison, limits: Limits) -> None:
    (row,) = summarise(written(beyond), limits, "synthetic").to_dict("records")
    assert row["verdict"] == "FAILED"
    assert row["max_abs"] == 1e-3
    assert row["worst_at"] == "tree 224x224, batch 3, cls 0"
    (fault,) = row["faults"]
    assert "1.00e-03 > 1.00e-05" in fault


def test_value_that_is_no_number_is_not_skipped(written: Written, not_finite: Comparison, limits: Limits) -> None:
    summary = summarise(written(not_finite), limits, "synthetic")
    (row,) = summary.to_dict("records")
    assert row["verdict"] == "FAILED"
    assert summary[["max_abs", "cosine", "truth_ratio"]].isna().all(axis=None)
    assert row["worst_at"].startswith("tree 48x112")
    assert "finite: NaN or infinity in an output" in row["faults"]


@pytest.mark.parametrize("emptied", [{"references": []}, {"differences": []}, {"checks": []}])
def test_missing_leg_fails(written: Written, healthy: Comparison, limits: Limits, emptied: Comparison) -> None:
    (row,) = summarise(written(healthy | emptied), limits, "synthetic").to_dict("records")
    assert row["verdict"] == "FAILED"
    assert row["faults"]


def test_all_references_count(written: Written, healthy: Comparison, limits: Limits) -> None:
    healthy["references"].append("publisher")
    for row in list(healthy["differences"]):
        if row["other"] == "transformers":
            healthy["differences"].append(row | {"other": "publisher", "max_abs": 3e-4})
    summary = summarise(written(healthy), limits, "official")
    assert summary["max_abs"].item() == 3e-4
    assert verdict_line(summary) == "0 of 1 graphs are at parity with transformers and publisher (official weights)"


def test_table_opens_as_csv(written: Written, healthy: Comparison, beyond: Comparison, limits: Limits) -> None:
    text = summary_csv(summarise(written(healthy, beyond), limits, "synthetic"))
    table = pd.read_csv(io.StringIO(text))
    assert table["verdict"].tolist() == ["passed", "FAILED"]
    assert table["max_abs"].tolist() == [5e-6, 1e-3]
    assert "1.00e-03 > 1.00e-05" in table["faults"][1]


def test_page_says_why_a_graph_failed(
    written: Written, healthy: Comparison, beyond: Comparison, limits: Limits
) -> None:
    page = summary_page(summarise(written(healthy, beyond), limits, "synthetic"))
    assert "FAILED: 1 of 2 graphs is at parity with transformers (synthetic weights)." in page
    assert "1.00e-03 &gt; 1.00e-05" in page
    assert "SYNTHETIC WEIGHTS" in page
