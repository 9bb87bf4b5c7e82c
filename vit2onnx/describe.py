"""Say what a checkpoint is, without converting it.

    python -m vit2onnx.describe path/to/file_or_folder

prints the family, the layout, the nearest release and the differences from it, the assumptions, and which tensors are
missing or left over. `--variant-file` writes all this as a variant file, to be corrected by hand.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from vit2onnx.checkpoints.own import in_words, name_of, recognised
from vit2onnx.errors import InputError, printable
from vit2onnx.files import write_text
from vit2onnx.spec.configuration import check_recognised
from vit2onnx.spec.plain_data import read_data
from vit2onnx.spec.variant import VARIANT_FILES, VariantSpec, read_variants

CONFIG = VARIANT_FILES.parent / "config.yaml"
# How many of the tensors that do not fit are named.
MOST_NOTES = 40


def described(name: str, mapping: Mapping[str, Any]) -> list[str]:
    """What a recognised checkpoint is, in sentences. Raises `InputError` if tensors are missing or left over."""
    # Here, because it takes seconds to import.
    from vit2onnx.checkpoints.detect import fitted
    from vit2onnx.checkpoints.identity import release_of
    from vit2onnx.checkpoints.reading import checksum, open_variant

    spec = VariantSpec.from_mapping(name, mapping)
    opened = open_variant(spec, Path(mapping["own"]["path"]))
    fit = fitted(spec, opened)
    unneeded = [f"Tensor {opened.name(key)} is not needed ({entry.reason})." for key, entry in fit.ignored.items()]
    told = []
    if release := release_of(checksum(opened.path)):
        told.append(
            f"It is the publisher's {release.release.file}. To build the release, put it into checkpoints/ and run"
            f" make run WEIGHTS=official VARIANT={release.name}."
        )
    return [*in_words(spec), *told, *unneeded, "It is complete: every tensor of the backbone has its place."]


def variant_file(mapping: Mapping[str, Any]) -> str:
    """The text of a variant file with all that was recognised, and comments on what was assumed."""
    own = mapping["own"]
    head = [
        "# yaml-language-server: $schema=../../../workflow/schemas/variant.schema.yaml",
        f"# Written by vit2onnx.describe from a checkpoint that is like {own['nearest']}.",
        *(f"# Assumed, because nothing tells: {what}." for what in own["assumed"]),
    ]
    keys = ("parameters", "architecture", "preprocessing", "licence")
    body = yaml.safe_dump({key: mapping[key] for key in keys if mapping[key]}, sort_keys=False)
    return "\n".join([*head, body])


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line. Returns the exit status: 1 if the checkpoint cannot be used as it is."""
    parser = argparse.ArgumentParser("vit2onnx.describe", description="Say what a checkpoint is.")
    parser.add_argument("path", type=Path, help="a file or folder")
    parser.add_argument("--name", help="the name of the results; by default the file's")
    parser.add_argument("--part", help="which backbone to take if there are several, such as teacher.backbone")
    parser.add_argument("--ignore", nargs="*", default=[], metavar="PATTERN", help="tensors that may be left out")
    parser.add_argument("--variant-file", type=Path, help="write what was found as a variant file")
    parser.add_argument("--config", type=Path, help="write a config for snakemake --configfile that builds it")
    given = parser.parse_args(arguments)
    try:
        path, variants = given.path.expanduser(), read_variants(VARIANT_FILES)
        name = given.name or name_of(path)
        if not given.name and variants.get(name, {}).get("release"):
            # It may be the release, but nothing of that is taken for granted.
            name = f"own_{name}"
        told = variants.get(name)
        mapping = recognised(path, variants, wanted=given.part, ignore=given.ignore, told=told, name=name)
        if given.variant_file and given.variant_file.exists():
            raise InputError(f"{given.variant_file} is there already; delete it first, or name another file.")
        check_recognised(str(path), mapping)
        print("\n".join(described(name, mapping)))
    except (OSError, RuntimeError) as error:
        print(printable(f"{given.path} cannot be used ({error}); correct the path."), file=sys.stderr)
        return 1
    except InputError as error:
        print(error, *map(printable, getattr(error, "__notes__", [])[:MOST_NOTES]), sep="\n  ", file=sys.stderr)
        return 1
    if given.variant_file:
        write_text(given.variant_file, variant_file(mapping))
        print(f"Wrote {given.variant_file}.")
    if given.config:
        entry = {"path": str(path.absolute()), "ignore": given.ignore} | ({"part": given.part} if given.part else {})
        # Nothing else that config.yaml names, which `null` removes.
        listed = read_data(CONFIG, "config/config.yaml").get("own") or {}
        config = {"weights": "own", "own": {**dict.fromkeys(listed), name: entry}}
        write_text(given.config, json.dumps(config, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
