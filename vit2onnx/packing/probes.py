"""Probes that show whether the images of one call depend on each other. Needs numpy only.

A probe runs a packed model twice and looks at the same images in both runs. It works with every model that takes
`pixel_values` and `grid_thw` and gives the outputs of a packed graph.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vit2onnx.packing.arrays import pack, unpack

# Gives the outputs of a packed model by name.
Run = Callable[[np.ndarray, np.ndarray], Mapping[str, np.ndarray]]

ORDER, COPIES, ALONE, SPLIT = "in reverse order", "given twice", "alone", "in two calls"
# What the images beside those that are looked at become.
NEIGHBOURS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "beside other images": lambda rows: -rows[::-1],
    "beside images x 1e4": lambda rows: rows * np.float32(1e4),
    "beside NaN": lambda rows: np.full_like(rows, np.nan),
}
# Probes after which nothing may differ, and those after which rounding may, because a call has other sizes.
EXACT = (ORDER, *NEIGHBOURS, COPIES)
ROUNDED = (ALONE, SPLIT)
# Not a probe: a fault that no graph can refuse, to show that the limits find it.
EXCHANGED = "rows and columns exchanged"


@dataclass(frozen=True)
class Probed:
    """The tokens [tokens, embed_dim] of an image in a probe, and those that they are to be equal to."""

    probe: str
    image: str
    tokens: np.ndarray
    expected: np.ndarray


class Packer:
    """Packs images by name, whose patches are cut once, and runs a model on them."""

    def __init__(self, run: Run, images: Mapping[str, np.ndarray], patch_size: int):
        self.run = run
        self.packed = {name: pack([image], patch_size) for name, image in images.items()}

    def tokens(self, names: Sequence[str], changed: Mapping[str, np.ndarray] | None = None) -> list[np.ndarray]:
        """The tokens of images in one call; `changed` are other rows of patches of some."""
        changed = changed or {}
        rows = [changed.get(name, self.packed[name]["pixel_values"]) for name in names]
        grid = np.concatenate([self.packed[name]["grid_thw"] for name in names])
        return [image.tokens for image in unpack(self.run(np.concatenate(rows), grid), grid)]


def probe(run: Run, images: Mapping[str, np.ndarray], patch_size: int) -> Iterator[Probed]:
    """All probes of a model on normalised images [3, height, width] by name, of which there are two at least.

    `EXCHANGED` is among them, of images that are not square.
    """
    packer, names = Packer(run, images, patch_size), list(images)
    together = dict(zip(names, packer.tokens(names), strict=True))

    def same(what: str, found: Mapping[str, np.ndarray]) -> Iterator[Probed]:
        yield from (Probed(what, name, tokens, together[name]) for name, tokens in found.items())

    back = names[::-1]
    yield from same(ORDER, dict(zip(back, packer.tokens(back), strict=True)))
    for what, change in NEIGHBOURS.items():
        for first in (0, 1):
            kept = names[first::2]
            changed = {name: change(packer.packed[name]["pixel_values"]) for name in names if name not in kept}
            found = dict(zip(names, packer.tokens(names, changed), strict=True))
            yield from same(what, {name: found[name] for name in kept})
    both = packer.tokens([*names, *names])
    for number, name in enumerate(names):
        yield Probed(COPIES, name, both[len(names) + number], both[number])
    for name in names:
        yield from same(ALONE, {name: packer.tokens([name])[0]})
    for part in (names[: len(names) // 2], names[len(names) // 2 :]):
        yield from same(SPLIT, dict(zip(part, packer.tokens(part), strict=True)))
    yield from _exchanged(packer, names, together)


def _exchanged(packer: Packer, names: Sequence[str], together: Mapping[str, np.ndarray]) -> Iterator[Probed]:
    rows = np.concatenate([packer.packed[name]["pixel_values"] for name in names])
    grid = np.concatenate([packer.packed[name]["grid_thw"] for name in names])[:, [0, 2, 1]]
    for name, image in zip(names, unpack(packer.run(rows, grid), grid), strict=True):
        _, height, width = packer.packed[name]["grid_thw"][0]
        if height != width:
            yield Probed(EXCHANGED, name, image.tokens, together[name])


def wrong_inputs(
    pixel_values: np.ndarray, grid_thw: np.ndarray, *, clips: bool = False
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Inputs that fit no images, each with what is wrong, made from some that do. Every packed model must refuse them.

    A model that takes `clips` may be given several frames with all their patches.
    """

    def other(place: tuple[int, int], *values: int) -> np.ndarray:
        changed = grid_thw.copy()
        row, column = place
        changed[row, column : column + len(values)] = values
        return changed

    _, rows, columns = grid_thw[0].tolist()
    first = pixel_values[: rows * columns]
    yield "a patch too few", pixel_values[:-1], grid_thw
    yield "a patch too many", np.concatenate([pixel_values, pixel_values[:1]]), grid_thw
    yield "an image too many", pixel_values, np.concatenate([grid_thw, grid_thw[:1]])
    yield "two frames", pixel_values, other((0, 0), 2)
    if not clips:
        yield "two frames with their patches", np.concatenate([first, pixel_values]), other((0, 0), 2)
    yield "no frame", pixel_values, other((0, 0), 0)
    yield "no row of patches", pixel_values, other((0, 1), 0)
    yield "no column of patches", pixel_values, other((0, 2), 0)
    yield "negative rows and columns", pixel_values, other((0, 1), -rows, -columns)
    yield "rows times columns overflow", first[:0], np.array([[1, 2**32, 2**32]])
    yield "another patch size", np.zeros((len(pixel_values), pixel_values.shape[1] - 3), np.float32), grid_thw


def refusals(run: Run, inputs: Mapping[str, np.ndarray], *, clips: bool = False) -> Iterator[tuple[str, str | None]]:
    """What is wrong with each of `wrong_inputs`, and the message with which a model refuses it; `None` if it does not.

    `inputs` are right ones, from which they are made.
    """
    for wrong, *given in wrong_inputs(inputs["pixel_values"], inputs["grid_thw"], clips=clips):
        message = None
        try:
            run(*given)
        # Any exception, because runtimes have none in common to all of their own.
        except Exception as problem:
            message = str(problem)
        yield wrong, message


def noise(patch_size: int) -> dict[str, np.ndarray]:
    """Images [3, height, width] of random numbers: one patch, a wide one, a tall one and a square one, by name."""
    rng, grids = np.random.default_rng(0), ((1, 1), (3, 7), (8, 2), (5, 5))
    sizes = [(rows * patch_size, columns * patch_size) for rows, columns in grids]
    return {f"noise@{height}x{width}": rng.standard_normal((3, height, width), np.float32) for height, width in sizes}
