"""Turn photographs into features, each at its own size, by a packed graph.

    python -m vit2onnx.features packed.onnx photos/*.jpg --max-patches 1024 -o features.npz

writes for every photograph, by the name of its file, `{name}/cls` [embed_dim], `{name}/registers` [registers,
embed_dim] if the model has any, and `{name}/patches` [rows, columns, embed_dim]. Photographs may be files, folders, and
patterns in quotes.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from vit2onnx.errors import InputError, first_few, printable
from vit2onnx.features.packed import MAX_PATCHES, Packed
from vit2onnx.files import write_arrays
from vit2onnx.images import load_image
from vit2onnx.onnx_file import initializers
from vit2onnx.packing.arrays import ImageFeatures
from vit2onnx.spec.case import SUFFIXES, image_files, unread_photographs, unused

# How many photographs that cannot be read are told of, each in a line.
MOST_NOTES = 40


def limit_of(text: str) -> int | None:
    """The most patches of a photograph; `None` if there is no limit. Raises `InputError`."""
    if text == "none":
        return None
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise InputError(f"--max-patches is {text}; give a whole number of at least 1, or none for no limit.")
    return number


def found_in(given: Sequence[str]) -> list[Path]:
    """The photographs that files, folders and patterns name, in order. Raises `InputError` if one names none."""
    if not given:
        raise InputError("There are no photographs; name files or a folder.")
    found: list[Path] = []
    for text in given:
        files, _ = image_files({"": text})
        if not files:
            folder = Path(text).expanduser().is_dir()
            what = f"photograph ({', '.join(SUFFIXES)}) in this folder" if folder else "such photograph"
            raise InputError(f"{text}: there is no {what}; correct the path or put the file there.")
        found += map(Path, files.values())
    return found


def check_output(output: Path, inputs: Iterable[Path]) -> None:
    """Raise `InputError` if a file cannot be written, or if it would replace one of the inputs or no features."""
    if not output.parent.is_dir():
        raise InputError(f"{output.parent}: there is no such folder for {output.name}; make it or name another.")
    if output.is_dir():
        raise InputError(f"{output} is a folder; name a file in it.")
    if output.resolve() in {path.resolve() for path in inputs}:
        raise InputError(f"{output} is one of the inputs; name another file for the features.")
    if output.suffix != ".npz":
        raise InputError(f"{output} does not end in .npz; name a file that does.")


def check_photographs(photographs: Sequence[Path]) -> None:
    """Raise `InputError` with a note for each photograph that cannot be read."""
    faults = []
    for path in photographs:
        try:
            load_image(path)
        except InputError as error:
            faults.append(error)
        except OSError as error:
            faults.append(
                InputError(f"{path}: this photograph cannot be opened ({error.strerror}); grant permission to read it.")
            )
    if len(faults) == 1:
        raise faults[0]
    if faults:
        failure = InputError(
            f"{len(faults)} of {len(photographs)} photographs cannot be read; repair them or leave them out."
        )
        for fault in faults:
            failure.add_note(str(fault))
        raise failure


def names_of(photographs: Iterable[Path]) -> list[str]:
    """Their file names, with a number if a name is taken: `IMG_1.jpg`, `IMG_1.jpg-2`."""
    names: dict[str, None] = {}
    for path in photographs:
        names[unused(printable(path.name), names)] = None
    return list(names)


def arrays_of(name: str, features: ImageFeatures) -> Mapping[str, np.ndarray]:
    """The arrays of a photograph, by their names in the file."""
    arrays = {"cls": features.cls, "registers": features.registers, "patches": features.patches}
    return {f"{name}/{key}": array for key, array in arrays.items() if array.size}


def written(photographs: Sequence[Path], model: Packed, max_patches: int | None) -> Iterator[tuple[str, np.ndarray]]:
    """All arrays. Prints a line for each photograph when it is done."""
    names = names_of(photographs)
    width = max(map(len, [*names, "photograph"]))
    print(f"{'photograph':{width}}  {'height x width':>14}  {'patches':>7}")
    for name, features in zip(names, model.stream(photographs, max_patches), strict=True):
        rows, columns, _ = features.patches.shape
        size = f"{rows * model.patch_size} x {columns * model.patch_size}"
        print(f"{name:{width}}  {size:>14}  {rows * columns:7}", flush=True)
        yield from arrays_of(name, features).items()


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line. Returns the exit status: 1 if no features could be written."""
    parser = argparse.ArgumentParser("vit2onnx.features", description="Turn photographs into features.")
    parser.add_argument("graph", type=Path, help="a packed graph that vit2onnx has exported")
    parser.add_argument("photographs", nargs="*", help="files, folders, or patterns in quotes")
    parser.add_argument(
        "--max-patches",
        default=str(MAX_PATCHES),
        help="shrink photographs that have more patches (default: %(default)s); none for no limit",
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("features.npz"), help="the file to write (default: %(default)s)"
    )
    given = parser.parse_intermixed_args(arguments)
    try:
        max_patches, photographs = limit_of(given.max_patches), found_in(given.photographs)
        graph, output = given.graph.expanduser(), given.output.expanduser()
        model = Packed(graph)
        weights = (one.file for one in initializers(graph).values())
        check_output(output, [graph, *weights, *photographs])
        if unread := unread_photographs({text: text for text in given.photographs}):
            left_out = f"Left out because of their format: {first_few(unread)}; convert them to JPEG or PNG."
            print(printable(left_out), file=sys.stderr)
        check_photographs(photographs)
        write_arrays(output, written(photographs, model, max_patches))
    except (OSError, RuntimeError) as error:
        print(printable(f"A file cannot be read or written ({error}); correct its path."), file=sys.stderr)
        return 1
    except InputError as error:
        print(error, *map(printable, getattr(error, "__notes__", [])[:MOST_NOTES]), sep="\n  ", file=sys.stderr)
        return 1
    print(printable(f"Wrote {output}."))
    return 0


if __name__ == "__main__":
    sys.exit(main())
