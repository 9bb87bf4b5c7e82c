"""What goes into DINO's models and comes out of them. Standard library only, because the Snakefile imports this."""

from dataclasses import replace

from vit2onnx.spec.case import path_of
from vit2onnx.spec.interface import NORMED, Derived, Group, Interface, Port, Shape

# How the meaning of an output after the last layer says so.
LAST = "after the final norm"

# How the numbers of a row of packed patches are ordered.
ROW_ORDER = "row, column, channel"


def block_outputs(depth: int, tower: str = "") -> tuple[str, ...]:
    """The stages that the blocks of a transformer give, in order."""
    return tuple(path_of(tower, f"blocks.{index}.output") for index in range(depth))


def with_blocks(interface: Interface) -> Interface:
    """The same interface of a transformer, which can also give the tokens after each block, as it gives the last."""
    (hidden, *_) = interface.compared
    further = [
        port_of_layer(
            f"block_{index}",
            hidden.axes,
            layer,
            hidden.meaning.replace(LAST, f"after block {index}{{}}"),
            normed=normed,
        )
        for index, layer in enumerate(interface.layers)
        for normed in (False, True)
    ]
    return replace(interface, further=tuple(replace(port, rows=hidden.rows) for port in further))


def port_of_layer(name: str, axes: Shape, layer: str, meaning: str, *, normed: bool) -> Port:
    """The output of a layer; its `meaning` says by `{}` where it is to be told whether it is `normed`."""
    name += NORMED if normed else ""
    told = " and the final norm" if normed else ", before the final norm"
    return Port(name, axes, meaning.format(told), groups=(Group(name, 0, None),), layer=layer, normed=normed)


def images_to_tokens(embed_dim: int, patch_size: int, registers: int, layers: tuple[str, ...] = ()) -> Interface:
    """The interface of a model that turns images of any size into tokens of `embed_dim` channels.

    `registers` is the number of register tokens between CLS and the patches, and `layers` are the stages that are maps
    of an image.

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
                f"all tokens {LAST}: {order}",
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
        layers=layers,
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


def packed_images_to_tokens(single: Interface) -> Interface:
    """The interface of the same model that takes the patches of many images of any sizes in one call, without padding.

    `single` is that of one image at a time. The names are those of Hugging Face; `grid_thw` is the name in Qwen2-VL's
    vision towers.
    """
    (tokens,) = single.compared
    tokens_of = single.facts["tokens"]
    (_, channels, *_), (*_, embed_dim), registers = single.inputs[0].axes, tokens.axes, tokens_of["registers"]
    row = int(channels) * single.patch_size**2
    outputs = [
        Port(
            "last_hidden_state",
            ("patches", embed_dim),
            "the patches after the final norm, in the order of the rows of pixel_values; without CLS and registers",
        ),
        Port("pooler_output", ("images", embed_dim), "the CLS token of each image after the final norm"),
    ]
    if registers:
        outputs.append(
            Port("registers", ("images", registers, embed_dim), "the registers of each image after the final norm")
        )
    return Interface(
        "packed",
        inputs=(
            Port(
                "pixel_values",
                ("patches", row),
                "normalised RGB patches of all images, one image after the other, row by row, each flattened from"
                f" [{ROW_ORDER}]",
            ),
            Port(
                "grid_thw",
                ("images", 3),
                "1, rows and columns of patches of each image; each frame of a clip is an image",
                dtype="int64",
            ),
        ),
        outputs=tuple(outputs),
        minimum={"patches": 1, "images": 1},
        recipe_defaults={"patches": None, "images": None},
        patch_size=single.patch_size,
        layers=single.layers,
        facts={
            "tokens": {
                "order": "patches row by row, one image after the other",
                "registers": registers,
                "patch_size": single.patch_size,
                "values": ROW_ORDER,
                "grid": "grid_thw says how many rows and columns of patches each image has; t must be 1",
            }
        },
        packs=single,
    )


def photographs_to(single: Interface) -> Interface:
    """The interface of the same graphs that also prepare their images: photographs of any size go in.

    `single` is that of prepared images, whose height and width a recipe sets, or the model.
    """
    (image,) = single.inputs
    batch, channels, *_ = image.axes
    return replace(
        single,
        name="photographs",
        inputs=(
            Port(
                "photographs",
                (batch, "photograph_height", "photograph_width", channels),
                "RGB photographs in grey levels, as a decoder gives them; those of a batch are of one size",
                dtype="uint8",
            ),
        ),
        minimum={**single.minimum, "photograph_height": 1, "photograph_width": 1},
        recipe_defaults={**single.recipe_defaults, "photograph_height": None, "photograph_width": None},
        prepares=single,
    )
