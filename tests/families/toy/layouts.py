"""The only layout of a toy, whose names are those of its model."""

from dataclasses import asdict
from typing import Any

import equinox as eqx
import numpy as np

from vit2onnx.families.toy.architecture import Architecture
from vit2onnx.families.toy.model import Model
from vit2onnx.weights.keytable import TRANSPOSE, Entry, KeyTable


def tables(_: Architecture) -> tuple[KeyTable, ...]:
    linears = [f"blocks.{{i}}.mlp.{name}" for name in ("fc1", "fc2")]
    copied = ["patch_embed.weight", "patch_embed.bias", "cls_token", "norm.weight", "norm.bias"]
    copied += ["blocks.{i}.norm.weight", "blocks.{i}.norm.bias", *(f"{name}.bias" for name in linears)]
    entries = [Entry(name, (name,)) for name in copied]
    entries += [Entry(f"{name}.weight", (f"{name}.weight",), TRANSPOSE) for name in linears]
    return (KeyTable("toy", tuple(entries)),)


def model_table(_: Architecture) -> KeyTable:
    return KeyTable("archive", (Entry("{path}", ("{path}",)),))


def archive_config(arch: Architecture) -> dict[str, Any]:
    return asdict(arch)


def archive_skeleton(arch: Architecture) -> Any:
    return eqx.filter_eval_shape(Model, arch)


def synthetic_value(name: str, noise: np.ndarray) -> np.ndarray | None:
    return None
