"""Composite photographs: the same for a seed, with true masks, and a fair test of what the background counts."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vit2onnx.dense.composites import BACKGROUNDS, OBJECTS, composites
from vit2onnx.dense.foreground import from_mask
from vit2onnx.dense.retrieval import Gallery, LabelledImage
from vit2onnx.errors import InputError

RESOURCES = Path(__file__).parents[2] / "resources"
PATCH = 16


def pixels(composite: LabelledImage) -> np.ndarray:
    return np.asarray(composite.image)


def digest(seed: int, size: int = 128) -> str:
    found = hashlib.sha256()
    for one in composites(RESOURCES, seed, size):
        found.update(one.name.encode() + pixels(one).tobytes() + one.mask.tobytes())
    return found.hexdigest()


@pytest.fixture(scope="module")
def found() -> list[LabelledImage]:
    return list(composites(RESOURCES, size=256))


def test_a_seed_gives_the_same_pixels():
    assert digest(0) == digest(0) != digest(1)
    assert digest(0) != digest(0, size=144)


def test_every_object_is_once_before_every_background(found):
    assert Counter((one.label, one.background) for one in found) == {(o, b): 1 for o in OBJECTS for b in BACKGROUNDS}
    assert len(found) == len({one.name for one in found}) == 36
    for one in found:
        assert one.image.mode == "RGB" and one.image.size == (256, 256)
        assert one.mask.dtype == bool and one.mask.shape == (256, 256)


def test_objects_are_discs_that_do_not_reach_the_border(found):
    places = set()
    for one in found:
        rows, columns = (np.flatnonzero(one.mask.any(axis)) for axis in (1, 0))
        diameter = rows.size
        assert 0.45 * 256 - 2 < diameter < 0.6 * 256 + 2 and abs(columns.size - diameter) <= 1
        assert one.mask.sum() == pytest.approx(np.pi / 4 * diameter**2, rel=0.02)
        assert min(rows[0], columns[0]) >= PATCH and max(rows[-1], columns[-1]) < 256 - PATCH
        places.add((rows[0], columns[0], diameter))
    assert len(places) > 30


def test_images_of_one_background_do_not_share_its_pixels(found):
    for background in BACKGROUNDS:
        edges = {pixels(one)[:PATCH].tobytes() for one in found if one.background == background}
        assert len(edges) == len(OBJECTS)


@pytest.fixture
def black_and_white(tmp_path: Path) -> Path:
    """Pictures that are white where they hold objects, and black where they are backgrounds."""
    for file in [*(file for file, _ in OBJECTS.values()), *BACKGROUNDS.values()]:
        path = tmp_path / file
        path.parent.mkdir(exist_ok=True)
        with Image.open(RESOURCES / file) as picture:
            Image.new("L", picture.size, 0 if file in BACKGROUNDS.values() else 255).save(path, "png")
    return tmp_path


def test_the_mask_is_where_the_object_is_pasted(black_and_white):
    for seed in range(3):
        for one in composites(black_and_white, seed, 96):
            # More than half of a pixel of the edge.
            assert (one.mask == (pixels(one) >= 128).all(-1)).all()
            assert one.mask.any()


def features(image: Image.Image) -> np.ndarray:
    """A model of one layer with random weights: patches [rows, columns, 128]."""
    random = np.random.default_rng(0)
    rows = image.height // PATCH
    patches = np.asarray(image, np.float64).reshape(rows, PATCH, rows, PATCH, 3).swapaxes(1, 2) / 127.5 - 1
    # Means and deviations of the colours, as far as a random projection keeps them.
    kept = np.concatenate([patches.mean((2, 3)), patches.std((2, 3))], axis=-1)
    weights, bias = random.standard_normal((6, 128)), random.standard_normal(128) / 2
    return np.maximum(kept @ weights + bias, 0)


def retrieved(found: list[LabelledImage], shift: int = 0) -> dict[str, float]:
    """The mean average precision of every descriptor, with masks that are moved by so many patches."""
    gallery = Gallery()
    for one in found:
        patches = features(one.image)
        mask = np.roll(from_mask(one.mask, *patches.shape[:2]), shift, axis=1)
        gallery.add(one.label, patches.mean((0, 1)), patches, mask, one.background)
    return {row["descriptor"]: row["map"] for row in gallery.result()["rows"]}


def test_objects_are_found_once_the_background_is_gone(found):
    maps = retrieved(found)
    # Measured: 0.17, 0.53 and 1.00.
    assert maps["mean"] < 0.25 and maps["suppressed"] > maps["mean"] + 0.2 and maps["masked"] > maps["mean"] + 0.6
    assert retrieved(found[:12], shift=4)["masked"] < retrieved(found[:12])["masked"] - 0.2


@pytest.mark.parametrize("seed, size", [(-1, 512), (0, 63)])
def test_numbers_that_make_no_composites_are_refused(seed, size):
    with pytest.raises(InputError, match=f"seed {seed} and {size} pixels"):
        next(composites(RESOURCES, seed, size))


def test_pictures_that_are_missing_or_others_are_refused(black_and_white):
    path = black_and_white / "dense" / "clock.jpg"
    Image.new("L", (200, 200)).save(path, "png")
    with pytest.raises(InputError, match=r"clock\.jpg: this is not the picture.*restore"):
        next(composites(black_and_white))
    path.unlink()
    with pytest.raises(InputError, match=r"clock\.jpg: there is no such photograph"):
        next(composites(black_and_white))


def listed() -> Iterator[tuple[str, str, str]]:
    """File, size and licence by the table that comes with the pictures."""
    text = (RESOURCES / "dense" / "README.md").read_text()
    for row in re.findall(r"^\| `.*", text, re.M):
        file, _, size, _, licence, _ = (cell.strip() for cell in row.strip("|").split(" | "))
        yield file.strip("` "), size, licence


def test_every_picture_is_used_and_its_licence_stated():
    pictures = sorted((RESOURCES / "dense").glob("*.jpg"))
    used = {file for file, _ in OBJECTS.values()} | set(BACKGROUNDS.values())
    assert {f"dense/{path.name}" for path in pictures} == {file for file in used if file.startswith("dense/")}
    assert [file for file, _, _ in listed()] == [path.name for path in pictures]
    for file, size, licence in listed():
        with Image.open(RESOURCES / "dense" / file) as picture:
            assert size == f"{picture.width} x {picture.height}" and not picture.getexif()
        assert licence.startswith(("[CC0](https://creativecommons.org/publicdomain/zero", "public domain"))
    sizes = [path.stat().st_size for path in pictures]
    assert max(sizes) <= 60_000 and sum(sizes) <= 350_000
