"""What goes into DINO's models and comes out of them. Standard library only, because the Snakefile imports this."""

from vit2onnx.spec.interface import Derived, Group, Interface, Port


def images_to_tokens(embed_dim: int, patch_size: int, registers: int) -> Interface:
    """The interface of a model that turns images of any size into tokens of `embed_dim` channels.

    `registers` is the number of register tokens between CLS and the patches.

    Names are those of Hugging Face. Pixels beyond the last whole patch are dropped.
    """
    first_patch = 1 + registers

    def count(pixels: int) -> int:
        return pixels // patch_size

    def tokens(height: int, width: int) -> int:
        return first_patch + count(height) * count(width)

    groups = (
        Group("cls", 0, 1),
        *([Group("registers", 1, first_patch)] if registers else []),
        Group("patches", first_patch, None, grid=("grid_height", "grid_width")),
    )
    order = "CLS, registers, patches row by row" if registers else "CLS, patches row by row"
    return Interface(
        "images",
        inputs=(Port("pixel_values", ("batch", 3, "height", "width"), "normalised RGB images"),),
        outputs=(
            Port(
                "last_hidden_state",
                ("batch", "tokens", embed_dim),
                f"all tokens after the final norm: {order}",
                groups=groups,
            ),
            Port(
                "pooler_output",
                ("batch", embed_dim),
                "the CLS token after the final norm",
                row_of=("last_hidden_state", 0),
            ),
        ),
        minimum={"batch": 1, "height": patch_size, "width": patch_size},
        derived={
            "tokens": Derived(("height", "width"), tokens),
            "grid_height": Derived(("height",), count),
            "grid_width": Derived(("width",), count),
        },
        patch_size=patch_size,
        facts={
            "tokens": {
                "order": order,
                "registers": registers,
                "first_patch": first_patch,
                "patch_size": patch_size,
                "grid": "height // patch_size rows of width // patch_size patches",
            }
        },
    )
