"""What the page shows of a ledger of stages: how error grows through the network, and every stage in a table."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vit2onnx.parity.divergence import Divergence, StageComparison
from vit2onnx.parity.verdict import Verdict, faults_of
from vit2onnx.reporting.figures import LIMIT_COLOUR, MARKERS, STYLE, as_svg
from vit2onnx.reporting.page import SUBJECTS, number
from vit2onnx.spec.subject import DOUBLE, TRUTH

COLUMNS = ["mode", "stage", "subject", "other", "max_abs", "rms", "scale", "floor", "floors"]
# The most numbers of blocks under the plot; a deeper network shows every second or third.
MAX_TICKS = 24


def stage_section(comparison: StageComparison, verdict: Verdict) -> dict[str, Any]:
    """What the page shows of the stages of a graph."""
    rows, limit = comparison.stages, verdict.limits["floors"]["limit"]
    pairs = list(dict.fromkeys((row["subject"], row["other"]) for row in rows if not _is_double(row)))
    # What tells implementations apart comes first.
    pairs.sort(key=lambda pair: pair[1] == TRUTH)
    image, _, size = comparison.case.rpartition("@")
    return {
        "figure": drift_figure(comparison, limit),
        "divergence": comparison.first_divergence("injected", limit),
        "faults": faults_of(verdict.of("stages")),
        "count": len(comparison.names),
        "largest": comparison.largest_floors,
        "limit": limit,
        "why": verdict.limits["floors"]["why"],
        "photograph": f"{image} at {size}",
        "pairs": [f"{subject} - {'float64' if other == TRUTH else other}" for subject, other in pairs],
        "rows": _table(rows, pairs, limit),
    }


def _is_double(row: Mapping[str, Any]) -> bool:
    return str(row["subject"]).endswith(DOUBLE)


def _table(rows: Sequence[Mapping[str, Any]], pairs: Sequence[tuple[str, str]], limit: float) -> list[dict[str, Any]]:
    """One row per mode and stage, in order, with what there is of every pair."""
    lines: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        if _is_double(row):
            continue
        key = row["mode"], row["stage"]
        line = lines.setdefault(key, dict(zip(("mode", "stage"), key, strict=True)) | {"cells": {}})
        line |= {name: number(row[name]) for name in ("scale", "floor")}
        is_close = row["floors"] is not None and row["floors"] <= limit
        beyond = row["other"] != TRUTH and not is_close
        cell = {"max_abs": number(row["max_abs"]), "floors": number(row["floors"]), "beyond": beyond}
        line["cells"][row["subject"], row["other"]] = cell
    return [line | {"cells": [line["cells"][pair] for pair in pairs]} for line in lines.values()]


def drift_figure(comparison: StageComparison, limit: float) -> str:
    """Error along the network, as SVG in a data URI.

    Above, everything runs on its own: distances from float64 (root mean square) as shares of the stage's scale, with
    the reference's own as an area, the noise floor. Below, every layer is given the same input: how far any two are
    apart, in noise floors, with the limit. What is not finite is a cross at the upper edge.
    """
    rows = pd.DataFrame(comparison.stages, columns=COLUMNS)
    rows = rows.astype(dict.fromkeys(("max_abs", "rms", "scale", "floor", "floors"), float))
    rows = rows[~rows["subject"].str.endswith(DOUBLE).astype(bool)]
    stages = list(dict.fromkeys(rows["stage"]))
    places = {stage: place for place, stage in enumerate(stages)}
    rows["place"] = rows["stage"].map(places)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 5.2), layout="constrained")
        upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 2))
        _accumulated(upper, rows[rows["mode"] == "accumulated"], comparison.implementations)
        _injected(lower, rows[rows["mode"] == "injected"], limit)
        # Drift that adds up is no fault, and has no mark.
        if parted := comparison.first_divergence("injected", limit):
            _mark(upper, lower, parted, places[parted.stage], len(stages))
        ticks = block_ticks(stages)
        for place, _ in ticks:
            lower.axvline(place - 0.5, color="#eef1f4", lw=0.7, zorder=0)
            upper.axvline(place - 0.5, color="#eef1f4", lw=0.7, zorder=0)
        named = ticks[:: math.ceil(len(ticks) / MAX_TICKS) or 1]
        lower.set_xticks([place for place, _ in named], [name for _, name in named])
        lower.set_xlim(-1, max(len(stages), 1))
        lower.set_xlabel("stages in the order in which they are computed; blocks by their numbers")
        return as_svg(figure)


def block_ticks(stages: Sequence[str]) -> list[tuple[int, str]]:
    """Where each block begins among the stages, and its numbers: `7`, or `2.14` where blocks are numbered by stage."""
    ticks: list[tuple[int, str]] = []
    last = None
    for place, stage in enumerate(stages):
        layer = stage.rpartition(".")[0]
        if "blocks." in layer and layer != last:
            ticks.append((place, ".".join(re.findall(r"\d+", layer))))
        last = layer
    return ticks


def _accumulated(axes: Axes, rows: pd.DataFrame, implementations: Sequence[str]) -> None:
    first, *others = implementations
    relative = rows[rows["other"] == TRUTH].assign(error=lambda x: (x["rms"] / x["scale"]).replace(0, np.nan))
    floor = relative[relative["subject"] == first].assign(error=lambda x: x["floor"] / x["scale"])
    least = min(relative["error"].min(), floor["error"].min())
    bottom = least / 2 if np.isfinite(least) and least > 0 else 1e-9
    axes.set_yscale("log")
    label = f"{SUBJECTS[first]}: the noise floor"
    axes.fill_between(floor["place"], bottom, floor["error"], color="#d5dbe1", lw=0, label=label)
    for name in others:
        own = relative[relative["subject"] == name]
        axes.plot(own["place"], own["error"], color=MARKERS[name][0], lw=1.3, label=SUBJECTS[name], alpha=0.85)
        _cross_out(axes, own[own["rms"].isna()])
    axes.set_ylim(bottom=bottom)
    axes.set_ylabel("distance from float64,\nshare of the stage's scale")
    axes.set_title("Each on its own, from the input on", loc="left", fontsize=9)
    _legend(axes)


def _injected(axes: Axes, rows: pd.DataFrame, limit: float) -> None:
    rows = rows[rows["other"] != TRUTH]
    for index, ((subject, other), own) in enumerate(rows.groupby(["subject", "other"], sort=False)):
        color, marker = MARKERS[subject]
        label = f"{subject} - {other}"
        face = color if index % 2 else "none"
        axes.plot(own["place"], own["floors"], marker, color=color, mfc=face, ms=3, label=label, lw=0)
        _cross_out(axes, own[own["floors"].isna()])
    axes.axhline(limit, color=LIMIT_COLOUR, lw=1.2, label=f"limit ({limit:g})")
    if rows["floors"].max() > 3 * limit:
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.1)
    else:
        axes.set_ylim(0, 1.15 * max(limit, rows["floors"].max() if rows["floors"].notna().any() else 0))
    axes.set_ylabel("apart, in\nnoise floors")
    axes.set_title("Each layer by itself, given the same input", loc="left", fontsize=9)
    _legend(axes)


def _legend(axes: Axes) -> None:
    """Above the plot, at the right; it takes no room from it."""
    handles, labels = axes.get_legend_handles_labels()
    corner = {"loc": "lower right", "bbox_to_anchor": (1, 0.98)}
    legend = axes.legend(
        handles, labels, **corner, ncols=len(labels), frameon=False, handletextpad=0.3, columnspacing=1.2, fontsize=8
    )
    legend.set_in_layout(False)


def _cross_out(axes: Axes, rows: pd.DataFrame) -> None:
    if len(rows):
        upper_edge = axes.get_xaxis_transform()
        axes.plot(rows["place"], [0.97] * len(rows), "x", color=LIMIT_COLOUR, ms=5, transform=upper_edge)


def _mark(upper: Axes, lower: Axes, parted: Divergence, place: int, count: int) -> None:
    for axes in (upper, lower):
        axes.axvline(place, color=LIMIT_COLOUR, lw=1, ls="--")
    is_left = place < count / 2
    upper.annotate(
        f"first divergence:\n{parted.stage}",
        xy=(place, 0.6),
        xycoords=upper.get_xaxis_transform(),
        xytext=(5 if is_left else -5, 0),
        textcoords="offset points",
        ha="left" if is_left else "right",
        va="center",
        bbox={"fc": "white", "ec": "none", "alpha": 0.8, "pad": 1},
        color=LIMIT_COLOUR,
        fontsize=8.5,
        weight="bold",
    )
