"""Whether what people do with features comes out the same: retrieval, nearest neighbours, matching and PCA.

Similarity is the cosine, in float64. A rank that changes between two files says little by itself, because neighbours
that are all but equally near change places by rounding. So each figure on ranks comes with its margin: the gap
between the two cosines in the truth. A margin of the size of rounding is a tie.

A few photographs have few neighbours, so regions and patches are queries, too, and for whole images the same photograph
at other sizes is in the gallery. That reveals whether features order things as before; whether they order them well
takes labelled data and official weights.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypeVar

import numpy as np
import scipy

from vit2onnx.spec.case import GOLDEN, Case
from vit2onnx.spec.interface import Interface

# Bounds on cost, whatever the number and size of images: samples are taken at even distances.
MAX_IMAGES, MAX_PATCHES, MAX_DESCRIPTORS, MAX_PAIRS = 64, 2048, 2048, 16

NEIGHBOURS = 10
# The outputs by which texts are ranked for an image, and images for a text.
EMBEDDINGS = ("image_embeds", "text_embeds")
# Three are what is shown as colours, sixteen a common compression.
COMPONENTS = (3, 16)
# An image has so many regions either way.
GRID = 4

Array = np.ndarray
Item = TypeVar("Item")


@dataclass(frozen=True)
class View:
    """What is looked at in the outputs of one implementation; rows have unit length, as float64.

    `wholes` has one vector for every case, by what it is. `patches` is `None` where no output has patches. `fits` has
    the similarities [images, texts] of every case, where images and texts are compared.
    """

    tokens: Mapping[Case, Array]
    wholes: Mapping[str, Array]
    patches: "Patches | None"
    fits: Sequence[Array]


@dataclass(frozen=True)
class Patches:
    """What is looked at in patches: those of every image at the size with the most of them."""

    # Means of regions, and the image that each belongs to.
    regions: Array
    region_images: Array
    rows: Array
    row_images: Array
    # Of these rows, before they have unit length: as shares of their norm, and centred.
    singular_values: Array
    components: Array


def common_size(cases: Sequence[Case]) -> tuple[int, int] | None:
    """The largest size at which every image is there; the published one, which has one size only, does not count."""
    images: dict[tuple[int, int], set[str]] = {}
    for case in [case for case in cases if case != GOLDEN] or cases:
        images.setdefault((case.height, case.width), set()).add(case.name)
    most = max(map(len, images.values()), default=0)
    shared = [size for size, names in images.items() if len(names) == most]
    return max(shared, key=lambda size: (size[0] * size[1], size), default=None)


def view(features: Mapping[Case, Mapping[str, Array]], interface: Interface) -> View | None:
    """Prepare outputs by case; `None` if there are none or one is not a finite number."""
    size = common_size(list(features))
    if size is None or not all(np.isfinite(x).all() for outputs in features.values() for x in outputs.values()):
        return None
    every = _sample(sorted(features), MAX_DESCRIPTORS)
    (first, *_), found = interface.compared, interface.patches
    if {port.name for port in interface.outputs} >= set(EMBEDDINGS):
        images, texts = ([_unit(outputs[name]) for outputs in features.values()] for name in EMBEDDINGS)
        return View({}, {}, None, [a @ b.T for a, b in zip(images, texts, strict=True)])
    tokens = {case: outputs[first.name] for case, outputs in features.items()}
    name, vectors = _wholes(features, interface)
    wholes = {name: _unit(np.stack([vectors[case] for case in every]))}
    if found is None:
        return View(tokens, wholes, None, [])
    start = found[1].start
    means = [tokens[case][start:].mean(axis=0, dtype=np.float64) for case in every]
    wholes[f"{found[1].name}_mean"] = _unit(np.stack(means))
    chosen = _sample([case for case in sorted(features) if (case.height, case.width) == size], MAX_IMAGES)
    return View(tokens, wholes, _patches({case: tokens[case][start:] for case in chosen}, interface), [])


def _wholes(features: Mapping[Case, Mapping[str, Array]], interface: Interface) -> tuple[str, Mapping[Case, Array]]:
    """The vector that stands for a whole case, and the name of its group: the pooled output, or a row of another."""
    port, row = interface.pooled
    if row is None:
        return port.groups[0].name, {case: outputs[port.name] for case, outputs in features.items()}
    group = next(group.name for group in port.groups if group.start == row)
    return group, {case: outputs[port.name][row] for case, outputs in features.items()}


def _patches(images: Mapping[Case, Array], interface: Interface) -> Patches:
    """What is looked at in the patches [patches, embed_dim] of images of one size."""
    regions, region_images, patches, patch_images = [], [], [], []
    for number, (case, rows) in enumerate(images.items()):
        own, sizes = rows.astype(np.float64), interface.sizes(case)
        height, width = sizes["grid_height"], sizes["grid_width"]
        grid = own.reshape(height, width, -1)
        blocks = [
            block
            for rows in np.array_split(grid, min(GRID, height), axis=0)
            for block in np.array_split(rows, min(GRID, width), axis=1)
        ]
        regions += [block.mean(axis=(0, 1)) for block in blocks]
        region_images += [number] * len(blocks)
        taken = _sample(range(len(own)), MAX_PATCHES // len(images))
        patches.append(own[list(taken)])
        patch_images += [number] * len(taken)
    pooled = np.concatenate(patches)
    values, components = principal_components(pooled, max(COMPONENTS) + 1)
    return Patches(
        regions=_unit(np.stack(regions)),
        region_images=np.array(region_images),
        rows=_unit(pooled),
        row_images=np.array(patch_images),
        singular_values=values / (np.linalg.norm(pooled) or 1),
        components=components,
    )


def principal_components(rows: Array, count: int) -> tuple[Array, Array]:
    """The largest singular values and their directions [count, embed_dim], of rows [n, embed_dim] less their mean."""
    centred = rows - rows.mean(axis=0)
    # Not by a singular value decomposition, which takes many times as long. Squares lose components below 1e-8 of the
    # first.
    is_wide = len(centred) < centred.shape[1]
    gram = centred @ centred.T if is_wide else centred.T @ centred
    count = min(count, len(gram))
    squares, vectors = scipy.linalg.eigh(gram, subset_by_index=(len(gram) - count, len(gram) - 1))
    values, vectors = np.sqrt(np.clip(squares[::-1], 0, None)), vectors.T[::-1]
    if is_wide:
        vectors = vectors @ centred / np.where(values == 0, 1, values)[:, None]
    return values, vectors


def compare_semantics(subject: str, other: str, ours: View | None, theirs: View | None, **where: Any) -> dict[str, Any]:
    """All figures on two implementations' features of the same cases; `theirs` is the truth.

    A question that has no answer, such as the neighbours of a single patch, is left out. `finite` is false, and all are
    left out, where features are missing or no finite numbers.
    """
    row = {"subject": subject, "other": other, **where, "finite": ours is not None and theirs is not None}
    if ours is None or theirs is None:
        return row | {"neighbours": [], "matches": None, "subspaces": [], "worst_token": None}
    asked = {name: (ours.wholes[name], whole, np.arange(len(whole))) for name, whole in theirs.wholes.items()}
    a, b = ours.patches, theirs.patches
    if a and b:
        asked["regions"] = a.regions, b.regions, b.region_images
        asked["patches"] = a.rows, b.rows, b.row_images
    neighbours = []
    for what, (mine, true, images) in asked.items():
        # With one image, its other patches are all there is to look among.
        groups = images if len(set(images.tolist())) > 1 else np.arange(len(images))
        found = rank_changes(mine @ mine.T, true @ true.T, NEIGHBOURS, excluded=groups[:, None] == groups)
        neighbours += [{"what": what} | found] if found else []
    for mine, true in zip(ours.fits, theirs.fits, strict=True):
        for what, turned in (("texts_of_image", False), ("images_of_text", True)):
            found = rank_changes(mine.T if turned else mine, true.T if turned else true, NEIGHBOURS)
            neighbours += [{"what": what} | found] if found else []
    return row | {
        "neighbours": neighbours,
        "matches": match_changes(a, b) if a and b else None,
        "subspaces": [angle for k in COMPONENTS if (angle := subspace_angle(a, b, k))] if a and b else [],
        "worst_token": worst_token(ours.tokens, theirs.tokens) if theirs.tokens else None,
    }


def rank_changes(ours: Array, theirs: Array, k: int, excluded: Array | None = None) -> dict[str, Any] | None:
    """How the `k` nearest of a gallery change between two arrays of similarities [queries, gallery].

    `top_1` and `top_k` are the shares of nearest neighbours that are still among them, where what is exactly as near
    is as good; `swapped` is the share of queries with two of them in another order. `margin` is the largest difference
    of the similarities in the truth whose sign has changed, `change` the largest change of any similarity, and `gap`
    and `closest` the median and the least difference between a query's first and second neighbour in the truth.
    `None` if the gallery has fewer than two.
    """
    if excluded is not None:
        ours, theirs = (np.where(excluded, -np.inf, x) for x in (ours, theirs))
    gallery = int(np.isfinite(theirs).sum(axis=1).min(initial=theirs.shape[1])) if theirs.size else 0
    if gallery < 2:
        return None
    k = min(k, gallery)
    nearest_ours, nearest_theirs = _nearest(ours, k), _nearest(theirs, max(k, 2))
    before = np.take_along_axis(theirs, nearest_theirs, axis=1)
    kept = np.take_along_axis(theirs, nearest_ours, axis=1) >= before[:, k - 1 : k]
    # Any two of those that are near in either.
    near = np.concatenate([nearest_ours, nearest_theirs[:, :k]], axis=1)
    a, b = (np.take_along_axis(x, near, axis=1) for x in (ours, theirs))
    lead = b[:, :, None] - b[:, None, :]
    swaps = (lead > 0) & (a[:, :, None] < a[:, None, :])
    return {
        "queries": len(theirs),
        "gallery": gallery,
        "k": k,
        "top_1": float(np.mean(np.take_along_axis(theirs, nearest_ours[:, :1], axis=1) >= before[:, :1])),
        "top_k": float(kept.mean()),
        "swapped": float(swaps.any(axis=(1, 2)).mean()),
        "margin": float(lead[swaps].max(initial=0.0)),
        "change": float(np.abs(a - b).max()),
        "gap": float(np.median(before[:, 0] - before[:, 1])),
        "closest": float((before[:, 0] - before[:, 1]).min()),
    }


def match_changes(ours: Patches, theirs: Patches) -> dict[str, Any] | None:
    """Whether the patches of pairs of images find the same match in the other, and whether it is mutual.

    `mutual` counts the pairs of patches in the truth that are each other's nearest, `mutual_agreement` is how
    many of those in either are in both. `None` if there is one image.
    """
    images = sorted(set(theirs.row_images.tolist()))
    found, both, either, mutual = [], 0, 0, 0
    for first, second in _sample(list(combinations(images, 2)), MAX_PAIRS):
        one, two = theirs.row_images == first, theirs.row_images == second
        a, b = (x.rows[one] @ x.rows[two].T for x in (ours, theirs))
        found += [changes for x, y in ((a, b), (a.T, b.T)) if (changes := rank_changes(x, y, 1))]
        pairs_ours, pairs_theirs = _mutual(a), _mutual(b)
        mutual += len(pairs_theirs)
        both += len(pairs_ours & pairs_theirs)
        either += len(pairs_ours | pairs_theirs)
    if not found:
        return None
    queries = sum(changes["queries"] for changes in found)
    return {
        "pairs_of_images": len(found) // 2,
        "queries": queries,
        "agreement": sum(changes["top_1"] * changes["queries"] for changes in found) / queries,
        "margin": max(changes["margin"] for changes in found),
        "mutual": mutual,
        "mutual_agreement": both / either if either else 1.0,
    }


def subspace_angle(ours: Patches, theirs: Patches, k: int) -> dict[str, Any] | None:
    """The largest principal angle, in degrees, between the spaces of the first `k` principal components.

    `gap` is by how much the last of them stands out from the next, as a share of the norm of all patches: without a gap
    the space is not defined, and any noise turns it. `None` if there are no more than `k` components.
    """
    values = theirs.singular_values
    # What is centred has one dimension less than it has rows.
    if len(theirs.rows) <= k + 1 or len(values) <= k or values[k] <= 1e-7 * values[0]:
        return None
    a, b = ours.components[:k].T, theirs.components[:k].T
    # By its sine, because the cosine of a small angle is one: 1e-8 is the least that it could tell.
    inside = b.T @ a
    sine = np.linalg.norm(a - b @ inside, ord=2)
    cosine = np.linalg.svd(inside, compute_uv=False).min()
    angle = np.degrees(np.arctan2(sine, cosine))
    return {"components": k, "degrees": float(angle), "gap": float(values[k - 1] - values[k])}


def worst_token(ours: Mapping[Case, Array], theirs: Mapping[Case, Array]) -> dict[str, Any]:
    """The token that has turned most, over all cases: the angle in degrees and one minus the cosine."""
    worst: dict[str, Any] = {"degrees": -1.0}
    for case in sorted(ours):
        chord = np.linalg.norm(_unit(ours[case]) - _unit(theirs[case]), axis=1)
        token = int(chord.argmax())
        # Not through the cosine, which loses half of the digits.
        degrees = float(np.degrees(2 * np.arcsin(min(1.0, chord[token] / 2))))
        if degrees > worst["degrees"]:
            worst = {"degrees": degrees, "distance": float(chord[token] ** 2 / 2), **case.columns, "token": token}
    return worst


def _unit(vectors: Array) -> Array:
    wide = vectors.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    unit: Array = wide / np.where(norms == 0, 1, norms)
    return unit


def _nearest(similarities: Array, k: int) -> Array:
    """Indices [queries, k], nearest first."""
    among = np.argpartition(-similarities, k - 1, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(similarities, among, axis=1), axis=1, kind="stable")
    return np.take_along_axis(among, order, axis=1)


def _mutual(similarities: Array) -> set[tuple[int, int]]:
    forth, back = similarities.argmax(axis=1), similarities.argmax(axis=0)
    return {(i, int(j)) for i, j in enumerate(forth) if back[j] == i}


def _sample(items: Sequence[Item], most: int) -> list[Item]:
    """All, or so many at even distances."""
    if len(items) <= most:
        return list(items)
    return [items[len(items) * i // most] for i in range(most)]
