"""What goes into a DINOv2 and comes out of it. Standard library only, because the Snakefile imports this module."""

from vit2onnx.families.dinov2.architecture import Architecture
from vit2onnx.families.interface import block_outputs, images_to_tokens, packed_images_to_tokens
from vit2onnx.spec.interface import Interface


def images(arch: Architecture) -> Interface:
    """Images to features."""
    return images_to_tokens(arch.embed_dim, arch.patch_size, arch.num_registers, block_outputs(arch.depth))


def packed(arch: Architecture) -> Interface:
    """Images of any sizes in one call to features."""
    return packed_images_to_tokens(images(arch))


INTERFACES = {"images": images, "packed": packed}
