"""Preprocessing as others do it: torchvision's transform and the image processors of transformers.

Two of them need torchvision, of which there is no build for the torch that is used here. Their steps stand here in
terms of torch. They were held against torchvision 0.28 and transformers' `DINOv3ViTImageProcessor` on the bundled
photographs at seven sizes and gave the same bits.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_backends import PilBackend

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
        processor = PilBackend(
            do_resize=True,
            size={"height": height, "width": width},
            resample=Image.Resampling.BILINEAR,
            do_rescale=True,
            rescale_factor=1 / 255,
            do_normalize=True,
            image_mean=mean,
            image_std=std,
        )
        pixel_values: np.ndarray = processor(image, return_tensors="np")["pixel_values"][0]
        return pixel_values

    named = (publisher, publisher_float, transformers, transformers_pil)
    return {prepare.__name__: prepare for prepare in named}


def cropping_preparations(mean: Channels, std: Channels, shown: float) -> dict[str, Prepare]:
    """The same by a bicubic filter, of a photograph that keeps its aspect ratio and of which the middle is `shown`.

    A size that is not square is cut out as `Preprocessing.size_of_whole` says; no publisher has one. Where the middle
    can begin at two pixels, torchvision takes the even one, and so do all of these; transformers itself takes the
    first.
    """
    normalised = partial(_normalised, mean=mean, std=std)

    def resized(image: Image.Image, height: int, width: int) -> tuple[int, int, int, int]:
        """Height and width of the whole, and the first row and column of the middle."""
        least = round(height / shown), round(width / shown)
        factor = max(least[0] / image.height, least[1] / image.width)
        whole = [
            size if size / side == factor else int(factor * side)
            for size, side in zip(least, (image.height, image.width), strict=True)
        ]
        top, left = (round((size - part) / 2.0) for size, part in zip(whole, (height, width), strict=True))
        return whole[0], whole[1], top, left

    # torchvision's Resize, CenterCrop, ToTensor and Normalize, for a photograph as Pillow opens it.
    def publisher(image: Image.Image, height: int, width: int) -> np.ndarray:
        *whole, top, left = resized(image, height, width)
        small = image.resize((whole[1], whole[0]), Image.Resampling.BICUBIC)
        return normalised(_pixels(small.crop((left, top, left + width, top + height))).float().div(255))

    def transformers_pil(image: Image.Image, height: int, width: int) -> np.ndarray:
        *whole, top, left = resized(image, height, width)
        processor = PilBackend(
            do_resize=True,
            size={"height": whole[0], "width": whole[1]},
            resample=Image.Resampling.BICUBIC,
            do_rescale=True,
            rescale_factor=1 / 255,
            do_normalize=True,
            image_mean=mean,
            image_std=std,
        )
        pixel_values: np.ndarray = processor(image, return_tensors="np")["pixel_values"][0]
        return pixel_values[:, top : top + height, left : left + width]

    named = (publisher, transformers_pil)
    return {prepare.__name__: prepare for prepare in named}


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
