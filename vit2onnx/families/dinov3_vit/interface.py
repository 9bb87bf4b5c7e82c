"""What goes into a DINOv3 ViT and comes out of it. Standard library only, because the Snakefile imports this module."""

from vit2onnx.families.dinov3_vit.architecture import Architecture
from vit2onnx.families.interface import (
    block_outputs,
    images_to_tokens,
    packed_images_to_tokens,
    photographs_to,
    with_blocks,
)
from vit2onnx.spec.interface import Interface


def images(arch: Architecture) -> Interface:
    """Images to features."""
    layers = block_outputs(arch.depth)
    return with_blocks(images_to_tokens(arch.embed_dim, arch.patch_size, arch.num_registers, layers))


def packed(arch: Architecture) -> Interface:
    """Images of any sizes in one call to features."""
    return packed_images_to_tokens(images(arch))


def photographs(arch: Architecture) -> Interface:
    """Photographs to features."""
    return photographs_to(images(arch))


INTERFACES = {"images": images, "photographs": photographs, "packed": packed}
