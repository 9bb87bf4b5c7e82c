"""What every model returns."""

from typing import NamedTuple

from jaxtyping import Array, Float


class Features(NamedTuple):
    """Features under Hugging Face's names.

    `last_hidden_state` holds all tokens after the final norm; `pooler_output` is its CLS token.
    """

    last_hidden_state: Float[Array, "batch tokens embed_dim"]
    pooler_output: Float[Array, "batch embed_dim"]
