"""Dense features of small models, made of random numbers and described as in a run, for the page on dense maps."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vit2onnx.dense.description import Described, Settings, describe
from vit2onnx.dense.figures import unit
from vit2onnx.dense.retrieval import Gallery

Array = np.ndarray
Plain = dict[str, Any]

# As wide as small models are: int8 vectors of fewer channels are further from the cosines of features.
GRID, WIDTH = (8, 12), 192
REFERENCE = (4, 6)
# A patch of high norm, nine times the median.
HIGH, TIMES = (1, 2), 9


def features(
    images: Sequence[str], seed: int = 0, grid: tuple[int, int] = GRID, width: int = WIDTH
) -> dict[str, Array]:
    """Noise with a direction that all patches share, so that cosines are not around zero."""
    random = np.random.default_rng(seed)
    shared = random.normal(size=width)
    return {image: random.normal(size=(*grid, width)) + 0.7 * shared for image in images}


def model(
    maps: Mapping[str, Array],
    name: str = "vit_small",
    weights: str = "official",
    *,
    further: bool = True,
    **settings: Any,
) -> Described:
    """A model of which these are the patches; `further` says whether it has layers and registers as well."""
    truth, equinox = {}, {}
    for image, grid in maps.items():
        case = f"{image}@128x192"
        before = unit(grid)
        if before[..., 0].size > 1:
            before[HIGH] *= TIMES
        truth |= {f"float64/{case}/patches": grid, f"float64/{case}/before_norm": before}
        for layer in (0, 1):
            truth[f"float64/{case}/norms.{layer}"] = np.linalg.norm(before, axis=-1)
        if further:
            truth |= {f"float64/{case}/layers.0": before, f"float64/{case}/layers.1.norm": grid}
            for kind, patches in (("float32", grid), ("ablated", grid + 0.1 * before)):
                equinox |= {f"{kind}/{case}/patches": patches, f"{kind}/{case}/before_norm": before}
    about = {"variant": name, "weights": weights, "patch_size": 16, "registers": 4, "versions": {"vit2onnx": "1"}}
    about |= {"checkpoint_sha256": 64 * "a", "confirmed": True, "preprocessing": {"interpolation": "bilinear"}}
    return describe(about, truth, equinox, [f"{image}@128x192" for image in maps], Settings(**settings))


def retrieved(name: str, *, backgrounds: bool = True) -> Plain:
    """How well four images of two labels are found by a model."""
    gallery, random = Gallery(), np.random.default_rng(0)
    for label, background in ("ax", "bx", "ay", "by"):
        patches = random.normal(size=(4, 4, WIDTH))
        gallery.add(label, random.normal(size=WIDTH), patches, None, background if backgrounds else None)
    return {"variant": name, "set": "composites"} | gallery.result()
