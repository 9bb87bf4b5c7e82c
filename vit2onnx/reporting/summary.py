"""All verdicts of a run in one table: as data and as a page."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from vit2onnx.parity.verdict import GRAPH_RUNS, judge, numbers_of, truth_ratio
from vit2onnx.reporting.page import ENVIRONMENT

COLUMNS = [
    *("subject", "other", "image", "height", "width", "batch", "group", "token", "row", "column"),
    *("count", "max_abs", "rms", "cosine", "scale"),
]


def differences(comparison: Mapping[str, Any], subjects: Iterable[str], others: Iterable[str]) -> pd.DataFrame:
    """The rows of a comparison that set one of `subjects` against one of `others`; `None` becomes NaN."""
    rows = pd.DataFrame(comparison["differences"], columns=COLUMNS).astype(
        dict.fromkeys(("max_abs", "rms", "cosine", "scale"), float)
    )
    return rows[rows["subject"].isin(list(subjects)) & rows["other"].isin(list(others))]


def sizes_of(rows: pd.DataFrame) -> list[tuple[int, int]]:
    """Heights and widths that were compared, from the smallest area to the largest."""
    sizes = set(zip(rows["height"], rows["width"], strict=True))
    return sorted(sizes, key=lambda size: (size[0] * size[1], size))


def summary_row(comparison: Mapping[str, Any], limits: Mapping[str, float], size: int, weights: str) -> dict[str, Any]:
    """One graph in short; `size` is that of its file in bytes."""
    verdict = judge(comparison, limits)
    references = comparison["references"]
    rows = differences(comparison, GRAPH_RUNS, references)
    return {
        "variant": comparison["variant"],
        "export": comparison["export"],
        "weights": weights,
        "verdict": "passed" if verdict.passed else "FAILED",
        "references": " ".join(references),
        "max_abs": rows["max_abs"].max(skipna=False),
        "worst_at": _worst_place(rows),
        "cosine": rows["cosine"].min(skipna=False),
        "truth_ratio": truth_ratio(comparison),
        "images": rows["image"].nunique(),
        "sizes": len(sizes_of(rows)),
        "bytes": size,
        "faults": verdict.faults,
    }


def summarise(graphs: Mapping[Path, Path], limits: Mapping[str, Mapping[str, Any]], weights: str) -> pd.DataFrame:
    """One row per graph, from its comparison: `graphs` maps each comparison to the graph.

    `limits` are those of the config, `weights` says whether they are synthetic or official.
    """
    numbers = numbers_of(limits)
    return pd.DataFrame(
        summary_row(json.loads(comparison.read_text()), numbers, graph.stat().st_size, weights)
        for comparison, graph in graphs.items()
    )


def verdict_line(summary: pd.DataFrame) -> str:
    """The verdict on all graphs in one sentence."""
    passed = (summary["verdict"] == "passed").sum()
    references = " and ".join(dict.fromkeys(" ".join(summary["references"]).split())) or "no reference"
    weights = ", ".join(f"{kind} weights" for kind in summary["weights"].unique())
    verb = "is" if passed == 1 else "are"
    return f"{passed} of {len(summary)} graphs {verb} at parity with {references} ({weights})"


def summary_csv(summary: pd.DataFrame) -> str:
    """The summary as comma-separated values, faults in one cell."""
    text: str = summary.assign(faults=summary["faults"].str.join("; ")).to_csv(index=False)
    return text


def summary_page(summary: pd.DataFrame) -> str:
    """The summary as a self-contained HTML page."""
    template = ENVIRONMENT.get_template("summary.html.j2")
    return template.render(title="Summary", rows=summary.to_dict("records"), verdict=verdict_line(summary))
