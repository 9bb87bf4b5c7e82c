"""What a vision transformer of DINOv3 is. Standard library only, because the Snakefile imports this module."""

from dataclasses import dataclass

from vit2onnx.errors import InputError
from vit2onnx.spec import variant

# The layouts in which checkpoints are published, the publisher's own first, each with the format of its files.
LAYOUTS = {
    "meta": ".pth",
    "huggingface": ".safetensors",
    "huggingface5": ".safetensors",
    "timm": ".safetensors",
    "timm_qkvb": ".safetensors",
}
# The publisher's code, of which a user may have a clone.
REPOSITORY = "facebookresearch/dinov3"
# In what a reference differs by itself, by design, from the releases.
KNOWN_DIFFERENCE: str | None = "the reference's own RoPE periods (float32; the release's are rounded to bfloat16)"

# The models of the self-test, each a variant made small, which between them have all that sets these models apart.
MODELS = {
    "ViT": "dinov3_vits16_pretrain_lvd1689m",
    "ViT, SwiGLU": "dinov3_vits16plus_pretrain_lvd1689m",
    "ViT, no bias": "dinov3_vit7b16_pretrain_lvd1689m",
    "ViT, sharp": "dinov3_vits16_pretrain_lvd1689m",
    "ViT, sharper": "dinov3_vits16_pretrain_lvd1689m",
    "ViT, outliers": "dinov3_vits16_pretrain_lvd1689m",
}


@dataclass(frozen=True)
class Architecture(variant.Architecture):
    """Dimensions of a vision transformer."""

    embed_dim: int
    depth: int
    num_heads: int
    patch_size: int
    num_registers: int
    ffn: str
    ffn_hidden: int
    qkv_bias: bool
    local_cls_norm: bool
    norm_eps: float
    rope_periods: str
    rope_theta: float = 100.0
    key_bias: bool = False
    activation: str | None = None

    def __post_init__(self) -> None:
        if self.embed_dim % (4 * self.num_heads):
            raise InputError(
                f"architecture.embed_dim {self.embed_dim} must be a multiple of 4 x num_heads ({4 * self.num_heads}),"
                " because rotary embedding halves each head twice."
            )
        if self.key_bias and not self.qkv_bias:
            raise InputError("architecture.key_bias needs qkv_bias, because keys alone have a bias in no layout.")

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
    def departure(self) -> str:
        """RoPE periods in another precision."""
        return "RoPE periods in float32, NOT as in the releases" if self.rope_periods == "float32" else ""

    @property
    def head_dim(self) -> int:
        return self.embed_dim // self.num_heads
