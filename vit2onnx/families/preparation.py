"""Preprocessing as others do it: torchvision's transform and the image processors of transformers.

Some of them need torchvision, of which there is no build for the torch that is used here. Their steps stand here in
terms of torch. The bilinear ones were held against torchvision 0.28 and transformers' `DINOv3ViTImageProcessor` on the
bundled photographs at seven sizes and gave the same bits.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_backends import PilBackend

from vit2onnx.spec.variant import Preprocessing

Prepare = Callable[[Image.Image, int, int], np.ndarray]
Channels = tuple[float, float, float]


def bilinear_preparations(mean: Channels, std: Channels) -> dict[str, Prepare]:
    """By name, each way to turn an RGB photograph into an input [3, height, width] as float32."""
    normalised = partial(_normalised, mean=mean, std=std)

    # torchvision's v2: ToImage, Resize(antialias=True), ToDtype(float32, scale=True), Normalize, on a CPU with AVX2.
    def publisher(image: Image.Image, height: int, width: int) -> np.ndarray:
        return normalised(_resized(_pixels(image), height, width).float().mul_(1 / 255))

    # The same without AVX2 and for tensors on a GPU, where torchvision resizes in float and rounds.
    def publisher_float(image: Image.Image, height: int, width: int) -> np.ndarray:
        resized = _resized(_pixels(image).float(), height, width)
        return normalised(resized.round_().mul_(1 / 255))

    # Rescales, then resizes, then normalises, and so never rounds.
    def transformers(image: Image.Image, height: int, width: int) -> np.ndarray:
        return normalised(_resized(_pixels(image) * (1 / 255), height, width))

    def transformers_pil(image: Image.Image, height: int, width: int) -> np.ndarray:
        return _by_pillow(image, height, width, Image.Resampling.BILINEAR, mean, std)

    named = (publisher, publisher_float, transformers, transformers_pil)
    return {prepare.__name__: prepare for prepare in named}


def cropping_preparations(
    mean: Channels, std: Channels, shown: float | None, resample: Image.Resampling = Image.Resampling.BICUBIC
) -> dict[str, Prepare]:
    """The same with a bicubic filter. The photograph keeps its aspect ratio, and the input is its middle.

    `shown` is the input's share of the shorter side. The size is computed here again, so that a mistake in
    `Preprocessing.size_of_whole` shows. Where the middle can begin at two pixels, all take the even one, as torchvision
    does; transformers itself takes the first. Its processor on torch is not among them: it resizes as Pillow does
    within a grey level, but further apart where a photograph is enlarged.
    """

    def whole(image: Image.Image, height: int, width: int) -> tuple[int, int, int, int]:
        """Height and width of the resized photograph, and the first row and column of its middle."""
        if shown is None:
            return height, width, 0, 0
        sides, least = (image.height, image.width), (round(height / shown), round(width / shown))
        short = 0 if least[0] * sides[1] >= least[1] * sides[0] else 1
        # As in torchvision's Resize. Not by a factor, whose rounding can lose a pixel.
        rows, columns = (int(least[short] * side / sides[short]) for side in sides)
        return rows, columns, round((rows - height) / 2.0), round((columns - width) / 2.0)

    # torchvision's Resize, CenterCrop, ToTensor and Normalize, for a photograph as Pillow opens it.
    def publisher(image: Image.Image, height: int, width: int) -> np.ndarray:
        rows, columns, top, left = whole(image, height, width)
        small = image.resize((columns, rows), resample)
        middle = small.crop((left, top, left + width, top + height))
        return _normalised(_pixels(middle).float().div(255), mean, std)

    def transformers_pil(image: Image.Image, height: int, width: int) -> np.ndarray:
        rows, columns, top, left = whole(image, height, width)
        small = _by_pillow(image, rows, columns, resample, mean, std)
        return small[:, top : top + height, left : left + width]

    named = (publisher, transformers_pil)
    return {prepare.__name__: prepare for prepare in named}


def range_preparations() -> dict[str, Prepare]:
    """The same for inputs in [-1, 1], which have no mean and deviation of data: all are squashed, bilinear."""
    half = (0.5, 0.5, 0.5)

    # The resize of transformers' processor, which the publisher's files at Hugging Face name, on torchvision and a CPU
    # with AVX2. Then the arithmetic of big_vision's value_range(-1, 1).
    def publisher(image: Image.Image, height: int, width: int) -> np.ndarray:
        levels: np.ndarray = _resized(_pixels(image), height, width).float().numpy()
        return -1 + levels / np.float32(255) * 2

    # With its own arithmetic, in which the division by 255 is part of the constants.
    def transformers(image: Image.Image, height: int, width: int) -> np.ndarray:
        in_levels = (127.5, 127.5, 127.5)
        return _normalised(_resized(_pixels(image), height, width).float(), in_levels, in_levels)

    def transformers_pil(image: Image.Image, height: int, width: int) -> np.ndarray:
        return _by_pillow(image, height, width, Image.Resampling.BILINEAR, half, half)

    named = (publisher, transformers, transformers_pil)
    return {prepare.__name__: prepare for prepare in named}


def own_preparations(preprocessing: Preprocessing) -> dict[str, Prepare]:
    """Those that a model without a release can be compared with: by its own constants."""
    constants = preprocessing.mean, preprocessing.std
    if preprocessing.crop_pct is None and preprocessing.interpolation == "bilinear":
        return bilinear_preparations(*constants)
    return cropping_preparations(
        *constants, preprocessing.crop_pct, Image.Resampling[preprocessing.interpolation.upper()]
    )


def _by_pillow(
    image: Image.Image, height: int, width: int, resample: Image.Resampling, mean: Channels, std: Channels
) -> np.ndarray:
    """By transformers' image processor on Pillow."""
    processor = PilBackend(
        do_resize=True,
        size={"height": height, "width": width},
        resample=resample,
        do_rescale=True,
        rescale_factor=1 / 255,
        do_normalize=True,
        image_mean=mean,
        image_std=std,
    )
    pixel_values: np.ndarray = processor(image, return_tensors="np")["pixel_values"][0]
    return pixel_values


def _normalised(pixels: torch.Tensor, mean: Channels, std: Channels) -> np.ndarray:
    wide = [torch.tensor(values, dtype=torch.float32).view(3, 1, 1) for values in (mean, std)]
    return pixels.sub(wide[0]).div_(wide[1]).numpy()


def _pixels(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _resized(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    # torchvision returns an image of the right size as it is.
    if pixels.shape[1:] == (height, width):
        return pixels.clone()
    return torch.nn.functional.interpolate(pixels[None], (height, width), mode="bilinear", antialias=True)[0]
