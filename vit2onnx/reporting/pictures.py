"""Photographs on a page: as thumbnails, and with the error of a graph drawn over them."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from vit2onnx.images import load_image
from vit2onnx.reporting.figures import STYLE
from vit2onnx.reporting.page import data_uri, number

# Pixels, so small that a hundred of them stay below half a megabyte.
THUMBNAIL = (96, 72)
# Inches and photographs across.
PICTURE_WIDTH, MAX_COLUMNS = 10.3, 4
# Height by width of the flattest and of the tallest drawing; what is beyond, as a strip of patches, is distorted.
LEAST_SHAPE, MOST_SHAPE = 0.2, 2.0
# Below a worst patch, colours of a logarithmic scale tell apart no more than this factor.
LOGARITHMIC_RANGE = 1000


def thumbnail(path: Path) -> str:
    """A photograph as a small JPEG in a data URI."""
    image = load_image(path)
    image.thumbnail(THUMBNAIL)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=70)
    return data_uri("image/jpeg", file.getvalue())


def error_map_figure(maps: Sequence[Mapping[str, Any]], photographs: Mapping[str, Path], limit: float) -> str:
    """The error maps of a graph over its photographs, in one picture with one scale, as a PNG in a data URI.

    A photograph is drawn as the model saw it: resized to the size of the map. Its worst patch is framed; patches that
    are not finite are black. A photograph that is not among `photographs` is left white.
    """
    grids = [np.array([[np.nan if x is None else x for x in row] for row in one["floors"]]) for one in maps]
    norm = _scale(grids, limit)
    columns = min(MAX_COLUMNS, len(maps))
    rows = [maps[start : start + columns] for start in range(0, len(maps), columns)]
    shapes = [max(map(_shape, row)) for row in rows]
    width = (PICTURE_WIDTH - 1) / columns
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(PICTURE_WIDTH, sum(0.5 + width * shape for shape in shapes)), layout="constrained")
        axes = figure.subplots(len(rows), columns, squeeze=False, height_ratios=shapes).ravel()
        for ax in axes:
            ax.set_axis_off()
        for ax, one, grid in zip(axes, maps, grids, strict=False):
            photograph = photographs.get(one["image"])
            drawn = _draw(ax, one, grid, load_image(photograph) if photograph else None, norm)
        bar = figure.colorbar(drawn, ax=axes.tolist(), shrink=0.9, aspect=25, pad=0.02, panchor=False)
        bar.set_label("error of a patch, in noise floors")
        if not isinstance(norm, LogNorm):
            # Not with a power of ten above the bar, because the limit is there.
            bar.ax.yaxis.set_major_formatter(lambda value, _: number(value))
        bar.ax.axhline(limit, color="#000", lw=1.5, clip_on=False)
        bar.ax.text(-0.2, limit, "limit ", ha="right", va="center", transform=bar.ax.get_yaxis_transform())
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=100)
    return data_uri("image/png", file.getvalue())


def _scale(grids: Sequence[np.ndarray], limit: float) -> Normalize:
    """Colours from zero to the limit, so that what is well below it looks calm; logarithmic where a patch is beyond."""
    worst = [float(np.nanmax(grid)) for grid in grids if np.isfinite(grid).any()]
    most, least = max(worst, default=0.0), min(worst, default=0.0)
    if most <= limit:
        return Normalize(0, limit)
    return LogNorm(min(limit, max(least, most / LOGARITHMIC_RANGE)) / 10, most)


def _shape(one: Mapping[str, Any]) -> float:
    """Height by width of a map as it is drawn."""
    return min(max(one["height"] / one["width"], LEAST_SHAPE), MOST_SHAPE)


def _draw(ax: Axes, one: Mapping[str, Any], grid: np.ndarray, photograph: Image.Image | None, norm: Normalize) -> Any:
    height, width, patch = one["height"], one["width"], one["patch_size"]
    if photograph:
        grey = np.asarray(photograph.resize((width, height)).convert("L"))
        ax.imshow(grey, cmap="gray", vmin=-200, vmax=255, extent=(0, width, height, 0))
    colours = matplotlib.colormaps["YlOrRd"].with_extremes(bad="black")
    shown = np.clip(grid, norm.vmin, None) if isinstance(norm, LogNorm) else grid
    extent = (0, one["columns"] * patch, one["rows"] * patch, 0)
    drawn = ax.imshow(shown, cmap=colours, norm=norm, extent=extent, alpha=0.55, interpolation="nearest")
    row, column = np.unravel_index(np.argmax(np.nan_to_num(grid, nan=np.inf)), grid.shape)
    frame = Rectangle((column * patch, row * patch), patch, patch, fill=False, ec="#1f6fb2", lw=2, clip_on=False)
    ax.add_patch(frame)
    ax.set_anchor("N")
    ax.set_aspect(_shape(one) * width / height)
    ax.set_xlim(0, width)
    ax.set_ylim(height, 0)
    worst = grid[row, column]
    found = number(worst) if np.isfinite(worst) else "not finite"
    ax.set_title(f"{one['image']}, {height}x{width}\nworst {found}, patch {row},{column}", fontsize=9)
    return drawn
