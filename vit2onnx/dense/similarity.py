"""How similar every patch of a map is to one of them, and bytes that keep this. Needs numpy and scipy only."""

import math

import numpy as np
import scipy

from vit2onnx.dense.figures import checked, unit
from vit2onnx.errors import InputError

Array = np.ndarray
# The point whose patch is compared with all others, unless another is set.
MIDDLE = (0.5, 0.5)


def patch_at(rows: int, columns: int, point: tuple[float, float]) -> tuple[int, int]:
    """Row and column of the patch at a point (y, x), given as fractions 0..1 of the image's height and width.

    Raises `InputError` if the point is outside of the image.
    """
    if not all(math.isfinite(part) and 0 <= part <= 1 for part in point):
        raise InputError(f"The point {tuple(point)} is outside of the image; give y and x as fractions from 0 to 1.")
    y, x = point
    return min(int(y * rows), rows - 1), min(int(x * columns), columns - 1)


def similarity_map(grid: Array, row: int, column: int) -> Array:
    """The cosine of every patch of a map [h, w, D] with the one at (row, column): [h, w], -1..1.

    It is 0 for patches that are zero. Raises `InputError` if there is no such patch.
    """
    rows, columns = grid.shape[:2]
    if not (0 <= row < rows and 0 <= column < columns):
        raise InputError(
            f"There is no patch at row {row}, column {column} of a map of {rows} x {columns}; counting begins at 0."
        )
    units = unit(checked(grid))
    cosines: Array = units @ units[row, column]
    return cosines


def quantised(grid: Array) -> Array:
    """A map [h, w, D] as int8 vectors [h, w, D] whose cosines are those of the map, to 3e-3 from 384 channels on.

    Every patch has a scale of its own. Channels are mixed by an orthogonal transform, the same for all maps of D
    channels, so cosines are the same and single channels are not. Zero vectors stay zero.
    """
    units = unit(checked(grid))
    # PARITY: mixed, because a channel that stands out would set the scale of its patch and leave few levels to others.
    # Signs before the cosine transform, which alone would make such a channel of features that share an offset. The
    # stream of this old generator is the same in every version of numpy.
    signs = 2 * np.random.RandomState(0).randint(0, 2, units.shape[-1]) - 1
    mixed = scipy.fft.dct(units * signs, norm="ortho")
    largest = np.abs(mixed).max(axis=-1, keepdims=True)
    return np.rint(mixed * (127 / np.where(largest == 0, 1, largest))).astype(np.int8)
