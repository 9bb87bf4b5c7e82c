"""Dense features of small models, made of random numbers, for the page on dense maps."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vit2onnx.dense.components import aligned, colours, fit, levels, scores
from vit2onnx.dense.figures import figures_of, gram_distance, high_norms, smoothness_map
from vit2onnx.dense.similarity import quantised, similarity_map
from vit2onnx.reporting.dense_page import DenseModel, DensePair

Array = np.ndarray
Plain = dict[str, Any]

# As wide as small models are: int8 vectors of fewer channels are further from the cosines of features.
GRID, WIDTH = (8, 12), 192
REFERENCE = (3, 5)
HIGH = (1, 2)


def features(
    images: Sequence[str], seed: int = 0, grid: tuple[int, int] = GRID, width: int = WIDTH
) -> dict[str, Array]:
    """Noise with a direction that all patches share, so that cosines are not around zero."""
    random = np.random.default_rng(seed)
    shared = random.normal(size=width)
    return {image: random.normal(size=(*grid, width)) + 0.7 * shared for image in images}


def finite(figures: Mapping[str, float]) -> Plain:
    return {name: value if np.isfinite(value) else None for name, value in figures.items()}


def model(
    maps: Mapping[str, Array],
    name: str = "vit_small",
    *,
    foreground: bool = False,
    retrieval: bool = True,
    **other: Any,
) -> DenseModel:
    """A model with one patch of high norm in each photograph; `other` figures replace its own."""
    basis = fit(list(maps.values())) if next(iter(maps.values())).shape[:2] != (1, 1) else None
    found, photographs, norms, layers, ablation = {}, [], [], [], []
    for image, grid in maps.items():
        rows, columns = grid.shape[:2]
        place = min(REFERENCE[0], rows - 1), min(REFERENCE[1], columns - 1)
        length = np.linalg.norm(grid, axis=-1)
        if rows * columns > 2:
            length[HIGH] = 9 * np.median(length)
        mask = np.arange(columns) >= columns // 2 if foreground else None
        own = scores(basis, grid) if basis else np.zeros((rows, columns, 3))
        found |= {
            f"{image}/smoothness": smoothness_map(grid),
            f"{image}/scores": own,
            f"{image}/colours": levels(colours(own)),
            f"{image}/similarity": similarity_map(grid, *place),
            f"{image}/norms": length,
            f"{image}/quantised": quantised(grid),
        }
        if mask is not None:
            found[f"{image}/foreground"] = np.broadcast_to(mask, (rows, columns)).copy()
        high = high_norms(length)
        ratio = float(length.max() / np.median(length))
        figures = finite(figures_of(grid))
        photographs.append(
            {"image": image, "case": f"{image}@128x192", "reference": list(place), **figures, "norm_ratio": ratio}
            | {"foreground": None if mask is None else float(mask.mean()), "high_norms": int(high.sum())}
            | {"shares": None, "gaps": None}
        )
        for layer in (0, 1):
            where = np.argwhere(high).tolist()
            row = {"image": image, "layer": layer, "median": float(np.median(length)), "largest": float(length.max())}
            norms.append(row | {"ratio": ratio, "high": len(where), "where": where})
            layers.append({"image": image, "layer": layer, "normed": bool(layer), "grid": [rows, columns], **figures})
        ablation.append({"image": image, **figures, "gram_mean_square": 1e-3, "gram_max": 0.1})
    shown = {"shares": None, "gaps": None, "turning": []}
    if basis:
        shown = {"shares": basis.shares.tolist(), "gaps": basis.gaps.tolist(), "turning": basis.turning}
    figures = {
        **{"variant": name, "weights": "official", "interface": "images", "grid": [rows, columns], "patch_size": 16},
        **{"embed_dim": grid.shape[-1], "registers": 4, "source": "transformers in double precision"},
        **{"foreground": "automatic" if foreground else "none", "high_norm": 4.0},
        "basis": {"fit": "shared", "patches": 96, **shown},
        **{"photographs": photographs, "layers": layers, "norms": norms, "ablation": ablation},
    }
    return DenseModel(figures | other, found, retrieved(name) if retrieval else None)


def retrieved(name: str) -> Plain:
    figures = {"r1": 0.5, "r5": 0.75, "map": 0.461}
    rows = [{"descriptor": "pooled", **figures, "background_map": 0.613}]
    rows += [{"descriptor": "suppressed", **figures, "background_map": None}]
    about = {"variant": name, "set": "composites", "images": 4, "labels": ["a", "b", "a", "b"], "suppress": 4}
    return about | {"chance": 0.224, "rows": rows}


def pair_of(first: DenseModel, second: DenseModel, maps: Sequence[Mapping[str, Array]]) -> DensePair:
    """The pair of two models with these features."""
    images = list(maps[0])
    a, b = ([one.maps[f"{image}/scores"] for image in images] for one in (first, second))
    rotation, agreement = aligned(a, b)
    rows = []
    for image in images:
        mean_square, largest = gram_distance(maps[0][image], maps[1][image])
        both = [one.rows[image] for one in (first, second)]
        rows.append(
            {"image": image, "agreement": agreement, "gram_mean_square": mean_square, "gram_max": largest}
            | {name: [row[name] for row in both] for name in ("smoothness", "contrast", "high_frequency")}
        )
    names = [one.figures["variant"] for one in (first, second)]
    figures = {"models": names, "weights": "official", "grid": list(GRID), "agreement": agreement, "same_basis": 0.01}
    shown = {f"{image}/colours": levels(colours(own @ rotation)) for image, own in zip(images, b, strict=True)}
    return DensePair(figures | {"rows": rows}, shown)
