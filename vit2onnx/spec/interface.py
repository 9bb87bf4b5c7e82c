"""What goes into a graph and what comes out of it, as data. Standard library only, because the Snakefile imports this.

A family declares its interfaces in `interface.py`. From them follow the traced shapes, the checks of a graph, its
metadata, the sample that it is verified by, and what is compared with what.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

# A dimension is a number, or the name of an axis whose size is not fixed.
Sizes = Mapping[str, int | None]
Shape = tuple[int | str, ...]


@dataclass(frozen=True)
class Group:
    """Rows of an output that users take together, from `start` up to `stop`, or to the last if that is `None`.

    `grid` names the axes that say how many rows and columns of patches these are, if they lie in an image.
    """

    name: str
    start: int
    stop: int | None
    grid: tuple[str, str] | None = None


@dataclass(frozen=True)
class Port:
    """An input or output of a graph: `axes` are numbers or names of axes, of which the last is that of the channels.

    `groups` say what the rows of an output are. `row_of` names the output of which this one is a row, and which
    row.
    """

    name: str
    axes: Shape
    meaning: str
    groups: tuple[Group, ...] = ()
    row_of: tuple[str, int] | None = None
    dtype: str = "float32"


@dataclass(frozen=True)
class Derived:
    """An axis whose size follows from that of others."""

    of: tuple[str, ...]
    size: Callable[..., int]


@dataclass(frozen=True)
class Interface:
    """The edge of a graph. `least` has the axes whose sizes a recipe sets, by name, each with its smallest size.

    The first input is the image, the first output the features that are judged token by token. `facts` is what else
    the metadata of a file says, by key.
    """

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    least: Mapping[str, int]
    derived: Mapping[str, Derived] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ports(self) -> tuple[Port, ...]:
        """Inputs, then outputs."""
        return self.inputs + self.outputs

    @property
    def features(self) -> Port:
        """The output that is compared row by row."""
        return self.outputs[0]

    def size(self, axis: int | str, sizes: Sizes) -> int | str:
        """The size of an axis if it follows from `sizes`, or else its name; a size of `None` is free."""
        if isinstance(axis, int):
            return axis
        if axis in self.derived:
            derived = self.derived[axis]
            known = [sizes.get(name) for name in derived.of]
            return axis if None in known else derived.size(*known)
        return sizes.get(axis) or axis

    def elements(self, sizes: Mapping[str, int]) -> int:
        """How many numbers go in and come out at once, all sizes being given."""
        return sum(math.prod(map(int, self.shape(port, sizes))) for port in self.ports)

    def shape(self, port: Port, sizes: Sizes) -> Shape:
        """The shape of a port, as far as it follows from `sizes`."""
        return tuple(self.size(axis, sizes) for axis in port.axes)


def images_to_tokens(embed_dim: int, patch_size: int, registers: int) -> Interface:
    """The interface of a model that turns images of any size into tokens of `embed_dim` channels.

    These are CLS, as many `registers` (0 for none), and patches.

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
        least={"batch": 1, "height": patch_size, "width": patch_size},
        derived={
            "tokens": Derived(("height", "width"), tokens),
            "grid_height": Derived(("height",), count),
            "grid_width": Derived(("width",), count),
        },
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
