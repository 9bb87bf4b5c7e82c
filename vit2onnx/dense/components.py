"""Principal components of patches, the colours that show them, and whether two models show the same. numpy and scipy.

One basis serves all implementations of a model: it is fitted once, to the features of the reference, so the signs and
the order of components cannot differ between implementations.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from vit2onnx.dense.figures import check_grids, checked
from vit2onnx.errors import InputError

Array = np.ndarray

# A basis is fitted to so many patches at most, which bounds its cost.
MOST_FITTED = 4096
# Eigenvalues with a smaller relative gap let rounding turn their components into each other.
SMALL_GAP = 0.05
# Variances below this are rounding: as a share of the largest one, and of the mean square length of patches.
ROUNDING, CONSTANT = 1e-13, 1e-20
# Loadings that differ by less than this share of the largest count as equal to it.
TIE = 1e-6


@dataclass(frozen=True)
class Basis:
    """Principal components of patches of D channels, largest variance first.

    mean: [D].
    components: [k, D], orthonormal; the largest loading of each is positive.
    deviations: [k], standard deviation of the fitted patches along each.
    shares: [k], share of all variance.
    gaps: [k], by how much the next variance is smaller, as a share of this one.
    patches: how many were fitted; 0 if unknown.

    A component that does not exist, because patches vary along fewer directions, is a zero vector with deviation 1,
    share 0 and gap 0.
    """

    mean: Array
    components: Array
    deviations: Array
    shares: Array
    gaps: Array
    patches: int = 0

    @property
    def turning(self) -> list[int]:
        """Components, counted from 1, that may mix with a neighbour: the gap between the two is below 0.05."""
        first = np.flatnonzero((self.gaps < SMALL_GAP) & (self.shares > 0)) + 1
        return [number for number in range(1, len(self.gaps) + 1) if number in first or number - 1 in first]


def fit(maps: Sequence[Array], masks: Sequence[Array] | None = None, count: int = 3) -> Basis:
    """The first `count` principal components of the patches of some maps [h, w, D].

    With `masks`, one bool [h, w] for each map, only patches inside are used. Of more than 4096 patches a sample is
    used, at even distances and from each map in proportion, so the order of maps does not matter. Raises `InputError`
    if there are fewer than two patches, if one is not finite, or if maps or masks do not fit together.
    """
    rows = _sampled([_inside(grid, mask) for grid, mask in _pairs(maps, masks)])
    if len(rows) < 2:
        raise InputError(
            f"Principal components need two patches and there are {len(rows)}; give more or larger photographs, or"
            " masks with more inside."
        )
    mean = rows.mean(axis=0)
    centred = rows - mean
    is_wide = len(centred) < centred.shape[1]
    # Not by a singular value decomposition, which takes many times as long.
    products = centred @ centred.T if is_wide else centred.T @ centred
    wanted = min(count + 1, len(products))
    values, vectors = scipy.linalg.eigh(products, subset_by_index=(len(products) - wanted, len(products) - 1))
    values, vectors = values[::-1], vectors.T[::-1]
    total = float(np.trace(products))
    least = max(ROUNDING * values[0], CONSTANT * float(np.square(rows).sum()))
    # One more than asked for, because the last gap needs the next value.
    values = np.pad(np.where(values > least, values, 0.0), (0, count + 1 - wanted))
    found = int(np.count_nonzero(values[:count]))
    components = np.zeros((count, rows.shape[1]))
    if found:
        real = vectors[:found] @ centred if is_wide else vectors[:found]
        components[:found] = _signed(real / np.linalg.norm(real, axis=1, keepdims=True))
    variances = np.where(values[:count] > 0, values[:count], 1.0)
    return Basis(
        mean=mean,
        components=components,
        deviations=np.where(values[:count] > 0, np.sqrt(variances / (len(rows) - 1)), 1.0),
        shares=values[:count] / (total or 1.0),
        gaps=(values[:count] - values[1:]) / variances,
        patches=len(rows),
    )


def scores(basis: Basis, grid: Array) -> Array:
    """A map [h, w, D] in a basis: [h, w, k], in standard deviations of the fitted patches from their mean."""
    wide = checked(grid)
    if wide.shape[-1] != len(basis.mean):
        raise InputError(
            f"This map has {wide.shape[-1]} channels and the basis {len(basis.mean)}; fit a basis to maps of the same"
            " model."
        )
    whitened: Array = (wide - basis.mean) @ basis.components.T / basis.deviations
    return whitened


def colours(scores: Array) -> Array:
    """The first three of scores [h, w, k] as red, green and blue in 0..1: sigmoid(2 z), so the mean is 0.5.

    The scale is fixed. Stretching it from the least to the largest would let one patch that stands out make all others
    alike.
    """
    shown: Array = scipy.special.expit(2 * scores[..., :3])
    return shown


def levels(colours: Array) -> Array:
    """Colours in 0..1 as 8-bit levels, uint8, rounded half to even."""
    return np.rint(255 * colours).astype(np.uint8)


def aligned(a: Sequence[Array], b: Sequence[Array]) -> tuple[Array, float]:
    """Turn the scores of one model to those of another: rotation R [k, k] with b @ R near a, and their agreement.

    `a` and `b` are the scores [h, w, k] of the same images, at equal grids. R is the orthogonal Procrustes solution for
    all images together; it may mirror. Agreement is (sum of singular values)^2 / (|a|^2 |b|^2): 1 if the maps are equal
    but for R and a scale, NaN if one is all zero. Raises `InputError` if grids or numbers of maps differ.
    """
    if len(a) != len(b) or not a:
        raise InputError(f"{len(a)} maps cannot be compared with {len(b)}; give both models the same images.")
    for one, other in zip(a, b, strict=True):
        check_grids(one, other)
    ours, theirs = (np.concatenate([checked(one).reshape(-1, one.shape[-1]) for one in maps]) for maps in (a, b))
    if ours.shape != theirs.shape:
        raise InputError(
            f"Scores of {ours.shape[1]} and {theirs.shape[1]} components cannot be compared; fit both bases with the"
            " same count."
        )
    rotation, common = scipy.linalg.orthogonal_procrustes(theirs, ours)
    squares = float(np.square(ours).sum() * np.square(theirs).sum())
    return rotation, float(common**2 / squares) if squares else math.nan


def _pairs(maps: Sequence[Array], masks: Sequence[Array] | None) -> list[tuple[Array, Array | None]]:
    if masks is None:
        return [(grid, None) for grid in maps]
    if len(masks) != len(maps):
        raise InputError(f"There are {len(maps)} maps and {len(masks)} masks; give one mask for each map.")
    return list(zip(maps, masks, strict=True))


def _inside(grid: Array, mask: Array | None) -> Array:
    """The patches [n, D] of a map that are inside its mask, in their own precision."""
    checked(grid)
    if mask is None:
        return grid.reshape(-1, grid.shape[-1])
    check_grids(grid, mask)
    return grid[mask.astype(bool)]


def _sampled(maps: Sequence[Array]) -> Array:
    """Patches of all maps [n, D], at most `MOST_FITTED` or one of each map, as float64 [m, D]."""
    widths = sorted({rows.shape[1] for rows in maps})
    if len(widths) > 1:
        raise InputError(f"Maps of {widths[0]} and {widths[1]} channels have no common basis; give maps of one model.")
    total = sum(map(len, maps))
    samples = [np.zeros((0, *widths))]
    for rows in maps:
        number = len(rows) if total <= MOST_FITTED else min(len(rows), max(1, len(rows) * MOST_FITTED // total))
        samples.append(rows[len(rows) * np.arange(number) // max(1, number)].astype(np.float64))
    return np.concatenate(samples)


def _signed(components: Array) -> Array:
    """The components, negated where need be: the largest loading is positive, the first one if several are equal."""
    sizes = np.abs(components)
    first = (sizes >= (1 - TIE) * sizes.max(axis=1, keepdims=True)).argmax(axis=1)
    signs = np.sign(np.take_along_axis(components, first[:, None], axis=1))
    signed: Array = components * signs
    return signed
