"""The figures of `benchmarks.suite`: time against size, and ratios to the fastest graph of others."""

import io
from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from vit2onnx.reporting.figures import STYLE

# Ours in strong colours, others in neutral ones, each family of contenders with one hue.
OURS, OTHERS = (
    ("#1f6fb2", "#1a7f4b", "#b3261e", "#8e44ad", "#0b3c5d", "#52a675"),
    ("#5a6877", "#b08a3e", "#9aa5b1", "#7a5c3a", "#c9b38a", "#3d4751"),
)
MARKERS = "osD^vP*X"


def styles_of(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of every contender, the same in all figures of a table."""
    ours = [name for name in names if name.startswith("vit2onnx")]
    found = {}
    for group, colours in ((ours, OURS), ([name for name in names if name not in ours], OTHERS)):
        for place, name in enumerate(group):
            found[name] = colours[place % len(colours)], MARKERS[place % len(MARKERS)]
    return found


def as_svg(figure: Figure) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def time_figure(table: pd.DataFrame) -> str:
    """CPU time per megapixel against size, as SVG: a panel for each batch, a line for each contender.

    Per megapixel, because contenders that differ by some percent would else lie on one line. Areas are the ranges of
    the rounds.
    """
    pixels = table["height"] * table["width"]
    each = table[["cpu_ms", "cpu_ms_least", "cpu_ms_most"]].div(pixels * table["batch"] / 1e6, axis=0)
    table = table.assign(**each, side=np.sqrt(pixels)).sort_values("side", kind="stable")
    names = list(dict.fromkeys(table["contender"]))
    styles, batches, sides = styles_of(names), sorted(table["batch"].unique()), sorted(table["side"].unique())
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.8 + 3.6 * len(batches), 4.2), layout="constrained")
        panels = figure.subplots(1, len(batches), sharey=True, squeeze=False)[0]
        for axes, batch in zip(panels, batches, strict=True):
            for name in names:
                part = table[(table["contender"] == name) & (table["batch"] == batch)]
                if part.empty:
                    continue
                colour, marker = styles[name]
                least, most = part["cpu_ms_least"], part["cpu_ms_most"]
                axes.fill_between(part["side"], least, most, color=colour, alpha=0.06, lw=0)
                axes.plot(part["side"], part["cpu_ms"], marker + "-", color=colour, ms=4, lw=1.2, label=name)
            axes.set_xticks(sides, [f"{side:.0f}" for side in sides])
            axes.grid(axis="y", color="#e3e7eb", lw=0.6)
            axes.set_title(f"batch {batch}")
            axes.set_xlabel("height and width, pixels")
        panels[0].set_ylabel("CPU time per megapixel, ms")
        # From the medians, because one slow round would squeeze all lines.
        panels[0].set_ylim(0.9 * table["cpu_ms"].min(), 1.1 * table["cpu_ms"].max())
        handles = {
            label: line for axes in panels for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles.keys(), loc="outside right upper", frameon=False)
        return as_svg(figure)


def bar_figure(table: pd.DataFrame) -> str:
    """CPU time as a ratio to the fastest graph of others, as SVG: a bar with its range for each contender and cell."""
    table = table[table["ratio"].notna()] if "ratio" in table else table[:0]
    names = list(dict.fromkeys(table["contender"]))
    cells = list(dict.fromkeys(zip(table["batch"], table["height"], table["width"], strict=True)))
    styles = styles_of(names)
    with matplotlib.rc_context(STYLE):
        height = 1 + 0.24 * max(1, len(names)) * -(-max(1, len(cells)) // 2)
        figure = Figure(figsize=(10, height), layout="constrained")
        panels = figure.subplots(-(-max(1, len(cells)) // 2), 2, squeeze=False, sharex=True).ravel()
        for axes in panels[len(cells) :]:
            axes.set_axis_off()
        for axes, (batch, rows, columns) in zip(panels, cells, strict=False):
            part = table[(table["batch"] == batch) & (table["height"] == rows) & (table["width"] == columns)]
            part = part.sort_values("ratio", ascending=False)
            ends = np.abs(part[["ratio_least", "ratio_most"]].sub(part["ratio"], axis=0)).to_numpy().T
            colours = [styles[name][0] for name in part["contender"]]
            axes.barh(
                part["contender"],
                part["ratio"],
                xerr=ends,
                color=colours,
                alpha=0.85,
                height=0.7,
                error_kw={"lw": 0.8, "ecolor": "#333"},
            )
            for place, value in enumerate(part["ratio"]):
                axes.annotate(
                    f"{value:.2f}", (0, place), (3, 0), textcoords="offset points", va="center", color="white"
                )
            axes.axvline(1, color="#333", lw=0.8)
            axes.set_title(f"batch {batch}, {rows}x{columns}", loc="left")
            axes.tick_params("y", length=0)
            axes.tick_params("x", labelbottom=True)
        figure.supxlabel("CPU time; 1 is the fastest graph of torch.onnx and transformers", fontsize=9)
        return as_svg(figure)
