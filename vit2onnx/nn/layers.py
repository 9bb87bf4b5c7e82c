"""Layers that the families share. Constructors give zeros of the right shapes, which weights take the place of."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit2onnx.nn.primitives import ACTIVATIONS, convolution, layer_norm, linear, scale


class Linear(eqx.Module):
    """An affine map of the last axis, stored as the right-hand side of a matrix product."""

    weight: Float[Array, "in_features out_features"]
    bias: Float[Array, " out_features"] | None

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True):
        self.weight = jnp.zeros((in_features, out_features))
        self.bias = jnp.zeros(out_features) if bias else None

    def __call__(self, x: Float[Array, "*batch in_features"]) -> Float[Array, "*batch out_features"]:
        return linear(x, self.weight, self.bias)


class LayerNorm(eqx.Module):
    """Layer normalisation of the last axis."""

    weight: Float[Array, " embed_dim"]
    bias: Float[Array, " embed_dim"]
    eps: float = eqx.field(static=True)

    def __init__(self, embed_dim: int, eps: float):
        self.weight = jnp.zeros(embed_dim)
        self.bias = jnp.zeros(embed_dim)
        self.eps = eps

    def __call__(self, x: Float[Array, "*batch embed_dim"]) -> Float[Array, "*batch embed_dim"]:
        return layer_norm(x, self.weight, self.bias, eps=self.eps)


class LayerScale(eqx.Module):
    """A learned factor per channel."""

    gamma: Float[Array, " embed_dim"]

    def __init__(self, embed_dim: int):
        self.gamma = jnp.zeros(embed_dim)

    def __call__(self, x: Float[Array, "*batch embed_dim"]) -> Float[Array, "*batch embed_dim"]:
        return scale(x, self.gamma)


class Mlp(eqx.Module):
    """Two linear maps with an activation between them."""

    fc1: Linear
    fc2: Linear
    activation: str = eqx.field(static=True)

    def __init__(self, embed_dim: int, hidden_dim: int, activation: str = "gelu"):
        self.fc1 = Linear(embed_dim, hidden_dim)
        self.fc2 = Linear(hidden_dim, embed_dim)
        self.activation = activation

    def __call__(self, x: Float[Array, "*batch embed_dim"]) -> Float[Array, "*batch embed_dim"]:
        return self.fc2(ACTIVATIONS[self.activation](self.fc1(x)))


class SwiGlu(eqx.Module):
    """A linear map of a product, one factor of which went through an activation."""

    w1: Linear
    w2: Linear
    w3: Linear
    activation: str = eqx.field(static=True)

    def __init__(self, embed_dim: int, hidden_dim: int, activation: str = "silu"):
        self.w1 = Linear(embed_dim, hidden_dim)
        self.w2 = Linear(embed_dim, hidden_dim)
        self.w3 = Linear(hidden_dim, embed_dim)
        self.activation = activation

    def __call__(self, x: Float[Array, "*batch embed_dim"]) -> Float[Array, "*batch embed_dim"]:
        return self.w3(ACTIVATIONS[self.activation](self.w1(x)) * self.w2(x))


class PatchEmbed(eqx.Module):
    """Cut the image into square patches and map each to a token.

    Pixels beyond the last whole patch are dropped, as the publisher's strided convolution does.
    """

    weight: Float[Array, "embed_dim channels patch_size patch_size"]
    bias: Float[Array, " embed_dim"]

    def __init__(self, embed_dim: int, patch_size: int):
        self.weight = jnp.zeros((embed_dim, 3, patch_size, patch_size))
        self.bias = jnp.zeros(embed_dim)

    def __call__(
        self, pixel_values: Float[Array, "batch channels height width"]
    ) -> Float[Array, "batch grid_height grid_width embed_dim"]:
        patches = convolution(pixel_values, self.weight, self.bias, stride=self.weight.shape[-1])
        return patches.transpose(0, 2, 3, 1)

    def of_patches(self, rows: Float[Array, "patches values"]) -> Float[Array, "patches embed_dim"]:
        """The same for patches that are cut already, each flattened from [row, column, channel]."""
        kernel = self.weight.transpose(2, 3, 1, 0)
        return linear(rows, kernel.reshape(-1, kernel.shape[-1]), self.bias)
