"""What goes into a SigLIP2 and comes out of it. Standard library only, because the Snakefile imports this module.

Names are those of Hugging Face and of the files of onnx-community.
"""

from collections.abc import Callable, Mapping
from typing import Any

from vit2onnx.families.interface import LAST, block_outputs, photographs_to, with_blocks
from vit2onnx.families.siglip2.architecture import Architecture
from vit2onnx.spec.interface import Derived, Group, Interface, Port
from vit2onnx.spec.texts import EOS, PAD

# Numbers of patches to which images are filled up: few, as many as the publisher's own preprocessing makes, and more.
BUDGETS = (64, 256, 1024)
MAX_PATCHES = 256
# ASSUME: a vocabulary of this size is Gemma's. How texts of another are prepared, such as those of the first SigLIP,
# is not known.
VOCABULARY = 256000
# Numbers of tokens to which texts are filled up, besides the usual one.
LENGTHS = (1, 17)
PATCHES = Group("patches", 0, None, grid=("grid_height", "grid_width"))


def vision(arch: Architecture) -> Interface | None:
    """An image to the features of its patches and to its embedding."""
    if not arch.depth:
        return None
    hidden = Port(
        "last_hidden_state",
        ("batch", "patches", arch.embed_dim),
        f"all patches {LAST}, row by row" + ("; rows behind the mask mean nothing" if arch.is_naflex else ""),
        groups=(PATCHES,),
        rows="valid_patches" if arch.is_naflex else "",
    )
    interface = Interface(
        "vision",
        inputs=_images(arch, "batch"),
        outputs=(hidden, _pooled(arch, "image")),
        minimum={"batch": 1} | ({"patches": 1} if arch.is_naflex else {}),
        recipe_defaults={"patches": None} if arch.is_naflex else {},
        compared_sizes={"patches": BUDGETS[:2]} if arch.is_naflex else {},
        fixed=_fixed(arch),
        derived=_derived(arch),
        towers=("vision",),
        num_parameters=arch.vision_parameters,
        patch_size=arch.patch_size,
        layers=block_outputs(arch.depth, "vision"),
        facts={"tokens": _tokens(arch)},
    )
    return with_blocks(interface)


def text(arch: Architecture) -> Interface | None:
    """A text to the features of its tokens and to its embedding."""
    if not arch.text_depth:
        return None
    hidden = Port(
        "last_hidden_state",
        ("batch", "length", arch.text_dim),
        "all tokens after the final norm",
        groups=(Group("tokens", 0, None),),
    )
    return Interface(
        "text",
        inputs=(_ids(arch, "batch"),),
        outputs=(hidden, _pooled(arch, "text")),
        minimum={"batch": 1, "length": 1},
        recipe_defaults={"length": arch.text_length},
        maximum={"length": arch.text_length},
        compared_sizes={"length": _lengths(arch)},
        case_axes=("texts", "length"),
        kind="text",
        towers=("text",),
        num_parameters=arch.text_parameters,
        facts={"text": _text(arch)},
    )


def pair(arch: Architecture) -> Interface | None:
    """Images and texts to how well each text fits each image."""
    if not (arch.depth and arch.text_depth):
        return None
    fit = "how well each text fits each image, as a row per {}: apply a sigmoid, not a softmax"
    return Interface(
        "pair",
        inputs=(_ids(arch, "texts"), *_images(arch, "images")),
        outputs=(
            Port("logits_per_image", ("images", "texts"), fit.format("image"), transpose_of="logits_per_text"),
            Port("logits_per_text", ("texts", "images"), fit.format("text"), groups=(Group("logits", 0, None),)),
            Port(
                "text_embeds",
                ("texts", arch.projection_dim),
                "the embedding of each text, of length one",
                groups=(Group("text_embeds", 0, None),),
            ),
            Port(
                "image_embeds",
                ("images", arch.projection_dim),
                "the embedding of each image, of length one",
                groups=(Group("image_embeds", 0, None),),
            ),
        ),
        minimum={"images": 1, "texts": 1, "length": 1} | ({"patches": 1} if arch.is_naflex else {}),
        recipe_defaults={"length": arch.text_length} | ({"patches": None} if arch.is_naflex else {}),
        maximum={"length": arch.text_length},
        fixed=_fixed(arch),
        case_defaults={"patches": MAX_PATCHES} if arch.is_naflex else {},
        compared_sizes={"length": _lengths(arch)} | ({"patches": BUDGETS} if arch.is_naflex else {}),
        case_axes=("images", "texts"),
        kind="pair",
        towers=("vision", "text"),
        joint_parameters=("logit_scale", "logit_bias"),
        patch_size=arch.patch_size,
        facts={"tokens": _tokens(arch), "text": _text(arch)},
    )


def photographs(arch: Architecture) -> Interface | None:
    """A photograph to the features of its patches and to its embedding, in models whose images have one size."""
    single = vision(arch)
    return None if single is None or arch.is_naflex else photographs_to(single)


INTERFACES: Mapping[str, Callable[[Architecture], Interface | None]] = {
    "vision": vision,
    "photographs": photographs,
    "text": text,
    "pair": pair,
}


def _images(arch: Architecture, axis: str) -> tuple[Port, ...]:
    if not arch.is_naflex:
        return (
            Port(
                "pixel_values",
                (axis, 3, "height", "width"),
                "normalised RGB images, each resized to this height and width",
            ),
        )
    return (
        Port(
            "pixel_values",
            (axis, "patches", 3 * arch.patch_size**2),
            "normalised RGB patches, row by row, each flattened from [row, column, channel]; the image keeps its aspect"
            f" ratio; padding comes last, usually up to {MAX_PATCHES} patches",
        ),
        Port("pixel_attention_mask", (axis, "patches"), "1 for a patch, 0 for padding", dtype="int32"),
        Port("spatial_shapes", (axis, 2), "rows and columns of patches", dtype="int64"),
    )


def _ids(arch: Architecture, axis: str) -> Port:
    meaning = f"token ids of a text, prepared as in training, {arch.text_length} with padding"
    if arch.vocab_size == VOCABULARY:
        meaning = f"token ids of a text in lower case, ended by {EOS}, filled up with {PAD} to {arch.text_length}"
    return Port("input_ids", (axis, "length"), meaning, dtype="int64")


def _lengths(arch: Architecture) -> tuple[int, ...]:
    return tuple(length for length in (*LENGTHS, arch.text_length) if length <= arch.text_length)


def _pooled(arch: Architecture, what: str) -> Port:
    return Port(
        "pooler_output",
        ("batch", arch.projection_dim),
        f"the embedding of the {what}, before it is brought to length one",
        groups=(Group("pooled", 0, None),),
    )


def _fixed(arch: Architecture) -> dict[str, int]:
    return {} if arch.is_naflex else {"height": arch.image_size, "width": arch.image_size}


def _derived(arch: Architecture) -> dict[str, Derived]:
    def count(pixels: int) -> int:
        return pixels // arch.patch_size

    def valid(height: int, width: int) -> int:
        return count(height) * count(width)

    def patches(height: int, width: int) -> int:
        needed = valid(height, width)
        # Filled up in steps, and not at all beyond the publisher's own number.
        steps = [step for step in BUDGETS if arch.is_naflex and needed <= step <= MAX_PATCHES]
        return min(steps, default=needed)

    both = ("height", "width")
    return {
        "patches": Derived(both, patches),
        "grid_height": Derived(("height",), count),
        "grid_width": Derived(("width",), count),
        **({"valid_patches": Derived(both, valid)} if arch.is_naflex else {}),
    }


def _tokens(arch: Architecture) -> dict[str, Any]:
    grid = "spatial_shapes says how many rows and columns of patches each image has"
    return {
        "order": "patches row by row, then padding" if arch.is_naflex else "patches row by row",
        "registers": 0,
        "first_patch": 0,
        "patch_size": arch.patch_size,
        "grid": grid if arch.is_naflex else f"{arch.position_grid} rows of {arch.position_grid} patches",
    }


def _text(arch: Architecture) -> dict[str, Any]:
    always = {
        "length": arch.text_length,
        "mask": "none: padding is attended to, as in training",
        "vocabulary": arch.vocab_size,
    }
    if arch.vocab_size != VOCABULARY:
        return always | {"preparation": "as in training; it is not known here"}
    return always | {
        "case": "lower",
        "padding": f"right, with {PAD}",
        "end": f"{EOS}, also if the text is cut",
        "beginning": "no token",
    }
