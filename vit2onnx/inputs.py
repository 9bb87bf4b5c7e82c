"""From photographs and texts to the inputs of a graph, by what its interface has."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from vit2onnx.errors import InputError
from vit2onnx.images import check_image, load_image, naflex_input, preprocess, preprocess_naflex
from vit2onnx.parity.photographs import photographs_of, telling_first
from vit2onnx.spec.case import Case
from vit2onnx.spec.interface import Interface, key_of
from vit2onnx.spec.texts import Text, random_ids
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
        if interface.kind == "image":
            found |= image_inputs(spec, interface, case, opened[case.name])
        elif interface.kind == "text":
            found |= _keyed(case, {"input_ids": _ids(case.name, texts, case.width, interface)}, interface)
        else:
            names = [list(texts)[number % len(texts)] for number in range(case.width)]
            chosen = [_ids(name, texts, interface.sizes(case)["length"], interface) for name in names]
            found |= pair_inputs(spec, interface, case, map(opened.part, range(case.height)), chosen)
    if interface.kind != "image":
        return found
    images = photographs_of(found, interface) or {}
    first = telling_first(images, spec.preprocessing)
    keys = (key_of(case, port, interface.inputs) for case in first for port in interface.inputs)
    return {key: found[key] for key in keys}


def image_inputs(spec: VariantSpec, interface: Interface, case: Case, image: Image.Image) -> dict[str, np.ndarray]:
    """The inputs of one photograph, as one case."""
    pixels = preprocess(image, case.height, case.width, spec.preprocessing)
    if not interface.takes_patches:
        return _keyed(case, {"pixel_values": pixels}, interface)
    return _keyed(case, naflex_input(pixels, interface.patch_size, interface.sizes(case)["patches"]), interface)


def pair_inputs(
    spec: VariantSpec, interface: Interface, case: Case, images: Iterable[Image.Image], texts: Sequence[np.ndarray]
) -> dict[str, np.ndarray]:
    """The inputs of all images with all texts, which are ids of one length, as one case."""
    prepared = [_of_pair(spec, interface, case, image) for image in images]
    stacked = {port: np.stack([one[port] for one in prepared]) for port in prepared[0]}
    return _keyed(case, {"input_ids": np.stack(texts), **stacked}, interface)


def _of_pair(spec: VariantSpec, interface: Interface, case: Case, image: Image.Image) -> dict[str, np.ndarray]:
    """An image at the size of the model, or at its own for a model that takes any."""
    if interface.takes_patches:
        return preprocess_naflex(image, spec.preprocessing, interface.patch_size, interface.sizes(case)["patches"])
    return {"pixel_values": preprocess(image, interface.fixed["height"], interface.fixed["width"], spec.preprocessing)}


def _ids(name: str, texts: Mapping[str, Sequence[int]], length: int, interface: Interface) -> np.ndarray:
    ids = text_input(texts[name], length)
    try:
        check_ids(ids, interface.facts["text"]["vocabulary"])
    except InputError as error:
        raise InputError(f"texts: {name}: {error}") from None
    return ids


def _keyed(case: Case, arrays: Mapping[str, np.ndarray], interface: Interface) -> dict[str, np.ndarray]:
    """The inputs of a case, given by port, as they are called in files."""
    return {key_of(str(case), port, interface.inputs): arrays[port.name] for port in interface.inputs}


def ids_of_texts(texts: Mapping[str, Text], tokenizer: Path | None, vocabulary: int) -> dict[str, list[int]]:
    """The token ids of texts by name, of a `vocabulary` of so many.

    Raises `InputError` if a text is in words and there is no tokenizer, or if that is of a larger vocabulary.
    """
    ids = {name: text for name, text in texts.items() if isinstance(text, list)}
    ids |= {name: random_ids(name, text, vocabulary) for name, text in texts.items() if isinstance(text, int)}
    words = {name: text for name, text in texts.items() if isinstance(text, str)}
    if words:
        if tokenizer is None:
            first = next(iter(words))
            raise InputError(
                f"texts: {first} is in words; name a tokenizer.json in `tokenizer`, or give its token ids."
            )
        reader = Tokenizer(tokenizer)
        if reader.vocab_size > vocabulary:
            raise InputError(
                f"{tokenizer} has {reader.vocab_size} tokens and the model {vocabulary}; give the tokenizer.json that"
                " lies beside its checkpoint."
            )
        ids |= {name: reader.ids(text) for name, text in words.items()}
    return {name: ids[name] for name in texts}


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
