"""Plots, as SVG, and coloured tables, as HTML, that a page holds in itself."""

import io
from collections.abc import Mapping
from typing import Any

import matplotlib
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from vit2onnx.parity.comparison import Comparison
from vit2onnx.reporting.evidence import sizes_of, table_of
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
    "kornia": ("#b08a3e", "v"),
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


def truth_figure(comparison: Comparison, limit: float) -> str:
    """The worst token of everything in noise floors, as SVG in a data URI: a row per size, a mark per image.

    They are those of the graph's precision. So a graph in a small one is alone, because models are in single precision.
    """
    kinds = ("original", "model", "graph") if comparison.precision == "float32" else ("graph",)
    rows = table_of(row for kind in kinds for row in comparison.rows_of(kind))
    by = ["height", "width", "subject", "image"]
    marks = rows.groupby(by)["floors"].max(skipna=False).reset_index()
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
            axes.plot(own["floors"], places, marker, color=color, ms=5, alpha=0.8, label=SUBJECTS[subject])
        axes.axvline(limit, color=LIMIT_COLOUR, lw=1.2, label=f"limit ({limit:g})")
        axes.set_xlabel("error of an input's worst token (root mean square), in noise floors")
        # Logarithmic where the error of a broken graph would hide the rest.
        if marks["floors"].max() > 3 * limit:
            axes.set_xscale("log")
        else:
            axes.set_xlim(left=0)
        axes.set_yticks(range(len(sizes)), [f"{height}x{width}" for height, width in sizes])
        axes.set_ylim(max(len(sizes), 1) - 0.5, -0.5)
        figure.legend(loc="outside upper left", ncols=len(subjects) + 1, frameon=False, handletextpad=0.4)
        return as_svg(figure)


def heat_table(comparison: Comparison, limits: Mapping[str, Mapping[str, Any]]) -> Markup:
    """The graph by token group, image and size: the worst of all runs and batches, against truth and references.

    The colour is the share of the limit; what is beyond it or no number is red.
    """
    of_truth, of_references = table_of(comparison.rows_of("graph")), table_of(comparison.of_graph())
    if of_truth.empty or of_references.empty:
        return Markup("<p>Nothing was compared.</p>")
    parts = {
        "noise floors": (of_truth, of_truth["floors"], limits["floors"]["limit"]),
        "1 - lowest cosine": (
            of_references,
            (1 - of_references["cosine"]).clip(lower=0),
            1 - limits["cosine"]["limit"],
        ),
        "max |difference|": (of_references, of_references["max_abs"], None),
    }
    table = pd.concat({name: _by_size(rows, values) for name, (rows, values, _) in parts.items()}, axis=1)
    styler = table.rename_axis(index=[None, None], columns=[None, None]).style.set_uuid(comparison.export)
    for name, (_, _, limit) in parts.items():
        if limit is not None:
            part = pd.IndexSlice[:, name]
            styler = styler.background_gradient("Blues", axis=None, vmin=0, vmax=limit, high=1.0, subset=part)
            styler = styler.highlight_between(left=limit, inclusive="neither", props=RED, subset=part)
    # Photographs have any names.
    styler = styler.highlight_null(props=RED).format(number, escape="html").format_index(escape="html")
    return Markup(styler.to_html(table_attributes='class="heat"'))


def _by_size(rows: pd.DataFrame, values: pd.Series) -> pd.DataFrame:
    """The largest figure by group of tokens and image, a column per size."""
    size = rows["height"].astype(str) + "x" + rows["width"].astype(str)
    # An output of an earlier layer is a group by itself, of its name.
    names = TOKEN_GROUPS | {group: group for group in rows["group"].unique() if group not in TOKEN_GROUPS}
    by = {
        "group": pd.Categorical(rows["group"].map(names), list(names.values())),
        "image": rows["image"],
        "size": pd.Categorical(size, [f"{height}x{width}" for height, width in sizes_of(rows)]),
    }
    largest = pd.DataFrame(by | {"value": values}).groupby(list(by), observed=True)["value"].max(skipna=False)
    table: pd.DataFrame = largest.unstack("size")
    return table
