"""What every model returns, and how every model is run."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vit2onnx.nn.primitives import first_token

# Images as users have them, which models take as they are.
Images = Float[Array, "batch 3 height width"] | Float[np.ndarray, "batch 3 height width"]


class Features(NamedTuple):
    """Features under Hugging Face's names.

    `last_hidden_state` holds all tokens after the final norm; `pooler_output` is its CLS token.
    """

    last_hidden_state: Float[Array, "batch tokens embed_dim"]
    pooler_output: Float[Array, "batch embed_dim"]


def features_of(tokens: Float[Array, "batch tokens embed_dim"]) -> Features:
    """Features from the tokens after the final norm, of which the first is CLS."""
    return Features(tokens, first_token(tokens))


@runtime_checkable
class Layer(Protocol):
    """A layer of the trunk, whose intermediate results can be looked at."""

    def stages(self, x: Array, context: Any, /) -> dict[str, Array]:
        """Every stage by its name within the layer, in order; the last is `output`."""

    def __call__(self, x: Array, context: Any, /) -> Array:
        """The last stage."""


@runtime_checkable
class Model(Protocol):
    """A model in parts, so that one that does not fit in memory can be run with one part at a time.

    A stage's full name is its layer's path and its name within the layer, as in `blocks.7.mlp_raw`; those of `embed`
    and `head` have no layer.
    """

    def embed(self, pixel_values: Array) -> tuple[Array, Any]:
        """What enters the first layer, and what goes along with it to each."""

    def embed_stages(self, x: Array, /) -> dict[str, Array]:
        """The stages of `embed`, from what it gives."""

    def trunk(self) -> Sequence[tuple[str, Layer]]:
        """The layers in order, each with its path in the tree."""

    def head_stages(self, x: Array, /) -> dict[str, Array]:
        """The stages of `head`; the last is `norm`."""

    def head(self, x: Array, /) -> Features:
        """Features from what leaves the last layer."""

    def __call__(self, pixel_values: Images, /) -> Features:
        """All parts, one after the other."""

    def natively(self, tensors: Mapping[str, Any], /) -> "tuple[Model, Mapping[str, Any]] | None":
        """Model and parameters as references are installed, if they differ by design; the latter as lazy tensors."""


def run(model: Model, pixel_values: Images) -> Features:
    """All parts of a model, one after the other, each in a scope of its name, by which graphs name their nodes."""
    with jax.named_scope("embed"):
        x, context = model.embed(jnp.asarray(pixel_values))
    for name, layer in model.trunk():
        with jax.named_scope(name):
            x = layer(x, context)
    with jax.named_scope("head"):
        return model.head(x)


def run_stages(model: Model, pixel_values: Images) -> tuple[Features, dict[str, Array]]:
    """All parts of a model, and every stage by its full name, in order."""
    with jax.named_scope("embed"):
        x, context = model.embed(jnp.asarray(pixel_values))
        found = model.embed_stages(x)
    for name, layer in model.trunk():
        with jax.named_scope(name):
            stages = layer.stages(x, context)
        found |= {f"{name}.{stage}": value for stage, value in stages.items()}
        x = stages["output"]
    with jax.named_scope("head"):
        found |= model.head_stages(x)
        return features_of(found["norm"]), found
