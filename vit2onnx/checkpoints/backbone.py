"""Find the backbone in a checkpoint, and the tensors beside it.

Standard library only, because the Snakefile imports this module. Names and shapes are read, and no values.
"""

import re
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from shlex import quote
from typing import Any, NoReturn

from vit2onnx.checkpoints.head import Head
from vit2onnx.checkpoints.heads import INDEX_SUFFIX, SHARD, SUFFIXES
from vit2onnx.checkpoints.names import HUGGINGFACE_FILE, HUGGINGFACE_INDEX
from vit2onnx.errors import InputError
from vit2onnx.families.recognition import Tower
from vit2onnx.spec.family import families, optional, part

# The files of a checkpoint in a folder that transformers has written, the best first.
OF_TRANSFORMERS = (HUGGINGFACE_FILE, HUGGINGFACE_INDEX, "pytorch_model.bin", f"pytorch_model.bin{INDEX_SUFFIX}")
# What torch.compile, FSDP and activation checkpointing put into the names of tensors, anywhere.
WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# Blocks in chunks, as the publisher's training writes them: the second number counts through all chunks.
CHUNKS = re.compile(r"(^|\.)blocks\.\d+\.(\d+\.)")


# Each is looked at one by one.
MOST_BACKBONES = 32


@dataclass(frozen=True)
class Backbone:
    """A backbone in a checkpoint. `names` has the file's own names of its tensors by those of the layout.

    Of a tower, `within` is the prefix of the model that it is a part of, and `rest` has the file's names of that
    model's other tensors. `fault` says why that model is not recognised although some of these are there.
    """

    family: str
    layout: str
    prefix: str
    architecture: Mapping[str, Any]
    names: Mapping[str, str]
    within: str | None = None
    rest: tuple[str, ...] = ()
    fault: str = ""

    @property
    def place(self) -> str:
        """Where it is in the file, as users name it; empty if its names have no prefix."""
        return self.prefix.rstrip("./")


def file_of(path: Path) -> Path:
    """The file of a checkpoint, or its index of shards, at a path or in a folder.

    Raises `InputError` if a folder holds none, or several.
    """
    if not path.is_dir():
        return path
    if (path / ".metadata").is_file() or list(path.glob("*.distcp")):
        raise InputError(
            f"{path} is a distributed checkpoint, as training with FSDP writes it; make one file of it:"
            " python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER weights.pth."
        )
    if (path / "adapter_config.json").is_file():
        raise InputError(_lora(path))
    snapshots = sorted((path / "snapshots").glob("*/")) if (path / "snapshots").is_dir() else []
    if len(snapshots) == 1:
        return file_of(snapshots[0])
    for name in OF_TRANSFORMERS:
        if (path / name).is_file():
            return path / name
    found = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES and file.is_file())
    found += sorted(path.glob(f"*{INDEX_SUFFIX}"))
    # All shards of one checkpoint are one.
    found = list({SHARD.sub(r"\g<stem>", file.name): file for file in reversed(found)}.values())
    if len(found) == 1:
        return found[0]
    names = ", ".join(sorted(file.name for file in found)[:5])
    raise InputError(
        f"{path} holds {len(found)} checkpoints ({names}); name one of them."
        if found
        else f"{path} holds no checkpoint (a file that ends in {', '.join(SUFFIXES)}); name the file itself."
    )


def plain_names(path: Path, names: Iterable[str]) -> dict[str, str]:
    """The names of tensors in a file, each by its plain form without wrappers and chunks."""
    found: dict[str, str] = {}
    for name in names:
        plain = CHUNKS.sub(r"\1blocks.\2", WRAPPERS.sub("", name))
        if plain in found:
            raise InputError(f"{path}: tensors {found[plain]} and {name} would both be {plain}; save the file anew.")
        found[plain] = name
    return found


def backbones_of(path: Path, heads: Mapping[str, Head]) -> list[Backbone]:
    """All backbones in a checkpoint that a family of this project recognises, by the prefix of their names.

    A tower of a larger model is one too. Raises `InputError` if there is none but one that a family refuses.
    """
    names = plain_names(path, heads)
    marks = {mark: None for family in families() for mark in part(family, "recognition").MARKS}
    prefixes = {
        plain.removesuffix(mark): None
        for plain in names
        for mark in marks
        if plain == mark or plain.endswith(f".{mark}")
    }
    if len(prefixes) > MOST_BACKBONES:
        raise InputError(f"{path} names tensors of {len(prefixes)} backbones; give a file with one of them.")
    found: list[Backbone] = []
    refused: dict[tuple[str, str], str] = {}
    for prefix in sorted(prefixes):
        inner = {plain.removeprefix(prefix): name for plain, name in names.items() if plain.startswith(prefix)}
        shapes = {plain: heads[name].shape for plain, name in inner.items()}
        for family in families():
            try:
                seen = part(family, "recognition").recognise(shapes)
            # The names are a family's, and the shapes are not.
            except (KeyError, IndexError, ValueError, ZeroDivisionError):
                continue
            except InputError as error:
                refused[family, prefix] = str(error)
                continue
            if seen:
                found.append(Backbone(family, seen[0], prefix, seen[1], inner))
                found += _kept_together(found[-1], heads)
    if refused and not found:
        (_, prefix), why = next(iter(refused.items()))
        where = f"at {prefix.rstrip('.')}, " if prefix else ""
        raise InputError(f"{path}: {where}{why}.")
    places = {(one.family, one.prefix) for one in found}
    return [_with_rest(one, names, places, refused) for one in found]


def _kept_together(model: Backbone, heads: Mapping[str, Head]) -> list[Backbone]:
    """The towers of a whole model in a layout in which a tower alone has the names that it has in the whole."""
    found = []
    for start in optional(model.family, "recognition", "KEPT_PREFIXES", {}).get(model.layout, ()):
        names = {plain: name for plain, name in model.names.items() if plain.startswith(start)}
        seen = part(model.family, "recognition").recognise({plain: heads[name].shape for plain, name in names.items()})
        if seen and seen[1] != model.architecture:
            prefix = f"{model.prefix}{start}"
            found.append(Backbone(model.family, model.layout, prefix, seen[1], names, model.prefix))
    return found


def _with_rest(
    one: Backbone, names: Mapping[str, str], places: Set[tuple[str, str]], refused: Mapping[tuple[str, str], str]
) -> Backbone:
    """A backbone; if it is a tower, with the prefix and the other tensors of its whole model."""
    within = one.within
    for tower in towers_of(one.family).values():
        if within is None and one.prefix.endswith(tower.prefix):
            within = one.prefix.removesuffix(tower.prefix)
    if within is None:
        return one
    of_whole, own = optional(one.family, "recognition", "OF_WHOLE", ""), set(one.names.values())
    beside = ((plain, name) for plain, name in names.items() if plain.startswith(within) and name not in own)
    rest = tuple(name for plain, name in beside if re.match(of_whole, plain.removeprefix(within)))
    fault = ""
    if rest and (one.family, within) not in places:
        fault = refused.get(
            (one.family, within), f"tensors such as {rest[0]} belong to a larger model, which is not complete"
        )
    return replace(one, within=within, rest=rest, fault=fault)


def towers_of(family: str) -> Mapping[str, Tower]:
    """The towers of a family's models by what it calls them; none if its models are one."""
    towers: Mapping[str, Tower] = optional(family, "recognition", "TOWERS", {})
    return towers


def whole(backbones: Iterable[Backbone]) -> list[Backbone]:
    """Those of some backbones that are no tower of another."""
    found = list(backbones)
    places = {(one.family, one.prefix) for one in found}
    return [one for one in found if (one.family, one.within) not in places]


def backbone_of(path: Path, heads: Mapping[str, Head], wanted: str | None = None) -> Backbone:
    """The only backbone of a checkpoint, or the one whose prefix is `wanted`, which may be a tower of a larger model.

    Raises `InputError` otherwise.
    """
    if any(".lora_" in name for name in heads):
        raise InputError(_lora(path))
    every = backbones_of(path, heads)
    found = whole(every)
    if not found:
        _explain(path, heads)
    places, all_places = (", ".join(one.place or '""' for one in some) for some in (found, every))
    if wanted is not None:
        parts = wanted.strip(".").split(".") if wanted.strip(".") else []
        exact = [backbone for backbone in every if backbone.place == wanted.rstrip("./")]
        # Some words of a place are enough if they fit no other.
        found = exact or [backbone for backbone in found if parts and _are_in_order(parts, backbone.prefix.split("."))]
        if not found:
            raise InputError(f"{path} holds no backbone at {wanted!r}, only at {all_places}.")
    if len(found) > 1:
        raise InputError(
            f"{path} holds {len(found)} backbones, at {places}; choose one, as with PART={quote(found[-1].place)}"
            " (make), --part (describe), or part: (under own in the config)."
        )
    return found[0]


def _are_in_order(words: Iterable[str], text: Iterable[str]) -> bool:
    """Whether all words stand in a text, in that order."""
    rest = iter(text)
    return all(word in rest for word in words)


def _explain(path: Path, heads: Mapping[str, Head]) -> NoReturn:
    """Raise `InputError` for a checkpoint in which no backbone was recognised."""
    names = list(heads)
    if names and all("optimizer" in name or "exp_avg" in name or "momentum_buffer" in name for name in names):
        raise InputError(f"{path} holds the state of an optimizer and no weights; give the checkpoint of the model.")
    known = ", ".join(families())
    raise InputError(
        f"{path} holds no backbone that is known ({known}): its {len(names)} tensors are named like"
        f" {', '.join(names[:3]) or 'nothing'}; give a checkpoint in the publisher's, transformers' or timm's layout."
    )


def _lora(path: Path) -> str:
    return (
        f"{path} holds LoRA adapters, which change a model and are none; merge them into it (peft:"
        " model.merge_and_unload()), save that, and give its folder."
    )


def beside(heads: Mapping[str, Head], backbone: Backbone) -> list[str]:
    """The names of tensors beside a backbone and the model of which it is a tower, in the mapping that holds it."""
    inner = {*backbone.names.values(), *backbone.rest}
    groups = {heads[name].group for name in backbone.names.values()}
    return [name for name, head in heads.items() if name not in inner and head.group in groups]


def is_ignored(name: str, patterns: Iterable[str]) -> str:
    """The first of some patterns that fits a tensor's name; empty if none does."""
    return next((pattern for pattern in patterns if fnmatchcase(name, pattern)), "")


# Characters in names that a shell, make or a pattern would take for something else.
SPECIAL = re.compile(r"[^\w./*:@+-]")


def patterns_for(names: Iterable[str], kept: Iterable[str]) -> list[str]:
    """Patterns, as short as possible, that fit these names and none that is kept.

    Paths in names have dots, or slashes in files of flax. A special character becomes one that stands for any.
    """
    kept = list(kept)
    found: dict[str, None] = {}
    for name in names:
        for end in re.finditer(r"[./]", name):
            start = name[: end.end()]
            if not any(other.startswith(start) for other in kept):
                found[f"{start}*"] = None
                break
        else:
            found[name] = None
    return list(dict.fromkeys(SPECIAL.sub("?", pattern) for pattern in found))
