"""What a variant and an export are: frozen objects, built from the YAML files in one place.

Only the standard library and PyYAML are imported here, because the Snakefile imports this module.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vit2onnx.errors import InputError


@dataclass(frozen=True)
class ViTArchitecture:
    """Dimensions of a vision transformer."""

    embed_dim: int
    depth: int
    num_heads: int
    patch_size: int
    num_registers: int
    ffn_hidden: int
    qkv_bias: bool
    norm_eps: float

    @property
    def head_dim(self) -> int:
        return self.embed_dim // self.num_heads

    @property
    def num_prefix(self) -> int:
        """CLS and registers, which stand before the patches."""
        return 1 + self.num_registers

    def num_tokens(self, height: int, width: int) -> int:
        """Tokens of an image of `height` x `width` pixels."""
        return self.num_prefix + (height // self.patch_size) * (width // self.patch_size)


@dataclass(frozen=True)
class Preprocessing:
    """How the publisher turns a photograph into the model's input: resize, divide by 255, normalise per channel."""

    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class Release:
    """Where the publisher offers the weights, and how their official file is recognised.

    `file` is the publisher's own file name; the eight hexadecimal digits at its end begin the file's SHA-256.
    """

    file: str
    url: str
    huggingface: str

    @property
    def sha256_prefix(self) -> str:
        return Path(self.file).stem.rpartition("-")[2]


@dataclass(frozen=True)
class Licence:
    """The licence of the weights."""

    id: str
    url: str


@dataclass(frozen=True)
class VariantSpec:
    """One released model: what it is, where it comes from and how its inputs are prepared."""

    name: str
    family: str
    parameters: int
    architecture: ViTArchitecture
    preprocessing: Preprocessing
    release: Release
    licence: Licence

    @classmethod
    def from_mapping(cls, name: str, mapping: Mapping[str, Any]) -> "VariantSpec":
        """Build the spec from a variant file that has passed its schema.

        Raises `InputError` where fields contradict each other, which a schema cannot see.
        """
        preprocessing = mapping["preprocessing"]
        spec = cls(
            name=name,
            family=mapping["family"],
            parameters=mapping["parameters"],
            architecture=ViTArchitecture(**mapping["architecture"]),
            preprocessing=Preprocessing(
                preprocessing["interpolation"], tuple(preprocessing["mean"]), tuple(preprocessing["std"])
            ),
            release=Release(**mapping["release"]),
            licence=Licence(**mapping["licence"]),
        )
        arch = spec.architecture
        if arch.embed_dim % (4 * arch.num_heads):
            raise InputError(
                f"config/variants/{name}.yaml: architecture.embed_dim {arch.embed_dim} must be a multiple of"
                f" 4 x num_heads ({4 * arch.num_heads}), because rotary embedding halves each head twice."
            )
        return spec


@dataclass(frozen=True)
class ExportSpec:
    """One export recipe. A dimension of `None` is free in the graph."""

    name: str
    batch: int | None
    height: int | None
    width: int | None
    opset: int

    @classmethod
    def from_mapping(cls, name: str, mapping: Mapping[str, Any]) -> "ExportSpec":
        def size(key: str) -> int | None:
            return None if mapping[key] == "dynamic" else mapping[key]

        return cls(name, size("batch"), size("height"), size("width"), mapping["opset"])

    def accepts(self, height: int, width: int) -> bool:
        """Whether an image of this size fits the graph."""
        return self.height in (None, height) and self.width in (None, width)


def read_variants(folder: Path) -> dict[str, dict[str, Any]]:
    """Read every variant file of a folder; the file's stem is the variant's name."""
    return {path.stem: yaml.safe_load(path.read_text()) for path in sorted(folder.glob("*.yaml"))}
