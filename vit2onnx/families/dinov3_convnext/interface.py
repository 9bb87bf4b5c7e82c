"""What goes into a DINOv3 ConvNeXt and comes out of it. Standard library only, because the Snakefile imports this."""

from vit2onnx.families.dinov3_convnext.architecture import Architecture
from vit2onnx.families.interface import images_to_tokens
from vit2onnx.spec.interface import Interface


def images(arch: Architecture) -> Interface:
    """Images to features; a pixel of the last feature map is a patch."""
    layers = tuple(f"stages.{index}.blocks.{depth - 1}.output" for index, depth in enumerate(arch.depths))
    return images_to_tokens(arch.embed_dim, arch.patch_size, registers=0, layers=layers)


INTERFACES = {"images": images}
