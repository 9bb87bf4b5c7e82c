"""Hugging Face's model of a variant with the weights of a checkpoint, as tests hold others against it."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np
from torch import nn

from vit2onnx.families.reference import Reference
from vit2onnx.runners import torch as torch_runner
from vit2onnx.spec.variant import VariantSpec


def prepare(spec: VariantSpec, checkpoint: Path) -> Reference:
    return torch_runner.reference_of(spec, "transformers", checkpoint)


def load(spec: VariantSpec, checkpoint: Path) -> nn.Module:
    return torch_runner.filled_model(prepare(spec, checkpoint))


def features(
    spec: VariantSpec, checkpoint: Path, cases: Mapping[str, np.ndarray], native: Collection[str] = ()
) -> dict[str, np.ndarray]:
    return torch_runner.features(prepare(spec, checkpoint), cases, spec.interface(), native)


def stages(spec: VariantSpec, checkpoint: Path, pixel_values: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    return torch_runner.stages(lambda: prepare(spec, checkpoint), {"pixel_values": pixel_values}, spec.interface())
