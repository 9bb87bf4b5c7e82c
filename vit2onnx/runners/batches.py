"""What a graph is given in turn, by cases: batches of inputs of the same shapes, packs, or cases as they are."""

from collections.abc import Iterator, Mapping

import numpy as np

from vit2onnx.packing import pack
from vit2onnx.photographs import given_to
from vit2onnx.spec.interface import Interface

Inputs = Mapping[str, np.ndarray]
# The name of an image that is there to fill a batch only.
MIRROR = ""


def batches_of(cases: Mapping[str, Inputs], batch: int, interface: Interface) -> Iterator[tuple[list[str], Inputs]]:
    """What a graph is given in turn: packs of so many images, of any sizes, or batches, with the names of the cases."""
    if not interface.packs:
        yield from filled_batches({name: given_to(interface, inputs) for name, inputs in cases.items()}, batch)
        return
    port = interface.packs.inputs[0].name
    for start in range(0, len(cases), batch):
        names = list(cases)[start : start + batch]
        yield names, pack([cases[name][port] for name in names], interface.patch_size)


def filled_batches(cases: Mapping[str, Inputs], batch: int) -> Iterator[tuple[list[str], Inputs]]:
    """Batches of cases whose inputs have the same shapes, with the names of these. A batch of 0 is a case as it is.

    The last batch of a shape is filled up from the front. A case alone is put beside the negative of its mirror image,
    or of its ids in reverse, which no case equals, so that a graph that mixes the images of a batch shows; and in two
    batches, so that it is in every place.
    """
    if not batch:
        yield from (([name], dict(inputs)) for name, inputs in cases.items())
        return
    for shapes in dict.fromkeys(map(_shapes, cases.values())):
        same = {name: inputs for name, inputs in cases.items() if _shapes(inputs) == shapes}
        starts = range(0, len(same), batch)
        if len(same) == 1 < batch:
            (inputs,) = same.values()
            same, starts = {**same, MIRROR: _mirrored(inputs)}, range(2)
        names = list(same)
        for start in starts:
            given = [names[i % len(names)] for i in range(start, start + batch)]
            yield given, {port: np.stack([same[name][port] for name in given]) for port in same[names[0]]}


def _shapes(inputs: Inputs) -> tuple[tuple[int, ...], ...]:
    return tuple(array.shape for array in inputs.values())


def _mirrored(inputs: Inputs) -> Inputs:
    """Inputs that are others in all that is no size: the first port's, reversed, and negative if they are no ids."""
    first, *others = inputs
    array = inputs[first]
    if array.dtype == np.uint8:
        # A photograph [height, width, 3], whose negative has the other grey levels.
        mirrored = 255 - array[:, ::-1]
    else:
        mirrored = -array[..., ::-1] if array.dtype.kind == "f" else array[..., ::-1].copy()
    return {first: mirrored, **{name: inputs[name] for name in others}}
