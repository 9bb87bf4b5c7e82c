"""What a SigLIP2 is. Standard library only, because the Snakefile imports this module."""

import math
from dataclasses import dataclass

from vit2onnx.errors import InputError
from vit2onnx.spec import variant

# The layouts in which checkpoints are published, each with the format of its files. The publisher offers the first two.
LAYOUTS = {"huggingface": ".safetensors", "big_vision": ".npz"}
# None, because the publisher's code (google-research/big_vision) needs TensorFlow and is no reference here.
REPOSITORY = ""
# In what a reference differs by itself, by design, from the releases. Transformers has no such clamp.
KNOWN_DIFFERENCE: str | None = "kornia's clamp of the temperature at 100"
# The logarithms of the temperature between which kornia keeps it.
KORNIA_SCALES = (0.0, math.log(100))
# Width, depth and heads of both towers of the models that kornia has: B/16 and L/16.
KORNIA_SIZES = ((768, 12, 12), (1024, 24, 16))

# The models of the self-test, each a variant made small.
MODELS = {"SigLIP2": "siglip2_base_patch16_224", "SigLIP2, NaFlex": "siglip2_base_patch16_naflex"}


@dataclass(frozen=True)
class Architecture(variant.Architecture):
    """Dimensions of an image tower and of a text tower, of which one may be missing: then its numbers are 0.

    Without an `image_size` the image tower is NaFlex: it takes patches of images of any size, and resizes its position
    table. `projection_dim` is the width of the embeddings, in which both towers end.
    """

    norm_eps: float
    activation: str
    projection_dim: int
    embed_dim: int = 0
    depth: int = 0
    num_heads: int = 0
    ffn_hidden: int = 0
    patch_size: int = 0
    image_size: int = 0
    position_grid: int = 0
    text_dim: int = 0
    text_depth: int = 0
    text_heads: int = 0
    text_hidden: int = 0
    text_length: int = 0
    vocab_size: int = 0

    def __post_init__(self) -> None:
        for names in (("embed_dim", "num_heads"), ("text_dim", "text_heads")):
            width, heads = (getattr(self, name) for name in names)
            if width and (not heads or width % heads):
                raise InputError(f"architecture.{names[0]} {width} must be a multiple of {names[1]} ({heads}).")
        if self.image_size and self.image_size // self.patch_size != self.position_grid:
            raise InputError(
                f"architecture.position_grid {self.position_grid} must be image_size // patch_size, because the table"
                " of positions is not resized."
            )
        if self.depth and self.projection_dim != self.embed_dim:
            raise InputError(
                f"architecture.projection_dim {self.projection_dim} must be embed_dim ({self.embed_dim}), because the"
                " image tower has no projection."
            )
        if not (self.depth or self.text_depth):
            raise InputError("architecture: it has neither an image tower (depth) nor a text tower (text_depth).")

    @property
    def is_naflex(self) -> bool:
        """Whether the image tower takes patches of images of any size."""
        return bool(self.depth) and not self.image_size

    @property
    def layer_parameters(self) -> int:
        """Weights of the largest layer, without its biases and norms: mostly the table of tokens."""
        return max(_block(self.embed_dim, self.ffn_hidden), self.vocab_size * self.text_dim)

    @property
    def trunk_parameters(self) -> int:
        """Weights of all layers, without their biases and norms."""
        image = self.depth * _block(self.embed_dim, self.ffn_hidden)
        return image + self.text_depth * _block(self.text_dim, self.text_hidden) + self.vocab_size * self.text_dim

    @property
    def vision_parameters(self) -> int:
        """All parameters of the image tower; its head is a block with a probe."""
        if not self.depth:
            return 0
        width, patch = self.embed_dim, 3 * self.patch_size**2
        embed = (patch + 1 + self.position_grid**2) * width
        return embed + self.depth * _whole_block(width, self.ffn_hidden) + 2 * width + self._head_parameters

    @property
    def _head_parameters(self) -> int:
        """Those of the head: a probe, and a block with one norm less."""
        return self.embed_dim + _whole_block(self.embed_dim, self.ffn_hidden) - 2 * self.embed_dim

    @property
    def text_parameters(self) -> int:
        """All parameters of the text tower."""
        if not self.text_depth:
            return 0
        width = self.text_dim
        embed = (self.vocab_size + self.text_length) * width
        head = (width + 1) * self.projection_dim
        return embed + self.text_depth * _whole_block(width, self.text_hidden) + 2 * width + head

    @property
    def further_references(self) -> tuple[str, ...]:
        """Kornia for B/16 and L/16 at a fixed size; it refuses the other releases."""
        vision = self.embed_dim, self.depth, self.num_heads
        text = self.text_dim, self.text_depth, self.text_heads
        is_known = vision == text and vision in KORNIA_SIZES
        return ("kornia",) if is_known and self.patch_size == 16 and not self.is_naflex else ()

    def may_differ(self, interface: str) -> bool:
        """Only logits have a temperature."""
        return interface == "pair"

    @property
    def telling_sizes(self) -> tuple[tuple[int, int], ...]:
        """Grids of one row, of one column, not antialiased one way, and larger than the table of positions."""
        if not self.is_naflex:
            return ()
        grids = ((1, 256), (256, 1), (8, 31), (24, 40))
        return tuple((rows * self.patch_size, columns * self.patch_size) for rows, columns in grids)


def _block(width: int, hidden: int) -> int:
    """Weights of one block of a tower, without its biases and norms."""
    return width * (4 * width + 2 * hidden)


def _whole_block(width: int, hidden: int) -> int:
    """All parameters of one block: weights, biases and two norms."""
    return _block(width, hidden) + 4 * width + hidden + width + 4 * width
