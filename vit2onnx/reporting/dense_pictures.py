"""Maps of patches as small pictures in fixed colours, so that pictures of different photographs and models compare.

No map is stretched to its own least and largest value, because that makes any map look full of contrast.
"""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageDraw

from vit2onnx.dense.description import Described, row_of
from vit2onnx.dense.figures import high_norms
from vit2onnx.errors import printable
from vit2onnx.images import RESAMPLING, load_image
from vit2onnx.reporting.figures import LIMIT_COLOUR, STYLE

Array = np.ndarray

# Colours of cosines, from 0 to 1, and of norms, from 0 to `MOST_NORM` medians. Both grow lighter, also in grey.
COSINE_COLOURS, NORM_COLOURS = "viridis", "magma"
MOST_NORM = 4.0
# The colour of what is not defined.
UNDEFINED = (128, 128, 128)
# Pixels: the height of a tile of a strip, about; its greatest width; between tiles.
TILE_HEIGHT, TILE_WIDTH, GAP = 256, 768, 8
# Of a strip: what its pictures show, and the height of letters and of lines in pixels.
TITLES = ("photograph", "PCA", "smoothness", "similarity", "norms")
FONT, LINE = 14, 20


def colour_table(name: str) -> Array:
    """The 256 colours of a scale, uint8 [256, 3], from its lowest value to its highest."""
    colours: Array = matplotlib.colormaps[name](np.arange(256), bytes=True)[:, :3]
    return colours


def painted(values: Array, most: float, scale: str) -> Array:
    """Values [h, w] as colours of a scale, uint8 [h, w, 3].

    0 and less have the lowest colour, `most` and more the highest. What is not a number is grey.
    """
    is_number = ~np.isnan(values)
    # Not `np.rint`, because JavaScript's `Math.round` takes halves up.
    levels = np.floor(255 * np.clip(np.where(is_number, values, 0) / most, 0, 1) + 0.5).astype(np.uint8)
    return np.where(is_number[..., None], colour_table(scale)[levels], np.array(UNDEFINED, np.uint8))


def cosine_picture(values: Array) -> Image.Image:
    """A map of cosines [h, w], such as smoothness or similarity, one pixel for each patch."""
    return Image.fromarray(painted(values, 1.0, COSINE_COLOURS))


def colours_of(model: Described, image: str, pair: Described | None = None) -> Image.Image:
    """The components of a photograph as colours, one pixel for each patch, black outside of the foreground.

    Those of the second model of a `pair` are turned into the colours of the first.
    """
    return Image.fromarray((pair or model).maps[f"{image}/colours"])


def norm_multiples(norms: Array) -> Array:
    """Norms [h, w] as multiples of their median, in float64; NaN where the median is zero."""
    norms = np.asarray(norms, np.float64)
    median = np.median(norms)
    return norms / (median if median > 0 else math.nan)


def norm_picture(norms: Array, times: float = MOST_NORM, pixels: int = 1) -> Image.Image:
    """Norms [h, w] as multiples of their median, `pixels` for each patch, with frames beyond `times` the median."""
    picture = enlarged(Image.fromarray(painted(norm_multiples(norms), MOST_NORM, NORM_COLOURS)), pixels)
    for row, column in np.argwhere(high_norms(norms, times)).tolist():
        _frame(picture, (row, column), pixels, ["black"])
    return picture


def photograph_picture(path: Path, rows: int, columns: int, pixels: int) -> Image.Image:
    """A photograph as the model saw it, stretched to `pixels` for each patch of its grid.

    Raises `InputError` as `load_image`.
    """
    return load_image(path).resize((columns * pixels, rows * pixels), RESAMPLING["bicubic"])


def enlarged(picture: Image.Image, pixels: int) -> Image.Image:
    """A picture with `pixels` x `pixels` for each of its pixels, with sharp edges."""
    return picture.resize((picture.width * pixels, picture.height * pixels), Image.Resampling.NEAREST)


def pixels_for(rows: int, columns: int) -> int:
    """How many pixels a side of a patch has in a tile of about 256 pixels height."""
    return max(1, min(round(TILE_HEIGHT / rows), TILE_WIDTH // columns))


def as_png(picture: Image.Image) -> bytes:
    """A picture as a PNG; the same bytes in every run."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def as_jpeg(picture: Image.Image) -> bytes:
    """A photograph as a JPEG, a tenth of a PNG's size; the same bytes in every run."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=82)
    return file.getvalue()


def strip(models: Sequence[Described], image: str, photograph: Path, pair: Described | None = None) -> bytes:
    """Five pictures of one photograph side by side, as a PNG; a second model is below the first.

    These are the photograph, PCA, smoothness, similarity to the reference patch, which is framed, and norms. Above them
    is the name of the model, with a warning if its weights are random. Raises `InputError` as `load_image`.
    """
    rows = [_tiles(model, image, photograph, pair if i else None) for i, model in enumerate(models)]
    width, height = rows[0][0].size
    whole = 2 * LINE + height + GAP
    picture = Image.new("RGB", (len(TITLES) * (width + GAP) - GAP, len(rows) * whole - GAP), "white")
    draw = ImageDraw.Draw(picture)
    for y, (model, tiles) in enumerate(zip(models, rows, strict=True)):
        is_random = model.figures["weights"] == "synthetic"
        name = f"{'RANDOM NUMBERS: ' if is_random else ''}{printable(model.figures['variant'])}"
        draw.text((0, y * whole), name, fill="black", font_size=FONT)
        for x, (title, tile) in enumerate(zip(TITLES, tiles, strict=True)):
            place = x * (width + GAP), y * whole + LINE
            draw.text(place, title, fill="black", font_size=FONT)
            picture.paste(tile, (place[0], place[1] + LINE))
    return as_png(picture)


def _tiles(model: Described, image: str, photograph: Path, pair: Described | None) -> list[Image.Image]:
    smoothness, similarity, norms = (model.maps[f"{image}/{what}"] for what in ("smoothness", "similarity", "norms"))
    rows, columns = smoothness.shape
    pixels = pixels_for(rows, columns)
    similar = enlarged(cosine_picture(similarity), pixels)
    _frame(similar, row_of(model.figures["photographs"], image)["reference"], pixels, ["black", "white"])
    return [
        photograph_picture(photograph, rows, columns, pixels),
        enlarged(colours_of(model, image, pair), pixels),
        enlarged(cosine_picture(smoothness), pixels),
        similar,
        norm_picture(norms, model.figures["high_norm"], pixels),
    ]


def _frame(picture: Image.Image, patch: Sequence[int], pixels: int, colours: Sequence[str]) -> None:
    """Draw frames around a patch, the first colour outermost; outside of a small patch, so that its colour is seen."""
    row, column = patch
    beyond = len(colours) if pixels < 6 else 0
    width = max(1, pixels // 12)
    draw = ImageDraw.Draw(picture)
    for i, colour in enumerate(colours):
        less = i * width - beyond
        left, top = column * pixels + less, row * pixels + less
        right, bottom = (column + 1) * pixels - 1 - less, (row + 1) * pixels - 1 - less
        draw.rectangle((left, top, right, bottom), outline=colour, width=width)


def norm_chart(rows: Sequence[Mapping[str, Any]], high: float) -> bytes:
    """How far the largest norm is above the median, layer by layer, one line for each photograph, as a PNG.

    `rows` are those of `norms` in the figures of a model. A dashed line is at `high` medians.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 2.4), layout="constrained")
        axes = figure.subplots()
        for image in dict.fromkeys(row["image"] for row in rows):
            own = [row for row in rows if row["image"] == image]
            ratios = [math.nan if row["ratio"] is None else row["ratio"] for row in own]
            axes.plot([row["layer"] for row in own], ratios, ".-", color="#1f6fb2", lw=1.2, ms=5, alpha=0.7)
        axes.axhline(high, color=LIMIT_COLOUR, lw=1.2, ls="--")
        if max((row["ratio"] or 0 for row in rows), default=0) > 5 * high:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("layer")
        axes.set_ylabel("largest norm / median")
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=100)
    return file.getvalue()
