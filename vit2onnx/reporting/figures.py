"""Plots, as SVG, and coloured tables, as HTML, that a page holds in itself."""

import io
from collections.abc import Mapping
from typing import Any

import matplotlib
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vit2onnx.parity.verdict import GRAPH_RUNS
from vit2onnx.reporting.page import SUBJECTS, TOKEN_GROUPS, number
from vit2onnx.reporting.summary import differences, sizes_of

STYLE = {"font.family": "DejaVu Sans", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
# The original and ours in neutral and in strong colours; none is the red of the limit.
MARKERS = {
    "transformers": ("#5a6877", "s"),
    "publisher": ("#9a7bb5", "D"),
    "equinox": ("#1a7f4b", "^"),
    "onnx": ("#1f6fb2", "o"),
    "onnx_unoptimized": ("#1f6fb2", "x"),
}
RED = "background: #b3261e; color: #fff"


def truth_figure(comparison: Mapping[str, Any], truth_ratio: float) -> str:
    """How far everything is from the float64 truth: a row per size, a mark per image.

    The line is the limit: `truth_ratio` times the largest distance of the first reference.
    """
    references = comparison["references"]
    rows = differences(comparison, [*references, "equinox", *GRAPH_RUNS], ["truth"])
    worst = rows.groupby(["height", "width", "subject", "image"])["max_abs"].max(skipna=False).reset_index()
    limit = truth_ratio * worst.loc[worst["subject"].isin(references[:1]), "max_abs"].max(skipna=False)
    sizes = sizes_of(rows)
    # The salt makes the names inside the SVG the same in every run.
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": "vit2onnx"}):
        figure = Figure(figsize=(9, 1.4 + 0.6 * len(sizes)), layout="constrained")
        axes = figure.subplots()
        subjects = [subject for subject in MARKERS if subject in set(worst["subject"])]
        for i, subject in enumerate(subjects):
            own = worst[worst["subject"] == subject]
            offset = 0.16 * (i - (len(subjects) - 1) / 2)
            places = [sizes.index(size) + offset for size in zip(own["height"], own["width"], strict=True)]
            color, marker = MARKERS[subject]
            axes.plot(own["max_abs"], places, marker, color=color, ms=5, alpha=0.8, label=SUBJECTS[subject])
        if limit > 0:
            axes.axvline(limit, color="#b3261e", lw=1.2, label=f"limit ({truth_ratio:g} x the original's largest)")
        _scale(axes, log=bool(worst["max_abs"].max() > 3 * limit))
        axes.set_yticks(range(len(sizes)), [f"{height}x{width}" for height, width in sizes])
        axes.set_ylim(max(len(sizes), 1) - 0.5, -0.5)
        if subjects:
            figure.legend(loc="outside upper left", ncols=len(subjects) + 1, frameon=False, handletextpad=0.4)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def _scale(axes: Axes, *, log: bool) -> None:
    """Linear where all are near the limit; logarithmic where the error of a broken graph would hide the rest."""
    axes.set_xlabel("largest distance of any output number from float64")
    if log:
        axes.set_xscale("log")
    else:
        axes.set_xlim(left=0)
        axes.ticklabel_format(axis="x", style="sci", scilimits=(0, 0))


def heat_table(comparison: Mapping[str, Any], limits: Mapping[str, Mapping[str, Any]]) -> Markup:
    """Graph and reference by token group, image and size: the worst of all runs, batches and references.

    The colour is the share of the limit; what is beyond it or no number is red.
    """
    rows = differences(comparison, GRAPH_RUNS, comparison["references"])
    if rows.empty:
        return Markup("<p>Nothing was compared.</p>")
    size = rows["height"].astype(str) + "x" + rows["width"].astype(str)
    worst = pd.DataFrame(
        {
            "group": pd.Categorical(rows["group"].map(TOKEN_GROUPS), list(TOKEN_GROUPS.values())),
            "image": rows["image"],
            "size": pd.Categorical(size, [f"{height}x{width}" for height, width in sizes_of(rows)]),
            "max |difference|": rows["max_abs"],
            "1 - lowest cosine": (1 - rows["cosine"]).clip(lower=0),
        }
    )
    table = worst.groupby(["group", "image", "size"], observed=True).max(skipna=False).unstack("size")
    styler = table.rename_axis(index=[None, None], columns=[None, None]).style.set_uuid(comparison["export"])
    for name, limit in (
        ("max |difference|", limits["max_abs"]["limit"]),
        ("1 - lowest cosine", 1 - limits["cosine"]["limit"]),
    ):
        part = pd.IndexSlice[:, name]
        styler = styler.background_gradient("Blues", axis=None, vmin=0, vmax=limit, high=1.0, subset=part)
        styler = styler.highlight_between(left=limit, inclusive="neither", props=RED, subset=part)
    styler = styler.highlight_null(props=RED).format(number)
    return Markup(styler.to_html(table_attributes='class="heat"'))
