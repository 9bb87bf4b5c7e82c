"""What a ConvNeXt of DINOv3 is. Standard library only, because the Snakefile imports this module."""

from dataclasses import dataclass

from vit2onnx.errors import InputError
from vit2onnx.spec import variant

# The layouts in which checkpoints are published, the publisher's own first, each with the format of its files.
LAYOUTS = {
    "meta": ".pth",
    "huggingface": ".safetensors",
    "huggingface5": ".safetensors",
    "timm": ".safetensors",
}
# The publisher's code, of which a user may have a clone.
REPOSITORY = "facebookresearch/dinov3"
# References differ in nothing by design.
KNOWN_DIFFERENCE: str | None = None

# The models of the self-test, each a variant made small.
MODELS = {"ConvNeXt": "dinov3_convnext_tiny_pretrain_lvd1689m"}


@dataclass(frozen=True)
class Architecture(variant.Architecture):
    """Dimensions of a ConvNeXt: channels and blocks of its stages."""

    embed_dims: tuple[int, ...]
    depths: tuple[int, ...]
    norm_eps: float
    activation: str | None = None

    def __post_init__(self) -> None:
        if len(self.embed_dims) != len(self.depths):
            raise InputError(
                f"architecture.embed_dims names {len(self.embed_dims)} stages and depths {len(self.depths)}."
            )

    @property
    def layer_parameters(self) -> int:
        """Weights of one of the last blocks, without its biases and norms."""
        return 8 * self.embed_dim**2

    @property
    def trunk_parameters(self) -> int:
        """Weights of all layers, without their biases and norms."""
        return sum(8 * width**2 * depth for width, depth in zip(self.embed_dims, self.depths, strict=True))

    @property
    def act(self) -> str:
        """The activation of a block."""
        return self.activation or "gelu"

    @property
    def embed_dim(self) -> int:
        """Channels of the features."""
        return self.embed_dims[-1]

    @property
    def patch_size(self) -> int:
        """Pixels per token of the last feature map: the stem divides by 4, each later stage by 2."""
        return 4 * 2 ** (len(self.embed_dims) - 1)
