"""Figures and maps of a model's dense features, and of two models beside each other."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vit2onnx.dense.components import Basis, aligned, colours, fit, levels, scores
from vit2onnx.dense.figures import figures_of, gram_distance, high_norms, smoothness_map
from vit2onnx.dense.foreground import foreground, from_mask, read_mask, split
from vit2onnx.dense.similarity import MIDDLE, patch_at, quantised, similarity_map
from vit2onnx.errors import InputError
from vit2onnx.files import read_arrays, read_json
from vit2onnx.spec.case import Case

Array = np.ndarray
Arrays = Mapping[str, Array]
Plain = dict[str, Any]
# How many places of high norm are listed per photograph and layer.
MOST_PLACES = 16
# The figures of a map in which two models are compared, and what is kept of a basis.
COMPARED = ("smoothness", "chance", "contrast", "high_frequency")
BASIS = ("mean", "components", "deviations", "shares", "gaps")
# Lists of a row that have as many entries as there happen to be.
ANY_LENGTH = ("turning", "where")


@dataclass(frozen=True)
class Settings:
    """How maps are described, as `dense` in the config says.

    `basis` is `shared` by all photographs or of each `image`. `foreground` is `none`, `automatic` or `masks`, which are
    files by photograph. `references` are points (y, x) as shares of the image, by photograph.
    """

    basis: str = "shared"
    foreground: str = "none"
    masks: Mapping[str, Path] = field(default_factory=dict)
    references: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    high_norm: float = 4.0


@dataclass(frozen=True)
class Described:
    """Plain `figures`, for JSON, and `maps` by `{image}/{what}`."""

    figures: Plain
    maps: Arrays

    @classmethod
    def read(cls, figures: Path, maps: Path) -> "Described":
        """The description in two files."""
        return cls(read_json(figures), read_arrays(maps))


def describe(about: Plain, truth: Arrays, equinox: Arrays, cases: Sequence[str], settings: Settings) -> Described:
    """Describe the maps of photographs, all of one grid.

    `truth` has the features of the reference in double precision, `equinox` those of our model, also without registers,
    both as `dense.features` calls them, after their precision. `about` says which model it is.
    """
    maps = {case: truth[f"float64/{case}/patches"] for case in cases}
    masks = _masks(maps, settings)
    whole = fit(list(maps.values()), list(masks.values()) if masks else None)
    found: dict[str, Array] = {}
    photographs, layers, norms = [], [], []
    for case, grid in maps.items():
        image, mask = Case.parse(case).name, masks[case] if masks else None
        basis = whole if settings.basis == "shared" else fit([grid], [mask] if mask is not None else None)
        place = patch_at(grid.shape[0], grid.shape[1], settings.references.get(image, MIDDLE))
        shown = scores(basis, grid)
        last = np.linalg.norm(truth[f"float64/{case}/before_norm"], axis=-1)
        found |= {
            f"{image}/smoothness": smoothness_map(grid),
            f"{image}/scores": shown,
            f"{image}/colours": _shown(levels(colours(shown)), mask),
            f"{image}/similarity": similarity_map(grid, *place),
            f"{image}/norms": last,
            f"{image}/quantised": quantised(grid),
            **({f"{image}/foreground": mask} if mask is not None else {}),
        }
        photographs.append(
            {
                "image": image,
                "case": case,
                "reference": list(place),
                "foreground": None if mask is None else float(mask.mean()),
                **_of_map(grid, last, settings.high_norm),
                **_of_basis(basis),
            }
        )
        layers += list(_layers(image, case, truth))
        norms += list(_norms(image, case, truth, settings.high_norm))
    found |= {f"basis/{name}": getattr(whole, name) for name in BASIS}
    (rows, columns, channels) = next(iter(maps.values())).shape
    shared = _of_basis(whole) if settings.basis == "shared" else {"shares": None, "gaps": None, "turning": []}
    figures = {
        **about,
        "grid": [rows, columns],
        "embed_dim": channels,
        "source": "transformers in double precision",
        "foreground": settings.foreground,
        "high_norm": settings.high_norm,
        "basis": {"fit": settings.basis, "patches": whole.patches, **shared},
        "photographs": photographs,
        "layers": layers,
        "norms": norms,
        "ablation": list(_ablation(cases, equinox, settings.high_norm)) or None,
    }
    return Described(figures, found)


def _masks(maps: Arrays, settings: Settings) -> dict[str, Array] | None:
    """The foreground of each case, if it is asked for."""
    if settings.foreground == "none":
        return None
    if settings.foreground == "masks":
        files = {case: settings.masks[Case.parse(case).name] for case in maps}
        masks = {case: from_mask(read_mask(files[case]), *grid.shape[:2]) for case, grid in maps.items()}
    else:
        first = fit(list(maps.values()), count=1)
        lines = {case: scores(first, grid)[..., 0] for case, grid in maps.items()}
        masks = {case: foreground(line, split(line)) for case, line in lines.items()}
        # An image that is alike everywhere has no object before a background.
        masks = {case: mask if mask.sum() > 1 else np.ones_like(mask) for case, mask in masks.items()}
    for case, mask in masks.items():
        if mask.sum() < 2:
            raise InputError(
                f"dense.foreground: {Case.parse(case).name} has {int(mask.sum())} patches of foreground; give a mask"
                " that covers more of it, or set foreground: none."
            )
    return masks


def _shown(image: Array, mask: Array | None) -> Array:
    """Colours, black where there is no foreground."""
    return image if mask is None else np.where(mask[..., None], image, 0).astype(np.uint8)


def _number(value: float | None) -> float | None:
    """A figure for JSON, which has no NaN."""
    return float(value) if value is not None and np.isfinite(value) else None


def _finite(figures: Mapping[str, float]) -> Plain:
    return {name: _number(value) for name, value in figures.items()}


def _of_basis(basis: Basis) -> Plain:
    return {"shares": basis.shares.tolist(), "gaps": basis.gaps.tolist(), "turning": list(basis.turning)}


def _of_map(grid: Array, norms: Array, times: float) -> Plain:
    """The figures of a map, and how far the norms of its patches stand out."""
    high = int(high_norms(norms, times).sum())
    return _finite(figures_of(grid)) | {"high_norms": high, "norm_ratio": _ratio(norms)}


def _ratio(norms: Array) -> float | None:
    median = float(np.median(norms))
    return float(norms.max()) / median if median else None


def _layers(image: str, case: str, truth: Arrays) -> Iterator[Plain]:
    """The figures of further layers."""
    start = f"float64/{case}/layers."
    for key in truth:
        if key.startswith(start):
            number, _, normed = key.removeprefix(start).partition(".")
            grid = truth[key]
            about = {"image": image, "layer": int(number), "normed": bool(normed), "grid": list(grid.shape[:2])}
            yield about | _finite(figures_of(grid))


def _norms(image: str, case: str, truth: Arrays, times: float) -> Iterator[Plain]:
    """How far norms stand out in every layer."""
    start = f"float64/{case}/norms."
    for key in truth:
        if key.startswith(start):
            norms = truth[key]
            high = high_norms(norms, times)
            yield {
                "image": image,
                "layer": int(key.removeprefix(start)),
                "median": float(np.median(norms)),
                "largest": float(norms.max()),
                "ratio": _ratio(norms),
                "high": int(high.sum()),
                "where": np.argwhere(high)[:MOST_PLACES].tolist(),
            }


def _ablation(cases: Sequence[str], equinox: Arrays, times: float) -> Iterator[Plain]:
    """All figures with and without registers, where a model has any, of the Equinox model in single precision."""
    for case in cases:
        if f"ablated/{case}/patches" in equinox:
            maps = [equinox[f"{kind}/{case}/patches"] for kind in ("float32", "ablated")]
            before = (equinox[f"{kind}/{case}/before_norm"] for kind in ("float32", "ablated"))
            norms = (np.linalg.norm(one.astype(np.float64), axis=-1) for one in before)
            with_them, without = (_of_map(*pair, times) for pair in zip(maps, norms, strict=True))
            mean_square, largest = gram_distance(*maps)
            yield {
                "image": Case.parse(case).name,
                **{name: [with_them[name], without[name]] for name in with_them},
                "gram_mean_square": mean_square,
                "gram_max": largest,
            }


def compare_models(first: Described, second: Described, features: Sequence[Mapping[str, Array]]) -> Described:
    """Two models on the same photographs at equal grids; `features` are their patches by photograph.

    The second model's components are rotated onto those of the first, because each model has its own: by one rotation,
    or by one per photograph if each has a basis of its own. Where the foreground is set apart, only patches in that of
    both models count. `baseline` is the mean agreement of maps of different photographs. Raises `InputError` if the
    grids are not equal.
    """
    ours, theirs = features
    images = [row["image"] for row in first.figures["photographs"]]
    a, b = ({image: one.maps[f"{image}/scores"] for image in images} for one in (first, second))
    masks = {image: _in_both(first, second, image) for image in images}
    seen = {image: [_chosen(one[image], masks[image]) for one in (a, b)] for image in images}
    is_shared = first.figures["basis"]["fit"] == second.figures["basis"]["fit"] == "shared"
    # Without a foreground in common, nothing can be aligned.
    known = {image: pair for image, pair in seen.items() if pair[0].size}
    single = {image: aligned([pair[0]], [pair[1]]) for image, pair in known.items()}
    whole = aligned(*map(list, zip(*known.values(), strict=True))) if known and is_shared else None
    rows, found = [], {}
    for image in images:
        mean_square, largest = gram_distance(ours[image], theirs[image])
        both = [row_of(one.figures["photographs"], image) for one in (first, second)]
        rotation, own = single.get(image, (np.eye(b[image].shape[-1]), None))
        mask = masks[image]
        rows.append(
            {
                "image": image,
                "agreement": _number(own),
                "foreground_overlap": None if mask is None else _overlap(first, second, image),
                "gram_mean_square": mean_square,
                "gram_max": largest,
                **{name: [row[name] for row in both] for name in COMPARED},
            }
        )
        turned = b[image] @ (whole[0] if whole else rotation)
        found[f"{image}/colours"] = _shown(levels(colours(turned)), second.maps.get(f"{image}/foreground"))
    figures = {
        "models": [one.figures["variant"] for one in (first, second)],
        "weights": first.figures["weights"],
        "grid": first.figures["grid"],
        "agreement": _number(whole[1]) if whole else None,
        "baseline": _baseline(list(a.values()), list(b.values())),
        "same_basis": _in_basis_of(first, [theirs[image] for image in images], list(a.values())),
        "differences": [_difference(name, rows) for name in COMPARED],
        "rows": rows,
    }
    return Described(figures, found)


def _in_both(first: Described, second: Described, image: str) -> Array | None:
    """The foreground of both models; `None` if neither sets it apart."""
    masks = [one.maps[key] for one in (first, second) if (key := f"{image}/foreground") in one.maps]
    return np.logical_and.reduce(masks) if masks else None


def _chosen(scores_of: Array, mask: Array | None) -> Array:
    """The scores [n, 1, components] of the patches in a mask; all [rows, columns, components] without one."""
    return scores_of if mask is None else scores_of[mask][:, None]


def _overlap(first: Described, second: Described, image: str) -> float:
    """The patches in the foreground of both models, as a share of those in that of either."""
    a, b = (one.maps.get(f"{image}/foreground", np.ones(1, bool)) for one in (first, second))
    return float((a & b).sum() / max((a | b).sum(), 1))


def _baseline(a: Sequence[Array], b: Sequence[Array]) -> float | None:
    """The mean agreement of each map of one model with the next photograph's of the other; `None` if there is one."""
    if len(a) < 2:
        return None
    others = [aligned([one], [other])[1] for one, other in zip(a, [*b[1:], b[0]], strict=True)]
    return _number(float(np.mean(others)))


def _difference(name: str, rows: Sequence[Plain]) -> Plain:
    """How much larger a figure is in the second model, over the photographs in which both have it."""
    both = [row[name] for row in rows if None not in row[name]]
    changes = np.array([second - first for first, second in both])
    return {
        "figure": name,
        "photographs": len(both),
        "second_larger": int((changes > 0).sum()),
        "mean": float(changes.mean()) if both else None,
        "deviation": float(changes.std(ddof=1)) if len(both) > 1 else None,
    }


def row_of(rows: Sequence[Plain], image: str) -> Plain:
    """The row of a photograph among figures."""
    return next(row for row in rows if row["image"] == image)


def _in_basis_of(first: Described, maps: Sequence[Array], own: Sequence[Array]) -> float | None:
    """How far maps of another model agree with the first's if both are seen in the first's basis, without rotation.

    `None` if the two have different widths, or if there is no basis for all photographs.
    """
    if first.figures["basis"]["fit"] != "shared" or maps[0].shape[-1] != len(first.maps["basis/mean"]):
        return None
    mean, components, deviations, shares, gaps = (first.maps[f"basis/{name}"] for name in BASIS)
    basis = Basis(mean, components, deviations, shares, gaps)
    a, b = (np.concatenate([one.ravel() for one in some]) for some in (own, [scores(basis, x) for x in maps]))
    scale = float(a @ a) * float(b @ b)
    return float(a @ b) ** 2 / scale if scale else None


def flat(row: Plain) -> Plain:
    """A row for a table: a list is a column per entry, `contrast_1` and `contrast_2`, or one if it has any length."""
    found: Plain = {}
    for key, value in row.items():
        if key in ANY_LENGTH:
            found[key] = " ".join(str(entry).strip("[]").replace(" ", "") for entry in value)
        elif isinstance(value, list):
            found |= {f"{key}_{number}": entry for number, entry in enumerate(value, 1)}
        else:
            found[key] = value
    return found
