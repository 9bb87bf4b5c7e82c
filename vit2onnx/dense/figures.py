"""Figures on one map of patch features, and on two of one grid. Needs numpy and scipy only.

All are computed in float64. A question without an answer, such as the smoothness of a single patch, gives NaN, because
zero would be an answer.
"""

import math

import numpy as np
import scipy

from vit2onnx.errors import InputError

Array = np.ndarray

# If 1 - chance is smaller, more than a thousandth of the contrast is rounding, as in a map of equal patches that single
# precision has rounded.
ALIKE = 1e-12
# If all frequencies but the mean have a smaller share of the energy, they are rounding, which would look like noise.
CONSTANT = 1e-20
# Rows of a Gram matrix that are in memory at a time, and the most that there are. The early stages of a convolutional
# network have so fine grids that all pairs would take an hour.
BLOCK, MOST_COMPARED = 512, 4096

NOT_FINITE = (
    "These features hold values that are not finite; compute them once more, in float32 if they were in a smaller"
    " precision."
)


def unit(features: Array) -> Array:
    """Features [..., D] as float64 vectors of length one; zero vectors stay zero.

    Raises `InputError` if one is not finite, or too long for its length to be a number.
    """
    wide = np.asarray(features, np.float64)
    with np.errstate(over="ignore"):
        norms = np.linalg.norm(wide, axis=-1, keepdims=True)
    if not np.isfinite(norms).all():
        raise InputError(NOT_FINITE)
    normed: Array = wide / np.where(norms == 0, 1, norms)
    return normed


def checked(grid: Array) -> Array:
    """A map of patches [h, w, D] as float64. Raises `InputError` if it is none, or not finite."""
    if grid.ndim != 3 or not grid.size:
        raise InputError(
            f"A map of patches must be rows x columns x channels and is {_shape(grid.shape)}; give the patch tokens"
            " of one image, without prefix and in the shape of its grid."
        )
    wide = np.asarray(grid, np.float64)
    if not np.isfinite(wide).all():
        raise InputError(NOT_FINITE)
    return wide


def check_grids(a: Array, b: Array) -> None:
    """Raise `InputError` unless two maps [h, w, ...] have the same rows and columns."""
    if a.shape[:2] != b.shape[:2]:
        raise InputError(
            f"Maps of {_shape(a.shape[:2])} and {_shape(b.shape[:2])} patches cannot be compared; resize the images so"
            " that both models have the same grid."
        )


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a single number"


def smoothness_map(grid: Array) -> Array:
    """How alike each patch of a map [h, w, D] is to its neighbours: their mean cosine, [h, w].

    Neighbours are those above, below, left and right that exist: two in a corner, three at an edge. A map of one patch
    gives NaN.
    """
    beside, below = _neighbours(unit(checked(grid)))
    total, count = np.zeros(grid.shape[:2]), np.zeros(grid.shape[:2])
    for cosines, first, second in (
        (beside, np.s_[:, :-1], np.s_[:, 1:]),
        (below, np.s_[:-1], np.s_[1:]),
    ):
        for one in (first, second):
            total[one] += cosines
            count[one] += 1
    means: Array = np.where(count == 0, np.nan, total / np.maximum(count, 1))
    return means


def smoothness(grid: Array) -> float:
    """The mean cosine of all pairs of neighbours in a map [h, w, D], each pair once; NaN for a map of one patch."""
    return _smoothness(unit(checked(grid)))


def chance(grid: Array) -> float:
    """The mean cosine of any two different patches of a map [h, w, D]; NaN for a map of one patch.

    Features that share a direction are smooth wherever their patches are. This is the smoothness that is expected of
    the same patches in any order.
    """
    return _chance(unit(checked(grid)))


def contrast(grid: Array) -> float:
    """Smoothness of a map [h, w, D] beyond chance: 0 for patches in any order, 1 for neighbours that are equal.

    NaN if all patches have one direction, and for a map of one patch.
    """
    units = unit(checked(grid))
    return _contrast(_smoothness(units), _chance(units))


def high_frequency(grid: Array) -> float:
    """The share of a map's energy that is at high spatial frequencies, 0 to 1.

    Every channel of [h, w, D] is taken apart by an orthonormal discrete cosine transform (DCT-II) over rows and
    columns, which has no seam at the borders. Frequency (i, j) is high if (i/h)^2 + (j/w)^2 > 1/4; the mean, frequency
    (0, 0), is left out. An orthogonal change of channels changes nothing. NaN for a constant map.
    """
    wide = checked(grid)
    energy = np.square(scipy.fft.dctn(wide, axes=(0, 1), norm="ortho")).sum(axis=-1)
    everything = energy.sum()
    energy[0, 0] = 0
    varying = energy.sum()
    if varying <= CONSTANT * everything:
        return math.nan
    rows, columns = (np.arange(side) / side for side in energy.shape)
    return float(energy[np.add.outer(rows**2, columns**2) > 0.25].sum() / varying)


def figures_of(grid: Array) -> dict[str, float]:
    """`smoothness`, `chance`, `contrast` and `high_frequency` of a map [h, w, D], NaN where undefined."""
    units = unit(checked(grid))
    smooth, expected = _smoothness(units), _chance(units)
    return {
        "smoothness": smooth,
        "chance": expected,
        "contrast": _contrast(smooth, expected),
        "high_frequency": high_frequency(grid),
    }


def gram_distance(a: Array, b: Array) -> tuple[float, float]:
    """How far the cosines of all pairs of patches are apart in two maps [h, w, D] and [h, w, E]: mean square and max.

    Both Gram matrices are compared element by element, in blocks of rows. Of more than 4096 patches, those of every
    second row and column count, or of every third, and so on. Source: the Gram loss of DINOv3, for one image. Raises
    `InputError` if the grids differ.
    """
    a, b = checked(a), checked(b)
    check_grids(a, b)
    step = math.ceil(math.sqrt(a[..., 0].size / MOST_COMPARED))
    u, v = (unit(grid[::step, ::step]).reshape(-1, grid.shape[-1]) for grid in (a, b))
    total, largest = 0.0, 0.0
    for start in range(0, len(u), BLOCK):
        rows = np.s_[start : start + BLOCK]
        # PARITY: not by the products of channels, U^T V and so on, which cancel to 1e-16 of their size.
        difference = u[rows] @ u.T - v[rows] @ v.T
        largest = max(largest, float(np.abs(difference).max()))
        total += float(np.square(difference, out=difference).sum())
    return total / len(u) ** 2, largest


def high_norms(norms: Array, times: float = 4.0) -> Array:
    """Which of the norms [h, w] of patches are more than `times` the median: bool [h, w].

    Take norms before the final norm of a model, because it makes all of them alike. Raises `InputError` if one is not
    finite.
    """
    if not norms.size or not np.isfinite(norms).all():
        raise InputError("These norms are none or not finite; compute the features once more.")
    high: Array = norms > times * np.median(norms)
    return high


def _neighbours(units: Array) -> tuple[Array, Array]:
    """The cosines of neighbours side by side [h, w - 1], and one above the other [h - 1, w]."""
    return (
        np.einsum("ijd,ijd->ij", units[:, :-1], units[:, 1:]),
        np.einsum("ijd,ijd->ij", units[:-1], units[1:]),
    )


def _smoothness(units: Array) -> float:
    beside, below = _neighbours(units)
    pairs = beside.size + below.size
    return float((beside.sum() + below.sum()) / pairs) if pairs else math.nan


def _chance(units: Array) -> float:
    rows = units.reshape(-1, units.shape[-1])
    if len(rows) < 2:
        return math.nan
    total = rows.sum(axis=0)
    # Less the cosines of patches with themselves, which are not all one if there are zero vectors.
    return float((total @ total - np.square(rows).sum()) / (len(rows) * (len(rows) - 1)))


def _contrast(smooth: float, expected: float) -> float:
    return (smooth - expected) / (1 - expected) if 1 - expected > ALIKE else math.nan
