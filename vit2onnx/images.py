"""Photographs as the publisher prepares them: opened by Pillow, resized as uint8, normalised in float32."""

import math
import re
import warnings
from numbers import Integral
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from PIL import Image
from PIL.TiffImagePlugin import BITSPERSAMPLE, TILELENGTH, TILEWIDTH

from vit2onnx.errors import InputError
from vit2onnx.files import check_regular
from vit2onnx.patches import patches_of
from vit2onnx.spec.variant import Preprocessing

RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

# The formats of photographs; the last two only if Pillow or a plugin of it reads them. Readers of other formats start
# programs, read other files, or show no photographs.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "BMP", "AVIF", "HEIF")

# The most pixels of a photograph, before and after resizing: 440 MB in memory. Pillow holds those of WebP four times.
MOST_PIXELS = 110_000_000
# Any photograph has at least one byte for every 200 pixels. This is asked of those with more than 20 million, because
# otherwise a small file would take all that memory.
FREE_PIXELS, PIXELS_PER_BYTE = 20_000_000, 200
# The most bytes of a file, and of one that Pillow reads as a whole: RIFF (WebP) and ISO (AVIF, HEIF).
MOST_BYTES, MOST_BYTES_AT_ONCE = 4 * MOST_PIXELS, 100_000_000
# How a scan of a JPEG begins, the most scans, and the last byte at which the first may begin. Photographs have about
# ten. Decoding one takes as long as decoding a whole picture.
SCAN, MOST_SCANS, FIRST_SCAN = re.compile(rb"\xff\xda\0[\x06-\x0e][\x01-\x04]"), 100, 1 << 24


def load_image(path: Path) -> Image.Image:
    """Open a photograph as 8-bit RGB.

    As in the publisher's code, a rotation noted in EXIF and a colour profile are not applied, and transparency is
    dropped. Raises `InputError` if the file is missing, is not a complete photograph, holds several pictures, has more
    than `MOST_PIXELS` pixels or more than its size makes plausible, or has more than 8 bits per channel. Its head is
    checked before anything is decoded.
    """
    if not path.exists():
        raise InputError(f"{path}: there is no such photograph; correct its path or put the file there.")
    check_regular(path)
    with path.open("rb") as file:
        head = file.read(1 << 16)
    is_read_at_once = head[:4] == b"RIFF" or head[4:8] == b"ftyp"
    if path.stat().st_size > (MOST_BYTES_AT_ONCE if is_read_at_once else MOST_BYTES):
        raise InputError(f"{path}: this file is larger than any photograph; make it smaller.")
    Image.init()
    try:
        if head[:2] == b"\xff\xd8":
            _check_scans(path)
        # Pillow's own limit is a warning, and an error for twice as many.
        with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
            opened = Image.open(path, formats=[one for one in FORMATS if one in Image.OPEN])
        with opened as image:
            _check_head(path, image, head)
            image.load()
            # A palette's transparency is dropped first, because Pillow warns about it and drops it all the same.
            image.info.pop("transparency", None)
            return image if image.mode == "RGB" else image.convert("RGB")
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise InputError(_too_large(path)) from error
    # Any other, because what decoders raise depends on which byte is broken: OSError, SyntaxError, struct.error, more.
    except Exception as error:
        raise InputError(
            f"{path}: this is not a complete, readable image ({error}); give an intact JPEG or PNG with 8 bits per"
            " channel."
        ) from error


def _too_large(path: Path, most: int = MOST_PIXELS) -> str:
    return f"{path}: this photograph has more than {most} pixels, the most that are taken; make it smaller."


def _check_scans(path: Path) -> None:
    """Raise `ValueError` if a JPEG has so many scans, or begins so late, that decoding it would take minutes."""
    with path.open("rb") as file:
        count = len(SCAN.findall(file.read(FIRST_SCAN)))
        if not count:
            raise ValueError("it has no scan")
        while part := file.read(FIRST_SCAN):
            count += len(SCAN.findall(part))
    if count > MOST_SCANS:
        raise ValueError(f"it has {count} scans")


def _check_head(path: Path, image: Image.Image, head: bytes) -> None:
    """Raise `InputError` if a photograph declares too many pixels, several pictures or too many bits."""
    tags = image.tag_v2 if image.format == "TIFF" else {}  # type: ignore[attr-defined]
    # Whole tiles of a TIFF are decoded, which may be larger than the picture.
    pixels = max(image.width * image.height, tags.get(TILEWIDTH, 0) * tags.get(TILELENGTH, 0))
    times = 4 if image.format == "WEBP" else 1
    if pixels * times > MOST_PIXELS:
        raise InputError(_too_large(path, MOST_PIXELS // times))
    if pixels * times > FREE_PIXELS and pixels > PIXELS_PER_BYTE * path.stat().st_size:
        raise InputError(
            f"{path}: this file is too small for a photograph of {image.height} x {image.width} pixels; save it with"
            " less compression, or make it smaller."
        )
    # Cameras put a preview or the depth behind a photograph.
    if getattr(image, "is_animated", False) and image.format not in ("MPO", "HEIF"):
        raise InputError(f"{path}: this file holds several pictures; save the one that you mean as a file of its own.")
    if _bits(image, head) > 8:
        raise InputError(f"{path}: this image has more than 8 bits per channel; save it with 8 bits per channel.")


def _bits(image: Image.Image, head: bytes) -> int:
    """The bits per channel of an opened image. Pillow silently cuts or clips them to 8."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return 16
    if image.format == "PNG":
        return 16 if any("16" in str(tile[3]) for tile in image.tile) else 8  # type: ignore[attr-defined]
    if image.format == "TIFF":
        found = image.tag_v2.get(BITSPERSAMPLE, 1)  # type: ignore[attr-defined]
        return max(found) if isinstance(found, tuple) else int(found)
    if image.format == "AVIF":
        # A flag of the codec's configuration says that it has 10 or 12 bits.
        return max((10 for flags in re.findall(rb"av1C..(.)", head, re.DOTALL) if flags[0] & 0x40), default=8)
    return int(image.info.get("bit_depth", 8))


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
    for high in (image.height, whole[0]):
        if high * whole[1] > MOST_PIXELS:
            raise InputError(
                f"A photograph of {image.height} x {image.width} pixels is too narrow for an input of {height} x"
                f" {width}: it would be enlarged to {high} x {whole[1]} on the way; use one of another shape."
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


def naflex_size(height: int, width: int, patch_size: int, max_patches: int) -> tuple[int, int]:
    """The height and width to which NaFlex resizes an image: the largest that give at most `max_patches` patches.

    Both are multiples of `patch_size`. The aspect ratio is kept but for that, and no side shrinks below one patch. An
    image is enlarged if it is small, but at most 100 times. Source: `resize_to_sequence` of big_vision and
    `Siglip2ImageProcessor` of transformers. Raises `InputError` if a number is no positive integer, or if a side or
    the result may have more than `MOST_PIXELS` pixels.
    """
    numbers: tuple[object, ...] = (height, width, patch_size, max_patches)
    if not all(isinstance(one, Integral) for one in numbers) or min(height, width, patch_size, max_patches) < 1:
        raise InputError(
            f"An image of {height!r} x {width!r} pixels cannot have at most {max_patches!r} patches of {patch_size!r}"
            " pixels; give whole numbers of at least 1."
        )
    if max(height, width) > MOST_PIXELS:
        raise InputError(
            f"An image of {height} x {width} pixels is longer than {MOST_PIXELS} pixels, the most that are taken; use"
            " a smaller one."
        )
    if max_patches * patch_size**2 > MOST_PIXELS:
        raise InputError(
            f"{max_patches} patches of {patch_size} x {patch_size} have more than {MOST_PIXELS} pixels, the most that"
            " are taken; ask for fewer patches."
        )

    def grid(scale: float) -> tuple[int, int]:
        rows, columns = (max(1, math.ceil(side * scale / patch_size)) for side in (height, width))
        return rows, columns

    # PARITY: the scale is halved down to 1e-5, as in the sources, and not computed. Near a step of the grid, the scale
    # that is left is a little too small, and that decides the size.
    least, most = 1e-6, 100.0
    while most - least >= 1e-5:
        middle = (least + most) / 2
        if math.prod(grid(middle)) <= max_patches:
            least = middle
        else:
            most = middle
    rows, columns = grid(least)
    return rows * patch_size, columns * patch_size


def naflex_input(
    pixel_values: Float32[np.ndarray, "3 height width"], patch_size: int, patches: int
) -> dict[str, np.ndarray]:
    """One image as NaFlex takes it: its patches, filled up with zeros to `patches` of them.

    `pixel_values` are [patches, 3 * patch_size**2], `pixel_attention_mask` is int32 [patches], 1 for a patch of the
    image, and `spatial_shapes` are int64 [2], rows and columns of patches. Images of a batch are put together by
    `np.stack`. Raises `InputError` if the image has more patches, or as `patches_of`.
    """
    own = patches_of(pixel_values, patch_size)
    if len(own) > patches:
        raise InputError(f"This image has {len(own)} patches, more than {patches}; make it smaller, or ask for more.")
    if patches * patch_size**2 > MOST_PIXELS:
        raise InputError(
            f"{patches} patches of {patch_size} x {patch_size} have more than {MOST_PIXELS} pixels, the most that are"
            " taken; ask for fewer."
        )
    filled = np.zeros((patches, own.shape[1]), np.float32)
    filled[: len(own)] = own
    grid = [side // patch_size for side in pixel_values.shape[1:]]
    return {
        "pixel_values": filled,
        "pixel_attention_mask": (np.arange(patches) < len(own)).astype(np.int32),
        "spatial_shapes": np.array(grid, np.int64),
    }


def preprocess_naflex(
    image: Image.Image, preprocessing: Preprocessing, patch_size: int, max_patches: int
) -> dict[str, np.ndarray]:
    """Turn an RGB photograph of any shape into NaFlex's input of `max_patches` patches, as `naflex_input` says."""
    height, width = naflex_size(image.height, image.width, patch_size, max_patches)
    return naflex_input(preprocess(image, height, width, preprocessing), patch_size, max_patches)
