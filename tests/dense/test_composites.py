"""Composite photographs: the same for a seed, with true masks, and a fair test of what the background counts."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vit2onnx.dense.composites import BACKGROUNDS, OBJECTS, Composite, composites
from vit2onnx.dense.foreground import from_mask
from vit2onnx.dense.retrieval import Gallery
from vit2onnx.errors import InputError

RESOURCES = Path(__file__).parents[2] / "resources"
PATCH = 16


def pixels(composite: Composite) -> np.ndarray:
    return np.asarray(composite.image)


def digest(seed: int, size: int = 128) -> str:
    found = hashlib.sha256()
    for one in composites(RESOURCES, seed, size):
        found.update(one.name.encode() + pixels(one).tobytes() + one.mask.tobytes())
    return found.hexdigest()


@pytest.fixture(scope="module")
def found() -> list[Composite]:
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
        size = Image.open(RESOURCES / file).size
        Image.new("L", size, 0 if file in BACKGROUNDS.values() else 255).save(path, "png")
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


def test_show(found):
    g=Gallery()
    for one in found:
        p=features(one.image); g.add(one.label,p.mean((0,1)),p,from_mask(one.mask,16,16),one.background)
    for k in (0,1,2,4,8): print(k,[(r['descriptor'],round(r['map'],3)) for r in g.result(k)['rows']])
