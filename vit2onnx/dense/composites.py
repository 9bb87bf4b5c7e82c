"""Composite photographs for retrieval: six objects before six backgrounds, each with the mask of its object.

What is in front and what is behind is known by construction, so the set says what the background contributes to a
descriptor. It needs no labelled data. The pictures are in `resources/`, whose README files state their licences.
"""

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from vit2onnx.dense.retrieval import LabelledImage
from vit2onnx.errors import InputError
from vit2onnx.images import load_image

# Each object: a picture, and the square in it that holds the object: left, top and side in pixels.
OBJECTS = {
    "astronaut": ("images/astronaut.jpg", (133, 5, 190)),
    "camera": ("images/camera.jpg", (110, 60, 220)),
    "chelsea": ("images/chelsea.jpg", (100, 5, 290)),
    "coffee": ("images/coffee.jpg", (100, 0, 370)),
    "clock": ("dense/clock.jpg", (129, 72, 170)),
    "rocket": ("dense/rocket.jpg", (34, 50, 240)),
}
BACKGROUNDS = {
    "brick": "dense/brick.jpg",
    "grass": "dense/grass.jpg",
    "gravel": "dense/gravel.jpg",
    "hubble_deep_field": "dense/hubble_deep_field.jpg",
    "cell": "dense/cell.jpg",
    "text": "dense/text.jpg",
}
# The diameter of an object and the side of the piece of a background, as shares of the whole side.
DIAMETER, PIECE = (0.45, 0.6), (0.6, 0.9)
# Objects stay this share of the side away from the border, where patches are taken for background.
MARGIN = 1 / 16
# The least side in pixels: an object then has 29 at least.
LEAST = 64


def composites(folder: Path, seed: int = 0, size: int = 512) -> Iterator[LabelledImage]:
    """The 36 photographs of `size` x `size` pixels, objects in their order, each before all backgrounds.

    `folder` is `resources/` of the project. An object is cut out as a disc, with pixels of its own picture, and pasted
    at a place and in a size that depend on `seed`. A background is a piece of its picture, by the seed as well. The
    same seed and size give the same pixels. Raises `InputError` if a picture is missing or too small, or if seed or
    size are no such numbers.
    """
    if seed < 0 or size < LEAST:
        raise InputError(f"Composites of seed {seed} and {size} pixels cannot be made; give 0 and {LEAST} or more.")
    objects = {name: _square(folder / file, square) for name, (file, square) in OBJECTS.items()}
    backgrounds = {name: load_image(folder / file) for name, file in BACKGROUNDS.items()}
    for i, (label, background) in enumerate(product(objects, backgrounds)):
        random = np.random.default_rng([seed, i])
        image = _background(backgrounds[background], size, random)
        alpha = _paste(image, objects[label], random)
        yield LabelledImage(f"{label}-{background}", label, image, np.asarray(alpha) >= 128, background)


def _square(path: Path, square: tuple[int, int, int]) -> Image.Image:
    left, top, side = square
    image = load_image(path)
    if image.width < left + side or image.height < top + side:
        raise InputError(f"{path}: this is not the picture that comes with the project; restore the file.")
    return image.crop((left, top, left + side, top + side))


def _background(picture: Image.Image, size: int, random: np.random.Generator) -> Image.Image:
    side = round(random.uniform(*PIECE) * min(picture.size))
    left, top = (int(random.integers(0, whole - side, endpoint=True)) for whole in picture.size)
    box = (left, top, left + side, top + side)
    return picture.resize((size, size), Image.Resampling.BICUBIC, box=box)


def _paste(image: Image.Image, square: Image.Image, random: np.random.Generator) -> Image.Image:
    """Paste the disc in a square into an image, and return its opacity over the whole image."""
    size = image.width
    diameter = round(random.uniform(*DIAMETER) * size)
    margin = round(MARGIN * size)
    left, top = (int(random.integers(margin, size - margin - diameter, endpoint=True)) for _ in range(2))
    # Drawn four times as large, so that the edge is soft and adds no steps of its own.
    disc = Image.new("L", (4 * diameter, 4 * diameter))
    ImageDraw.Draw(disc).ellipse((0, 0, 4 * diameter - 1, 4 * diameter - 1), fill=255)
    alpha = Image.new("L", image.size)
    alpha.paste(disc.resize((diameter, diameter), Image.Resampling.BOX), (left, top))
    before = Image.new("RGB", image.size)
    before.paste(square.resize((diameter, diameter), Image.Resampling.BICUBIC), (left, top))
    image.paste(before, mask=alpha)
    return alpha
