"""How far our preprocessing is from that of others, apart from any model."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from vit2onnx.parity.finding import Finding
from vit2onnx.parity.metrics import finite, severity, worst
from vit2onnx.spec.subject import TRANSFORMERS_IDS, WHOLE_INPUTS
from vit2onnx.spec.variant import VariantSpec

# PARITY: two values are the same grey level if they are nearer than this; rounding in float32 moves them by 1e-4.
SAME_LEVEL = 0.05

# Only these are held to the limits on shares and bits: the publisher, and a graph that prepares photographs itself. The
# others differ from them and among themselves by design.
PUBLISHER, GRAPH = "publisher", "graph"
# Heights and widths of photographs that are made to be prepared by a graph: wide, tall, tiny, large, one pixel high or
# wide, one pixel, and of sizes that share no factor with those of inputs.
MADE = ((40, 900), (900, 40), (5, 7), (2011, 1499), (1, 120), (120, 1), (1, 1), (211, 227))


def difference_of_inputs(ours: np.ndarray, theirs: np.ndarray, std: Sequence[float]) -> dict[str, float | None]:
    """How far two inputs [3, height, width] are apart; `std` is what both were to be divided by.

    `grey_levels` is the largest difference in grey levels (of 255), `differing_share` the share of values that are not
    at the same level, `normalised` the largest difference of the values as the model gets them, and `residual` the same
    among values at one level. Figures that are not finite are `None`.
    """
    if ours.shape != theirs.shape:
        raise ValueError(f"cannot compare inputs of shapes {ours.shape} and {theirs.shape}")
    delta = np.abs(ours.astype(np.float64) - theirs)
    levels = delta * 255 * np.reshape(std, (3, 1, 1))
    same = levels < SAME_LEVEL
    figures = {
        "grey_levels": levels.max(),
        "differing_share": 1 - same.mean(),
        "normalised": delta.max(),
        "residual": delta[same].max(initial=0.0),
    }
    return {name: finite(value) for name, value in figures.items()}


def compare_preprocessing(
    images: Iterable[tuple[str, Any]],
    sizes: Sequence[tuple[int, int]],
    spec: VariantSpec,
    references: ModuleType,
    prepare: Callable[..., np.ndarray],
) -> list[dict[str, Any]]:
    """One row per other way, photograph and size.

    `images` are names and photographs, and `prepare` is our way. `references` is the part of the variant's family that
    has the others. `enlarged` is how many times a photograph is enlarged, at least one.
    """
    rows = []
    others, (_, std) = references.preparations(spec), references.published_constants(spec)
    # Optional in a family.
    whole_inputs = getattr(references, "whole_inputs", lambda image, spec: ())
    for name, image in images:
        for height, width in sizes:
            ours = prepare(image, height, width, spec.preprocessing)
            for other, theirs in others.items():
                row = {"other": other, "image": name, "height": height, "width": width}
                whole = spec.preprocessing.size_of_whole(image.size[::-1], (height, width))
                row["enlarged"] = round(max(1.0, whole[0] / image.height, whole[1] / image.width), 2)
                rows.append(row | difference_of_inputs(ours, theirs(image, height, width), std))
        rows += [compare_whole_inputs(name, image, std, *whole) for whole in whole_inputs(image, spec)]
    return rows


def made_photographs() -> Iterator[tuple[str, np.ndarray]]:
    """Photographs [height, width, 3] of the sizes `MADE`, by name.

    The left half is a ramp with a little noise, so that sums just between two grey levels are frequent. The right half
    is black and white, so that a filter that overshoots must be cut off.
    """
    for height, width in MADE:
        rng = np.random.default_rng((height, width))
        row, column, channel = np.ogrid[:height, :width, :3]
        smooth = 20 + 150 * row / height + 60 * column / width + 10 * channel + rng.integers(0, 3, (height, width, 3))
        sharp = 255 * rng.integers(0, 2, (height, width, 3))
        yield f"made {height}x{width}", np.where(column < (width + 1) // 2, smooth, sharp).astype(np.uint8)


def compare_photographs(
    images: Iterable[tuple[str, np.ndarray]],
    size: tuple[int, int],
    spec: VariantSpec,
    ours: Callable[[np.ndarray], np.ndarray],
    of_graph: Callable[[np.ndarray], np.ndarray],
) -> list[dict[str, Any]]:
    """One row per photograph [height, width, 3]: how far a graph is from our way to prepare it to a `size`.

    `ours` and `of_graph` make the input of a photograph.
    """
    rows = []
    height, width = size
    for name, pixels in images:
        whole = spec.preprocessing.size_of_whole(pixels.shape[:2], size)
        row = {"other": GRAPH, "image": name, "height": height, "width": width}
        row["enlarged"] = round(max(1.0, whole[0] / pixels.shape[0], whole[1] / pixels.shape[1]), 2)
        rows.append(row | difference_of_inputs(ours(pixels), of_graph(pixels), spec.preprocessing.std))
    return rows


def lacking_photographs(rows: Sequence[Mapping[str, Any]], names: Iterable[str]) -> list[str]:
    """Photographs, named or made, of which no row says that a graph prepares them as we do, or more than one."""
    found = [row["image"] for row in rows if row["other"] == GRAPH]
    wanted = [*names, *(f"made {height}x{width}" for height, width in MADE)]
    return [f"{name} as the {GRAPH} prepares it" for name in wanted if found.count(name) != 1]


def compare_whole_inputs(
    name: str,
    image: Any,
    std: Sequence[float],
    max_patches: int,
    ours: Mapping[str, np.ndarray],
    theirs: Mapping[str, np.ndarray],
) -> dict[str, Any]:
    """How far our NaFlex inputs of a photograph are from theirs, both by port.

    `grid` is ours and `other_grid` theirs, both rows and columns of patches. `same_mask` and `same_shapes` say whether
    these inputs are equal, type and all. The figures are those of `difference_of_inputs`, padding included; all are
    `None` where a grid, a mask, a type or a shape differs, or where values are not finite.
    """
    row: dict[str, Any] = {"other": WHOLE_INPUTS, "image": name, "height": image.height, "width": image.width}
    row |= {"enlarged": 1.0, "max_patches": max_patches}
    row["grid"], row["other_grid"] = (list(map(int, given["spatial_shapes"])) for given in (ours, theirs))
    for figure, port in (("same_mask", "pixel_attention_mask"), ("same_shapes", "spatial_shapes")):
        row[figure] = ours[port].dtype == theirs[port].dtype and np.array_equal(ours[port], theirs[port])
    a, b = ours["pixel_values"], theirs["pixel_values"]
    same = row["same_mask"] and row["same_shapes"] and a.shape == b.shape and a.dtype == b.dtype
    # Patches are lists of red, green and blue.
    a, b = (x.reshape(-1, 3).T[:, :, None] if same else np.full((3, 1, 1), np.nan) for x in (a, b))
    return row | difference_of_inputs(a, b, std)


def judge_texts(rows: Sequence[Mapping[str, Any]]) -> tuple[Finding, ...]:
    """Judge the rows on token ids, of which none may differ from those of transformers."""
    own = [row for row in rows if row["other"] == TRANSFORMERS_IDS]
    if not own:
        return ()
    place = max(own, key=lambda row: row["differing_ids"])
    return (
        Finding(
            "preprocessing", "token ids that differ", place["differing_ids"], 0, "ours", place["other"], place["text"]
        ),
    )


def judge_preprocessing(rows: Sequence[Mapping[str, Any]], limits: Mapping[str, float]) -> tuple[Finding, ...]:
    """Judge the rows on images by the limits of the config: all ways by `grey_levels`, and by all of them the
    publisher's and that of a graph, if it has one.
    """
    rows = [row for row in rows if "image" in row]
    others = dict.fromkeys([PUBLISHER, *(row["other"] for row in rows)])
    asked = [(other, "grey_levels") for other in others]
    asked += [
        (other, figure) for other in (PUBLISHER, GRAPH) if other in others for figure in ("differing_share", "residual")
    ]
    words = {
        "grey_levels": "grey levels",
        "differing_share": "share of values at another grey level",
        "residual": "normalised values at the same grey level",
    }
    findings = []
    for other, figure in asked:
        own = [row for row in rows if row["other"] == other]
        place = max(own, key=lambda row: severity(row[figure]), default=None)
        where = f"{place['image']} {place['height']}x{place['width']}{_enlarged(place)}" if place else ""
        measured = worst(row[figure] for row in own)
        of = ("ours", other, where)
        findings.append(Finding("preprocessing", words[figure], measured, limits[figure], *of, limit_name=figure))
    return tuple(findings)


def _enlarged(row: Mapping[str, Any]) -> str:
    """A hint, because implementations round further apart where they enlarge a photograph."""
    return f", enlarged {row['enlarged']:g} x: take a larger photograph" if row["enlarged"] > 1 else ""
