"""How the publisher and transformers prepare photographs for SigLIP2, against which our way is measured.

Both kinds are squashed to the input's size by a bilinear filter, whatever their aspect ratio. For NaFlex that size
follows from the photograph's, which `whole_inputs` shows. The filter is antialiased, as in the publisher's files
at Hugging Face. The publisher's demo in big_vision squashes without antialiasing, so it gives other inputs, which
`by_demo` makes to measure that.
"""

from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

from vit2onnx.families.preparation import Channels, Prepare, own_preparations, range_preparations
from vit2onnx.families.siglip2.architecture import Architecture
from vit2onnx.images import preprocess_naflex
from vit2onnx.spec.variant import VariantSpec

# The patch budgets that are compared: small, the publisher's own, and more than its table of positions has.
BUDGETS = (64, 256, 1024)
Inputs = dict[str, np.ndarray]
# In [0, 1]; kept apart from those of config/variants, which are to be checked.
PUBLISHED = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def published_constants(spec: VariantSpec) -> tuple[Channels, Channels]:
    """Mean and standard deviation per channel that the publisher names for a release."""
    if spec.released is None:
        return spec.preprocessing.mean, spec.preprocessing.std
    return PUBLISHED


def preparations(spec: VariantSpec) -> dict[str, Prepare]:
    """By name, how the publisher and transformers prepare photographs for an input of a given size."""
    if spec.released is None:
        return own_preparations(spec.preprocessing)
    return range_preparations()


def by_demo(image: Image.Image, height: int, width: int) -> np.ndarray:
    """As the demo of big_vision prepares a photograph for a fixed size: `resize(size)|value_range(-1, 1)`.

    That resizes without antialiasing, and cuts to whole grey levels instead of rounding. TensorFlow itself is not
    asked: its `tf.image.resize` has the pixel centres and weights of this function of torch.
    """
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    small = torch.nn.functional.interpolate(pixels, (height, width), mode="bilinear", align_corners=False)
    levels: np.ndarray = small[0].clamp_(0, 255).floor_().numpy()
    return -1 + levels / np.float32(255) * 2


def whole_inputs(image: Image.Image, spec: VariantSpec) -> Iterator[tuple[int, Inputs, Inputs]]:
    """Patch budgets, each with our inputs of a photograph and those of transformers' processor on Pillow.

    There are none for a model of fixed resolution.
    """
    arch: Architecture = spec.architecture  # type: ignore[assignment]
    if not (arch.is_naflex and arch.depth):
        return
    for budget in BUDGETS:
        # Not by the name without "Pil", which stands for the processor on torchvision where that is installed.
        processor = Siglip2ImageProcessorPil(patch_size=arch.patch_size, max_num_patches=budget)
        theirs = {port: values[0] for port, values in processor(image, return_tensors="np").items()}
        yield budget, preprocess_naflex(image, spec.preprocessing, arch.patch_size, budget), theirs
