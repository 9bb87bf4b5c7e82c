"""Retrieval, neighbours, matches and components: what is equal, what rounding does, and what a fault does."""

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from vit2onnx.families.interface import images_to_tokens
from vit2onnx.parity import semantics
from vit2onnx.parity.semantics import View, common_size, compare_semantics, rank_changes, subspace_angle, view
from vit2onnx.spec.case import GOLDEN, Case

PREFIX, PATCH, CHANNELS = 2, 16, 32
INTERFACE = images_to_tokens(CHANNELS, PATCH, registers=PREFIX - 1)
SIZES = [(48, 112), (96, 64)]
IMAGES = ["cat", "dog", "tree"]

Features = dict[Case, np.ndarray]


def features(images: list[str] = IMAGES, sizes: list[tuple[int, int]] = SIZES) -> Features:
    """Images that have something of their own in all patches, as photographs do."""
    rng = np.random.default_rng(0)
    own = {image: rng.standard_normal(CHANNELS) for image in images}
    return {
        Case(image, *size): (own[image] + rng.standard_normal((PREFIX + tokens, CHANNELS))).astype(np.float32)
        for image in images
        for size in sizes
        for tokens in [(size[0] // PATCH) * (size[1] // PATCH)]
    }


def compared(ours: Features, theirs: Features) -> dict[str, Any]:
    return compare_semantics("onnx", "transformers", *map(viewed, (ours, theirs)), batch=1)


def viewed(features: Features) -> View | None:
    return view({case: {"last_hidden_state": x} for case, x in features.items()}, INTERFACE)


def moved(theirs: Features, by: float) -> Features:
    rng = np.random.default_rng(1)
    return {case: x + by * rng.standard_normal(x.shape) for case, x in theirs.items()}


def margin(found: dict[str, Any]) -> float:
    return max(figures["margin"] for figures in (*found["neighbours"], found["matches"]))


def test_equal_features_agree_in_everything():
    found = compared(features(), features())
    assert [figures["what"] for figures in found["neighbours"]] == ["cls", "patches_mean", "regions", "patches"]
    for figures in found["neighbours"]:
        assert (figures["top_1"], figures["top_k"], figures["swapped"]) == (1, 1, 0)
        assert (figures["margin"], figures["change"]) == (0, 0)
        assert 0 < figures["closest"] <= figures["gap"]
    assert (found["matches"]["agreement"], found["matches"]["mutual_agreement"]) == (1, 1)
    assert [angle["components"] for angle in found["subspaces"]] == [3, 16]
    assert max(angle["degrees"] for angle in found["subspaces"]) < 1e-12
    assert found["worst_token"]["degrees"] == 0


def test_queries_and_galleries_are_as_said():
    found = {figures["what"]: figures for figures in compared(features(), features())["neighbours"]}
    # Three images at two sizes; sixteen regions and twenty-four patches of each at the larger.
    sizes = {what: (figures["queries"], figures["gallery"], figures["k"]) for what, figures in found.items()}
    assert sizes == {"cls": (6, 5, 5), "patches_mean": (6, 5, 5), "regions": (48, 32, 10), "patches": (72, 48, 10)}
    matches = compared(features(), features())["matches"]
    assert (matches["pairs_of_images"], matches["queries"]) == (3, 6 * 24)


@pytest.mark.parametrize("by", [1e-9, 1e-7, 1e-5])
def test_rounding_swaps_ties_only(by: float):
    theirs = {case: x.astype(np.float64) for case, x in features().items()}
    found = compared(moved(theirs, by), theirs)
    assert margin(found) <= 2 * max(figures["change"] for figures in found["neighbours"]) < 4 * by
    assert 0 < found["worst_token"]["degrees"] < 100 * by
    assert all(0 < angle["degrees"] * angle["gap"] < 1e3 * by for angle in found["subspaces"])


def test_a_small_angle_is_told_to_many_digits():
    # A cosine cannot: that of 1e-10 is one.
    theirs = {case: x.astype(np.float64) for case, x in features().items()}
    angles = [[angle["degrees"] for angle in compared(moved(theirs, by), theirs)["subspaces"]] for by in (1e-8, 1e-10)]
    assert np.divide(*angles) == pytest.approx(100, rel=1e-3)


def test_all_or_nothing_changes_are_seen():
    found = compared(moved(features(), 10.0), features())
    for figures in found["neighbours"]:
        assert figures["top_1"] < 0.8
        assert figures["margin"] > 0.1
    assert found["matches"]["agreement"] < 0.3
    assert found["matches"]["mutual_agreement"] < 0.3
    assert min(angle["degrees"] for angle in found["subspaces"]) > 30
    assert found["worst_token"]["degrees"] > 90


FAULTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "patches in another order": lambda x: np.concatenate([x[:PREFIX], x[PREFIX:][::-1]]),
    "one channel lost": lambda x: x * (np.arange(CHANNELS) != 5),
    "one channel out of scale": lambda x: x * np.where(np.arange(CHANNELS) == 5, 1.05, 1),
    "an offset": lambda x: x + 0.1 * (np.arange(CHANNELS) == 5),
    "CLS and a register exchanged": lambda x: np.concatenate([x[1::-1], x[2:]]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_swaps_what_is_no_tie(fault: str):
    found = compared({case: FAULTS[fault](x) for case, x in features().items()}, features())
    assert margin(found) > 1e-5


@pytest.mark.parametrize("count", [300, CHANNELS - 3], ids=["tall", "wide"])
def test_components_are_those_of_a_singular_value_decomposition(count: int):
    rows = np.random.default_rng(0).standard_normal((count, CHANNELS)) * np.geomspace(1, 1e-3, CHANNELS)
    values, components = semantics.principal_components(rows, 17)
    _, expected, directions = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(values, expected[:17], rtol=1e-10)
    # Either way round.
    np.testing.assert_allclose(np.abs(np.sum(components * directions[:17], axis=1)), 1, rtol=0, atol=1e-12)
    np.testing.assert_allclose(components @ components.T, np.eye(17), rtol=0, atol=1e-13)


def test_a_common_scale_changes_nothing():
    # Because all of it is done with cosines: what this cannot see, the error in noise floors does.
    found = compared({case: 2 * x for case, x in features().items()}, features())
    assert margin(found) == 0
    assert found["worst_token"]["degrees"] < 1e-12


def similarities(*rows: list[float]) -> np.ndarray:
    return np.array(rows)


def test_a_swap_counts_with_its_margin():
    theirs = similarities([0.9, 0.8, 0.1], [0.2, 0.5, 0.5])
    found = rank_changes(similarities([0.79, 0.8, 0.1], [0.2, 0.5, 0.5]), theirs, k=2)
    assert found == pytest.approx(
        {
            **{"queries": 2, "gallery": 3, "k": 2, "top_1": 0.5, "top_k": 1.0, "swapped": 0.5},
            **{"margin": 0.1, "change": 0.11, "gap": 0.05, "closest": 0.0},
        }
    )


def test_a_tie_may_be_broken_either_way():
    theirs = similarities([0.5, 0.5, 0.5, 0.1])
    for ours in ([0.51, 0.5, 0.49, 0.1], [0.49, 0.5, 0.51, 0.1]):
        found = rank_changes(similarities(ours), theirs, k=2)
        assert (found["top_1"], found["top_k"], found["swapped"], found["margin"]) == (1, 1, 0, 0)


def test_who_comes_from_far_is_seen():
    # The third is not among the two nearest of the reference.
    found = rank_changes(similarities([0.9, 0.8, 0.95]), similarities([0.9, 0.8, 0.3]), k=2)
    assert (found["top_1"], found["top_k"]) == (0, 0.5)
    assert found["margin"] == pytest.approx(0.6)


def test_what_is_excluded_is_nobodys_neighbour():
    theirs = similarities([1.0, 0.5, 0.4], [0.5, 1.0, 0.3], [0.4, 0.3, 1.0])
    found = rank_changes(theirs, theirs, k=10, excluded=np.eye(3, dtype=bool))
    assert (found["gallery"], found["k"]) == (2, 2)
    assert found["closest"] == pytest.approx(0.1)


def test_a_gallery_of_one_answers_nothing():
    assert rank_changes(similarities([0.5]), similarities([0.5]), k=1) is None


def test_a_single_photograph_is_compared_with_itself():
    one = features(["cat"], [(96, 64)])
    found = compared(one, one)
    assert [figures["what"] for figures in found["neighbours"]] == ["regions", "patches"]
    assert found["neighbours"][1]["gallery"] == 23
    assert found["matches"] is None
    assert found["finite"]


def test_a_single_patch_answers_nothing():
    one = features(["cat"], [(16, 16)])
    found = compared(one, one)
    assert (found["neighbours"], found["matches"], found["subspaces"]) == ([], None, [])
    assert found["worst_token"]["degrees"] == 0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_said(value: float):
    ours = features()
    ours[Case("dog", *SIZES[0])][3, 4] = value
    found = compared(ours, features())
    assert not found["finite"]
    json.dumps(found, allow_nan=False)
    assert not compared({}, features())["finite"]


def test_the_largest_size_that_all_images_have_is_taken():
    cases = [Case("a", 16, 16), Case("b", 16, 16), Case("a", 48, 112), Case("b", 48, 112), Case("a", 512, 512), GOLDEN]
    assert common_size(cases) == (48, 112)
    assert common_size([GOLDEN]) == (224, 224)
    assert common_size([]) is None


def test_cost_is_bounded_by_even_samples(monkeypatch: pytest.MonkeyPatch):
    for name, most in {"MAX_IMAGES": 2, "MAX_PATCHES": 20, "MAX_DESCRIPTORS": 4, "MAX_PAIRS": 1}.items():
        monkeypatch.setattr(semantics, name, most)
    found = compared(features(), features())
    sizes = {figures["what"]: figures["queries"] for figures in found["neighbours"]}
    assert sizes == {"cls": 4, "patches_mean": 4, "regions": 32, "patches": 20}
    assert found["matches"]["pairs_of_images"] == 1


def test_components_are_not_asked_for_where_there_are_none():
    flat = {case: np.ones_like(x) for case, x in features().items()}
    a = viewed(flat).patches
    assert subspace_angle(a, a, 3) is None
    assert compared(flat, flat)["finite"]


def test_a_gap_tells_an_angle_that_means_nothing():
    # Round in all directions, so that no component stands out.
    rng = np.random.default_rng(0)
    case = Case("noise", 16 * 16, 16 * 16)
    orthogonal = np.linalg.qr(rng.standard_normal((257, CHANNELS)))[0]
    theirs = {case: np.concatenate([np.ones((1, CHANNELS)), orthogonal])}
    angle = compared(moved(theirs, 1e-6), theirs)["subspaces"][0]
    assert angle["gap"] < 1e-2
    assert angle["degrees"] * angle["gap"] < 0.01


def test_the_worst_token_is_found():
    ours = features()
    case = Case("dog", *SIZES[1])
    ours[case][7] += 0.5
    worst = compared(ours, features())["worst_token"]
    assert (worst["image"], worst["height"], worst["width"], worst["token"]) == ("dog", 96, 64, 7)
    a, b = (x[case][7].astype(np.float64) for x in (ours, features()))
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert worst["distance"] == pytest.approx(1 - cosine)
    assert math.cos(math.radians(worst["degrees"])) == pytest.approx(cosine)


def test_the_same_features_give_the_same_bytes():
    texts = {json.dumps(compared(moved(features(), 1e-3), features())) for _ in range(2)}
    assert len(texts) == 1
