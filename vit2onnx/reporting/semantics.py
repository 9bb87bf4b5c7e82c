"""What the parity page shows of distributions, of what people do with features, and of the preprocessing."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from vit2onnx.parity.preprocessing import judge_preprocessing
from vit2onnx.parity.verdict import GRAPH_RUNS, numbers_of
from vit2onnx.reporting.page import SUBJECTS

NAMES = SUBJECTS | {"truth": "float64"}
QUERIES = {
    "cls": "images, by CLS",
    "patches_mean": "images, by the mean of their patches",
    "regions": "regions of images",
    "patches": "patches",
}
PREPARATIONS = {
    "publisher": "the publisher's transform",
    "publisher_float": "the same on a GPU or an old CPU",
    "transformers": "transformers' processor for DINOv3",
    "transformers_pil": "transformers' processor on Pillow",
}


def distributions(comparison: Mapping[str, Any]) -> list[dict[str, Any]]:
    """How differences are distributed: of the reference from float64, and of the graph from the reference."""
    return [
        row | {"pair": _pair(row)}
        for row in comparison.get("distributions", [])
        if row["subject"] in GRAPH_RUNS or row["subject"] in comparison["references"]
        if row["other"] in (*comparison["references"], "truth")
    ]


def semantics(comparison: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Neighbours, matches and components of every pair that was compared, in the words of the page."""
    return [
        row
        | {
            "pair": _pair(row),
            "neighbours": [figures | {"what": QUERIES[figures["what"]]} for figures in row["neighbours"]],
        }
        for row in comparison.get("semantics", [])
    ]


def preprocessing(rows: Sequence[Mapping[str, Any]], limits: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The worst over all photographs and sizes of every other way, what is judged of it, and the faults."""
    findings = judge_preprocessing(rows, numbers_of(limits))
    figures = ("levels", "share", "normalised", "rest")
    others = []
    for other in dict.fromkeys(row["other"] for row in rows):
        own = [row for row in rows if row["other"] == other]
        # What is no finite number is the worst.
        worst = {name: max(math.inf if row[name] is None else row[name] for row in own) for name in figures}
        others.append({"name": other, "other": PREPARATIONS.get(other, other)} | worst)
    return {
        "others": others,
        "findings": [{"what": f.sentence.rpartition(":")[0], "it": f} for f in findings],
        "faults": [finding.sentence for finding in findings if not finding.passed],
        "limits": limits,
    }


def _pair(row: Mapping[str, Any]) -> str:
    batch = f", batch {row['batch']}" if row["subject"] in GRAPH_RUNS else ""
    return f"{NAMES[row['subject']]}{batch} - {NAMES[row['other']]}"
