"""What the parity page shows of dense maps: whether people see the same in those of a graph."""

from collections.abc import Iterable
from typing import Any

from vit2onnx.parity.comparison import Row, largest
from vit2onnx.parity.dense_comparison import COUNTS, DENSE, FIGURES, IMPLEMENTATIONS, JUDGED, NORMS, DenseComparison
from vit2onnx.parity.verdict import Verdict
from vit2onnx.reporting.page import SUBJECTS, number
from vit2onnx.spec.case import Case


def dense_section(comparison: DenseComparison, verdict: Verdict) -> dict[str, Any]:
    """Every figure in each implementation, its limit, and how much was compared.

    `widened` says whether one of the limits is more than the config has, because the reference itself rounds so far.
    """
    findings = {(one.measure, one.subject): one for one in verdict.of(DENSE)}
    rows = []
    for figure in (*FIGURES, *COUNTS):
        of_all = {subject: comparison.of(subject, figure.key) for subject in IMPLEMENTATIONS}
        judged = [found for subject in JUDGED if (found := findings.get((figure.words, subject)))]
        say = _total if figure in COUNTS else _largest
        failed = {finding.subject for finding in judged if not finding.passed}
        rows.append(
            {
                "words": figure.words,
                "cells": [{"text": say(own, figure.key), "bad": name in failed} for name, own in of_all.items()],
                "limit": max((finding.limit for finding in judged), default=0.0),
            }
        )
    limits = {name: limit["limit"] for name, limit in verdict.limits.items()}
    case = Case.parse(comparison.cases[0])
    norms = sum(name.startswith(f"{NORMS}.") for name in comparison.maps)
    return {
        "subjects": [SUBJECTS[name] for name in IMPLEMENTATIONS],
        "rows": rows,
        "photographs": len(comparison.cases),
        "size": f"{case.height}x{case.width}",
        "maps": len(comparison.maps) - norms,
        "layers": norms,
        "widened": any(one.limit_name and one.limit > limits[one.limit_name] for one in findings.values()),
        "floors": limits["floors"],
    }


def _largest(rows: Iterable[Row], key: str) -> str:
    return number(largest(rows, key))


def _total(rows: list[Row], key: str) -> str:
    """How many, of how many patches."""
    counts = [row[key] for row in rows]
    # Colours have three channels.
    of = sum(row["patches"] for row in rows) * (3 if key == "levels" else 1)
    return number(None) if None in counts or not counts else f"{sum(counts)} of {of}"
