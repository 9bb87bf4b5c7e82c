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
    ffn: str
    ffn_hidden: int
    qkv_bias: bool
    local_cls_norm: bool
    norm_eps: float
    rope_periods: str

    def __post_init__(self) -> None:
        if self.embed_dim % (4 * self.num_heads):
            raise InputError(
                f"architecture.embed_dim {self.embed_dim} must be a multiple of 4 x num_heads ({4 * self.num_heads}),"
                " because rotary embedding halves each head twice."
            )

    @property
    def layer_parameters(self) -> int:
        """Weights of one block, without its biases and norms."""
        return self.embed_dim * (4 * self.embed_dim + (3 if self.ffn == "swiglu" else 2) * self.ffn_hidden)

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
class ConvNeXtArchitecture:
    """Dimensions of a ConvNeXt: channels and blocks of its stages."""

    embed_dims: tuple[int, ...]
    depths: tuple[int, ...]
    norm_eps: float

    num_registers = 0
    num_prefix = 1

    def __post_init__(self) -> None:
        if len(self.embed_dims) != len(self.depths):
            raise InputError(
                f"architecture.embed_dims names {len(self.embed_dims)} stages and depths {len(self.depths)}."
            )

    @property
    def layer_parameters(self) -> int:
        """Weights of one of the last blocks, without its biases and norms."""
        return 8 * self.embed_dim**2

    @property
    def embed_dim(self) -> int:
        """Channels of the features."""
        return self.embed_dims[-1]

    @property
    def patch_size(self) -> int:
        """Pixels per token of the last feature map: the stem divides by 4, each later stage by 2."""
        return 4 * 2 ** (len(self.embed_dims) - 1)

    def num_tokens(self, height: int, width: int) -> int:
        """Tokens of an image of `height` x `width` pixels."""
        return self.num_prefix + (height // self.patch_size) * (width // self.patch_size)


Architecture = ViTArchitecture | ConvNeXtArchitecture
ARCHITECTURES: dict[str, type[Architecture]] = {
    "dinov3_vit": ViTArchitecture,
    "dinov3_convnext": ConvNeXtArchitecture,
}


def architecture_from_mapping(family: str, mapping: Mapping[str, Any]) -> Architecture:
    """The architecture of a family from its YAML or JSON."""
    hashable: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in mapping.items()
    }
    return ARCHITECTURES[family](**hashable)


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
    timm: str

    @property
    def sha256_prefix(self) -> str:
        return Path(self.file).stem.rpartition("-")[2]


@dataclass(frozen=True)
class Licence:
    """The licence of the weights. `text` is the file that holds it, to be handed on with them."""

    id: str
    url: str
    text: str


@dataclass(frozen=True)
class Golden:
    """Published features of one image: the first channels of CLS and of the first patch."""

    cls: tuple[float, ...]
    patch: tuple[float, ...]


@dataclass(frozen=True)
class VariantSpec:
    """One released model: what it is, where it comes from and how its inputs are prepared."""

    name: str
    family: str
    parameters: int
    architecture: Architecture
    preprocessing: Preprocessing
    release: Release
    licence: Licence
    golden: Golden | None

    @classmethod
    def from_mapping(cls, name: str, mapping: Mapping[str, Any]) -> "VariantSpec":
        """Build the spec from a variant file that has passed its schema.

        Raises `InputError` where fields contradict each other, which a schema cannot see.
        """
        preprocessing = mapping["preprocessing"]
        golden = mapping.get("golden")
        return cls(
            name=name,
            family=mapping["family"],
            parameters=mapping["parameters"],
            architecture=_architecture(name, mapping),
            preprocessing=Preprocessing(
                preprocessing["interpolation"], tuple(preprocessing["mean"]), tuple(preprocessing["std"])
            ),
            release=Release(**mapping["release"]),
            licence=Licence(**mapping["licence"]),
            golden=Golden(**{key: tuple(value) for key, value in golden.items()}) if golden else None,
        )


def _architecture(name: str, mapping: Mapping[str, Any]) -> Architecture:
    try:
        return architecture_from_mapping(mapping["family"], mapping["architecture"])
    except InputError as error:
        raise InputError(f"config/variants/{name}.yaml: {error}") from None


def read_variants(folder: Path) -> dict[str, dict[str, Any]]:
    """Read every variant file of a folder; the file's stem is the variant's name."""
    return {path.stem: read_yaml(path, f"config/variants/{path.name}") for path in sorted(folder.glob("*.yaml"))}


def read_yaml(path: Path, name: str) -> Any:
    """Read a YAML file, called `name` in messages. Raises `InputError` if it is none or has a key twice."""
    try:
        with path.open("rb") as file:
            return yaml.load(file, _UniqueKeys)
    except yaml.YAMLError as error:
        raise InputError(f"{name} is no valid YAML: {' '.join(str(error).split())}.") from None


class _UniqueKeys(yaml.SafeLoader):
    """PyYAML takes the last of equal keys without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for index, (key, _) in enumerate(node.value):
            if key.value in keys[:index]:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} is there twice", problem_mark=key.start_mark)
        return super().construct_mapping(node, deep)
