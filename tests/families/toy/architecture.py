"""What a toy is: patches, each on its own."""

from dataclasses import dataclass

from vit2onnx.spec import variant

LAYOUTS = {"toy": ".pth"}
REPOSITORY = "nobody/toy"
KNOWN_DIFFERENCE = None
MODELS = {"toy": "toy_tiny"}


@dataclass(frozen=True)
class Architecture(variant.Architecture):
    """Dimensions of a toy."""

    embed_dim: int
    depth: int
    patch_size: int

    @property
    def layer_parameters(self) -> int:
        return 4 * self.embed_dim**2

    @property
    def trunk_parameters(self) -> int:
        return self.depth * self.layer_parameters
