"""Which patches show the object: guessed from the first principal component, or taken from the user's mask.

Needs numpy, and Pillow to read masks. The guess is a heuristic, and a poor one for features that do not set the object
apart.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from vit2onnx.errors import InputError
from vit2onnx.images import FORMATS, load_image

Array = np.ndarray
# Levels between these are neither black nor white, and the share of a mask that may have them, as at soft edges.
LEAST_GREY, MOST_GREY, MOST_EDGES = 25, 230, 0.1

BINS = 256
# Lines of a mask that are in memory as float64 at a time.
BLOCK = 256


@dataclass(frozen=True)
class Split:
    """Where the foreground lies on the first component: above the threshold, or not above it."""

    threshold: float
    above: bool


def threshold(values: Array) -> float:
    """Otsu's threshold of values of any shape: the one that parts them into the two classes that differ most.

    The best of 255 thresholds at even distances, moved to the middle between the values on both sides of it, so
    rounding does not bring a value to the other side. Equal values are their own threshold, and none is above. Raises
    `InputError` if there are no values or one is not finite.
    """
    flat = np.sort(np.asarray(values, np.float64), axis=None)
    if not flat.size or not np.isfinite(flat).all():
        raise InputError("A threshold needs finite values; compute the features once more.")
    if flat[0] == flat[-1]:
        return float(flat[0])
    # How many values are below each of the thresholds that have some on both sides.
    below = np.searchsorted(flat, np.linspace(flat[0], flat[-1], BINS + 1)[1:-1])
    below = below[(below > 0) & (below < flat.size)]
    # The variance between classes, but for a factor, of values less their mean.
    between = np.cumsum(flat - flat.mean())[below - 1] ** 2 / (below * (flat.size - below))
    best = below[between.argmax()]
    return float((flat[best - 1] + flat[best]) / 2)


def split(first_component: Array) -> Split:
    """Part a component's scores [h, w] into object and background.

    The object is the side with fewer patches at the border of the image. If both have as many, it is the smaller side,
    and else the one above. So the sign of the component does not matter.
    """
    # ASSUME: an object is rather in the middle of a photograph than at its border.
    limit = threshold(first_component)
    high = first_component > limit
    border = np.ones(high.shape, bool)
    border[1:-1, 1:-1] = False

    def preference(side: Array) -> tuple[int, int]:
        return int(np.count_nonzero(side & border)), int(np.count_nonzero(side))

    return Split(limit, preference(high) <= preference(~high))


def foreground(first_component: Array, split: Split) -> Array:
    """Which patches [h, w] are on the object's side: bool."""
    high: Array = first_component > split.threshold
    return high if split.above else ~high


def from_mask(mask: Array, rows: int, columns: int) -> Array:
    """Which patches of a grid are more than half inside a mask [H, W]: bool [rows, columns].

    The mask is bool, or numbers 0..1 or 0..255; partly covered pixels count by their area, so H and W need be no
    multiples of rows and columns. Raises `InputError` if it is no such mask.
    """
    if mask.ndim != 2 or not mask.size or min(rows, columns) < 1:
        raise InputError(
            f"A mask of shape {' x '.join(map(str, mask.shape))} has no grid of {rows} x {columns} patches; give one"
            " channel, height x width."
        )
    if not np.isfinite(mask).all() or mask.min() < 0 or mask.max() > 255:
        raise InputError("A mask holds values other than 0 to 1 or 0 to 255; make the object white and the rest black.")
    white = 1 if mask.max() <= 1 else 255
    height, width = mask.shape
    # Whole numbers, so that a patch of which exactly half is inside does not depend on rounding.
    down, across = _overlaps(height, rows), _overlaps(width, columns)
    inside = np.zeros((rows, columns))
    for start in range(0, height, BLOCK):
        lines = np.s_[start : start + BLOCK]
        inside += down[:, lines] @ mask[lines].astype(np.float64) @ across.T
    found: Array = 2 * inside > white * height * width
    return found


def _overlaps(pixels: int, patches: int) -> Array:
    """How much of every pixel is in every patch [patches, pixels], in units of 1 / patches pixels."""
    starts, ends = (np.arange(patches) * pixels)[:, None], (np.arange(pixels) * patches)[None]
    common = np.minimum(starts + pixels, ends + patches) - np.maximum(starts, ends)
    return np.maximum(common, 0).astype(np.float64)


def read_mask(path: Path) -> Array:
    """Read a mask from an image file: bool [height, width].

    If a part of the picture is transparent, as in a cut-out, the mask is the rest. Otherwise it is the part that is
    nearer to white than to black; a picture of the levels 0 and 1 counts as black and white. Raises `InputError` if the
    file is no picture (`vit2onnx.images.load_image`), if more of it is grey than soft edges are, or if nothing is
    inside the mask.
    """
    # First, because it has the checks of files that are to be opened.
    grey = np.asarray(load_image(path).convert("L"))
    with Image.open(path, formats=[one for one in FORMATS if one in Image.OPEN]) as image:
        if image.has_transparency_data:
            alpha = np.asarray(image.convert("RGBA").getchannel("A"))
            # Not by less, because some programs save pictures as all but opaque.
            grey = alpha if alpha.min() < 128 else grey
    mask: Array = grey > (127 if grey.max() > 1 else 0)
    if not mask.any():
        raise InputError(f"{path}: nothing in this mask is white; make the object white and the rest black.")
    if grey.max() > 1 and np.mean((grey > LEAST_GREY) & (grey < MOST_GREY)) > MOST_EDGES:
        raise InputError(f"{path}: this is a picture and no mask; make the object white and the rest black.")
    return mask
