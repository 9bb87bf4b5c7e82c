"""Which photographs can show a fault: on a picture of one colour, swapped colours or axes change nothing."""

from collections.abc import Iterator, Mapping

import numpy as np

from vit2onnx.errors import InputError, first_few
from vit2onnx.parity.floors import rms
from vit2onnx.spec.case import GOLDEN, Case
from vit2onnx.spec.interface import Interface, cases_in
from vit2onnx.spec.variant import Preprocessing

# PARITY: grey levels, root mean square. A picture that differs by less from one colour, from its mirror image and so on
# differs by no more than the noise of a camera or of JPEG. The project's photographs differ by 33 and more.
LEAST = 1.0
# The name of the check that at least one photograph can show a fault.
PHOTOGRAPHS = "photographs are evidence"


def photographs_of(inputs: Mapping[str, np.ndarray], interface: Interface) -> Mapping[str, np.ndarray] | None:
    """The prepared photographs [3, height, width] among the inputs of an interface, by case; `None` if it has none."""
    if "pixel_values" not in (port.name for port in interface.inputs):
        return None
    found = {}
    for case in cases_in(inputs):
        own = interface.inputs_of(inputs, case)
        shapes = own.get("spatial_shapes")
        if interface.is_batched:
            found[case] = _whole(own["pixel_values"], shapes, interface.patch_size)
            continue
        for number, values in enumerate(own["pixel_values"]):
            whole = _whole(values, None if shapes is None else shapes[number], interface.patch_size)
            found[str(Case(f"image{number}", *whole.shape[1:]))] = whole
    return found


def _whole(values: np.ndarray, shape: np.ndarray | None, patch: int) -> np.ndarray:
    """An image as it was before it was cut into patches, if it was."""
    if shape is None:
        return values
    rows, columns = map(int, shape)
    patches = values[: rows * columns].reshape(rows, columns, patch, patch, 3)
    return np.ascontiguousarray(patches.transpose(4, 0, 2, 1, 3)).reshape(3, rows * patch, columns * patch)


def no_evidence(images: Mapping[str, np.ndarray], preprocessing: Preprocessing) -> dict[str, str]:
    """Why photographs among prepared inputs [3, height, width] can show no fault, by name; those that can are left out.

    A photograph is judged at its first size. The published one is left out, because it is not the user's.
    """
    found: dict[str, str] = {}
    seen: dict[bytes, str] = {}
    for name, image in _of_first_size(images):
        levels = _levels(image, preprocessing)
        changed = {
            "is of one colour": levels.mean(axis=(1, 2), keepdims=True),
            "is its own mirror image": levels[:, :, ::-1],
            "is the same upside down": levels[:, ::-1],
        }
        same = [why for why, other in changed.items() if not rms(levels - other) >= LEAST]
        if (first := seen.setdefault(image.tobytes(), name)) != name:
            same = [f"is the same as {first}"]
        if same:
            found[name] = same[0]
    return found


def are_grey(images: Mapping[str, np.ndarray], preprocessing: Preprocessing) -> bool:
    """Whether all photographs that can show a fault are grey, so that colours swapped in their preparation do not show.

    Colours swapped in a graph do show, because its inputs are normalised by another mean and deviation per channel.
    """
    reasons = no_evidence(images, preprocessing)
    levels = [_levels(image, preprocessing) for name, image in _of_first_size(images) if name not in reasons]
    return not any(rms(one - one[::-1]) >= LEAST for one in levels)


def _levels(image: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """A prepared input in grey levels."""
    mean, std = (np.reshape(values, (3, 1, 1)) for values in (preprocessing.mean, preprocessing.std))
    levels: np.ndarray = 255 * (image * std + mean)
    return levels


def _of_first_size(images: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    names = set()
    for case in images:
        name = Case.parse(case).name
        if name not in names and Case.parse(case) != GOLDEN:
            names.add(name)
            yield name, images[case]


def telling_first(images: Mapping[str, np.ndarray], preprocessing: Preprocessing) -> list[str]:
    """The cases of images, beginning with photographs that can show a fault, because samples are taken from the first.

    Raises `InputError` if no photograph can show a fault.
    """
    reasons = no_evidence(images, preprocessing)
    if all(Case.parse(case).name in reasons or Case.parse(case) == GOLDEN for case in images):
        raise InputError(
            f"No photograph can show a fault: {sentence_of(reasons)}. Add another to `images`, such as"
            " resources/images/chelsea.jpg."
        )
    return sorted(images, key=lambda case: Case.parse(case).name in reasons)


def sentence_of(reasons: Mapping[str, str]) -> str:
    """Why the first few photographs can show no fault."""
    return first_few([f"{name} {why}" for name, why in reasons.items()], "; ", most=5)
