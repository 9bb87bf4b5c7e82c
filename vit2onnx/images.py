"""Photographs as the publisher prepares them: opened by Pillow, resized as uint8, normalised in float32."""

from pathlib import Path

import numpy as np
from jaxtyping import Float32
from PIL import Image

from vit2onnx.errors import InputError
from vit2onnx.spec.variant import Preprocessing

RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

# What Pillow's decoders raise on broken files: not OSError alone.
DECODING_ERRORS = (OSError, SyntaxError, ValueError, RuntimeError, EOFError)


def most_pixels() -> int:
    """The most pixels that Pillow will open in a photograph."""
    return 2 * (Image.MAX_IMAGE_PIXELS or 0)


def load_image(path: Path) -> Image.Image:
    """Open a photograph as 8-bit RGB.

    As in the publisher's code, a rotation noted in EXIF and a colour profile are not applied, and
    transparency is dropped. Raises `InputError` if the file is missing, is not a complete image, has too many
    pixels for Pillow to open, or has one channel of more than 8 bits.
    """
    try:
        with Image.open(path) as image:
            image.load()
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such photograph; correct its path or put the file there.") from error
    except Image.DecompressionBombError as error:
        raise InputError(
            f"{path}: this photograph has more than {most_pixels()} pixels, the most that"
            " Pillow will open; make it smaller."
        ) from error
    except DECODING_ERRORS as error:
        raise InputError(
            f"{path}: this is not a complete, readable image ({error}); give an intact JPEG or PNG."
        ) from error
    # Not converted, because Pillow would clip such values to 255 and give a white image.
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        raise InputError(f"{path}: this image has more than 8 bits per channel; save it with 8 bits per channel.")
    # A palette's transparency is dropped first, because Pillow warns about it and drops it all the same.
    image.info.pop("transparency", None)
    return image.convert("RGB")


def check_image(path: Path, image: Image.Image, patch_size: int) -> None:
    """Raise `InputError` if a photograph is smaller than one patch, `patch_size` pixels, either way."""
    if min(image.size) < patch_size:
        raise InputError(
            f"{path}: this photograph is {image.height} pixels high and {image.width} wide, smaller than one"
            f" patch of {patch_size} x {patch_size}; use a larger one."
        )


def preprocess(
    image: Image.Image, height: int, width: int, preprocessing: Preprocessing
) -> Float32[np.ndarray, "3 {height} {width}"]:
    """Turn an RGB photograph into the model's input, as the publisher's transform does.

    The photograph is resized with antialiasing and rounded to uint8; one that has the right size already is not
    resampled. Without `crop_pct` it is resized to exactly `height` x `width` pixels, whatever its aspect ratio. With
    `crop_pct` it is resized as `Preprocessing.size_of_whole` says, and its middle is taken. Then it is scaled to
    [0, 1] and normalised per channel. Source: `make_transform` in the DINOv3 README, whose steps are torchvision's
    `v2.Resize`, `v2.ToDtype(scale=True)` and `v2.Normalize`; `make_classification_eval_transform` of DINOv2 for the
    crop.
    """
    resampling = RESAMPLING[preprocessing.interpolation]
    whole = preprocessing.size_of_whole(image.size[::-1], (height, width))
    if preprocessing.crop_pct and whole[0] * whole[1] > most_pixels():
        raise InputError(
            f"A photograph of {image.height} x {image.width} pixels is too narrow for an input of {height} x {width}:"
            f" it would be enlarged to {whole[0]} x {whole[1]} before it is cropped; use one of another shape."
        )
    # PARITY: horizontally, then vertically, as torchvision does. Not in one call, because Pillow 13 begins
    # vertically where the height shrinks most, and one value in eight comes out a grey level apart.
    resized = image.resize((whole[1], image.height), resampling).resize(whole[::-1], resampling)
    top, left = crop_start(whole[0], height), crop_start(whole[1], width)
    pixels = np.asarray(resized)[top : top + height, left : left + width].transpose(2, 0, 1)
    pixels = pixels.astype(np.float32, order="C")
    # PARITY: times the reciprocal, not divided by 255, because DINOv3's publisher multiplies (ToDtype). DINOv2's
    # divides (ToTensor); the last bit differs for 126 of the 256 grey levels.
    return normalise(pixels * np.float32(1 / 255), preprocessing)


def crop_start(whole: int, part: int) -> int:
    """Where the middle begins, to the even number if there is a choice, as torchvision's `CenterCrop` has it."""
    return round((whole - part) / 2)


def normalise(
    pixels: Float32[np.ndarray, "3 height width"], preprocessing: Preprocessing
) -> Float32[np.ndarray, "3 height width"]:
    """Pixels in [0, 1], less the mean of their channel, by its standard deviation."""
    mean, std = (np.array(c, np.float32).reshape(3, 1, 1) for c in (preprocessing.mean, preprocessing.std))
    normalised: np.ndarray = (pixels - mean) / std
    return normalised
