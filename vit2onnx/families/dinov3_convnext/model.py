"""The DINOv3 ConvNeXts as inference models.

Written from the ConvNeXt paper (arXiv:2201.03545) and from facts about the published checkpoints. Tokens are ordered
CLS, patches row by row; CLS is the norm of the mean of the last feature map, not the mean of the normed map.
"""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit2onnx.families.dinov3_convnext.architecture import Architecture
from vit2onnx.nn.layers import LayerNorm, Linear
from vit2onnx.nn.model import ImageModel, Named
from vit2onnx.nn.primitives import ACTIVATIONS, convolution, flatten_grid, mean_tokens, residual, scale

FeatureMap = Float[Array, "batch grid_height grid_width channels"]
Tokens = Float[Array, "batch tokens channels"]


class Conv(eqx.Module):
    """A convolution of a feature map with channels last."""

    weight: Float[Array, "out_channels channels_per_group kernel kernel"]
    bias: Float[Array, " out_channels"]
    stride: int = eqx.field(static=True)
    padding: int = eqx.field(static=True)
    groups: int = eqx.field(static=True)

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, padding: int = 0, groups: int = 1
    ):
        self.weight = jnp.zeros((out_channels, in_channels // groups, kernel, kernel))
        self.bias = jnp.zeros(out_channels)
        self.stride, self.padding, self.groups = stride, padding, groups

    def __call__(
        self, x: Float[Array, "batch height width in_channels"]
    ) -> Float[Array, "batch out_height out_width out_channels"]:
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
    activation: str = eqx.field(static=True)

    def __init__(self, channels: int, activation: str, eps: float):
        self.dwconv = Conv(channels, channels, 7, padding=3, groups=channels)
        self.norm = LayerNorm(channels, eps)
        self.pwconv1 = Linear(channels, 4 * channels)
        self.pwconv2 = Linear(4 * channels, channels)
        self.gamma = jnp.zeros(channels)
        self.activation = activation

    def stages(self, x: FeatureMap, _: None) -> dict[str, FeatureMap]:
        """Every intermediate result of the block's width by its stage name, the last being `output`."""
        dwconv = self.dwconv(x)
        normed = self.norm(dwconv)
        raw = self.pwconv2(ACTIVATIONS[self.activation](self.pwconv1(normed)))
        scaled = scale(raw, self.gamma)
        return {
            "input": x,
            "dwconv": dwconv,
            "norm": normed,
            "raw": raw,
            "scaled": scaled,
            "output": residual(x, scaled),
        }

    def __call__(self, x: FeatureMap, context: None) -> FeatureMap:
        return self.stages(x, context)["output"]


class Downsample(eqx.Module):
    """A convolution that makes the map smaller. The stem norms its result, every other stage its input."""

    conv: Conv
    norm: LayerNorm
    is_stem: bool = eqx.field(static=True)

    def __init__(self, in_channels: int, channels: int, eps: float, *, is_stem: bool):
        kernel = 4 if is_stem else 2
        self.conv = Conv(in_channels, channels, kernel, stride=kernel)
        self.norm = LayerNorm(channels if is_stem else in_channels, eps)
        self.is_stem = is_stem

    def stages(self, x: FeatureMap, _: None) -> dict[str, Float[Array, "batch _ _ _"]]:
        """What is between convolution and norm, and the `output`; the stem's input, which is the image, is no stage."""
        if self.is_stem:
            convolved = self.conv(x)
            return {"conv": convolved, "output": self.norm(convolved)}
        normed = self.norm(x)
        return {"input": x, "norm": normed, "output": self.conv(normed)}

    def __call__(self, x: FeatureMap, context: None) -> Float[Array, "batch out_height out_width out_channels"]:
        return self.stages(x, context)["output"]


class Stage(eqx.Module):
    """Blocks at one resolution."""

    downsample: Downsample
    blocks: tuple[Block, ...]

    def __init__(self, arch: Architecture, index: int):
        in_channels, channels = (3, *arch.embed_dims)[index : index + 2]
        self.downsample = Downsample(in_channels, channels, arch.norm_eps, is_stem=index == 0)
        self.blocks = tuple(Block(channels, arch.act, arch.norm_eps) for _ in range(arch.depths[index]))


class Model(ImageModel):
    """A DINOv3 ConvNeXt: `model(pixel_values)` gives normed features for images of any size."""

    # All that `embed` gives is the image.
    embedded: ClassVar[str] = ""

    stages: tuple[Stage, ...]
    norm: LayerNorm

    def __init__(self, arch: Architecture):
        self.stages = tuple(Stage(arch, index) for index in range(len(arch.depths)))
        self.norm = LayerNorm(arch.embed_dim, arch.norm_eps)

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

    def head_stages(self, x: FeatureMap, _: None) -> Named:
        """The tokens of the last feature map, the first of which is their mean, and their norm."""
        patches = flatten_grid(x)
        tokens = jax.lax.concatenate([mean_tokens(patches), patches], 1)
        return {"norm_in": tokens, "norm": self.norm(tokens)}
