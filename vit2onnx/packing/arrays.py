"""Many images of any sizes as the two arrays that a packed graph takes, and its outputs by image. Needs numpy only."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vit2onnx.errors import InputError
from vit2onnx.patches import patches_of

# Channels of a pixel.
CHANNELS = 3
# Patch sizes of models, by which a row of another length is explained.
PATCH_SIZES = (14, 16)


class ImageFeatures(NamedTuple):
    """What a packed graph gives for one image.

    `cls` [embed_dim] is the CLS token, `registers` [registers, embed_dim] are the register tokens, and `patches`
    [rows, columns, embed_dim] lie as in the image.
    """

    cls: np.ndarray
    registers: np.ndarray
    patches: np.ndarray

    @property
    def tokens(self) -> np.ndarray:
        """All tokens [tokens, embed_dim] as graphs of single images give them: CLS, registers, patches row by row."""
        embed_dim = self.cls.shape[-1]
        return np.concatenate([self.cls[None], self.registers, self.patches.reshape(-1, embed_dim)])


def pack(images: Iterable[np.ndarray], patch_size: int) -> dict[str, np.ndarray]:
    """The inputs of a packed graph for normalised float32 images [3, height, width] of any sizes.

    `pixel_values` are [patches, 3 * patch_size**2], image by image and row by row; `grid_thw` is int64 [images, 3] and
    says of each image: 1, rows of patches, columns of patches. Pixels beyond the last whole patch are dropped. A clip
    [frames, 3, height, width] is as many images. Raises `InputError` if there is no image, or if one is no such array
    or smaller than a patch.
    """
    _check_patch_size(patch_size)
    rows, grids = [], []
    for number, image in enumerate(images):
        for frame in _frames_of(image, number):
            height, width = (side // patch_size for side in frame.shape[1:])
            if not height or not width:
                raise InputError(
                    f"Image {number} is {frame.shape[1]} pixels high and {frame.shape[2]} wide, smaller than one patch"
                    f" of {patch_size} x {patch_size}; use a larger one."
                )
            try:
                rows.append(patches_of(frame[:, : height * patch_size, : width * patch_size], patch_size))
            except InputError as error:
                raise InputError(f"Image {number}: {error}") from None
            grids.append((1, height, width))
    if not rows:
        raise InputError("There are no images to pack; give one at least.")
    return {"pixel_values": np.concatenate(rows), "grid_thw": np.array(grids, np.int64)}


def _frames_of(image: Any, number: int) -> np.ndarray:
    """The frames [frames, 3, height, width] of an image or a clip."""
    if not isinstance(image, np.ndarray) or image.dtype != np.float32:
        found = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
        raise InputError(f"Image {number} is {found}; give a float32 array, normalised as the file says.")
    if image.ndim not in (3, 4) or image.shape[-3] != CHANNELS:
        raise InputError(
            f"Image {number} must be {CHANNELS} x height x width, or frames x {CHANNELS} x height x width, and is"
            f" {' x '.join(map(str, image.shape))}; put the channels first."
        )
    if not len(image):
        raise InputError(f"Image {number} is a clip without frames; leave it out.")
    return image if image.ndim == 4 else image[None]


def frames(grid_thw: np.ndarray) -> np.ndarray:
    """A grid in which every frame of a clip is an image by itself: t rows of (1, h, w) for each row (t, h, w).

    The rows of `pixel_values` stay as they are. Raises `InputError` if this is no grid,
    or if a size in it is below 1.
    """
    _check_grid(grid_thw)
    single = grid_thw.copy()
    single[:, 0] = 1
    return np.repeat(single, grid_thw[:, 0], axis=0)


def check(pixel_values: Any, grid_thw: Any, patch_size: int) -> None:
    """Raise `InputError` if these are no inputs of a packed graph of this patch size, and say what is wrong.

    Rows and columns that are exchanged cannot be seen.
    """
    for name, array, dtype in (("pixel_values", pixel_values, np.float32), ("grid_thw", grid_thw, np.int64)):
        if not isinstance(array, np.ndarray) or array.dtype != dtype:
            found = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise InputError(f"{name} must be an array of {np.dtype(dtype)} and is {found}; convert it.")
    _check_grid(grid_thw)
    if clips := np.flatnonzero(grid_thw[:, 0] != 1).tolist():
        raise InputError(
            f"Row {clips[0]} of grid_thw has {int(grid_thw[clips[0], 0])} frames, and a graph takes them one by one;"
            " give it frames(grid_thw)."
        )
    check_fit(pixel_values.shape, grid_thw, patch_size)
    if not np.isfinite(pixel_values).all():
        raise InputError("pixel_values holds values that are not finite; prepare the images once more.")


def check_fit(shape: Sequence[int], grid_thw: np.ndarray, patch_size: int, name: str = "pixel_values") -> None:
    """Raise `InputError` unless an array of this shape holds the patches of a grid, which may have clips.

    The message calls the array by its `name`.
    """
    _check_grid(grid_thw)
    _check_patch_size(patch_size)
    _check_rows(shape, patch_size, name)
    # Python's integers do not wrap around.
    wanted = sum(math.prod(row) for row in grid_thw.tolist())
    if wanted != shape[0]:
        raise InputError(f"grid_thw says {wanted} patches, and {name} has {shape[0]} rows; make them fit.")


def _check_grid(grid_thw: Any) -> None:
    shape: tuple[int, ...] = grid_thw.shape if isinstance(grid_thw, np.ndarray) else ()
    if len(shape) != 2 or shape[1] != 3 or not shape[0]:
        found = " x ".join(map(str, shape)) or "no numpy array"
        raise InputError(f"grid_thw must be images x 3 (t, rows, columns), of one image at least, and is {found}.")
    if grid_thw.dtype.kind not in "iu":
        raise InputError(f"grid_thw must hold whole numbers and is {grid_thw.dtype}; convert it to int64.")
    if wrong := np.flatnonzero((grid_thw < 1).any(axis=1)).tolist():
        raise InputError(
            f"Row {wrong[0]} of grid_thw is {grid_thw[wrong[0]].tolist()}; every image needs at least one frame, one"
            " row and one column of patches."
        )


def _check_patch_size(patch_size: Any) -> None:
    if not isinstance(patch_size, int | np.integer) or patch_size < 1:
        raise InputError(f"patch_size is {patch_size!r}; give a whole number of at least 1, as the file says.")


def _check_rows(shape: Sequence[int], patch_size: int, name: str) -> None:
    row = CHANNELS * patch_size**2
    if len(shape) != 2 or shape[1] != row:
        known = {CHANNELS * size**2: size for size in PATCH_SIZES}
        if len(shape) == 2 and shape[1] in known:
            raise InputError(
                f"{shape[1]} numbers a row is patch {known[shape[1]]}; this model has {patch_size}, {row} numbers."
            )
        raise InputError(f"{name} must be patches x {row} and is {' x '.join(map(str, shape))}.")
    if not shape[0]:
        raise InputError(f"{name} has no row; give one image at least.")


def unpack(outputs: Mapping[str, np.ndarray], grid_thw: np.ndarray) -> list[ImageFeatures]:
    """The outputs of a packed graph, given by name, for each image.

    The features are views of the outputs. Raises `InputError` if the outputs are not of `grid_thw`.
    """
    if not isinstance(outputs, Mapping):
        raise InputError(f"The outputs are a {type(outputs).__name__}; give them by name, dict(zip(names, outputs)).")
    _check_grid(grid_thw)
    if missing := [name for name in ("last_hidden_state", "pooler_output") if name not in outputs]:
        raise InputError(f"The outputs lack {', '.join(missing)}; give all outputs of the graph by name.")
    hidden, cls = outputs["last_hidden_state"], outputs["pooler_output"]
    grids = [(int(rows), int(columns)) for _, rows, columns in grid_thw]
    ends = np.cumsum([rows * columns for rows, columns in grids])
    if (hidden.ndim, cls.ndim, len(cls), len(hidden)) != (2, 2, len(grids), ends[-1]):
        raise InputError(
            f"The outputs are of {len(cls)} images with {len(hidden)} patches, and grid_thw says {len(grids)} with"
            f" {ends[-1]}; give the grid_thw that the graph was given."
        )
    registers = outputs.get("registers", np.empty((len(cls), 0, cls.shape[-1]), cls.dtype))
    if registers.ndim != 3 or len(registers) != len(cls):
        raise InputError(f"registers are {registers.shape}; give those of {len(cls)} images, as the graph gives them.")
    patches = np.split(hidden, ends[:-1])
    return [
        ImageFeatures(cls[number], registers[number], patches[number].reshape(*grid, -1))
        for number, grid in enumerate(grids)
    ]


def native_size(height: int, width: int, patch_size: int, max_patches: int | None = None) -> tuple[int, int]:
    """The height and width to which an image is resized to keep its size as nearly as patches allow.

    Both are multiples of `patch_size`, each rounded to the nearest, and one patch at least. With `max_patches` an image
    of more patches is shrunk, with its aspect ratio, until it has as many at most. No side is enlarged by more than
    half a patch, but for one that is smaller than a patch. Raises `InputError` if a number is no positive integer.
    """
    numbers = (height, width, patch_size, *([] if max_patches is None else [max_patches]))
    if not all(isinstance(one, int | np.integer) and one > 0 for one in numbers):
        most = "" if max_patches is None else f" and of {max_patches!r} patches at most"
        raise InputError(
            f"There is no size for an image of {height!r} x {width!r} pixels with patches of {patch_size!r}{most}; give"
            " whole numbers of at least 1."
        )
    # Python's integers do not wrap around.
    height, width, patch_size = int(height), int(width), int(patch_size)
    rows, columns = (max(1, round(side / patch_size)) for side in (height, width))
    if max_patches is not None and rows * columns > max_patches:
        limit = int(max_patches)
        # Whole numbers, because a root that is rounded down loses a row. One of both may be less than 1 and become 1;
        # it is the other that is then cut to what is left.
        ideal = math.isqrt(limit * height // width), math.isqrt(limit * width // height)
        rows, columns = (min(side, limit, max(1, wanted)) for side, wanted in zip((rows, columns), ideal, strict=True))
    return rows * patch_size, columns * patch_size
