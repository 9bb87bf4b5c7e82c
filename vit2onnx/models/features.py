"""What every model returns, and how every model is run."""

from typing import Any, NamedTuple, Protocol

from jaxtyping import Array, Float


class Features(NamedTuple):
    """Features under Hugging Face's names.

    `last_hidden_state` holds all tokens after the final norm; `pooler_output` is its CLS token.
    """

    last_hidden_state: Float[Array, "batch tokens embed_dim"]
    pooler_output: Float[Array, "batch embed_dim"]


class InParts(Protocol):
    """A model in parts, so that one that does not fit in memory can be run with one part at a time."""

    def embed(self, pixel_values: Array) -> tuple[Array, Any]:
        """What enters the first layer, and what goes along with it to each."""

    def trunk(self) -> list[tuple[str, Any]]:
        """The layers in order, each with its path in the tree."""

    def head(self, x: Array) -> Features:
        """Features from what leaves the last layer."""


def run(model: InParts, pixel_values: Float[Array, "batch 3 height width"]) -> Features:
    """All parts of a model, one after the other."""
    x, context = model.embed(pixel_values)
    for _, layer in model.trunk():
        x = layer(x, context)
    return model.head(x)
