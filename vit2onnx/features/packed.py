"""Photographs of any sizes to features, by a packed graph in onnxruntime.

model = Packed("packed.onnx")
cat, dog = model.features(["cat.jpg", "dog.jpg"])
print(cat.cls.shape, dog.patches.shape)
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from PIL import Image

from vit2onnx.errors import InputError
from vit2onnx.families.interface import ROW_ORDER
from vit2onnx.files import check_regular
from vit2onnx.images import load_image, preprocess
from vit2onnx.onnx_file import described
from vit2onnx.packing.arrays import ImageFeatures, check, native_size, pack, unpack
from vit2onnx.runners.session import session_of
from vit2onnx.spec.variant import Preprocessing

Photograph = str | Path | Image.Image
# By default, the most patches of a photograph, and of a call.
MAX_PATCHES, MAX_PACK = 1024, 16384
WAY_OUT = "export a packed graph: exports: {packed: {interface: packed, opset: 23}}"


class Packed:
    """A packed graph in onnxruntime on the CPU, which prepares photographs as its file says.

    `threads` is the number of onnxruntime's threads; 0 leaves it to onnxruntime. Raises `InputError` if `graph` is no
    packed graph of vit2onnx, or if onnxruntime cannot load it.

    Photographs are paths, or PIL images of 8 bits per channel. Each keeps its own size, rounded to whole patches. One
    of more than `max_patches` patches is shrunk; `None` is no limit. `native_size` has the rules. The whole photograph
    is used, so a `crop_pct` in the file has no effect. For a GPU, give `inputs` to a session of your own, and its
    outputs to `unpack`.
    """

    def __init__(self, graph: str | Path, threads: int = 0):
        self.path = Path(graph)
        self.patch_size, self.preprocessing = said_by(self.path)
        self._session = _session(self.path, threads)
        self._outputs = [port.name for port in self._session.get_outputs()]

    def features(
        self, photographs: Iterable[Photograph], max_patches: int | None = MAX_PATCHES, max_pack: int = MAX_PACK
    ) -> list[ImageFeatures]:
        """The features of each photograph, in order.

        A call of the graph gets `max_pack` patches at most, or one photograph that has more. Each photograph counts as
        the largest of the call, because some graphs pad. Raises `InputError` if a photograph cannot be read, or if the
        graph does not run.
        """
        return list(self.stream(photographs, max_patches, max_pack))

    def stream(
        self, photographs: Iterable[Photograph], max_patches: int | None = MAX_PATCHES, max_pack: int = MAX_PACK
    ) -> Iterator[ImageFeatures]:
        """As `features`, one by one: neither photographs nor features of more than one call are in memory."""
        _check_number("max_pack", max_pack)
        for images in _packs(self._prepared(photographs, max_patches), self.patch_size, max_pack):
            inputs = pack(images, self.patch_size)
            yield from unpack(self.run(**inputs), inputs["grid_thw"])

    def inputs(self, photographs: Iterable[Photograph], max_patches: int | None = MAX_PATCHES) -> dict[str, np.ndarray]:
        """The inputs of one call with all photographs, as `pack` gives them. Raises `InputError` if there are none."""
        return pack(self._prepared(photographs, max_patches), self.patch_size)

    def run(self, pixel_values: np.ndarray, grid_thw: np.ndarray) -> dict[str, np.ndarray]:
        """The outputs by name. Raises `InputError` if `check` does, or if onnxruntime fails."""
        check(pixel_values, grid_thw, self.patch_size)
        try:
            found = self._session.run(self._outputs, {"pixel_values": pixel_values, "grid_thw": grid_thw})
        # Any exception, because onnxruntime has none in common to all of its own.
        except Exception as problem:
            raise InputError(
                f"{self.path} does not run on {len(grid_thw)} images with {len(pixel_values)} patches; if memory is"
                f" short, give a smaller max_pack or max_patches ({problem})."
            ) from problem
        return dict(zip(self._outputs, found, strict=True))

    def _prepared(self, photographs: Iterable[Photograph], max_patches: int | None) -> Iterator[np.ndarray]:
        """The normalised images [3, height, width], each when it is asked for."""
        if isinstance(photographs, Photograph):
            raise InputError(f"{photographs} is one photograph; give a list of photographs.")
        if max_patches is not None:
            _check_number("max_patches", max_patches)
        for number, photograph in enumerate(photographs):
            image = _opened(photograph, number)
            try:
                size = native_size(image.height, image.width, self.patch_size, max_patches)
                prepared = preprocess(image, *size, self.preprocessing)
            except InputError as error:
                raise InputError(f"{_name(photograph, number)}: {error}") from error
            yield prepared


def said_by(path: Path) -> tuple[int, Preprocessing]:
    """The patch size of a packed graph, and how it says that photographs are prepared, without a crop.

    Raises `InputError` if it is no packed graph of vit2onnx.
    """
    check_regular(path)
    said = described(path)
    tokens, how = said.get("tokens"), said.get("preprocessing")
    if not isinstance(tokens, dict) or not isinstance(how, dict):
        raise InputError(f"{path} is no graph of vit2onnx that takes photographs; {WAY_OUT}.")
    if tokens.get("values") != ROW_ORDER:
        raise InputError(f"{path} takes single images; {WAY_OUT}.")
    return tokens["patch_size"], Preprocessing.from_mapping({**how, "crop_pct": None})


def _session(path: Path, threads: int) -> ort.InferenceSession:
    try:
        return session_of(path, threads=threads)
    except InputError:
        raise
    # Any other, because onnxruntime has none in common to all of its own.
    except Exception as problem:
        raise InputError(
            f"onnxruntime {ort.__version__} cannot load {path}; it takes 1.23 or newer ({problem})."
        ) from problem


def _check_number(name: str, number: Any) -> None:
    if not isinstance(number, int | np.integer) or number < 1:
        raise InputError(f"{name} is {number!r}; give a whole number of at least 1.")


def _name(photograph: Photograph, number: int) -> str:
    return f"Photograph {number}" if isinstance(photograph, Image.Image) else str(photograph)


def _opened(photograph: Any, number: int) -> Image.Image:
    """A photograph as 8-bit RGB, without its transparency."""
    if isinstance(photograph, str | Path):
        return load_image(Path(photograph))
    if not isinstance(photograph, Image.Image):
        raise InputError(f"Photograph {number} is of type {type(photograph).__name__}; give a path or a PIL image.")
    # Pillow silently cuts or clips these to 8 bits.
    if photograph.mode in ("I", "F") or photograph.mode.startswith("I;16"):
        raise InputError(f"Photograph {number} has more than 8 bits per channel; convert it to 8.")
    try:
        photograph.load()
        return photograph if photograph.mode == "RGB" else photograph.convert("RGB")
    # Any, because what decoders raise depends on the file that the image comes from.
    except Exception as error:
        raise InputError(f"Photograph {number} cannot be read ({error}); give one that is complete.") from error


def _packs(images: Iterable[np.ndarray], patch_size: int, max_pack: int) -> Iterator[Sequence[np.ndarray]]:
    """Images in order, as many at once as have `max_pack` patches at most, each counted as the largest of them."""
    gathered: list[np.ndarray] = []
    largest = 0
    for image in images:
        patches = image[0].size // patch_size**2
        largest = max(largest, patches)
        if gathered and (len(gathered) + 1) * largest > max_pack:
            yield gathered
            gathered, largest = [], patches
        gathered.append(image)
    if gathered:
        yield gathered
