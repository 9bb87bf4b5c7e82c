"""How well descriptors of whole images find other images of the same label, and how much the background counts."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from PIL import Image

from vit2onnx.dense.components import fit, scores
from vit2onnx.dense.figures import unit
from vit2onnx.dense.foreground import foreground, split
from vit2onnx.errors import InputError

# Squares of singular values below this share of the largest are rounding, and their directions are random.
ROUNDING = 1e-12
# Similarities are rounded to this many decimals. Otherwise the last bit would order images that are equally similar.
DECIMALS = 12


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """An RGB image, with the mask of its object, bool [height, width], and its background where these are known."""

    name: str
    label: str
    image: Image.Image
    mask: np.ndarray | None = None
    background: str | None = None


@dataclass(frozen=True, eq=False)
class _Image:
    """What is kept of an image. `means` has its descriptors but for the suppressed one, by name."""

    label: str
    background: str | None
    means: dict[str, np.ndarray]


class Gallery:
    """Images of one model, each of which is a query to all others.

    Images are added one by one. Of each, a few vectors are kept, and of all together one D x D matrix.
    """

    def __init__(self) -> None:
        self._images: list[_Image] = []
        # The sum of the outer products of all border patches.
        self._border = np.zeros((0, 0))

    def add(
        self,
        label: str,
        pooled: np.ndarray,
        patches: np.ndarray,
        mask: np.ndarray | None = None,
        background: str | None = None,
    ) -> None:
        """Add an image: its pooled features [C], its patches [rows, columns, D], and its mask and background if known.

        `mask` is bool [rows, columns], true on the object. Grids may differ between images. Raises `InputError` if
        features are not finite or of another width than those before, or if a mask is empty or of another grid.
        """
        name = f"Image {len(self._images) + 1}, {label},"
        if not (np.isfinite(pooled).all() and np.isfinite(patches).all()):
            raise InputError(f"{name} has features that are not finite; use intact weights.")
        u = unit(patches)
        means = {"pooled": unit(pooled), "mean": u.mean((0, 1)), "automatic": u[_automatic(patches)].mean(0)}
        if mask is not None:
            if mask.shape != u.shape[:2]:
                given, wanted = (" x ".join(map(str, shape)) for shape in (mask.shape, u.shape[:2]))
                raise InputError(f"{name} has a mask of {given} for {wanted} patches; give one of that grid.")
            if not mask.any():
                raise InputError(
                    f"{name} has a mask without any patch; use a finer grid, or mark more than half a patch in white."
                )
            means["masked"] = u[np.asarray(mask, bool)].mean(0)
        for key, value in self._images[0].means.items() if self._images else ():
            if key in means and means[key].shape != value.shape:
                raise InputError(
                    f"{name} has {len(means[key])} channels and not {len(value)} as those before; give images of one"
                    " model."
                )
        self._add_border(u)
        self._images.append(_Image(label, background, means))

    def _add_border(self, u: np.ndarray) -> None:
        # ASSUME: the outer ring of patches is background. Objects that reach the border are suppressed too.
        ring = np.ones(u.shape[:2], bool)
        ring[1:-1, 1:-1] = False
        # Not centred, because what all backgrounds share would then stay in every descriptor.
        outer = u[ring].T @ u[ring]
        self._border = self._border + outer if self._border.size else outer

    def result(self, suppress: int = 4) -> dict[str, Any]:
        """The figures of every descriptor: `images`, `queries`, `labels`, `suppress`, `chance` and `rows`.

        Descriptors are the pooled features (`pooled`), the mean of all patches (`mean`), the same without the first
        `suppress` directions of the border (`suppressed`), the mean of the automatic foreground (`automatic`), and the
        mean in the masks (`masked`) if all images have one. Patches count with length one. Similarity is the cosine;
        images that are equally similar stay in the order in which they were added.

        A row has the shares of queries that find their label among the first one and five images, `r1` and `r5`, and
        the mean average precision, `map`. `background_map` is the same with the background as label, or `None` if
        some background is unknown or none occurs twice. `chance` is the expectation of `map` for a random order. An
        image that is alone with its label is found by others and is no query itself; `queries` counts the rest.

        Raises `InputError` if there are fewer than two labels, or no query, or if `suppress` is not in 0 … D - 1.
        """
        labels = [image.label for image in self._images]
        if len(set(labels)) < 2:
            raise InputError(f"Retrieval needs images of two labels, and here are {len(set(labels))}; add another.")
        queries = sum(count for count in Counter(labels).values() if count > 1)
        if not queries:
            raise InputError("No label has two images, so none can be found; add a second image of some label.")
        backgrounds = [image.background for image in self._images if image.background is not None]
        has_backgrounds = len(backgrounds) == len(labels) > len(set(backgrounds))
        rows = [
            {
                "descriptor": name,
                **_figures(descriptors, labels),
                "background_map": _figures(descriptors, backgrounds)["map"] if has_backgrounds else None,
            }
            for name, descriptors in self._descriptors(suppress).items()
        ]
        return {
            "images": len(labels),
            "queries": queries,
            "labels": sorted(set(labels)),
            "suppress": suppress,
            "chance": chance(labels),
            "rows": rows,
        }

    def _descriptors(self, suppress: int) -> dict[str, np.ndarray]:
        """The descriptors [images, D] of length one by name."""
        found = {}
        for name in ("pooled", "mean", "automatic", "masked"):
            if all(name in image.means for image in self._images):
                found[name] = np.stack([image.means[name] for image in self._images])
            if name == "mean":
                directions = self._directions(suppress)
                found["suppressed"] = found["mean"] - found["mean"] @ directions @ directions.T
        return {name: unit(value) for name, value in found.items()}

    def _directions(self, count: int) -> np.ndarray:
        """The first right singular vectors of the border patches of all images, [D, count].

        They are fewer where these patches span fewer dimensions.
        """
        width = len(self._border)
        if not 0 <= count < width:
            raise InputError(
                f"{count} of {width} directions cannot be suppressed; set suppress to a number from 0 to {width - 1}."
            )
        if not count:
            return np.zeros((width, 0))
        squares, vectors = scipy.linalg.eigh(self._border, subset_by_index=[width - count, width - 1])
        kept: np.ndarray = vectors[:, squares > ROUNDING * squares[-1]]
        return kept


def chance(labels: Sequence[str]) -> float:
    """The expectation of the mean average precision if every query finds the other images in random order. Exact.

    With n other images of which r have the label, the image at rank k has it with probability r / n. Then r - 1 of the
    n - 1 others have it, so the expected precision at k is (1 + (k - 1)(r - 1)/(n - 1)) / k. The sum of the products
    over k, divided by r, is (H + (n - H)(r - 1)/(n - 1)) / n, where H is the sum of 1/k. NaN if no label occurs twice.
    """
    n = len(labels) - 1
    _, ids, counts = np.unique(labels, return_inverse=True, return_counts=True)
    r = counts[ids][counts[ids] > 1] - 1
    harmonic = (1 / np.arange(1, n + 1)).sum()
    return float(np.mean((harmonic + (n - harmonic) * (r - 1) / max(n - 1, 1)) / n)) if r.size else math.nan


def _automatic(patches: np.ndarray) -> np.ndarray:
    """The foreground by the image's own first component; the whole image where that finds none."""
    everything = np.ones(patches.shape[:2], bool)
    if everything.size < 2:
        return everything
    first = scores(fit([patches], count=1), patches)[..., 0]
    found = foreground(first, split(first))
    return found if found.any() else everything


def _figures(descriptors: np.ndarray, labels: Sequence[str]) -> dict[str, float]:
    """`r1`, `r5` and `map` of descriptors [images, D] of length one, over the queries among the images."""
    ids = np.unique(labels, return_inverse=True)[1]
    rows = []
    for query in np.flatnonzero(np.bincount(ids)[ids] > 1):
        similarity = np.round(descriptors @ descriptors[query], DECIMALS)
        order = np.argsort(-similarity, kind="stable")
        hits = ids[order[order != query]] == ids[query]
        precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        rows.append((hits[:1].any(), hits[:5].any(), precision[hits].mean()))
    return dict(zip(("r1", "r5", "map"), np.mean(rows, axis=0).tolist(), strict=True))
