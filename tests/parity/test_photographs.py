"""A picture on which faults would not show is called so, and is no evidence."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vit2onnx.errors import InputError
from vit2onnx.families.interface import images_to_tokens
from vit2onnx.images import load_image, preprocess
from vit2onnx.parity.outputs import check_evidence
from vit2onnx.parity.photographs import no_evidence, telling_first
from vit2onnx.spec.variant import VariantSpec

IMAGES = Path("resources/images").resolve()
IMAGES_TO_TOKENS = images_to_tokens(embed_dim=1, patch_size=1, registers=0)


def of_arrays(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels.astype(np.uint8))


def noise(levels: float) -> np.ndarray:
    return 128 + levels * np.random.default_rng(0).standard_normal((96, 128, 3))


def gradient(axis: int) -> np.ndarray:
    """Colours that change along one axis only."""
    along = np.linspace(0, 255, noise(0).shape[axis]).reshape(-1, 1, 1)
    return np.broadcast_to(along if axis == 0 else along.transpose(1, 0, 2), noise(0).shape) * [1, 0.5, 0.2]


def symmetric(axis: int) -> np.ndarray:
    pixels = np.asarray(load_image(IMAGES / "chelsea.jpg").resize((128, 96))).astype(float)
    return (pixels + np.flip(pixels, axis)) / 2


PICTURES: dict[str, tuple[Callable[[], np.ndarray], str]] = {
    "black": (lambda: noise(0) * 0, "is of one colour"),
    "red": (lambda: noise(0) * 0 + [255, 0, 0], "is of one colour"),
    "noise of a camera": (lambda: noise(0.5), "is of one colour"),
    "gradient to the right": (lambda: gradient(1), "is the same upside down"),
    "gradient down": (lambda: gradient(0), "is its own mirror image"),
    "mirrored": (lambda: symmetric(1), "is its own mirror image"),
    "upside down": (lambda: symmetric(0), "is the same upside down"),
}


@pytest.mark.parametrize(("make", "why"), PICTURES.values(), ids=PICTURES)
@pytest.mark.parametrize("size", [(224, 224), (48, 112)])
def test_a_picture_that_shows_nothing_is_called_so(real_spec: VariantSpec, make, why: str, size: tuple[int, int]):
    prepared = preprocess(of_arrays(make()), *size, real_spec.preprocessing)
    assert no_evidence({f"x@{size[0]}x{size[1]}": prepared}, real_spec.preprocessing) == {"x": why}


def test_photographs_are_evidence_and_grey_ones_alone_are_told(real_spec: VariantSpec):
    prepared = {
        f"{path.stem}@{height}x{width}": preprocess(load_image(path), height, width, real_spec.preprocessing)
        for path in sorted(IMAGES.glob("*.jpg"))
        for height, width in ((224, 224), (48, 112))
    }
    found = no_evidence(prepared, real_spec.preprocessing)
    assert found == {}
    grey = {case: image for case, image in prepared.items() if case.startswith("camera")}
    assert "all grey" in check_evidence(grey, real_spec, IMAGES_TO_TOKENS).detail
    assert "grey" not in check_evidence(prepared, real_spec, IMAGES_TO_TOKENS).detail
    # Noise of all frequencies is content.
    loud = preprocess(of_arrays(noise(40)), 96, 128, real_spec.preprocessing)
    assert no_evidence({"loud@96x128": loud}, real_spec.preprocessing) == {}


def test_those_that_show_something_come_first(real_spec: VariantSpec):
    cat, blank = (
        preprocess(image, 48, 112, real_spec.preprocessing)
        for image in (load_image(IMAGES / "chelsea.jpg"), of_arrays(noise(0)))
    )
    given = {"blank@48x112": blank, "cat@48x112": cat, "again@48x112": cat}
    assert telling_first(given, real_spec.preprocessing) == ["cat@48x112", "blank@48x112", "again@48x112"]
    check = check_evidence(given, real_spec, IMAGES_TO_TOKENS)
    assert check.passed
    assert check.detail == (
        "1 of 3 photographs can show a fault; not evidence: blank is of one colour; again is the same as cat"
    )


def test_a_run_on_nothing_else_fails_with_one_sentence(real_spec: VariantSpec):
    blank = preprocess(of_arrays(noise(0)), 224, 224, real_spec.preprocessing)
    given = {"white@224x224": blank, "also@224x224": blank}
    told = "No photograph can show a fault: white is of one colour; also is the same as white. Add another"
    with pytest.raises(InputError, match=told):
        telling_first(given, real_spec.preprocessing)
    assert not check_evidence(given, real_spec, IMAGES_TO_TOKENS).passed
    # The published photograph is not the user's.
    cat = preprocess(load_image(IMAGES / "chelsea.jpg"), 224, 224, real_spec.preprocessing)
    with pytest.raises(InputError, match=told):
        telling_first({**given, "golden@224x224": cat}, real_spec.preprocessing)
