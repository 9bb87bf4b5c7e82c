"""Plots, as SVG, and coloured tables, as HTML, that a page holds in itself."""

import io
from collections.abc import Mapping
from typing import Any

import matplotlib
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vit2onnx.parity.divergence import TRUTH
from vit2onnx.parity.verdict import GRAPH_RUNS, largest_allowed
from vit2onnx.reporting.evidence import differences, sizes_of
from vit2onnx.reporting.page import SUBJECTS, TOKEN_GROUPS, data_uri, number

STYLE = {
    **{"font.family": "DejaVu Sans", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False},
    # Makes the names inside an SVG the same in every run.
    "svg.hashsalt": "vit2onnx",
}
# The original and ours in neutral and in strong colours; none is the red of the limit.
MARKERS = {
    "transformers": ("#5a6877", "s"),
    "publisher": ("#9a7bb5", "D"),
    "equinox": ("#1a7f4b", "^"),
    "onnx": ("#1f6fb2", "o"),
    "onnx_unoptimized": ("#1f6fb2", "x"),
}
LIMIT_COLOUR = "#b3261e"
RED = f"background: {LIMIT_COLOUR}; color: #fff"


def as_svg(figure: Figure) -> str:
    """A figure as SVG in a data URI; the same in every run if made with `STYLE`."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return data_uri("image/svg+xml", file.getvalue().encode())


def truth_figure(comparison: Mapping[str, Any], truth_ratio: float) -> str:
    """How far everything is from the float64 truth, as SVG in a data URI: a row per size, a mark per image.

    Distances are root mean squares. The line is the limit: `truth_ratio` times that of the first reference over all.
    """
    references = comparison["references"]
    rows = differences(comparison, [*references, "equinox", *GRAPH_RUNS], [TRUTH])
    marks = _rms(rows, ["height", "width", "subject", "image"])
    limit = truth_ratio * _rms(rows, ["subject"]).set_index("subject")["rms"].get(
        references[0] if references else "", 0
    )
    sizes = sizes_of(rows)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 1.4 + 0.6 * len(sizes)), layout="constrained")
        axes = figure.subplots()
        subjects = [subject for subject in MARKERS if subject in set(marks["subject"])]
        for i, subject in enumerate(subjects):
            own = marks[marks["subject"] == subject]
            offset = 0.16 * (i - (len(subjects) - 1) / 2)
            places = [sizes.index(size) + offset for size in zip(own["height"], own["width"], strict=True)]
            color, marker = MARKERS[subject]
            axes.plot(own["rms"], places, marker, color=color, ms=5, alpha=0.8, label=SUBJECTS[subject])
        if limit > 0:
            axes.axvline(limit, color=LIMIT_COLOUR, lw=1.2, label=f"limit ({truth_ratio:g} x the original's)")
        _scale_axis(axes, log=bool(marks["rms"].max() > 3 * limit))
        axes.set_yticks(range(len(sizes)), [f"{height}x{width}" for height, width in sizes])
        axes.set_ylim(max(len(sizes), 1) - 0.5, -0.5)
        if subjects:
            figure.legend(loc="outside upper left", ncols=len(subjects) + 1, frameon=False, handletextpad=0.4)
        return as_svg(figure)


def _rms(rows: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """The root mean square of differences by some columns, from those of groups of tokens."""
    squares = rows.assign(square=rows["count"] * rows["rms"] ** 2).groupby(by)[["square", "count"]]
    sums = squares.sum(min_count=1).where(squares.count().eq(rows.groupby(by).size(), axis=0))
    return (sums["square"] / sums["count"]).pow(0.5).rename("rms").reset_index()


def _scale_axis(axes: Axes, *, log: bool) -> None:
    """Linear where all are near the limit; logarithmic where the error of a broken graph would hide the rest."""
    axes.set_xlabel("distance of an image's output numbers from float64 (root mean square)")
    if log:
        axes.set_xscale("log")
    else:
        axes.set_xlim(left=0)
        axes.ticklabel_format(axis="x", style="sci", scilimits=(0, 0))


def heat_table(comparison: Mapping[str, Any], limits: Mapping[str, float]) -> Markup:
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
        ("max |difference|", largest_allowed(comparison, limits)),
        ("1 - lowest cosine", 1 - limits["cosine"]),
    ):
        part = pd.IndexSlice[:, name]
        styler = styler.background_gradient("Blues", axis=None, vmin=0, vmax=limit, high=1.0, subset=part)
        styler = styler.highlight_between(left=limit, inclusive="neither", props=RED, subset=part)
    # Photographs have any names.
    styler = styler.highlight_null(props=RED).format(number, escape="html").format_index(escape="html")
    return Markup(styler.to_html(table_attributes='class="heat"'))
