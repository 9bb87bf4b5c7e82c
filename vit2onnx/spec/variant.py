"""A variant, built from its YAML file. Standard library and PyYAML only, because the Snakefile imports this module."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vit2onnx.errors import InputError
from vit2onnx.spec.family import part
from vit2onnx.spec.interface import Interface
from vit2onnx.spec.plain_data import read_data
from vit2onnx.spec.recipe import Recipe

# The project's variant files, in one folder per family.
VARIANT_FILES = Path(__file__).parents[2] / "config" / "variants"
# Names of variants, which become names of folders, wildcards and words of a shell.
NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}"


@dataclass(frozen=True)
class Architecture:
    """Dimensions of a model, of which each family has its own."""

    @property
    def layer_parameters(self) -> int:
        """Weights of the largest layer, without its biases and norms."""
        raise NotImplementedError

    @property
    def trunk_parameters(self) -> int:
        """Weights of all layers, without their biases and norms."""
        raise NotImplementedError

    @property
    def telling_sizes(self) -> tuple[tuple[int, int], ...]:
        """Heights and widths at which a model computes in another way than at others, so that they must be compared."""
        return ()

    @property
    def departure(self) -> str:
        """What differs from the releases by the user's choice, in words; empty if nothing does."""
        return ""

    @property
    def further_references(self) -> tuple[str, ...]:
        """Implementations that have this model, besides transformers and the publisher's code, by name."""
        return ()

    def may_differ(self, interface: str) -> bool:
        """Whether the family's `KNOWN_DIFFERENCE` changes anything for an interface."""
        return True


@dataclass(frozen=True)
class Preprocessing:
    """How the publisher turns a photograph into the model's input: resize, crop, divide by 255, normalise per channel.

    With `crop_pct` the photograph keeps its aspect ratio and covers `size / crop_pct`; the input is the middle of it.
    Without, it is resized to the input's size, whatever its aspect ratio.
    """

    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop_pct: float | None = None

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> "Preprocessing":
        """Build it from its part of a variant file."""
        mean, std = tuple(mapping["mean"]), tuple(mapping["std"])
        return cls(mapping["interpolation"], mean, std, mapping.get("crop_pct"))

    def size_of_whole(self, photograph: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
        """The height and width to which a photograph of some height and width is resized for an input of some `size`.

        With `crop_pct` it keeps its aspect ratio, and the input is that share of it along the side of which it has
        less. For a square input this is what torchvision's `Resize` and `CenterCrop` do.
        """
        if self.crop_pct is None:
            return size
        # ASSUME: an input that is not square is cut out of the middle in the same way; the publisher's are all square.
        height, width = (round(side / self.crop_pct) for side in size)
        if photograph[0] * width <= photograph[1] * height:
            return height, height * photograph[1] // photograph[0]
        return width * photograph[0] // photograph[1], width


# Stands for a SHA-256 in a variant file.
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Release:
    """Where the publisher offers the weights, and how their official file is recognised.

    `file` is the publisher's own file name. The file's SHA-256 is `sha256`, or begins with the eight hexadecimal digits
    at the end of the name. If `sha256` is `unknown`, no file is known to be the publisher's. `timm` is the model's name
    in timm, if its layout is read.
    """

    file: str
    url: str
    huggingface: str
    timm: str | None = None
    sha256: str | None = None

    def __post_init__(self) -> None:
        if not self.sha256 and not self._digits:
            raise InputError(
                f"release.file {self.file} does not end in the first eight digits of its SHA-256; add release.sha256."
            )

    @property
    def _digits(self) -> str:
        found = re.search(r"-([0-9a-f]{8})$", Path(self.file).stem)
        return found[1] if found else ""

    @property
    def is_known(self) -> bool:
        """Whether the publisher's file would be known by its SHA-256."""
        return self.sha256 != UNKNOWN

    @property
    def repositories(self) -> tuple[str, ...]:
        """The repositories on the Hugging Face hub that have its weights, the publisher's first."""
        return (self.huggingface, *([f"timm/{self.timm}"] if self.timm else []))

    def is_file(self, sha256: str) -> bool:
        """Whether a file of this SHA-256 is known to be the publisher's."""
        return self.is_known and sha256.startswith(self.sha256 or self._digits)


@dataclass(frozen=True)
class Licence:
    """The licence of the weights. `text` is the file that holds it, to be handed on with them."""

    id: str
    url: str
    text: str


@dataclass(frozen=True)
class Golden:
    """Published features of one image: places of tokens with their first channels, and how the image was prepared."""

    tokens: tuple[tuple[int, tuple[float, ...]], ...]
    preprocessing: Preprocessing

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], preprocessing: Preprocessing) -> "Golden":
        """Build it from its part of a variant file; `preprocessing` is the variant's, which holds unless it has one."""
        tokens = tuple((token["index"], tuple(token["features"])) for token in mapping["tokens"])
        own = mapping.get("preprocessing")
        return cls(tokens, Preprocessing.from_mapping(own) if own else preprocessing)


@dataclass(frozen=True)
class Own:
    """A user's own checkpoint: where it is, and what was found out about it.

    `path` is a file, or the index of shards. `prefix` begins the names of the backbone's tensors, and `ignore` has
    patterns of other tensors to leave out. `is_part` says whether the file holds anything else, or other names, so that
    transformers cannot open it as it is. `dtypes` are those of the tensors. `config` is the key of the model's config
    in `config.json` beside the file: "" if that is the whole file, and `None` if there is no such file.
    `configs_sha256` changes if it, or `preprocessor_config.json`, changes. `variant_file` is the path of the user's
    variant file, if there is one. `nearest` is the nearest release, `differs` lists the differences from it, and
    `assumed` all that was taken from it because no file tells. `prepared` is the preprocessing in short.
    """

    path: str
    layout: str
    prefix: str
    is_part: bool
    dtypes: tuple[str, ...]
    ignore: tuple[str, ...]
    config: str | None
    configs_sha256: str
    variant_file: str
    prepared: str
    nearest: str
    differs: tuple[str, ...]
    assumed: tuple[str, ...]

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> "Own":
        """Build it from plain data, in which tuples may have become lists."""
        fields: dict[str, Any] = {key: tuple(it) if isinstance(it, list) else it for key, it in mapping.items()}
        return cls(**fields)


@dataclass(frozen=True)
class VariantSpec:
    """One model: what it is, where it comes from and how its inputs are prepared.

    It is `released` if its publisher offers it. It has an `own` if it was made from a user's checkpoint.
    """

    name: str
    family: str
    parameters: int
    architecture: Architecture
    preprocessing: Preprocessing
    released: Release | None
    licence: Licence | None
    golden: Golden | None
    own: Own | None = None

    @classmethod
    def from_mapping(cls, name: str, mapping: Mapping[str, Any]) -> "VariantSpec":
        """Build the spec from a variant file that has passed its schema.

        Raises `InputError` where fields contradict each other, which a schema cannot see.
        """
        preprocessing = Preprocessing.from_mapping(mapping["preprocessing"])
        golden, licence, own = (mapping.get(key) for key in ("golden", "licence", "own"))
        try:
            architecture = architecture_of(mapping["family"], mapping["architecture"])
            release = Release(**mapping["release"]) if mapping.get("release") else None
        except InputError as error:
            where = own["path"] if own else variant_file(mapping["family"], name)
            raise InputError(f"{where}: {error}") from None
        return cls(
            name=name,
            family=mapping["family"],
            parameters=mapping.get("parameters") or architecture.trunk_parameters,
            architecture=architecture,
            preprocessing=preprocessing,
            released=release,
            licence=Licence(**licence) if licence else None,
            golden=Golden.from_mapping(golden, preprocessing) if golden else None,
            own=Own.from_mapping(own) if own else None,
        )

    @property
    def departure(self) -> str:
        """What differs from the release by the user's choice, in words; empty if nothing does, or there is none."""
        return self.architecture.departure if self.released else ""

    @property
    def uncropped(self) -> "VariantSpec":
        """The same, with inputs that show the whole of a photograph."""
        return replace(self, preprocessing=replace(self.preprocessing, crop_pct=None))

    @property
    def release(self) -> Release:
        """Where its publisher offers it. Raises `InputError` if nobody does."""
        if self.released is None:
            raise InputError(
                f"{self.name} has no release; use weights: own for your checkpoint, or weights: synthetic."
            )
        return self.released

    @property
    def interfaces(self) -> list[str]:
        """The names of the interfaces that its family offers for its architecture."""
        made = part(self.family, "interface").INTERFACES
        return [name for name, make in made.items() if make(self.architecture) is not None]

    def interface(self, name: str = "images", outputs: Sequence[str] = ()) -> Interface:
        """What goes into some graphs of this variant and comes out of them, with further `outputs` by their names.

        Raises `InputError` if there is no such output.
        """
        interface: Interface = part(self.family, "interface").INTERFACES[name](self.architecture)
        if outputs and (fault := next(self.faults_of_outputs(name, outputs), None)):
            raise InputError(f"outputs of {self.name}: {fault}.")
        interface = interface.with_outputs(outputs)
        return replace(interface, preprocessing=self.preprocessing) if interface.prepares else interface

    def interface_of(self, recipe: Recipe) -> Interface:
        """What goes into the graph of a recipe and comes out of it. Raises `InputError` if there is no such output."""
        return self.interface(recipe.interface, recipe.outputs)

    def faults_of_outputs(self, interface: str, names: Sequence[str]) -> Iterator[str]:
        """What is wrong with the names of further outputs of an interface, with the way out, without full stops."""
        known = [port.name for port in self.interface(interface).further]
        if names and not known:
            others = [other for other in self.interfaces if self.interface(other).further]
            way_out = f"use the interface {others[0]}, or leave outputs out" if others else "leave outputs out"
            yield f"the interface {interface} has no outputs of layers; {way_out}"
            return
        for name in dict.fromkeys(names):
            if name not in known:
                yield f"{self.name} has no {name}, only {self.interface(interface).told_further}"
            if names.count(name) > 1:
                yield f"{name} is there twice; name it once"

    def parameters_of(self, interface: Interface) -> int:
        """How many parameters the graphs of an interface hold."""
        return interface.num_parameters or self.parameters


def architecture_of(family: str, mapping: Mapping[str, Any]) -> Architecture:
    """The architecture of a family from its YAML or JSON."""
    hashable = {key: tuple(value) if isinstance(value, list) else value for key, value in mapping.items()}
    architecture: Architecture = part(family, "architecture").Architecture(**hashable)
    return architecture


def variant_file(family: str, name: str) -> str:
    """The path of a variant file in the project, for messages."""
    return f"config/variants/{family}/{name}.yaml"


def read_variants(folder: Path) -> dict[str, dict[str, Any]]:
    """Read the variant files of all families, each with its `family` added, which is the name of the file's folder.

    The file's stem is the variant's name. Raises `InputError` if two files have one name, or if one is in no folder.
    """
    found: dict[str, dict[str, Any]] = {}
    if stray := next(iter(sorted(folder.glob("*.yaml"))), None):
        raise InputError(
            f"config/variants/{stray.name}: move it to the folder of its family, config/variants/{{family}}."
        )
    for path in sorted(folder.glob("*/*.yaml"), key=lambda path: path.name):
        family, name = path.parent.name, path.stem
        file = variant_file(family, name)
        if not re.fullmatch(NAME, name):
            raise InputError(
                f"{file}: name it with letters, digits, _, . and - only, at most 100, because files are called by it."
            )
        mapping = read_data(path, file)
        if not isinstance(mapping, dict):
            raise InputError(f"{file}: it must hold keys with values.")
        if "family" in mapping:
            raise InputError(f"{file}: delete the key 'family'; the folder says it.")
        # Because on disks that ignore case, the folders of both would be one.
        if same := next((other for other in found if other.casefold() == name.casefold()), None):
            raise InputError(f"{file}: {found[same]['family']} has a variant of the same name; rename one.")
        found[name] = {"family": family, **mapping}
    return found
