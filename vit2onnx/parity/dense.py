"""The dense maps of all implementations side by side, by figures and as pictures, measured and not judged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vit2onnx.dense.components import Basis, colours, fit, levels, scores
from vit2onnx.dense.figures import gram_distance, high_frequency, high_norms, smoothness, smoothness_map
from vit2onnx.dense.foreground import Split, foreground, split
from vit2onnx.dense.similarity import MIDDLE, patch_at, similarity_map
from vit2onnx.parity.comparison import Row
from vit2onnx.parity.dense_comparison import (
    IMPLEMENTATIONS,
    OF_COLOURS,
    OF_NORMS,
    PATCHES,
    REFERENCE,
    DenseComparison,
    keys_of,
)
from vit2onnx.parity.metrics import finite
from vit2onnx.spec.case import Case

Array = np.ndarray
# Arrays by `{dtype}/{case}/{map}`, read when they are asked for.
Features = Mapping[str, Array]

# A vector of the whole image, which is no map.
POOLED = "pooled"


def compare_dense(
    about: Mapping[str, str], cases: Sequence[str], implementations: Mapping[str, Features], high_norm: float = 4.0
) -> DenseComparison:
    """Compare the dense maps of some cases, all of one size, with those of the truth. Nothing is judged.

    `implementations` are those of `IMPLEMENTATIONS`, with features as runners write them, by `{dtype}/{case}/{map}`:
    grids [rows, columns, channels], and `norms.{layer}` [rows, columns]. The truth is the double precision of the
    reference, which says what maps there are. All are compared in single precision. `about` has variant, export and
    `graph_sha256`. A norm is high beyond `high_norm` times the median of its map.

    All colours are in one basis of principal components, fitted to the truth's patches of all cases, and the foreground
    of a case lies on that side of a threshold on which the truth's does. So no sign and no threshold can differ
    between implementations. What is missing, of another shape or not finite has figures that are `None`.
    """
    reference = implementations[REFERENCE]
    start = f"float64/{cases[0]}/"
    maps = [key.removeprefix(start) for key in reference if key.startswith(start) and key != f"{start}{POOLED}"]
    patches = [reference[f"float64/{case}/{PATCHES}"] for case in cases]
    basis = fit(patches) if all(np.isfinite(grid).all() for grid in patches) else None
    rows = []
    for case in cases:
        for name in maps:
            truth = reference[f"float64/{case}/{name}"]
            shown = _Shown.of(basis, truth) if basis and name == PATCHES else None
            for subject in IMPLEMENTATIONS:
                features, key = implementations[subject], f"float32/{case}/{name}"
                # Not by `get`, because an archive says that it lacks an array by an error of its own.
                ours = features[key] if key in features else None  # noqa: SIM401
                row = {"subject": subject, **Case.parse(case).columns, "map": name}
                row |= {"patches": truth.shape[0] * truth.shape[1]}
                rows.append(row | _figures(name, ours, truth, shown, high_norm))
    return DenseComparison(**about, cases=list(cases), maps=maps, rows=rows)


@dataclass(frozen=True)
class _Shown:
    """How the patches of a case are shown: all by the truth."""

    basis: Basis
    side: Split
    # Scores [rows, columns, 3] of the truth.
    truth: Array

    @classmethod
    def of(cls, basis: Basis, truth: Array) -> "_Shown":
        found = scores(basis, truth)
        return cls(basis, split(found[..., 0]), found)


def _figures(name: str, ours: Array | None, truth: Array, shown: _Shown | None, high_norm: float) -> Row:
    """The figures of one map of one case and implementation."""
    keys = keys_of(name)
    if ours is None or ours.shape != truth.shape or not (np.isfinite(ours).all() and np.isfinite(truth).all()):
        return dict.fromkeys(keys)
    if keys == OF_NORMS:
        return _of_norms(ours, truth, high_norm)
    of_colours = _of_colours(ours, shown) if shown else dict.fromkeys(OF_COLOURS)
    return _of_map(ours, truth) | (of_colours if name == PATCHES else {})


def _of_map(ours: Array, truth: Array) -> Row:
    rows, columns = truth.shape[:2]
    middle = patch_at(rows, columns, MIDDLE)
    mean_square, most = gram_distance(ours, truth)
    return {
        "smoothness": _apart(smoothness(ours), smoothness(truth)),
        "smoothness_map": _apart(smoothness_map(ours), smoothness_map(truth)),
        "high_frequency": _apart(high_frequency(ours), high_frequency(truth)),
        "similarity": _apart(similarity_map(ours, *middle), similarity_map(truth, *middle)),
        "gram": finite(most),
        "features": _apart(np.linalg.norm(ours - truth, axis=-1) / _lengths(truth), 0.0),
        "gram_mean_square": finite(mean_square),
    }


def _lengths(truth: Array) -> Array:
    """The lengths of patches [rows, columns]; 1 for those without any."""
    lengths = np.linalg.norm(truth, axis=-1)
    return np.where(lengths == 0, 1, lengths)


def _of_colours(ours: Array, shown: _Shown) -> Row:
    found, truth = scores(shown.basis, ours), shown.truth
    a, b = colours(found), colours(truth)
    ours_level, true_level = levels(a).astype(float), levels(b).astype(float)
    # The boundary between levels that lies between both, and is the last before ours.
    boundary = ours_level + np.where(ours_level < true_level, 0.5, -0.5)
    is_object, truly = foreground(found[..., 0], shown.side), foreground(truth[..., 0], shown.side)
    at_threshold = colours(np.full((1, 1, 3), shown.side.threshold))[0, 0, 0]
    return {
        "colours": _apart(a, b),
        **_counted("levels", ours_level != true_level, "level_margin", np.abs(b - boundary / 255)),
        # As a difference of colours, like all others that are judged by their limit.
        **_counted("mask", is_object != truly, "mask_margin", np.abs(b[..., 0] - at_threshold)),
    }


def _of_norms(ours: Array, truth: Array, high_norm: float) -> Row:
    """Differences as shares of the median."""
    differ = high_norms(ours, high_norm) != high_norms(truth, high_norm)
    median = np.median(truth) or 1.0
    return {
        "norms": _apart(ours / median, truth / median),
        **_counted("high_norms", differ, "norm_margin", np.abs(truth / median - high_norm)),
    }


def _apart(ours: Array | float, truth: Array | float) -> float | None:
    """The largest |difference|; none where the truth has no answer, such as the smoothness of a map of one patch."""
    ours, truth = np.asarray(ours), np.asarray(truth)
    return finite(np.abs(ours - truth)[np.isfinite(truth)].max(initial=0.0))


def _counted(key: str, differ: Array, margin: str, beyond: Array) -> Row:
    """How many differ, and how far the truth is from a tie at most where they do."""
    return {key: int(differ.sum()), margin: finite(beyond[differ].max(initial=0.0))}
