"""Gather the features of labelled images for retrieval, a few images in memory at a time."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from vit2onnx.dense.features import Gathering
from vit2onnx.dense.foreground import from_mask, read_mask
from vit2onnx.dense.retrieval import Gallery, LabelledImage
from vit2onnx.errors import InputError
from vit2onnx.images import check_image, load_image
from vit2onnx.inputs import image_inputs
from vit2onnx.nn.model import Model
from vit2onnx.runners.equinox import outputs_of_cases
from vit2onnx.spec.case import Case
from vit2onnx.spec.cases import Size
from vit2onnx.spec.interface import Interface
from vit2onnx.spec.variant import VariantSpec
from vit2onnx.weights.keytable import LazyTensor

# So many images go through a layer before the next one is read.
CHUNK = 8


def images_of_files(
    paths: Sequence[Path], labels: Sequence[str], masks: Sequence[Path], patch_size: int
) -> Iterator[LabelledImage]:
    """The user's photographs; there are as many masks as photographs, or none."""
    for number, (path, label) in enumerate(zip(paths, labels, strict=True)):
        image = load_image(path)
        check_image(path, image, patch_size)
        yield LabelledImage(str(path), label, image, read_mask(masks[number]) if masks else None)


def gallery_of(
    spec: VariantSpec,
    interface: Interface,
    model: Model,
    tensors: Mapping[str, LazyTensor],
    images: Iterable[LabelledImage],
    size: Size,
) -> Gallery:
    """The gallery of images, each resized to `size` in pixels, by the Equinox model in single precision."""
    gallery, left = Gallery(), iter(images)
    while chunk := list(islice(left, CHUNK)):
        cases = [Case(f"image{number}", *size) for number in range(len(chunk))]
        inputs: dict[str, np.ndarray] = {}
        for case, one in zip(cases, chunk, strict=True):
            inputs |= image_inputs(spec, interface, case, one.image)
        gathering = Gathering(interface)
        for name, outputs in outputs_of_cases(model, tensors, inputs, interface):
            gathering.finish(name, outputs)
        for case, one in zip(cases, chunk, strict=True):
            patches = gathering.arrays[f"{case}/patches"]
            mask = None if one.mask is None else from_mask(one.mask, *patches.shape[:2])
            try:
                gallery.add(one.label, gathering.arrays[f"{case}/pooled"], patches, mask, one.background)
            except InputError as error:
                raise InputError(f"{one.name}: {error}") from None
    return gallery
