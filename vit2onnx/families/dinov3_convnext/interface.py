"""What goes into a DINOv3 ConvNeXt and comes out of it. Standard library only, because the Snakefile imports this."""

from collections.abc import Callable
from dataclasses import replace

from vit2onnx.families.dinov3_convnext.architecture import Architecture
from vit2onnx.families.interface import images_to_tokens, photographs_to, port_of_layer
from vit2onnx.spec.interface import Derived, Interface


def images(arch: Architecture) -> Interface:
    """Images to features; a pixel of the last feature map is a patch."""
    layers = tuple(f"stages.{index}.blocks.{depth - 1}.output" for index, depth in enumerate(arch.depths))
    interface = images_to_tokens(arch.embed_dim, arch.patch_size, registers=0, layers=layers)
    last = len(layers) - 1
    # Each stage halves the sides of the map.
    patches = [arch.patch_size >> (last - index) for index in range(len(layers))]
    further = [
        port_of_layer(
            f"stage_{index}",
            ("batch", _pixels(index), arch.embed_dims[index]),
            layer,
            f"the map after stage {index}{{}}, row by row: height // {patches[index]} rows of width // {patches[index]}"
            " pixels, no CLS",
            normed=normed,
        )
        for index, layer in enumerate(layers)
        for normed in ((False, True) if index == last else (False,))
    ]
    derived = {_pixels(index): Derived(("height", "width"), _pixels_of(side)) for index, side in enumerate(patches)}
    return replace(interface, further=tuple(further), derived={**interface.derived, **derived})


def _pixels(stage: int) -> str:
    return f"stage_{stage}_pixels"


def _pixels_of(side: int) -> Callable[[int, int], int]:
    return lambda height, width: (height // side) * (width // side)


def photographs(arch: Architecture) -> Interface:
    """Photographs to features."""
    return photographs_to(images(arch))


INTERFACES = {"images": images, "photographs": photographs}
