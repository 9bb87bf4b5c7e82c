"""What goes into a toy and comes out of it."""

from vit2onnx.families.interface import images_to_tokens
from vit2onnx.families.toy.architecture import Architecture
from vit2onnx.spec.interface import Interface


def images(arch: Architecture) -> Interface:
    return images_to_tokens(arch.embed_dim, arch.patch_size, registers=0)


INTERFACES = {"images": images}
