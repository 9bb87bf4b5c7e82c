"""What the parity page shows of distributions, of what people do with features, and of the preprocessing."""

from collections.abc import Mapping, Sequence
from typing import Any

from vit2onnx.parity.comparison import Comparison, largest
from vit2onnx.parity.verdict import Verdict, faults_of
from vit2onnx.reporting.page import PREPARATIONS, SUBJECTS
from vit2onnx.spec.subject import GRAPH_RUNS, TRUTH

QUERIES = {
    "cls": "images, by CLS",
    "patches_mean": "images, by the mean of their patches",
    "regions": "regions of images",
    "patches": "patches",
}


def distribution_section(comparison: Comparison) -> list[dict[str, Any]]:
    """How differences are distributed: of reference and graph from float64, and of the graph from the reference."""
    return [
        row | {"pair": _pair(row)}
        for row in comparison.distributions
        if row["subject"] in GRAPH_RUNS or row["subject"] in comparison.references
        if row["other"] in (*comparison.references, TRUTH)
    ]


def semantics_section(comparison: Comparison) -> list[dict[str, Any]]:
    """Neighbours, matches and components of every pair that was compared, in the words of the page."""
    return [
        row
        | {
            "pair": _pair(row),
            # What users run; the rest is for those who look closer.
            "open": row["subject"] == GRAPH_RUNS[0],
            "neighbours": [figures | {"what": QUERIES[figures["what"]]} for figures in row["neighbours"]],
        }
        for row in comparison.semantics
    ]


def preprocessing_section(rows: Sequence[Mapping[str, Any]], verdict: Verdict) -> dict[str, Any]:
    """The worst over all photographs and sizes of every other way, and the findings of their gate."""
    figures = ("grey_levels", "differing_share", "normalised", "residual")
    others = []
    for other in dict.fromkeys(row["other"] for row in rows):
        own = [row for row in rows if row["other"] == other]
        worst = {name: largest(own, name) for name in figures}
        others.append({"name": other, "other": PREPARATIONS.get(other, other)} | worst)
    findings = verdict.of("preprocessing")
    names = dict.fromkeys(finding.limit_name for finding in findings)
    limits = {name: verdict.limits[name] for name in names}
    return {"others": others, "findings": findings, "faults": faults_of(findings), "limits": limits}


def _pair(row: Mapping[str, Any]) -> str:
    batch = f", batch {row['batch']}" if row["subject"] in GRAPH_RUNS else ""
    return f"{SUBJECTS[row['subject']]}{batch} against {SUBJECTS[row['other']]}"
