"""Functions with which families recognise a model by its shapes and config. Standard library only."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from vit2onnx.errors import InputError

Shapes = Mapping[str, tuple[int, ...]]


class Tower(NamedTuple):
    """A part of a model that may be a file of its own.

    `prefix` begins its names in a whole model. `fields` of the architecture are 0 without it; its depth comes first.
    """

    prefix: str
    fields: tuple[str, ...]
    takes_images: bool


# Our names of activations, by those of transformers. The last three compute the same approximation.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
}
# The other way: what transformers calls ours.
HIDDEN_ACTS = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "relu": "relu", "silu": "silu"}


def count(names: Iterable[str], pattern: str) -> int:
    """The number of layers: one more than the largest number in the group of `pattern` at the start of a name."""
    found = [int(match[1]) for name in names if (match := re.match(pattern, name))]
    return 1 + max(found, default=-1)


def activation_of(config: Mapping[str, Any], default: str) -> str:
    """The activation that a config of transformers names. Raises `InputError` for one that models here do not have."""
    name = config.get("hidden_act", default)
    if name not in ACTIVATIONS:
        raise InputError(f"its hidden_act is {name!r}, but models here know only {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def number_of_heads(embed_dim: int, release: Mapping[str, Any]) -> int:
    """The number of heads, if each is as wide as in a release. Raises `InputError` if it is no whole number."""
    head_dim = release["embed_dim"] // release["num_heads"]
    if embed_dim % head_dim:
        raise InputError(
            f"its {embed_dim} channels are no multiple of {head_dim}, the width of a head in the nearest release, so"
            " the number of heads is not known; put its config.json beside it, or write a variant file"
        )
    return embed_dim // head_dim


def square(rows: int) -> int:
    """The side of a position table of so many rows. Raises `InputError` if it is not square."""
    side = math.isqrt(rows)
    if side * side != rows or not side:
        raise InputError(f"its position table of {rows} patches is not square")
    return side
