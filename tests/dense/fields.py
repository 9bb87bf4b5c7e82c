"""Planted maps of patches with known answers. None is square, so that rows and columns cannot change places."""

import numpy as np
import scipy

Array = np.ndarray

ROWS, COLUMNS, CHANNELS = 32, 20, 384
# Where the number of channels does not matter.
FEW = 48


def noise(seed: int = 0, rows: int = ROWS, columns: int = COLUMNS, channels: int = CHANNELS) -> Array:
    """White noise: no patch has to do with another."""
    return np.random.default_rng(seed).standard_normal((rows, columns, channels))


def smooth(seed: int = 0, rows: int = ROWS, columns: int = COLUMNS, channels: int = CHANNELS) -> Array:
    """Noise that is blurred over three patches, of variance one."""
    blurred = scipy.ndimage.gaussian_filter(noise(seed, rows, columns, channels), (3, 3, 0))
    return blurred / blurred.std()


def directions(count: int, seed: int = 1, channels: int = CHANNELS) -> Array:
    """Orthonormal vectors [count, channels]."""
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((channels, count)))[0].T


def checkerboard() -> Array:
    """Two orthogonal vectors in turn."""
    rows, columns = np.indices((ROWS, COLUMNS))
    return directions(2)[(rows + columns) % 2]


def halves() -> Array:
    """One vector above, another below."""
    return np.repeat(directions(2)[np.arange(ROWS) * 2 // ROWS][:, None], COLUMNS, axis=1)


def disc() -> tuple[Array, Array, Array]:
    """An object of three parts in the middle of a background, with a little noise: map, object, and number of part.

    Its patches share one vector and have one of their own by part.
    """
    y, x = np.indices((ROWS, COLUMNS))
    inside = ((y - 15.5) / 11) ** 2 + ((x - 9.5) / 7) ** 2 < 1
    part = np.digitize(y, [12, 20])
    shared, background, *own = directions(5, channels=FEW)
    field = np.where(inside[..., None], 4 * shared + 2.2 * np.array(own)[part], -2 * background)
    return field + 0.02 * noise(2, channels=FEW), inside, part
