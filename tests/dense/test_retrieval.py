"""Retrieval with planted answers, and against a plain implementation that keeps everything."""

import itertools
import math
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from tests.dense.fields import FEW, directions, noise
from vit2onnx.dense.figures import unit
from vit2onnx.dense.retrieval import Gallery, chance
from vit2onnx.errors import InputError

Array = np.ndarray

ROWS, COLUMNS = 16, 12
OBJECTS = BACKGROUNDS = 6


def row_of(result: dict[str, Any], descriptor: str) -> dict[str, Any]:
    (found,) = (row for row in result["rows"] if row["descriptor"] == descriptor)
    return found


def planted() -> Gallery:
    """Six objects before six backgrounds, which have one strong vector in common and cover most of the image.

    Objects are of six sizes, none of which goes with an object or a background. So what backgrounds have in common
    makes images with objects of one size alike.
    """
    shared, *own = directions(1 + OBJECTS + BACKGROUNDS, channels=FEW)
    objects, backgrounds = own[:OBJECTS], own[OBJECTS:]
    y, x = np.indices((ROWS, COLUMNS))
    gallery = Gallery()
    for i, j in itertools.product(range(OBJECTS), range(BACKGROUNDS)):
        size = 0.25 + 0.1 * ((i + 2 * j) % 6)
        mask = ((y - 7.5) / (8 * size)) ** 2 + ((x - 5.5) / (6 * size)) ** 2 < 1
        patches = np.where(mask[..., None], objects[i] + 0.3 * shared, backgrounds[j] + 1.5 * shared)
        patches = patches + 0.02 * noise(6 * i + j, ROWS, COLUMNS, FEW)
        gallery.add(f"object {i}", patches.mean((0, 1)), patches, mask, f"background {j}")
    return gallery


def test_planted_objects_are_found_once_the_background_is_gone():
    gallery = planted()
    mean, suppressed = (row_of(gallery.result(k), "suppressed") for k in (0, 4))
    assert mean["map"] < 0.35 and mean["r1"] < 0.1 and mean["background_map"] > 0.9
    assert suppressed["map"] > mean["map"] + 0.1 and suppressed["r1"] >= 0.5
    # As many directions as backgrounds: B of centred vectors lacks the one that they share.
    for k in (6, 7):
        gone = row_of(gallery.result(k), "suppressed")
        assert gone["map"] == gone["r1"] == gone["r5"] == 1 and gone["background_map"] < 0.2
    result = gallery.result()
    assert row_of(result, "mean") == {**mean, "descriptor": "mean"}
    assert row_of(result, "pooled")["map"] < 0.35
    for descriptor in ("masked", "automatic"):
        assert row_of(result, descriptor)["map"] == 1


def is_border(grid: Array, y: int, x: int) -> bool:
    return y in (0, len(grid) - 1) or x in (0, grid.shape[1] - 1)


def plain(images: Sequence[tuple[str, Array]], k: int) -> dict[str, float]:
    """The figures of the suppressed mean, from all border patches at once."""
    u = [unit(patches) for _, patches in images]
    border = [one[y, x] for one in u for y, x in np.ndindex(*one.shape[:2]) if is_border(one, y, x)]
    directions = np.linalg.svd(border)[2][:k]
    descriptors = []
    for one in u:
        projected = one - np.einsum("hwd,kd,ke->hwe", one, directions, directions)
        mean = projected.mean((0, 1))
        descriptors.append(mean / np.linalg.norm(mean))
    first, first_five, precisions = [], [], []
    for i, (label, _) in enumerate(images):
        others = [j for j in range(len(images)) if j != i]
        others.sort(key=lambda j: -(descriptors[i] @ descriptors[j]))
        ranks = [rank for rank, j in enumerate(others, 1) if images[j][0] == label]
        first.append(min(ranks) == 1)
        first_five.append(min(ranks) <= 5)
        precisions.append(np.mean([number / rank for number, rank in enumerate(ranks, 1)]))
    return {"r1": np.mean(first), "r5": np.mean(first_five), "map": np.mean(precisions)}


@pytest.mark.parametrize("k", [0, 1, 4, 9])
def test_figures_are_those_of_all_border_patches_at_once(k):
    # Of several grids, one of them a single row.
    grids = [(5, 7), (4, 4), (1, 6), (8, 3)]
    images = [
        ("abc"[i % 3], noise(i, *grids[i % 4], channels=24) + 0.3 * directions(3, channels=24)[i % 3] + 0.2)
        for i in range(24)
    ]
    gallery = Gallery()
    for label, patches in images:
        gallery.add(label, patches[0, 0], patches)
    found = row_of(gallery.result(k), "suppressed")
    assert {name: found[name] for name in ("r1", "r5", "map")} == pytest.approx(plain(images, k), abs=1e-12)


def of_angles(labels: str, degrees: Sequence[float], backgrounds: Sequence[str | None] | None = None) -> Gallery:
    """Images whose descriptors are vectors at these angles. Their lengths differ, which does not matter."""
    gallery = Gallery()
    known = backgrounds or [None] * len(labels)
    for i, (label, angle, background) in enumerate(zip(labels, degrees, known, strict=True)):
        vector = (3 + i) * np.array([math.cos(math.radians(angle)), math.sin(math.radians(angle)), 0])
        gallery.add(label, vector, np.tile(vector, (2, 3, 1)), background=background)
    return gallery


def test_figures_of_a_line_of_images():
    # The first image finds b, a, b, a, so its precision is 1/2 and 2/4 at the two a.
    result = of_angles("ababa", [0, 10, 25, 45, 85]).result(0)
    precisions = [(1 / 2 + 2 / 4) / 2, 1 / 3, (1 / 3 + 2 / 4) / 2, 1 / 2, (1 / 2 + 2 / 4) / 2]
    for descriptor in ("pooled", "mean", "suppressed", "automatic"):
        assert row_of(result, descriptor)["map"] == pytest.approx(np.mean(precisions), abs=1e-12)
        assert (row_of(result, descriptor)["r1"], row_of(result, descriptor)["r5"]) == (0, 1)
    assert result["images"] == result["queries"] == 5 and result["labels"] == ["a", "b"]


def test_a_label_of_one_image_is_found_and_does_not_ask():
    result = of_angles("axab", [0, 5, 15, 30]).result(0)
    assert result["queries"] == 2 and result["images"] == 4 and result["labels"] == ["a", "b", "x"]
    assert row_of(result, "mean")["map"] == pytest.approx(1 / 2) and row_of(result, "mean")["r1"] == 0


@pytest.mark.parametrize(
    "labels, degrees", [("aabb", [20] * 4), ("abba", [20] * 4), ("abbab" * 20, [20, 60, 60, 20] * 25)]
)
def test_images_that_are_equally_similar_stay_in_order(labels, degrees):
    precisions = []
    for i, label in enumerate(labels):
        others = sorted(set(range(len(labels))) - {i}, key=lambda j: (abs(degrees[j] - degrees[i]), j))
        ranks = [rank for rank, j in enumerate(others, 1) if labels[j] == label]
        precisions.append(np.mean([number / rank for number, rank in enumerate(ranks, 1)]))
    assert row_of(of_angles(labels, degrees).result(0), "mean")["map"] == pytest.approx(np.mean(precisions), abs=1e-12)


def test_chance_is_the_mean_of_all_orders():
    labels = [*"aaabbc"]
    found = []
    for query in labels[0], labels[3]:
        others = list(labels)
        others.remove(query)
        for order in itertools.permutations(others):
            ranks = [rank for rank, label in enumerate(order, 1) if label == query]
            found.append(np.mean([number / rank for number, rank in enumerate(ranks, 1)]))
    half = len(found) // 2
    # Three queries of a, two of b.
    expected = (3 * np.mean(found[:half]) + 2 * np.mean(found[half:])) / 5
    assert chance(labels) == pytest.approx(expected, abs=1e-12)
    assert chance(["a", "a"]) == 1 and math.isnan(chance(["a", "b"]))


def test_backgrounds_are_judged_if_all_are_known_and_one_is_twice():
    angles = [0, 1, 40, 41]
    known = of_angles("abab", angles, ["wood", "wood", "sand", "sand"]).result(0)
    assert row_of(known, "mean")["background_map"] == 1 and row_of(known, "mean")["map"] < 0.6
    for backgrounds in (["wood", "wood", "sand", None], ["wood", "sand", "lawn", "rock"]):
        unknown = of_angles("abab", angles, backgrounds).result(0)
        assert row_of(unknown, "mean")["background_map"] is None


def test_masks_count_only_if_every_image_has_one():
    gallery = Gallery()
    for i, mask in enumerate([np.eye(3, dtype=bool), None]):
        gallery.add("a", np.ones(4), noise(i, 3, 3, 4), mask)
    gallery.add("b", np.ones(4), noise(3, 3, 3, 4), np.eye(3, dtype=bool))
    assert [row["descriptor"] for row in gallery.result(1)["rows"]] == ["pooled", "mean", "suppressed", "automatic"]


@pytest.mark.parametrize("patches", [np.ones((1, 1, 4)), np.ones((3, 5, 4)), np.zeros((3, 5, 4))])
def test_images_without_any_foreground_count_as_a_whole(patches):
    gallery = Gallery()
    for label in "aab":
        gallery.add(label, np.ones(4), patches)
    result = gallery.result(2)
    assert row_of(result, "automatic") == {**row_of(result, "mean"), "descriptor": "automatic"}


def test_directions_that_the_border_lacks_take_nothing_away():
    gallery = Gallery()
    for label, angle in zip("abab", [0, 10, 80, 90], strict=True):
        patches = np.zeros((3, 3, 8))
        patches[..., 0], patches[1, 1] = 1, np.eye(8)[3] * math.cos(math.radians(angle))
        patches[1, 1, 4] = math.sin(math.radians(angle))
        gallery.add(label, np.ones(8), patches)
    # The border has one direction only; further ones would be arbitrary.
    assert row_of(gallery.result(6), "suppressed") == row_of(gallery.result(1), "suppressed")


def test_only_descriptors_and_one_matrix_stay_in_memory():
    gallery = Gallery()
    gallery.add("a", np.ones(32), noise(0, 64, 64, 32))
    tracemalloc.start()
    try:
        for i in range(8):
            gallery.add("b", np.ones(32), noise(i, 64, 64, 32))
        # A single map has 1 MiB.
        assert tracemalloc.get_traced_memory()[0] < 1 << 17
    finally:
        tracemalloc.stop()


def adding(**changes: Any) -> Callable[[], None]:
    """Add a second image that is not as the first."""
    second = {"pooled": np.ones(4), "patches": np.ones((2, 3, 4)), **changes}

    def add() -> None:
        gallery = Gallery()
        gallery.add("a", np.ones(4), np.ones((2, 3, 4)), np.ones((2, 3), bool))
        gallery.add("cat", **second)

    return add


@pytest.mark.parametrize(
    "call, message",
    [
        (adding(patches=np.full((2, 3, 4), np.nan)), "Image 2, cat, has features that are not finite"),
        (adding(pooled=np.full(4, np.inf)), "Image 2, cat, has features that are not finite"),
        (adding(patches=np.ones((2, 3, 5))), "5 channels and not 4"),
        (adding(pooled=np.ones(5)), "5 channels and not 4"),
        (adding(mask=np.ones((3, 2), bool)), r"mask of 3 x 2 .* 2 x 3 patches"),
        (adding(mask=np.zeros((2, 3), bool)), "mask without any patch; use a finer grid"),
        (lambda: Gallery().result(), "two labels, and here are 0"),
        (lambda: of_angles("aaa", [0, 1, 2]).result(0), "two labels, and here are 1; add another"),
        (lambda: of_angles("abc", [0, 1, 2]).result(0), "No label has two images"),
        (lambda: of_angles("aab", [0, 1, 2]).result(3), "3 of 3 directions .* from 0 to 2"),
        (lambda: of_angles("aab", [0, 1, 2]).result(-1), "-1 of 3 directions"),
    ],
)
def test_a_gallery_without_an_answer_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
