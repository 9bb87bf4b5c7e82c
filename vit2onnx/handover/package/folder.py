"""The folder that is uploaded to the Hugging Face hub: graphs that passed, with all that tools and people need."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vit2onnx.errors import InputError
from vit2onnx.files import sha256_of, write_text
from vit2onnx.handover.package.card import model_card
from vit2onnx.handover.package.config import model_config, processor_config, tokenizer_config
from vit2onnx.handover.package.files import PackageFile
from vit2onnx.onnx_file import LICENCE_FILE, passport_beside, sample_beside
from vit2onnx.spec.variant import VariantSpec
from vit2onnx.verify import read_passport

CARD, PROGRAM = "README.md", "verify.py"
# Where transformers.js looks for graphs.
GRAPHS = "onnx"


def write_package(
    folder: Path,
    spec: VariantSpec,
    files: Sequence[PackageFile],
    results: Path,
    *,
    program: Path,
    licence: Path | None = None,
    tokenizer: Path | None = None,
) -> None:
    """Write the package of a variant to a folder, whose earlier content is deleted.

    `results` is the folder of the graphs `{recipe}.onnx`, their passports and samples, `program` verifies them. Large
    files are hard links where the disk has them. Raises `InputError` if a graph is not the one of its passport.
    """
    passports = {file.name: _passport_of(spec, file, results) for file in files}
    new = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    (new / GRAPHS).mkdir(parents=True)
    for file in files:
        _place_graph(results / f"{file.recipe.name}.onnx", new / GRAPHS / file.name, passports[file.name])
    _write(new / "config.json", model_config(spec, files))
    prepared = processor_config(spec, files)
    if prepared is not None:
        _write(new / "preprocessor_config.json", prepared)
    takes_texts = any(spec.interface(file.recipe.interface).kind != "image" for file in files)
    has_tokenizer = tokenizer is not None and takes_texts
    if tokenizer is not None and takes_texts:
        shutil.copyfile(tokenizer, new / "tokenizer.json")
        _write(new / "tokenizer_config.json", tokenizer_config(spec, tokenizer))
    shutil.copyfile(program, new / PROGRAM)
    if licence:
        shutil.copyfile(licence, new / LICENCE_FILE)
    card = model_card(spec, files, passports, prepared, has_licence=bool(licence), has_tokenizer=has_tokenizer)
    write_text(new / CARD, card)
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)


def _passport_of(spec: VariantSpec, file: PackageFile, results: Path) -> dict[str, Any]:
    """The passport of a graph. Raises `InputError` if it is another graph's. Weights beside the graph are not read."""
    graph = results / f"{file.recipe.name}.onnx"
    passport = read_passport(graph)
    told = passport["variant"], passport["export"], passport.get("precision", "float32")
    if told != (spec.name, file.recipe.name, file.recipe.precision):
        raise InputError(f"{passport_beside(graph)} is that of {', '.join(told)}; delete it and run again.")
    if passport["file"]["sha256"] != sha256_of(graph):
        raise InputError(f"{graph} is not the file of its passport; delete both and run again.")
    return passport


def _place_graph(graph: Path, target: Path, passport: Mapping[str, Any]) -> None:
    """A graph under its name in the package, with passport, sample and the files that hold its weights."""
    _place(graph, target)
    _place(passport_beside(graph), passport_beside(target))
    _place(sample_beside(graph), sample_beside(target))
    for name in passport["file"]["external"]:
        # Graphs in float32 share model.eqx.
        if not (target.parent / name).exists():
            _place(graph.with_name(name), target.with_name(name))


def _place(source: Path, target: Path) -> None:
    """A hard link, or a copy where the disk has none. No file of results is ever changed in place."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _write(path: Path, data: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(data, indent=2) + "\n")
