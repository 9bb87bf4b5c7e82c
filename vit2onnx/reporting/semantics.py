"""What the parity page shows of distributions, of what people do with features, and of the preprocessing."""

from collections.abc import Iterator, Mapping, Sequence
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
    "pooled": "images or texts, by their embedding",
    "texts_of_image": "texts that fit an image",
    "images_of_text": "images that fit a text",
}

# What is measured of an input, by what it is made of.
FIGURES = {"image": ("grey_levels", "differing_share", "normalised", "residual"), "text": ("differing_ids",)}


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


def preprocessing_section(rows: Sequence[Mapping[str, Any]], verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """The worst over all photographs and sizes, or texts, of every other way, and the findings of their gate."""
    others = {noun: list(_worst_ways([row for row in rows if noun in row], names)) for noun, names in FIGURES.items()}
    # Those of images are the same for every graph that has images.
    findings = list(dict.fromkeys(finding for verdict in verdicts for finding in verdict.of("preprocessing")))
    names = dict.fromkeys(finding.limit_name for finding in findings if finding.limit_name)
    limits = {name: verdicts[0].limits[name] for name in names}
    return {
        "others": others["image"],
        "of_texts": others["text"],
        "texts": len({row["text"] for row in rows if "text" in row}),
        "findings": findings,
        "faults": faults_of(findings),
        "limits": limits,
    }


def _worst_ways(rows: Sequence[Mapping[str, Any]], figures: Sequence[str]) -> Iterator[dict[str, Any]]:
    for other in dict.fromkeys(row["other"] for row in rows):
        own = [row for row in rows if row["other"] == other]
        yield {"name": other, "other": PREPARATIONS.get(other, other)} | {name: largest(own, name) for name in figures}


def _pair(row: Mapping[str, Any]) -> str:
    batch = f", batch {row['batch']}" if row["subject"] in GRAPH_RUNS and row["batch"] else ""
    return f"{SUBJECTS[row['subject']]}{batch} against {SUBJECTS[row['other']]}"
