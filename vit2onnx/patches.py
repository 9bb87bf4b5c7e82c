"""An image cut into patches. Needs numpy only."""

import numpy as np

from vit2onnx.errors import InputError


def patches_of(pixel_values: np.ndarray, patch_size: int) -> np.ndarray:
    """An image [3, height, width] cut into patches [patches, values], row by row.

    Each patch holds its rows of columns of channels. Raises `InputError` if this is no RGB image of finite numbers, or
    if a side is no multiple of `patch_size`.
    """
    shape = pixel_values.shape
    if len(shape) != 3 or shape[0] != 3:
        raise InputError(
            f"An image must be 3 x height x width and is {' x '.join(map(str, shape))}; give one RGB image, channels"
            " first."
        )
    if not np.isfinite(pixel_values).all():
        raise InputError("This image holds values that are not finite; prepare it once more.")
    height, width = pixel_values.shape[1:]
    if patch_size < 1 or not height or not width or height % patch_size or width % patch_size:
        raise InputError(
            f"An image of {height} x {width} pixels has no whole patches of {patch_size} x {patch_size}; resize both"
            f" sides to multiples of {patch_size}."
        )
    cut = pixel_values.reshape(3, height // patch_size, patch_size, width // patch_size, patch_size)
    return np.ascontiguousarray(cut.transpose(1, 3, 2, 4, 0).reshape(-1, 3 * patch_size**2))
