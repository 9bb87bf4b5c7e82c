"""DINOv3 ConvNeXt in the layouts of Meta, Hugging Face and timm; targets are the leaves of our own model.

Equimo has no such model, so that the archive has the export model's tree.
"""

from dataclasses import asdict
from typing import Any

import equinox as eqx
import numpy as np

from vit2onnx.families.dinov3_convnext.architecture import Architecture
from vit2onnx.families.dinov3_convnext.model import Model
from vit2onnx.weights.keytable import COPY, TRANSPOSE, Entry, Ignored, KeyTable, Transform

BLOCK = "stages.{i}.blocks.{j}"


def _each(target: str, source: str, weight: Transform = COPY) -> tuple[Entry, Entry]:
    return Entry(f"{target}.weight", (f"{source}.weight",), weight), Entry(f"{target}.bias", (f"{source}.bias",))


def _stem(conv: str, norm: str) -> tuple[Entry, ...]:
    return *_each("stages.0.downsample.conv", conv), *_each("stages.0.downsample.norm", norm)


def _downsample(count: int, conv: str, norm: str) -> tuple[Entry, ...]:
    """The later stages one by one, because the stem has the same names in another order."""
    return tuple(
        entry
        for i in range(1, count)
        for part, source in (("conv", conv), ("norm", norm))
        for entry in _each(f"stages.{i}.downsample.{part}", source.format(i=i))
    )


def _block(dwconv: str, norm: str, pwconv1: str, pwconv2: str, gamma: str) -> tuple[Entry, ...]:
    return (
        *_each(f"{BLOCK}.dwconv", dwconv),
        *_each(f"{BLOCK}.norm", norm),
        *_each(f"{BLOCK}.pwconv1", pwconv1, TRANSPOSE),
        *_each(f"{BLOCK}.pwconv2", pwconv2, TRANSPOSE),
        Entry(f"{BLOCK}.gamma", (gamma,)),
    )


def meta(arch: Architecture) -> KeyTable:
    """The publisher's own files."""
    source = "stages.{i}.{j}"
    last = len(arch.depths) - 1
    return KeyTable(
        "meta",
        entries=(
            *_stem("downsample_layers.0.0", "downsample_layers.0.1"),
            *_downsample(len(arch.depths), "downsample_layers.{i}.1", "downsample_layers.{i}.0"),
            *_block(
                *(f"{source}.{name}" for name in ("dwconv", "norm", "pwconv1", "pwconv2", "gamma")),
            ),
            *_each("norm", "norm"),
        ),
        ignored={
            f"norms.{last}.{leaf}": Ignored("the final norm once more", (arch.embed_dim,), same_as=f"norm.{leaf}")
            for leaf in ("weight", "bias")
        },
    )


def huggingface(arch: Architecture, layout: str, stages: str) -> KeyTable:
    """Hugging Face's files; `stages` is what their stages are called."""
    source = f"{stages}.{{i}}.layers.{{j}}"
    names = ("depthwise_conv", "layer_norm", "pointwise_conv1", "pointwise_conv2", "gamma")
    downsample = f"{stages}.{{i}}.downsample_layers"
    return KeyTable(
        layout,
        entries=(
            *_stem(f"{stages}.0.downsample_layers.0", f"{stages}.0.downsample_layers.1"),
            *_downsample(len(arch.depths), f"{downsample}.1", f"{downsample}.0"),
            *_block(*(f"{source}.{name}" for name in names)),
            *_each("norm", "layer_norm"),
        ),
    )


def timm(arch: Architecture) -> KeyTable:
    """The files of timm's `convnext` models."""
    source = "stages.{i}.blocks.{j}"
    return KeyTable(
        "timm",
        entries=(
            *_stem("stem.0", "stem.1"),
            *_downsample(len(arch.depths), "stages.{i}.downsample.1", "stages.{i}.downsample.0"),
            *_block(*(f"{source}.{name}" for name in ("conv_dw", "norm", "mlp.fc1", "mlp.fc2", "gamma"))),
            *_each("norm", "head.norm"),
        ),
    )


def tables(arch: Architecture) -> tuple[KeyTable, ...]:
    """All layouts of an architecture."""
    return (
        meta(arch),
        huggingface(arch, "huggingface", "stages"),
        huggingface(arch, "huggingface5", "model.stages"),
        timm(arch),
    )


def model_table(_: Architecture) -> KeyTable:
    """From the archive's tree to the model's, which is the same."""
    return KeyTable("archive", (Entry("{path}", ("{path}",)),))


def archive_config(arch: Architecture) -> dict[str, Any]:
    """The dimensions of the model, because Equimo has no such model."""
    return asdict(arch) | {"activation": arch.act}


def archive_skeleton(arch: Architecture) -> Any:
    """Our own model with a shape in place of every array."""
    return eqx.filter_eval_shape(Model, arch)


def synthetic_value(name: str, noise: np.ndarray) -> np.ndarray | None:
    """The value of an archive leaf that is made in another way than others, from noise of its shape; else `None`."""
    if name.startswith("stages.0.downsample.conv."):
        # What enters the first norm is small, as in the releases, so that another epsilon shows there.
        return 0.3 * noise / np.float32(np.sqrt(np.prod(noise.shape[1:])) if name.endswith("weight") else 1)
    return None
