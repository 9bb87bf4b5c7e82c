"""Figures and maps of a model, and of two models beside each other."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vit2onnx.dense.description import Described, Settings, compare_models, describe, flat
from vit2onnx.dense.figures import smoothness
from vit2onnx.errors import InputError

ROWS, COLUMNS, CHANNELS = 6, 8, 16
IMAGES = ("one", "two")
ABOUT: dict[str, Any] = {"variant": "toy", "weights": "own", "interface": "images", "patch_size": 16, "registers": 4}
SPIKE = (2, 5)


def features(seed: int, channels: int = CHANNELS, rotation: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Features of two photographs: a disc before a background, and a patch of high norm from layer 1 on."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:ROWS, :COLUMNS]
    disc = (y - 2.5) ** 2 + (x - 4) ** 2 < 5
    base = rng.normal(size=(2, channels))
    found = {}
    for image in IMAGES:
        case = f"{image}@{16 * ROWS}x{16 * COLUMNS}"
        grid = base[disc.astype(int)] + 0.1 * rng.normal(size=(ROWS, COLUMNS, channels))
        grid = grid if rotation is None else grid @ rotation
        high = np.ones((ROWS, COLUMNS))
        high[SPIKE] = 50
        found |= {
            f"float64/{case}/patches": grid,
            f"float64/{case}/before_norm": grid * high[..., None],
            f"float64/{case}/pooled": grid.mean((0, 1)),
            f"float64/{case}/layers.0": grid[::-1],
            f"float64/{case}/layers.0.norm": grid,
            f"float64/{case}/norms.0": np.linalg.norm(grid, axis=-1),
            f"float64/{case}/norms.1": np.linalg.norm(grid, axis=-1) * high,
            f"float32/{case}/patches": grid.astype(np.float32),
            f"float32/{case}/before_norm": (grid * high[..., None]).astype(np.float32),
            f"ablated/{case}/patches": grid[:, ::-1].astype(np.float32),
            f"ablated/{case}/before_norm": grid[:, ::-1].astype(np.float32),
        }
    return found


CASES = [f"{image}@96x128" for image in IMAGES]


def described(settings: Settings | None = None, **changes: Any) -> Described:
    arrays = features(0) | changes
    return describe(ABOUT, arrays, arrays, CASES, settings or Settings())


def test_figures_are_plain_and_of_every_photograph() -> None:
    found = described()
    figures = json.loads(json.dumps(found.figures, allow_nan=False))
    assert figures["grid"] == [ROWS, COLUMNS]
    assert [row["image"] for row in figures["photographs"]] == [*IMAGES]
    assert figures["photographs"][0]["smoothness"] == smoothness(features(0)["float64/one@96x128/patches"])
    assert figures["photographs"][0]["reference"] == [3, 4]
    assert figures["basis"]["patches"] == len(IMAGES) * ROWS * COLUMNS
    assert {(row["layer"], row["normed"]) for row in figures["layers"]} == {(0, False), (0, True)}


def test_high_norms_are_named_by_layer() -> None:
    norms = described().figures["norms"]
    assert {(row["image"], row["layer"]): row["where"] for row in norms} == {
        **{(image, 0): [] for image in IMAGES},
        **{(image, 1): [list(SPIKE)] for image in IMAGES},
    }
    assert described().figures["photographs"][0]["high_norms"] == 1
    assert described(Settings(high_norm=1000)).figures["photographs"][0]["high_norms"] == 0


def test_two_descriptions_are_the_same_to_the_bit() -> None:
    first, second = described(), described()
    assert first.figures == second.figures
    assert first.maps.keys() == second.maps.keys()
    assert all(first.maps[key].tobytes() == second.maps[key].tobytes() for key in first.maps)


def test_the_order_of_photographs_changes_no_colour() -> None:
    arrays = features(0)
    one, other = (describe(ABOUT, arrays, arrays, cases, Settings()).maps for cases in (CASES, CASES[::-1]))
    for image in IMAGES:
        np.testing.assert_array_equal(one[f"{image}/colours"], other[f"{image}/colours"])


def test_the_reference_patch_is_where_it_is_set() -> None:
    found = described(Settings(references={"one": (0.0, 1.0)}))
    assert found.figures["photographs"][0]["reference"] == [0, COLUMNS - 1]
    assert found.maps["one/similarity"][0, COLUMNS - 1] == pytest.approx(1)


def test_the_foreground_alone_is_coloured(tmp_path: Path) -> None:
    automatic = described(Settings(foreground="automatic"))
    mask = automatic.maps["one/foreground"]
    assert 0 < mask.sum() < mask.size
    assert not automatic.maps["one/colours"][~mask].any()
    paths = {image: tmp_path / f"{image}.png" for image in IMAGES}
    for path in paths.values():
        white = np.zeros((60, 80), np.uint8)
        white[:30] = 255
        Image.fromarray(white).save(path)
    given = described(Settings(foreground="masks", masks=paths))
    np.testing.assert_array_equal(given.maps["two/foreground"], np.arange(ROWS)[:, None] < [ROWS // 2] * COLUMNS)
    assert given.figures["photographs"][0]["foreground"] == 0.5
    assert given.figures["basis"]["patches"] == len(IMAGES) * ROWS * COLUMNS // 2


def test_a_photograph_without_an_object_is_foreground_all_over() -> None:
    one = np.random.default_rng(2).normal(size=CHANNELS)
    alike = {f"float64/{CASES[0]}/patches": np.tile(one, (ROWS, COLUMNS, 1))}
    assert described(Settings(foreground="automatic"), **alike).maps["one/foreground"].all()


def test_a_mask_without_an_object_is_told(tmp_path: Path) -> None:
    dot = np.zeros((60, 80), np.uint8)
    dot[0, 0] = 255
    Image.fromarray(dot).save(tmp_path / "dot.png")
    settings = Settings(foreground="masks", masks=dict.fromkeys(IMAGES, tmp_path / "dot.png"))
    with pytest.raises(InputError, match="one has 0 patches of foreground; give a mask"):
        described(settings)


def test_each_photograph_can_have_a_basis_of_its_own() -> None:
    figures = described(Settings(basis="image")).figures
    assert figures["basis"]["shares"] is None
    assert figures["photographs"][0]["shares"] != figures["photographs"][1]["shares"]


def test_ablation_is_there_where_a_model_has_registers() -> None:
    row = described().figures["ablation"][0]
    assert row["gram_max"] > 0
    # With registers, and without: the high norm was planted in the former.
    assert row["high_norms"] == [1, 0]
    assert row["norm_ratio"][0] > 10 > row["norm_ratio"][1]
    assert row["smoothness"][0] == pytest.approx(row["smoothness"][1], abs=1e-6)
    arrays = features(0)
    without = {key: value for key, value in arrays.items() if not key.startswith("ablated/")}
    assert describe(ABOUT, arrays, without, CASES, Settings()).figures["ablation"] is None


def of_images(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {image: arrays[f"float64/{case}/patches"] for image, case in zip(IMAGES, CASES, strict=True)}


def test_a_model_that_is_another_one_rotated_has_the_same_maps() -> None:
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(CHANNELS, CHANNELS)))[0]
    both = [features(0), features(0, rotation=rotation)]
    first, second = (describe(ABOUT, arrays, arrays, CASES, Settings()) for arrays in both)
    found = compare_models(first, second, list(map(of_images, both)))
    assert found.figures["agreement"] == pytest.approx(1, abs=1e-9)
    assert found.figures["same_basis"] < 0.9
    assert all(row["foreground_overlap"] is None for row in found.figures["rows"])
    assert all(row["mean"] == pytest.approx(0, abs=1e-12) for row in found.figures["differences"])
    assert max(row["gram_max"] for row in found.figures["rows"]) < 1e-12
    for image in IMAGES:
        assert np.abs(found.maps[f"{image}/colours"].astype(int) - first.maps[f"{image}/colours"]).max() <= 1


@pytest.mark.parametrize("settings", [Settings(basis="image"), Settings(foreground="automatic")])
def test_a_rotated_model_has_the_same_colours_by_any_basis_and_foreground(settings: Settings) -> None:
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(CHANNELS, CHANNELS)))[0]
    both = [features(0), features(0, rotation=rotation)]
    first, second = (describe(ABOUT, arrays, arrays, CASES, settings) for arrays in both)
    found = compare_models(first, second, list(map(of_images, both)))
    for row in found.figures["rows"]:
        assert row["agreement"] == pytest.approx(1, abs=1e-9)
        assert row["foreground_overlap"] == (1 if settings.foreground == "automatic" else None)
        colours = found.maps[f"{row['image']}/colours"].astype(int)
        assert np.abs(colours - first.maps[f"{row['image']}/colours"]).max() <= 1
    # Bases of single photographs have no rotation in common.
    assert (found.figures["agreement"] is None) == (settings.basis == "image")


def test_models_that_see_no_foreground_in_common_are_not_aligned(tmp_path: Path) -> None:
    arrays, sides = features(0), []
    for side in (slice(None, ROWS // 2), slice(ROWS // 2, None)):
        white = np.zeros((ROWS, COLUMNS), np.uint8)
        white[side] = 255
        sides.append(tmp_path / f"{len(sides)}.png")
        Image.fromarray(white).save(sides[-1])
    settings = [Settings(foreground="masks", masks=dict.fromkeys(IMAGES, path)) for path in sides]
    first, second = (describe(ABOUT, arrays, arrays, CASES, one) for one in settings)
    found = compare_models(first, second, [of_images(arrays)] * 2).figures
    assert found["agreement"] is None
    assert [(row["agreement"], row["foreground_overlap"]) for row in found["rows"]] == [(None, 0)] * 2


def test_the_second_model_is_compared_by_how_many_photographs_it_is_ahead_on() -> None:
    arrays = features(0)
    blurred = dict(arrays)
    for case in CASES:
        grid = arrays[f"float64/{case}/patches"]
        blurred[f"float64/{case}/patches"] = grid + 2 * grid.mean((0, 1))
    first, second = (describe(ABOUT, one, one, CASES, Settings()) for one in (arrays, blurred))
    found = compare_models(first, second, [of_images(arrays), of_images(blurred)]).figures
    (chance,) = (row for row in found["differences"] if row["figure"] == "chance")
    assert (chance["second_larger"], chance["photographs"]) == (2, 2)
    assert chance["mean"] > 0 and chance["deviation"] is not None
    assert 0 <= found["baseline"] < found["agreement"]


def test_rows_of_tables_have_no_lists() -> None:
    row = {"image": "one", "contrast": [0.1, None], "where": [[0, 3], [2, 1]], "turning": [1, 2], "grid": [2, 3]}
    assert flat(row) == {
        **{"image": "one", "contrast_1": 0.1, "contrast_2": None, "where": "0,3 2,1", "turning": "1 2"},
        **{"grid_1": 2, "grid_2": 3},
    }
    assert flat({"where": []}) == {"where": ""}


def test_the_same_model_agrees_in_the_same_basis() -> None:
    arrays = features(0)
    one = describe(ABOUT, arrays, arrays, CASES, Settings())
    assert compare_models(one, one, [of_images(arrays)] * 2).figures["same_basis"] == pytest.approx(1)


def test_models_of_two_widths_have_no_basis_in_common() -> None:
    both = [features(0), features(0, channels=24)]
    first, second = (describe(ABOUT, arrays, arrays, CASES, Settings()) for arrays in both)
    found = compare_models(first, second, list(map(of_images, both)))
    assert found.figures["same_basis"] is None
    assert 0 < found.figures["agreement"] < 1


def test_maps_of_other_grids_are_not_compared() -> None:
    arrays = features(0)
    one = describe(ABOUT, arrays, arrays, CASES, Settings())
    turned = {key: value.swapaxes(0, 1) for key, value in arrays.items() if "pooled" not in key}
    other = describe(ABOUT, turned, turned, CASES, Settings())
    with pytest.raises(InputError, match="grid"):
        compare_models(one, other, [of_images(arrays), of_images(turned)])
