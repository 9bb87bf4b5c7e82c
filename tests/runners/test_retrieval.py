"""Images of a folder reach the gallery in order, with their masks, however many go through the model at once."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vit2onnx.dense.composites import composites
from vit2onnx.dense.retrieval import Gallery
from vit2onnx.runners.retrieval import gallery_of, images_of_files
from vit2onnx.weights.model_file import open_model

ROOT = Path(__file__).parents[2]
# More than go through the model at once.
LABELS = [*"abcabcabc"]
# Two rows and three columns of patches.
SIZE = (32, 48)


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """What is added to galleries."""
    found: list[tuple] = []
    monkeypatch.setattr(Gallery, "add", lambda self, *image: found.append(image))
    return found


@pytest.fixture
def files(tmp_path: Path) -> tuple[list[Path], list[Path]]:
    """Photographs, each of one colour of its own, and masks of their first patches."""
    photographs, masks = [], []
    for number in range(len(LABELS)):
        photographs.append(tmp_path / f"{number}.png")
        Image.new("RGB", (96, 64), (25 * number, 40, 200 - 20 * number)).save(photographs[-1])
        masks.append(tmp_path / f"mask{number}.png")
        white = np.zeros((64, 96), np.uint8)
        white.reshape(2, 32, 3, 32)[number // 3 % 2, :, number % 3] = 255
        Image.fromarray(white).save(masks[-1])
    return photographs, masks


def test_images_keep_their_order_labels_and_masks(tiny, files, added: list[tuple]) -> None:
    spec, interface = tiny.spec, tiny.spec.interface()
    photographs, masks = files
    images = images_of_files(photographs, LABELS, masks, interface.patch_size)
    gallery_of(spec, interface, *open_model(tiny.model_file), images, SIZE)
    assert [label for label, *_ in added] == LABELS
    for number, (_, _, patches, mask, background) in enumerate(added):
        assert patches.shape == (2, 3, interface.compared[0].axes[-1])
        assert np.argwhere(mask).tolist() == [[number // 3 % 2, number % 3]]
        assert background is None
    alone = list(added)
    added.clear()
    for one in range(len(LABELS)):
        single = images_of_files(photographs[one : one + 1], LABELS[one : one + 1], [], interface.patch_size)
        gallery_of(spec, interface, *open_model(tiny.model_file), single, SIZE)
    for (_, pooled, patches, *_), (_, pooled_alone, patches_alone, mask, _) in zip(alone, added, strict=True):
        np.testing.assert_array_equal(pooled, pooled_alone)
        np.testing.assert_array_equal(patches, patches_alone)
        assert mask is None


def test_composites_bring_their_masks_and_backgrounds() -> None:
    images = list(composites(ROOT / "resources", size=64))
    assert len(images) == 36
    assert all(one.background and one.mask is not None and one.mask.any() for one in images)
