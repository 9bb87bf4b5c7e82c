"""The DINOv3 ConvNeXts as inference models.

Written from the ConvNeXt paper (arXiv:2201.03545) and from facts about the published checkpoints. Tokens are ordered
CLS, patches row by row; CLS is the norm of the mean of the last feature map, not the mean of the normed map.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit2onnx.nn.features import Features, features_of, run
from vit2onnx.nn.layers import LayerNorm, Linear
from vit2onnx.nn.primitives import convolution, gelu, mean_tokens, scale
from vit2onnx.spec.variant import ConvNeXtArchitecture

FeatureMap = Float[Array, "batch grid_height grid_width channels"]
Tokens = Float[Array, "batch tokens channels"]


class Conv(eqx.Module):
    """A convolution of a feature map with channels last."""

    weight: Float[Array, "out_channels channels_per_group kernel kernel"]
    bias: Float[Array, " out_channels"]
    stride: int = eqx.field(static=True)
    padding: int = eqx.field(static=True)
    groups: int = eqx.field(static=True)

    def __call__(self, x: FeatureMap) -> FeatureMap:
        first = x.transpose(0, 3, 1, 2)
        y = convolution(first, self.weight, self.bias, stride=self.stride, padding=self.padding, groups=self.groups)
        return y.transpose(0, 2, 3, 1)


class Block(eqx.Module):
    """A depthwise convolution and two maps of the channels, scaled and added to the input."""

    dwconv: Conv
    norm: LayerNorm
    pwconv1: Linear
    pwconv2: Linear
    gamma: Float[Array, " channels"]

    def stages(self, x: FeatureMap, _: None) -> dict[str, FeatureMap]:
        """Every intermediate result of the block's width by its stage name, the last being `output`."""
        dwconv = self.dwconv(x)
        normed = self.norm(dwconv)
        raw = self.pwconv2(gelu(self.pwconv1(normed)))
        scaled = scale(raw, self.gamma)
        return {"input": x, "dwconv": dwconv, "norm": normed, "raw": raw, "scaled": scaled, "output": x + scaled}

    def __call__(self, x: FeatureMap, context: None) -> FeatureMap:
        return self.stages(x, context)["output"]


class Downsample(eqx.Module):
    """A convolution that makes the map smaller. The stem norms its result, every other stage its input."""

    conv: Conv
    norm: LayerNorm
    is_stem: bool = eqx.field(static=True)

    def stages(self, x: FeatureMap, _: None) -> dict[str, FeatureMap]:
        """What is between convolution and norm, and the `output`; the stem's input, which is the image, is no stage."""
        if self.is_stem:
            convolved = self.conv(x)
            return {"conv": convolved, "output": self.norm(convolved)}
        normed = self.norm(x)
        return {"input": x, "norm": normed, "output": self.conv(normed)}

    def __call__(self, x: FeatureMap, context: None) -> FeatureMap:
        return self.stages(x, context)["output"]


class Stage(eqx.Module):
    """Blocks at one resolution."""

    downsample: Downsample
    blocks: tuple[Block, ...]


class Dinov3ConvNeXt(eqx.Module):
    """A DINOv3 ConvNeXt: `model(pixel_values)` gives normed features for images of any size."""

    stages: tuple[Stage, ...]
    norm: LayerNorm

    def embed(self, pixel_values: Float[Array, "batch 3 height width"]) -> tuple[FeatureMap, None]:
        """The image with channels last; nothing goes along with it."""
        return pixel_values.transpose(0, 2, 3, 1), None

    def trunk(self) -> list[tuple[str, Block | Downsample]]:
        """Every layer in order, each with its path in the tree: `x = layer(x, None)`."""
        layers: list[tuple[str, Block | Downsample]] = []
        for index, stage in enumerate(self.stages):
            layers.append((f"stages.{index}.downsample", stage.downsample))
            layers += [(f"stages.{index}.blocks.{number}", block) for number, block in enumerate(stage.blocks)]
        return layers

    def embed_stages(self, _: FeatureMap) -> dict[str, FeatureMap]:
        """None, because all that `embed` gives is the image."""
        return {}

    def head_stages(self, x: FeatureMap) -> dict[str, Tokens]:
        """The tokens of the last feature map, the first of which is their mean, and their norm."""
        batch, grid_height, grid_width, channels = x.shape
        patches = x.reshape(batch, grid_height * grid_width, channels)
        tokens = jax.lax.concatenate([mean_tokens(patches), patches], 1)
        return {"norm_in": tokens, "norm": self.norm(tokens)}

    def head(self, x: FeatureMap) -> Features:
        """Features from the last feature map."""
        return features_of(self.head_stages(x)["norm"])

    def __call__(self, pixel_values: Float[Array, "batch 3 height width"]) -> Features:
        """Features of normalised RGB images; `height` and `width` are in pixels and at least 32."""
        return run(self, pixel_values)


def build(architecture: ConvNeXtArchitecture) -> Dinov3ConvNeXt:
    """The model of an architecture, every parameter a `jax.ShapeDtypeStruct`."""
    arch = architecture

    # Any, because a shape stands where the fields promise an array.
    def array(*shape: int) -> Any:
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    def layer_norm(channels: int) -> LayerNorm:
        return LayerNorm(array(channels), array(channels), arch.norm_eps)

    def block(channels: int) -> Block:
        return Block(
            dwconv=Conv(array(channels, 1, 7, 7), array(channels), stride=1, padding=3, groups=channels),
            norm=layer_norm(channels),
            pwconv1=Linear(array(channels, 4 * channels), array(4 * channels)),
            pwconv2=Linear(array(4 * channels, channels), array(channels)),
            gamma=array(channels),
        )

    def stage(index: int) -> Stage:
        channels = arch.embed_dims[index]
        before = arch.embed_dims[index - 1] if index else 3
        kernel = 2 if index else 4
        conv = Conv(array(channels, before, kernel, kernel), array(channels), stride=kernel, padding=0, groups=1)
        downsample = Downsample(conv, layer_norm(before if index else channels), is_stem=index == 0)
        return Stage(downsample, tuple(block(channels) for _ in range(arch.depths[index])))

    return Dinov3ConvNeXt(tuple(stage(index) for index in range(len(arch.depths))), layer_norm(arch.embed_dim))
