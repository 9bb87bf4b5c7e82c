"""What goes into a DINOv3 ViT and comes out of it. Standard library only, because the Snakefile imports this module."""

from vit2onnx.families.dinov3_vit.architecture import Architecture
from vit2onnx.families.interface import images_to_tokens
from vit2onnx.spec.interface import Interface


def images(arch: Architecture) -> Interface:
    """Images to features."""
    return images_to_tokens(arch.embed_dim, arch.patch_size, arch.num_registers)


INTERFACES = {"images": images}
