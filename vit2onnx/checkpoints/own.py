"""What a user's own checkpoint is: its architecture, the nearest release, and what had to be assumed.

Standard library and PyYAML only, because the Snakefile imports this module. Names, shapes and the JSON files of
transformers are read, and no values.
"""

import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import Any

from vit2onnx.checkpoints.backbone import (
    Backbone,
    backbone_of,
    backbones_of,
    file_of,
    is_ignored,
    towers_of,
    whole,
)
from vit2onnx.checkpoints.head import LONGEST_HEAD
from vit2onnx.checkpoints.heads import INDEX_SUFFIX, SHARD, SUFFIXES, read_heads, read_mapping
from vit2onnx.errors import InputError, printable
from vit2onnx.families.recognition import Tower
from vit2onnx.spec.family import optional, part
from vit2onnx.spec.variant import NAME, Own, VariantSpec, variant_file

# What is assumed of texts.
TEXTS = "preparation of texts"


def config_of(file: Path, backbone: Backbone) -> tuple[str, dict[str, Any]] | None:
    """The backbone's part of transformers' `config.json` beside a checkpoint, after its key ("" for the whole file).

    Where several parts are of its kind, as those of towers, it is the first that agrees with the tensors. `None` if
    there is no such file, or if the layout is none of transformers'. Raises `InputError` if the config is of another
    kind of model.
    """
    path = file.parent / "config.json"
    if not path.is_file() or not backbone.layout.startswith("huggingface"):
        return None
    config = read_mapping(path)
    types = part(backbone.family, "recognition").MODEL_TYPES
    inner = {
        key: value
        for key, value in config.items()
        if isinstance(value, dict) and value.get("model_type") in types and _has_towers(backbone, value)
    }
    if config.get("model_type") in types:
        # If none agrees, the first is returned, and the caller reports how it contradicts the tensors.
        found = {**inner, "": config} if towers_of(backbone.family) else {"": config, **inner}
    elif len(inner) == 1 or (inner and towers_of(backbone.family)):
        found = inner
    else:
        found = {}
    if found:
        agreeing = (one for one in found.items() if _agrees(backbone, one[1]))
        return next(agreeing, next(iter(found.items())))
    kind = f"is of the type {config['model_type']!r}" if "model_type" in config else "names no model_type"
    raise InputError(
        f"{path} {kind}, but the tensors of {file.name} are those of"
        f" {' or '.join(types)}; use the config.json that was saved with the checkpoint."
    )


def recognised(
    path: Path,
    variants: Mapping[str, Mapping[str, Any]],
    *,
    wanted: str | None = None,
    ignore: Iterable[str] = (),
    told: Mapping[str, Any] | None = None,
    name: str = "",
) -> dict[str, Any]:
    """The variant that a user's own checkpoint is: the content of a variant file, and the fields of `Own` under `own`.

    `variants` are those of the project. The nearest release among them gives what neither tensors nor configs tell.
    `wanted` is the prefix of one of several backbones, and `ignore` has patterns of other tensors. `told` is the user's
    own variant file of that `name`, which overrides what was found. Raises `InputError` if there is not exactly one
    backbone, or if a config contradicts it.
    """
    file = file_of(path)
    heads = read_heads(file)
    backbone = backbone_of(file, heads, wanted)
    if backbone.fault and not _is_chosen(backbone, wanted, ignore):
        raise InputError(
            f"{file}: {backbone.fault}. Get the file anew, or take {backbone.place} alone, with"
            f" PART={quote(backbone.place)} (make), --part (describe), or part: (under own in the config)."
        )
    others = [one.prefix for one in whole(backbones_of(file, heads)) if one.prefix != backbone.prefix]
    config = config_of(file, backbone)
    try:
        seen = _seen(file, backbone, config[1] if config else None)
        nearest = _nearest(path, backbone.family, seen, variants)
        release = variants[nearest]
        usual = release["architecture"]
        assume = part(backbone.family, "recognition").assume
        unseen = {} if told else {k: v for k, v in assume(seen, usual).items() if k not in seen}
    except InputError as error:
        raise InputError(f"{file}: {error}.") from None
    except (TypeError, ValueError, ArithmeticError):
        raise InputError(f"{file}: its shapes or its config.json hold numbers that no model has.") from None
    if told and told["family"] != backbone.family:
        raise InputError(f"{file} is of the family {backbone.family}, but the variant file of {told['family']}.")
    keys = optional(backbone.family, "recognition", "processor_keys", lambda _: {})({**seen, **unseen})
    prepared = _preprocessing(file.parent, release["preprocessing"], keys)
    lacking = _lacking(backbone.family, seen)
    towers = [tower for name, tower in towers_of(backbone.family).items() if name not in lacking]
    takes_images = not towers or any(tower.takes_images for tower in towers)
    inner = [heads[name] for name in backbone.names.values() if not is_ignored(name, ignore)]
    # Some files hold numbers that count something.
    weights = [head for head in inner if not head.dtype.startswith(("int", "uint"))] or inner
    found = {
        "family": backbone.family,
        "parameters": sum(math.prod(head.shape) for head in weights),
        "architecture": {**seen, **unseen},
        "preprocessing": prepared or release["preprocessing"],
        "licence": release.get("licence"),
        **(told or {}),
    }
    own = Own(
        path=str(file),
        layout=backbone.layout,
        prefix=backbone.prefix,
        # A prefix of its own transformers knows.
        is_part=bool(others) or any(heads[name].group for name in heads) or _are_renamed(backbone),
        dtypes=tuple(sorted({head.dtype for head in weights})),
        ignore=tuple(ignore),
        config=config[0] if config else None,
        configs_sha256=_digest(file.parent / name for name in ("config.json", *PROCESSORS)),
        nearest=nearest,
        variant_file=variant_file(backbone.family, name) if told else "",
        prepared=_in_short(found["preprocessing"]) if takes_images else "",
        differs=tuple(_differences(backbone.family, found["architecture"], {**assume(usual, usual), **usual})),
        assumed=tuple(
            [f"{key} {value}" for key, value in unseen.items()]
            + ["preprocessing"] * (takes_images and not prepared and not told)
            + [TEXTS] * optional(backbone.family, "recognition", "assumes_texts", lambda _: False)({**seen, **unseen})
        ),
    )
    return {**found, "own": asdict(own)}


def _is_chosen(tower: Backbone, wanted: str | None, ignore: Iterable[str]) -> bool:
    """Whether the user has named a tower, or has left out all else of the model that it is a part of."""
    is_named = bool(wanted) and tower.place.endswith(str(wanted).rstrip("./"))
    return is_named or all(is_ignored(name, ignore) for name in tower.rest)


def _are_renamed(backbone: Backbone) -> bool:
    """Whether its names in the file are others than those of the layout, but for a prefix."""
    return any(f"{backbone.prefix}{plain}" != name for plain, name in backbone.names.items())


def _digest(files: Iterable[Path]) -> str:
    """A digest of those of some small files that there are."""
    digest = hashlib.sha256()
    for file in files:
        content = b""
        if file.is_file():
            with file.open("rb") as opened:
                content = opened.read(LONGEST_HEAD)
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()


def _in_short(preprocessing: Mapping[str, Any]) -> str:
    mean, std = (" ".join(map(str, preprocessing[key])) for key in ("mean", "std"))
    crop = f", crop_pct {preprocessing['crop_pct']}" if preprocessing.get("crop_pct") else ""
    return f"{preprocessing['interpolation']}{crop}, mean {mean}, std {std}"


def _seen(file: Path, backbone: Backbone, config: Mapping[str, Any] | None) -> dict[str, Any]:
    """The architecture by names, shapes and config. Raises `InputError` if they contradict each other."""
    seen = dict(backbone.architecture)
    said = part(backbone.family, "recognition").read_config(config) if config is not None else {}
    for key in _contradicting(seen, said):
        raise InputError(
            f"config.json says {key} {said[key]}, but the tensors say {seen[key]}; put the one beside it that was saved"
            " with it"
        )
    return seen | said


def _contradicting(seen: Mapping[str, Any], said: Mapping[str, Any]) -> list[str]:
    """The fields of which tensors and config say different things."""
    return [key for key, value in said.items() if key in seen and seen[key] != value]


def _said(backbone: Backbone, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The architecture that a config gives; `None` if it cannot be read."""
    try:
        said: dict[str, Any] = part(backbone.family, "recognition").read_config(config)
    except (InputError, TypeError, ValueError, ArithmeticError):
        return None
    return said


def _agrees(backbone: Backbone, config: Mapping[str, Any]) -> bool:
    """Whether a config can be read and contradicts the tensors in no field."""
    said = _said(backbone, config)
    return said is not None and not _contradicting(backbone.architecture, said)


def _has_towers(backbone: Backbone, config: Mapping[str, Any]) -> bool:
    """Whether a config is of a model with the same towers, as far as it can be read."""
    said, towers = _said(backbone, config), _lacking(backbone.family, backbone.architecture)
    return said is None or _lacking(backbone.family, said).keys() == towers.keys()


def _lacking(family: str, architecture: Mapping[str, Any]) -> dict[str, Tower]:
    """The towers that a model lacks, by what its family calls them."""
    return {name: tower for name, tower in towers_of(family).items() if not architecture.get(tower.fields[0], 1)}


def _fields(towers: Mapping[str, Tower]) -> set[str]:
    return {field for tower in towers.values() for field in tower.fields}


def _nearest(path: Path, family: str, seen: Mapping[str, Any], variants: Mapping[str, Mapping[str, Any]]) -> str:
    """The name of the release of a family that differs least; if several do, one that the path names."""
    releases = {
        name: mapping["architecture"]
        for name, mapping in variants.items()
        if mapping["family"] == family and mapping.get("release")
    }
    if not releases:
        raise InputError(f"config/variants/{family} holds no release, with which {path} could be compared.")

    # By the towers that there are.
    without = _fields(_lacking(family, seen))

    def distance(name: str) -> tuple[int, float, bool, str]:
        release = releases[name]
        differing = sum(key in seen and seen[key] != value for key, value in release.items() if key not in without)
        return differing, abs(math.log(_size(seen) / _size(release))), name not in path.as_posix(), name

    return min(releases, key=distance)


def _size(architecture: Mapping[str, Any]) -> float:
    """A measure of a model's size: the product of its widths and depths."""
    ends = ("dim", "dims", "depth", "depths")
    numbers = (number or 1 for key, number in architecture.items() if key.endswith(ends))
    return math.prod(sum(number) if isinstance(number, list) else number for number in numbers)


# Fields of architectures that describe the file rather than the model.
OF_THE_FILE = ("local_cls_norm", "rope_periods")


def _differences(family: str, architecture: Mapping[str, Any], release: Mapping[str, Any]) -> list[str]:
    lacking = _lacking(family, architecture)
    without = _fields(lacking)
    return [f"no {tower}" for tower in lacking] + [
        f"{key} {architecture[key]} instead of {value}"
        for key, value in release.items()
        if key not in (*OF_THE_FILE, *without) and architecture.get(key, value) != value
    ]


# Where transformers says how it prepares images: by itself, or since version 5 beside how it prepares texts.
PROCESSORS = ("preprocessor_config.json", "processor_config.json")


def _image_processors(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Each file in a folder that says how images are prepared, and what it says."""
    for name in PROCESSORS:
        if (path := folder / name).is_file():
            found = read_mapping(path)
            found = found if name == PROCESSORS[0] else found.get("image_processor") or {}
            if isinstance(found, dict) and found:
                yield path, found


# Pillow's numbers of filters, which transformers uses.
FILTERS = {2: "bilinear", 3: "bicubic"}


# Steps that preprocessing always has, and all keys of transformers that it follows or that change no pixel.
STEPS = ("do_resize", "do_rescale", "do_normalize")
KNOWN = {
    *STEPS,
    *("size", "resample", "rescale_factor", "image_mean", "image_std", "do_center_crop", "crop_size"),
    *("do_convert_rgb", "image_processor_type", "feature_extractor_type", "processor_class", "_processor_class"),
    *("data_format", "input_data_format", "device", "return_tensors", "disable_grouping", "default_to_square"),
    "transformers_version",
}


def _preprocessing(folder: Path, release: Mapping[str, Any], keys: Mapping[str, Any]) -> dict[str, Any] | None:
    """The preprocessing by the config of transformers in a folder, if there is one; the release gives the rest.

    `keys` are those that the model knows besides, each with the value that it must have, `None` for any.
    """
    path, config = next(_image_processors(folder), (folder, None))
    if config is None:
        return None
    wrong = [f"{key} is {config[key]}" for key in STEPS if config.get(key) not in (None, True)]
    # Whatever is not known may change pixels.
    wrong += [f"{key} is {value}" for key, value in config.items() if value and key not in KNOWN | keys.keys()]
    wrong += [f"{key} is {config[key]}" for key, value in keys.items() if value and config.get(key, value) != value]
    scale, number = config.get("rescale_factor"), config.get("resample")
    if scale is not None and not (isinstance(scale, float) and math.isclose(scale, 1 / 255, rel_tol=1e-6)):
        wrong.append(f"rescale_factor is {scale}")
    if number is not None and not (isinstance(number, int) and number in FILTERS):
        wrong.append(f"resample is {number}")
    found = {
        "interpolation": release["interpolation"] if number is None or wrong else FILTERS[number],
        "mean": config.get("image_mean", release["mean"]),
        "std": config.get("image_std", release["std"]),
    }
    for key in ("mean", "std"):
        values = found[key]
        if not (isinstance(values, list) and len(values) == 3 and all(isinstance(v, int | float) for v in values)):
            wrong.append(f"image_{key} is {values}")
    size, crop = (config.get(key) or {} for key in ("size", "crop_size"))
    if not isinstance(size, dict) or not isinstance(crop, dict):
        wrong.append(f"size is {size} and crop_size {crop}")
    elif not config.get("do_center_crop"):
        if size.keys() - {"height", "width"}:
            wrong.append(f"size is {size} without a crop")
    else:
        side, whole = crop.get("height"), size.get("shortest_edge")
        if isinstance(side, int) and isinstance(whole, int) and 0 < side <= whole and side == crop.get("width"):
            found["crop_pct"] = side / whole
        else:
            wrong.append(f"size is {size} and crop_size {crop}")
    if wrong:
        raise InputError(
            f"{path}: {'; '.join(wrong)}, which preprocessing here does not do; correct or remove the file."
        )
    return found


def own_variants(own: Mapping[str, Any], variants: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The variants that the user's own checkpoints are, by name. `own` is that part of the config.

    If a variant file has the name of an entry, it overrides what is found. Raises `InputError` with the first fault of
    every entry.
    """
    found, faults = {}, []
    names = {name.lower(): name for name in own}
    for name, entry in own.items():
        entry = {"path": entry} if isinstance(entry, str) else entry
        told = variants.get(name)
        try:
            if Path(name).suffix in (".json", ".html", ".csv"):
                raise InputError("a page or record may have this name; choose another")
            if names[name.lower()] != name:
                raise InputError(f"{names[name.lower()]} differs only by case, as some disks do not; rename one")
            if told and told.get("release"):
                raise InputError("this is the name of a release, and yours may differ from it; choose another name")
            found[name] = recognised(
                Path(entry["path"]).expanduser(),
                variants,
                wanted=entry.get("part"),
                ignore=entry.get("ignore", ()),
                told=told,
                name=name,
            )
        except InputError as error:
            faults.append(f"own.{name}: {str(error).rstrip('.')}")
        # A home of nobody, a name that is too long, a folder that may not be read.
        except (OSError, RuntimeError) as error:
            faults.append(f"own.{name}: {entry['path']} cannot be used ({error}); correct the path")
    if faults:
        raise InputError(f"config: {'; '.join(faults)}.")
    return found


def in_words(spec: VariantSpec) -> list[str]:
    """What an own checkpoint was recognised as, and all assumptions, in sentences."""
    own = spec.own
    if own is None:
        return []
    where = f" at {own.prefix.rstrip('./')}" if own.prefix else ""
    differs = f", but for {', '.join(own.differs)}" if own.differs else " in its dimensions"
    lines = [
        f"{Path(own.path).name} holds a backbone of the family {spec.family} in {own.layout} layout{where}, with"
        f" {spec.parameters:,} parameters. It is like {own.nearest}{differs}."
    ]
    if own.dtypes != ("float32",):
        lines.append(
            f"Its weights are in {' and '.join(own.dtypes)}. They are widened to float32, here and for the original;"
            " from_pretrained by itself may compute in less."
        )
    if own.variant_file:
        lines.append(f"{own.variant_file} says what it is.")
    lines.append(
        "No config.json of transformers lies beside it, so it is compared with transformers' model of these dimensions,"
        " which would not show that one of them is wrong."
        if own.config is None
        else "Its config.json says what shapes do not show. It is compared with the model that transformers loads from"
        f" {'this part of the file' if own.is_part else 'the folder'}."
    )
    if own.prepared:
        lines.append(f"Photographs are prepared with {own.prepared}.")
    if assumed := [what for what in own.assumed if what != TEXTS]:
        lines.append(
            f"ASSUMED as in {own.nearest}, because nothing tells: {', '.join(assumed)}. If that is wrong,"
            " correct it in a variant file (python -m vit2onnx.describe FILE --variant-file …)."
        )
    if TEXTS in own.assumed:
        lines.append(f"ASSUMED: texts are prepared as for {own.nearest}. No file of a checkpoint says so.")
    if own.ignore:
        lines.append(f"Left out, as you asked: {', '.join(own.ignore)}.")
    # Names and patterns may be a stranger's.
    return list(map(printable, lines))


def name_of(path: Path) -> str:
    """A name for results, made from that of a file or folder."""
    file = path.absolute()
    # In the hub's cache, the name of the repository, because folders of snapshots have only numbers.
    if repository := next((one.name for one in (file, *file.parents) if one.name.startswith("models--")), None):
        file = file.parent / repository.rpartition("--")[2]
    stem = file.name if file.is_dir() else SHARD.sub(r"\g<stem>", file.name.removesuffix(INDEX_SUFFIX))
    for suffix in SUFFIXES:
        stem = stem.removesuffix(suffix)
    # transformers gives these names to every file, so the folder's tells more.
    if stem in ("model", "pytorch_model") and file.parent.name:
        stem = file.parent.name
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", stem).strip("_.-")[:80]
    return name if re.fullmatch(NAME, name) else "own"
