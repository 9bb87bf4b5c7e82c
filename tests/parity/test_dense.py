"""Dense maps side by side: a healthy graph shows the same picture, and what changes the picture is seen."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import scipy

from tests.limits import LIMITS
from tests.planted import AMPLIFIED, MODELS
from vit2onnx.dense.components import colours, fit, scores
from vit2onnx.dense.foreground import split
from vit2onnx.images import load_image
from vit2onnx.parity.dense import compare_dense
from vit2onnx.parity.dense_comparison import COUNTS, FIGURES, IMPLEMENTATIONS, DenseComparison
from vit2onnx.parity.finding import Finding
from vit2onnx.parity.floors import in_floors, noise_floors
from vit2onnx.parity.tables import csv_of
from vit2onnx.runners import equinox as equinox_runner
from vit2onnx.runners import torch as torch_runner
from vit2onnx.self_test.chain import Chain, recipe_of, shrink
from vit2onnx.self_test.planting import GREY, small_inputs

ROOT = Path(__file__).parents[2]
ABOUT = {"variant": "tiny", "export": "dynamic", "graph_sha256": "ab"}
# Square, because a map with rows and columns exchanged has the same shape then.
CASES = ["cat@8x8", "tree@8x8"]
OTHERS = ("transformers", "equinox")
SIDE, CHANNELS = 8, 24
Arrays = dict[str, np.ndarray]
Features = Mapping[str, Arrays]
Change = Callable[[np.ndarray], np.ndarray]


def smooth(rng: np.random.Generator, channels: int = CHANNELS) -> np.ndarray:
    """A map that varies slowly over the image, as features do, around a direction that all patches share."""
    y, x = np.meshgrid(np.linspace(0, 1, SIDE), np.linspace(0, 1, SIDE), indexing="ij")
    waves = [np.sin(3 * (a * y + b * x) + c) for a, b, c in rng.uniform(0, 2, (6, 3))]
    grid = np.stack(waves, axis=-1) @ rng.standard_normal((6, channels)) + 2 * rng.standard_normal(channels)
    return np.asarray(grid + 0.3 * rng.standard_normal((SIDE, SIDE, channels)))


@pytest.fixture(scope="module")
def truth() -> Arrays:
    """All maps of two photographs in double precision; a patch of the first has a high norm in the last layer."""
    rng, found = np.random.default_rng(0), {}
    for number, case in enumerate(CASES):
        before, layer = 3 * smooth(rng), smooth(rng)
        before[2, 5] *= 20 if number == 0 else 1
        wide = before - before.mean(axis=-1, keepdims=True)
        maps = {"pooled": before[0, 0], "patches": wide / wide.std(axis=-1, keepdims=True), "before_norm": before}
        maps |= {"layers.0": layer, "layers.0.norm": layer - layer.mean(axis=-1, keepdims=True)}
        norms = {"norms.0": np.linalg.norm(layer, axis=-1), "norms.1": np.linalg.norm(before, axis=-1)}
        found |= {f"{case}/{name}": value for name, value in {**maps, **norms}.items()}
    return found


def rounded(truth: Arrays, seed: int, size: float = 1.0) -> Arrays:
    """What single precision makes of it: another rounding for each implementation."""
    rng = np.random.default_rng(seed)
    return {
        f"float32/{key}": (x + size * 1e-7 * rng.standard_normal(x.shape) * np.abs(x).mean()).astype(np.float32)
        for key, x in truth.items()
    }


def features(truth: Arrays, size: float = 1.0, **other: Arrays) -> dict[str, Arrays]:
    """Implementations that are right, but for other arrays of some."""
    found = {name: rounded(truth, seed, size) for seed, name in enumerate(IMPLEMENTATIONS)}
    found["transformers"] |= {f"float64/{key}": value for key, value in truth.items()}
    return {name: arrays | other.get(name, {}) for name, arrays in found.items()}


def compare(implementations: Features) -> DenseComparison:
    return compare_dense(ABOUT, CASES, implementations)


def faults(implementations: Features) -> list[Finding]:
    return [one for one in compare(implementations).judge(LIMITS) if not one.passed]


def with_patches(truth: Arrays, change: Change, case: str = CASES[0], name: str = "patches") -> Arrays:
    """Arrays of an implementation in which one map is another."""
    return {f"float32/{case}/{name}": change(truth[f"{case}/{name}"]).astype(np.float32)}


def test_what_only_rounds_shows_the_same(truth: Arrays):
    found = compare(features(truth))
    findings = list(found.judge(LIMITS))
    assert [one.sentence for one in findings if not one.passed] == []
    assert len(findings) == 2 * (len(FIGURES) + len(COUNTS))
    # The limits of the config, because the reference is as near.
    assert all(one.limit == (LIMITS[one.limit_name] if one.limit_name else 0) for one in findings)
    assert found.maps == ["patches", "before_norm", "layers.0", "layers.0.norm", "norms.0", "norms.1"]
    assert len(found.rows) == len(CASES) * len(found.maps) * len(IMPLEMENTATIONS)
    assert all(row["patches"] == SIDE * SIDE for row in found.rows)
    assert csv_of(found.rows).count("\n") == 1 + len(found.rows)


def shifted(grid: np.ndarray) -> np.ndarray:
    """As if there were one more token before the patches."""
    return np.roll(grid.reshape(SIDE * SIDE, -1), -1, axis=0).reshape(grid.shape)


def shorter(grid: np.ndarray) -> np.ndarray:
    return grid[:, :-1]


SAME_COSINES = {"smoothness", "smoothness_map", "high_frequency", "similarity", "gram"}
FAULTS: dict[str, tuple[Change, set[str]]] = {
    "rows and columns exchanged": (
        lambda grid: grid.swapaxes(0, 1),
        {"smoothness_map", "similarity", "gram", "colours"},
    ),
    "one token too many before the patches": (shifted, {"smoothness", "similarity", "gram", "colours", "levels"}),
    "upside down": (lambda grid: grid[::-1], {"smoothness_map", "similarity", "gram", "colours"}),
    # Colours that are stretched from the least to the largest value of each map would not show the next two.
    "twice as large": (lambda grid: 2 * grid, {"colours", "levels"}),
    "moved by a constant": (lambda grid: grid + 0.1, {"smoothness", "similarity", "gram"}),
    # Only signs that are each map's own would hide it.
    "negated": (lambda grid: -grid, {"colours", "levels", "mask"}),
    "in half precision": (lambda grid: grid.astype(np.float16), {"smoothness_map", "similarity", "gram", "colours"}),
    "of another grid": (shorter, {"smoothness", "smoothness_map", "similarity", "gram", "colours", "levels", "mask"}),
    "NaN in a patch": (
        lambda grid: np.where(np.arange(CHANNELS) == 3, np.nan, grid),
        {"smoothness", "smoothness_map", "high_frequency", "similarity", "gram", "colours", "levels", "mask"},
    ),
}


@pytest.mark.parametrize("subject", ["equinox", "onnx"])
@pytest.mark.parametrize(("change", "seen_by"), FAULTS.values(), ids=FAULTS)
def test_what_changes_the_picture_fails(truth: Arrays, change: Change, seen_by: set[str], subject: str):
    found = faults(features(truth, **{subject: with_patches(truth, change)}))
    words = {one.key: one.words for one in (*FIGURES, *COUNTS)}
    assert {words[key] for key in seen_by} <= {one.measure for one in found}
    assert {(one.leg, one.subject, one.other, one.place) for one in found} == {
        ("dense", subject, "truth", "patches of cat 8x8")
    }


def test_cosines_alone_do_not_see_all(truth: Arrays):
    """Where only colours tell."""
    for change in (FAULTS["twice as large"][0], FAULTS["negated"][0]):
        found = {one.measure for one in faults(features(truth, onnx=with_patches(truth, change)))}
        assert not found & {one.words for one in FIGURES if one.key in SAME_COSINES}


def test_a_missing_norm_fails(truth: Arrays):
    """What was before the final norm, given as the patches after it."""
    before = {f"float32/{case}/patches": truth[f"{case}/before_norm"].astype(np.float32) for case in CASES}
    found = {one.measure for one in faults(features(truth, onnx=before))}
    assert {one.words for one in FIGURES if one.key in ("gram", "colours")} <= found


@pytest.mark.parametrize("name", ["before_norm", "layers.0", "layers.0.norm"])
def test_every_map_is_looked_at(truth: Arrays, name: str):
    other = with_patches(truth, lambda grid: grid.swapaxes(0, 1), CASES[1], name)
    found = faults(features(truth, equinox=other))
    assert found and {one.place for one in found} == {f"{name} of tree 8x8"}


@pytest.mark.parametrize("name", ["patches", "before_norm", "layers.0", "layers.0.norm", "norms.0", "norms.1"])
def test_a_map_that_is_missing_fails(truth: Arrays, name: str):
    given = features(truth)
    del given["onnx"][f"float32/tree@8x8/{name}"]
    found = faults(given)
    assert found and not any(np.isfinite(one.measured) for one in found)
    assert all(one.sentence.startswith("onnx - truth") for one in found)


def test_a_truth_that_is_not_finite_fails(truth: Arrays):
    broken = features({**truth, "cat@8x8/patches": np.full((SIDE, SIDE, CHANNELS), np.nan)})
    found = faults(broken)
    # Colours of all photographs have one basis.
    assert {one.words for one in FIGURES if one.key != "norms"} <= {one.measure for one in found}
    assert not any(np.isfinite(one.measured) for one in found)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("layers.0", lambda grid: -grid),
        ("before_norm", lambda grid: grid[..., ::-1]),
        ("before_norm", lambda grid: 1.001 * grid),
        ("norms.0", lambda norms: 1.001 * norms),
        ("norms.1", lambda norms: norms[::-1]),
        ("norms.1", np.zeros_like),
    ],
)
def test_features_that_are_as_similar_as_they_should_be_are_told_from_the_right_ones(
    truth: Arrays, name: str, change: Change
):
    found = faults(features(truth, onnx=with_patches(truth, change, name=name)))
    assert {one.limit_name for one in found} >= {"dense_feature"}
    assert all(one.place == f"{name} of cat 8x8" for one in found if one.place)


def test_an_error_that_outputs_may_have_is_seen_if_it_changes_the_picture():
    """It lies along one component, varies slowly over the image, and every token has it within its noise floors.

    Patches share a direction, so what tells them apart is small against the rounding of their features.
    """
    rng, channels = np.random.default_rng(1), 384
    shared = 3 * rng.standard_normal(channels)
    truth = {f"{case}/patches": shared + 0.01 * smooth(rng, channels) for case in CASES}
    given = features(truth)
    basis = fit(list(truth.values()))
    for key, true in truth.items():
        tokens = true.reshape(-1, channels)
        floors = noise_floors(tokens, [given[name][f"float32/{key}"].reshape(-1, channels) - tokens for name in OTHERS])
        # As much as nine noise floors are, over all channels.
        size = 9 * floors.min() * np.sqrt(channels)
        moved = true + size * np.cos(np.arange(SIDE) / 3)[:, None, None] * basis.components[2]
        told = in_floors(moved.reshape(-1, channels), tokens, floors).floors
        assert told is not None and 5 < told < LIMITS["floors"]
        given["onnx"][f"float32/{key}"] = moved
    found = [one for one in faults(given) if np.isfinite(one.measured)]
    assert {"max |difference| of a colour", "8-bit colours that differ"} <= {one.measure for one in found}
    # No cosine shows it.
    assert not {"dense_similarity", "dense_gram"} & {one.limit_name for one in found}


def test_rounding_that_the_reference_has_as_well_is_no_fault(truth: Arrays):
    found = compare(features(truth, size=100))
    assert all(one.passed for one in found.judge(LIMITS))
    for figure in (one for one in FIGURES if one.limit in ("dense_similarity", "dense_gram")):
        assert max(row[figure.key] for row in found.of("onnx", figure.key)) > LIMITS[figure.limit]


@pytest.mark.parametrize("rough", ["transformers", "equinox"])
def test_one_implementation_cannot_make_a_noise_floor_alone(truth: Arrays, rough: str):
    off = {key: value for key, value in rounded(truth, 7, size=1e4).items() if key.endswith("patches")}
    given = features(truth, **{rough: off, "onnx": {key: x + 1e-5 for key, x in off.items()}})
    assert {"dense_similarity", "dense_gram", "dense_colour"} <= {
        one.limit_name for one in faults(given) if one.subject == "onnx"
    }


def with_score(truth: Arrays, case: str, patch: tuple[int, ...], component: int, by: float) -> Arrays:
    """Patches of a case, of which one has another score in a component."""
    basis = fit([truth[f"{case}/patches"] for case in CASES])
    at = np.zeros((SIDE, SIDE, 1))
    at[patch] = by * basis.deviations[component]
    return {f"float32/{case}/patches": truth[f"{case}/patches"] + at * basis.components[component]}


def test_levels_at_a_tie_may_differ(truth: Arrays):
    basis = fit([truth[f"{case}/patches"] for case in CASES])
    found = np.stack([scores(basis, truth[f"{case}/patches"]) for case in CASES])
    exact = 255 * colours(found)
    boundary = np.floor(exact) + 0.5
    # The colour that is nearest to the boundary between two levels.
    number, *patch, component = map(int, np.unravel_index(np.abs(exact - boundary).argmin(), exact.shape))
    place = (number, *patch, component)
    apart = scipy.special.logit(boundary[place] / 255) / 2 - found[place]
    given = features(truth, onnx=with_score(truth, CASES[number], tuple(patch), component, apart * (1 + 1e-6)))
    result = compare(given)
    (row,) = [row for row in result.of("onnx", "levels") if row["levels"]]
    assert (row["levels"], row["level_margin"]) == (1, pytest.approx(abs(exact - boundary)[place] / 255, rel=1e-3))
    assert row["level_margin"] < LIMITS["dense_colour"]
    # A step of this size is more than rounding for cosines, which is not asked here.
    of_colours = [one for one in result.judge(LIMITS) if "colour" in one.measure]
    assert len(of_colours) == 4 and all(one.passed for one in of_colours)


def test_levels_apart_from_a_tie_are_counted(truth: Arrays):
    given = features(truth, onnx=with_score(truth, CASES[0], (3, 3), 0, 0.02))
    (finding,) = [one for one in faults(given) if one.measure == "8-bit colours that differ"]
    assert (finding.measured, finding.limit, finding.place) == (1, 0, "patches of cat 8x8")


def test_a_patch_in_the_foreground_of_one_only_is_counted(truth: Arrays):
    basis = fit([truth[f"{case}/patches"] for case in CASES])
    first = scores(basis, truth["cat@8x8/patches"])[..., 0]
    threshold = split(first).threshold
    row, column = map(int, np.unravel_index(np.abs(first - threshold).argmin(), first.shape))
    over = 1.001 * (threshold - first[row, column])
    found = compare(features(truth, onnx=with_score(truth, CASES[0], (row, column), 0, over)))
    (told,) = [one for one in found.of("onnx", "mask") if one["mask"]]
    margin = abs(colours(first[..., None])[row, column, 0] - colours(np.full((1, 1, 1), threshold))[0, 0, 0])
    assert (told["mask"], told["mask_margin"]) == (1, pytest.approx(margin))
    # Other patches are far from it, too.
    assert "patches in the foreground of one only" in {one.measure for one in found.judge(LIMITS) if not one.passed}


@pytest.mark.parametrize(("factor", "counted", "passes"), [(1.0, 0, True), (0.1, 1, False)])
def test_a_norm_that_is_high_in_one_only_fails(truth: Arrays, factor: float, counted: int, passes: bool):
    at = np.ones((SIDE, SIDE))
    at[2, 5] = factor
    given = features(truth, equinox=with_patches(truth, lambda norms: norms * at, name="norms.1"))
    found = compare(given)
    assert sum(row["high_norms"] for row in found.of("equinox", "high_norms")) == counted
    assert all(one.passed for one in found.judge(LIMITS)) == passes


def test_a_norm_at_the_threshold_may_be_on_either_side(truth: Arrays):
    norms = np.ones((SIDE, SIDE))
    norms[4, 4] = 4 * (1 + 1e-7)
    below = norms.copy()
    below[4, 4] = 4 * (1 - 1e-6)
    given = features({**truth, "cat@8x8/norms.0": norms}, onnx={"float32/cat@8x8/norms.0": below})
    assert sum(row["high_norms"] for row in compare(given).of("onnx", "high_norms")) >= 1
    assert faults(given) == []
    # Beyond five times the median, the same patch is nothing special.
    assert not any(row["high_norms"] for row in compare_dense(ABOUT, CASES, given, 5.0).of("onnx", "high_norms"))


def test_a_map_of_one_patch_has_no_smoothness_and_does_not_fail(truth: Arrays):
    small = {key: value[:1, :1] if value.ndim > 1 else value for key, value in truth.items()}
    assert faults(features(small)) == []


def test_maps_of_layers_may_have_grids_of_their_own(truth: Arrays):
    fine = {f"{case}/layers.0": np.repeat(truth[f"{case}/layers.0"], 2, axis=0) for case in CASES}
    found = compare(features(truth | fine))
    assert {row["patches"] for row in found.rows if row["map"] == "layers.0"} == {2 * SIDE * SIDE}
    assert all(one.passed for one in found.judge(LIMITS))


def test_a_comparison_is_read_as_it_was_written(truth: Arrays, tmp_path: Path):
    found = compare(features(truth))
    found.write(tmp_path / "dynamic.dense.json")
    assert DenseComparison.read(tmp_path / "dynamic.dense.json") == found


@pytest.mark.parametrize("model", ["ViT", "ConvNeXt", "DINOv2, registers, SwiGLU", *AMPLIFIED])
def test_healthy_models_show_the_same(released, tmp_path: Path, model: str):
    """Also those whose weights amplify rounding, beside a photograph of one colour."""
    spec = shrink(released[MODELS[model]])
    shown = {"cat": load_image(ROOT / "resources" / "images" / "chelsea.jpg"), "grey": GREY}
    inputs = small_inputs(spec, "images", shown)
    chain = Chain(spec, 0, tmp_path / "chain", recipe_of(spec, "images"), inputs, LIMITS, AMPLIFIED.get(model))
    single = chain.interface
    given = {
        "transformers": dict(torch_runner.dense_features(chain.load(), inputs, single, [0])),
        "equinox": dict(equinox_runner.dense_features(chain.model, chain.tensors, inputs, single, [0])),
    }
    # In place of a graph, which rounds like the Equinox model.
    found = compare_dense(ABOUT, chain.cases, given | {"onnx": given["equinox"]})
    assert {"patches", "before_norm", "layers.0", "norms.0"} <= {*found.maps}
    findings = list(found.judge(LIMITS))
    assert [one.sentence for one in findings if not one.passed] == []
    judged = [one for one in findings if one.limit_name]
    # Measured 0.38 at most, over 30 seeds.
    assert max(one.measured / one.limit for one in judged) < 0.7
    # Limits without noise floors would flag some.
    beyond = {figure.key for figure in FIGURES for row in found.rows if row.get(figure.key, 0) > LIMITS[figure.limit]}
    assert bool(beyond) == (model in AMPLIFIED)
    # And a map that is another one is found in them too.
    other = {
        key: np.roll(value, 1, axis=1) if key.endswith("/patches") else value for key, value in given["equinox"].items()
    }
    broken = compare_dense(ABOUT, chain.cases, given | {"onnx": other})
    assert {"dense_map", "dense_similarity", "dense_gram", "dense_colour"} <= {
        one.limit_name for one in broken.judge(LIMITS) if not one.passed
    }


def test_rows_tell_of_the_reference_and_are_not_judged(truth: Arrays):
    """A reference in which rows and columns are exchanged has nothing to do with the graph."""
    off = with_patches(truth, lambda grid: grid.swapaxes(0, 1))
    found = compare(features(truth, transformers=off))
    (row,) = [row for row in found.of("transformers", "gram", "patches") if row["image"] == "cat"]
    assert row["gram"] > 0.1
    assert all(one.passed for one in found.judge(LIMITS))
