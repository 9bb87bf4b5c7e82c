"""How transformers prepares photographs for SigLIP2, with which ours are compared.

Both kinds are squashed to the input's size by a bilinear filter, whatever their aspect ratio. For NaFlex that size
follows from the photograph's, which `whole_inputs` shows. The filter is antialiased, as in transformers.

ASSUME: the publisher's files at Hugging Face name the bilinear filter; none was read. The publisher's demo in
big_vision squashes without antialiasing and so gives other inputs.
"""

from collections.abc import Iterator

import numpy as np
from PIL import Image
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

from vit2onnx.families.preparation import Channels, Prepare, own_preparations, range_preparations
from vit2onnx.families.siglip2.architecture import Architecture
from vit2onnx.families.siglip2.interface import BUDGETS
from vit2onnx.images import preprocess_naflex
from vit2onnx.spec.variant import VariantSpec

Inputs = dict[str, np.ndarray]
# In [0, 1]; kept apart from those of config/variants, which are to be checked.
PUBLISHED = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def published_constants(spec: VariantSpec) -> tuple[Channels, Channels]:
    """Mean and standard deviation per channel that the publisher names for a release."""
    if spec.released is None:
        return spec.preprocessing.mean, spec.preprocessing.std
    return PUBLISHED


def preparations(spec: VariantSpec) -> dict[str, Prepare]:
    """By name, the ways in which transformers prepares photographs for an input of a given size."""
    own = spec.preprocessing
    if spec.released is None and (own.interpolation, own.crop_pct, own.mean, own.std) != ("bilinear", None, *PUBLISHED):
        return own_preparations(own)
    return range_preparations()


def whole_inputs(image: Image.Image, spec: VariantSpec) -> Iterator[tuple[int, Inputs, Inputs]]:
    """Patch budgets, each with our inputs of a photograph and those of transformers' processor on Pillow.

    There are none for a model of fixed resolution.
    """
    arch: Architecture = spec.architecture  # type: ignore[assignment]
    if not arch.is_naflex:
        return
    mean, std = published_constants(spec)
    interpolation = "bilinear" if spec.released else spec.preprocessing.interpolation
    resample = Image.Resampling[interpolation.upper()]
    how = {"patch_size": arch.patch_size, "image_mean": mean, "image_std": std, "resample": resample}
    for budget in BUDGETS:
        # Not by the name without "Pil", which stands for the processor on torchvision where that is installed.
        processor = Siglip2ImageProcessorPil(**how, max_num_patches=budget)
        theirs = {port: values[0] for port, values in processor(image, return_tensors="np").items()}
        yield budget, preprocess_naflex(image, spec.preprocessing, arch.patch_size, budget), theirs
