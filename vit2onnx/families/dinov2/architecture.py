"""What a DINOv2 is. Standard library only, because the Snakefile imports this module."""

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
REPOSITORY = "facebookresearch/dinov2"
# The difference between transformers as installed and the releases without registers.
KNOWN_DIFFERENCE: str | None = "the reference's own resizing of the position table"

# The models of the self-test, each a variant made small: both ways of resizing, both kinds of feed-forward layer.
MODELS = {
    "DINOv2": "dinov2_vits14_pretrain",
    "DINOv2, registers, SwiGLU": "dinov2_vitg14_reg4_pretrain",
}


@dataclass(frozen=True)
class Architecture(variant.Architecture):
    """Dimensions of a vision transformer with a learned position table, and how that table is resized."""

    embed_dim: int
    depth: int
    num_heads: int
    patch_size: int
    num_registers: int
    ffn: str
    ffn_hidden: int
    norm_eps: float
    position_grid: int
    position_antialias: bool
    position_offset: float
    activation: str | None = None

    def __post_init__(self) -> None:
        if self.embed_dim % self.num_heads:
            raise InputError(
                f"architecture.embed_dim {self.embed_dim} must be a multiple of num_heads ({self.num_heads})."
            )
        if self.position_antialias and self.position_offset:
            raise InputError(
                "architecture.position_offset must be 0 with position_antialias, because no release has both."
            )
        if self.ffn == "swiglu" and self.act != "silu":
            raise InputError(f"architecture.activation must be silu with ffn: swiglu, not {self.act}; leave it out.")

    @property
    def layer_parameters(self) -> int:
        """Weights of one block, without its biases and norms."""
        return self.embed_dim * (4 * self.embed_dim + (3 if self.ffn == "swiglu" else 2) * self.ffn_hidden)

    @property
    def trunk_parameters(self) -> int:
        """Weights of all layers, without their biases and norms."""
        return self.depth * self.layer_parameters

    @property
    def act(self) -> str:
        """The activation of the feed-forward layer."""
        return self.activation or ("silu" if self.ffn == "swiglu" else "gelu")

    @property
    def telling_sizes(self) -> tuple[tuple[int, int], ...]:
        """The position table's own size, that of one of its sides, and one in which it is enlarged."""
        side, patch = self.position_grid * self.patch_size, self.patch_size
        return (side, side), (side, 8 * patch), (side + 2 * patch, 5 * patch)

    @property
    def departure(self) -> str:
        """A position table that is resized in another way."""
        released = (True, 0.0) if self.num_registers else (False, 0.1)
        if (self.position_antialias, self.position_offset) == released:
            return ""
        how = "antialiased" if self.position_antialias else "not antialiased"
        return f"position table resized with the offset {self.position_offset} and {how}, NOT as in the releases"

    @property
    def head_dim(self) -> int:
        return self.embed_dim // self.num_heads
