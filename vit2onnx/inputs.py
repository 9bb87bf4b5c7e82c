"""From photographs and texts to the inputs of a graph, by what its interface has."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from vit2onnx.errors import InputError
from vit2onnx.images import check_image, load_image, naflex_input, naflex_size, preprocess
from vit2onnx.parity.photographs import photographs_of, telling_first
from vit2onnx.spec.case import Case
from vit2onnx.spec.cases import PAIRS
from vit2onnx.spec.interface import Interface, key_of
from vit2onnx.spec.variant import VariantSpec
from vit2onnx.texts import Tokenizer, check_ids, text_input

# Parts of photographs (left, upper, right, lower, as shares), for pairs of more images than there are photographs.
PARTS = ((0, 0, 1, 1), (0, 0, 0.5, 1), (0.5, 0, 1, 1), (0, 0, 1, 0.5), (0, 0.5, 1, 1))


def inputs_of(
    spec: VariantSpec,
    interface: Interface,
    cases: Sequence[Case],
    photographs: Mapping[str, Path],
    texts: Mapping[str, Sequence[int]],
) -> dict[str, np.ndarray]:
    """The inputs of all cases, called as `key_of` says; cases that can show a fault come first.

    `photographs` and `texts`, as token ids, are by name. Raises `InputError` if one is no input of the model, or if no
    photograph can show a fault.
    """
    opened = _Photographs(photographs, interface.patch_size)
    found: dict[str, np.ndarray] = {}
    for case in cases:
        arrays = dict(_arrays(spec, interface, case, opened, texts))
        found |= {key_of(str(case), port, interface.inputs): arrays[port.name] for port in interface.inputs}
    if interface.noun != "image":
        return found
    images = photographs_of(found, interface) or {}
    first = telling_first(images, spec.preprocessing)
    keys = (key_of(case, port, interface.inputs) for case in first for port in interface.inputs)
    return {key: found[key] for key in keys}


def ids_of_texts(texts: Mapping[str, list[int] | str], tokenizer: Path | None) -> dict[str, list[int]]:
    """The token ids of texts by name. Raises `InputError` if one is in words and there is no tokenizer."""
    words = [name for name, text in texts.items() if isinstance(text, str)]
    if words and tokenizer is None:
        raise InputError(f"texts: {words[0]} is in words; name a tokenizer.json in `tokenizer`, or give its token ids.")
    reader = Tokenizer(tokenizer) if words and tokenizer else None
    return {name: reader.ids(text) if reader and isinstance(text, str) else list(text) for name, text in texts.items()}  # type: ignore[arg-type]


class _Photographs:
    """Photographs by name, of which one is in memory at a time: the last that was asked for."""

    def __init__(self, paths: Mapping[str, Path], patch_size: int):
        self.paths, self.patch_size = paths, patch_size
        self.last: tuple[str, Image.Image] | None = None

    def __getitem__(self, name: str) -> Image.Image:
        if not self.last or self.last[0] != name:
            # Before the next one is opened, and not while it is.
            self.last = None
            image = load_image(self.paths[name])
            check_image(self.paths[name], image, self.patch_size)
            self.last = name, image
        return self.last[1]

    def part(self, number: int) -> Image.Image:
        """One of all photographs and parts of photographs."""
        names = list(self.paths)
        image, part = self[names[number % len(names)]], PARTS[number // len(names) % len(PARTS)]
        left, upper, right, lower = (round(share * side) for share, side in zip(part, image.size * 2, strict=True))
        return image.crop((left, upper, right, lower))


def _arrays(
    spec: VariantSpec,
    interface: Interface,
    case: Case,
    photographs: _Photographs,
    texts: Mapping[str, Sequence[int]],
) -> Iterator[tuple[str, np.ndarray]]:
    """The inputs of a case by their ports."""
    length = interface.usual.get("length") or 0
    if interface.noun == "image":
        pixels = preprocess(photographs[case.image], case.height, case.width, spec.preprocessing)
        yield from _image(pixels, interface, interface.sizes(case).get("patches", 0))
    elif interface.noun == "text":
        yield "input_ids", _ids(case.image, texts, case.width, spec)
    else:
        names = list(texts)
        chosen = [_ids(names[number % len(names)], texts, length, spec) for number in range(case.width)]
        yield from _pair(spec, interface, map(photographs.part, range(case.height)), chosen)


def image_inputs(spec: VariantSpec, interface: Interface, case: Case, image: Image.Image) -> dict[str, np.ndarray]:
    """The inputs of one photograph, as one case."""
    pixels = preprocess(image, case.height, case.width, spec.preprocessing)
    arrays = dict(_image(pixels, interface, interface.sizes(case).get("patches", 0)))
    return {key_of(str(case), port, interface.inputs): arrays[port.name] for port in interface.inputs}


def pair_of(
    spec: VariantSpec, interface: Interface, images: Sequence[Image.Image], texts: Sequence[Sequence[int]]
) -> dict[str, np.ndarray]:
    """The inputs of all images with all texts, as one case."""
    length = interface.usual["length"] or 0
    case = str(Case(PAIRS, len(images), len(texts)))
    arrays = dict(_pair(spec, interface, images, [text_input(ids, length) for ids in texts]))
    return {key_of(case, port, interface.inputs): arrays[port.name] for port in interface.inputs}


def _pair(
    spec: VariantSpec, interface: Interface, images: Iterable[Image.Image], texts: Sequence[np.ndarray]
) -> Iterator[tuple[str, np.ndarray]]:
    yield "input_ids", np.stack(texts)
    prepared = [dict(_of_pair(spec, interface, image)) for image in images]
    yield from ((port, np.stack([one[port] for one in prepared])) for port in prepared[0])


def _of_pair(spec: VariantSpec, interface: Interface, image: Image.Image) -> Iterator[tuple[str, np.ndarray]]:
    """An image at the size of the model, or at its own for a model that takes any."""
    if interface.fixed:
        size, patches = (interface.fixed["height"], interface.fixed["width"]), 0
    else:
        patches = interface.ordinary["patches"]
        size = naflex_size(image.height, image.width, interface.patch_size, patches)
    yield from _image(preprocess(image, *size, spec.preprocessing), interface, patches)


def _image(pixels: np.ndarray, interface: Interface, patches: int) -> Iterator[tuple[str, np.ndarray]]:
    if any(port.name == "spatial_shapes" for port in interface.inputs):
        yield from naflex_input(pixels, interface.patch_size, patches).items()
    else:
        yield "pixel_values", pixels


def _ids(name: str, texts: Mapping[str, Sequence[int]], length: int, spec: VariantSpec) -> np.ndarray:
    ids = text_input(texts[name], length)
    try:
        check_ids(ids, spec.architecture.vocab_size)  # type: ignore[attr-defined]
    except InputError as error:
        raise InputError(f"texts: {name}: {error}") from None
    return ids
