"""What is compared: which image at which size, which text. Standard library only, because the Snakefile imports it."""

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any


@dataclass(frozen=True, order=True)
class Case:
    """One image at one size in pixels; written `name@heightxwidth` in files.

    Other inputs have a name and two sizes as well, whose axes their interface says: a text `greeting@1x64` has 64
    tokens, and `pairs@3x5` stands for 3 images with 5 texts. Sizes of further axes are in the name of pairs:
    `pairs-patches64@1x7`.
    """

    name: str
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.name}@{self.height}x{self.width}"

    @classmethod
    def parse(cls, text: str) -> "Case":
        name, _, size = text.rpartition("@")
        height, _, width = size.partition("x")
        return cls(name, int(height), int(width))

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> "Case":
        """The case of a row of a table."""
        return cls(row["image"], row["height"], row["width"])

    @property
    def further_sizes(self) -> dict[str, int]:
        """The sizes in the name of pairs, by axis."""
        return {axis: int(size) for axis, size in re.findall(r"-([a-z]+)(\d+)", self.name)}

    @property
    def columns(self) -> dict[str, Any]:
        """The columns by which the rows of tables name their case; `image` is the name, also that of a text."""
        return {"image": self.name, "height": self.height, "width": self.width}


# The image whose features are published.
GOLDEN = Case("golden", 224, 224)

# The input of a layer when stages are compared: the output of the layer before it, or, in all implementations alike,
# the truth rounded to single precision.
MODES = ("accumulated", "injected")

# Stages that are also outputs, by the last word of their names.
AS_OUTPUT = {"norm": "last_hidden_state", "pooled": "pooler_output"}


def path_of(tower: str, name: str) -> str:
    """The full name of a stage, layer or parameter of a tower; the tower "" is a model that is its only one."""
    return f"{tower}.{name}" if tower else name


def last_word(stage: str) -> str:
    """The name of a stage without tower and layer."""
    return stage.rpartition(".")[2]


# File extensions taken as photographs in a folder, and those of photographs that are not read: Pillow cannot open them,
# or they move.
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".avif", ".tif", ".tiff", ".bmp")
UNREAD = re.compile(r"\.(heic|heif|gif|jxl|jp2|dng|cr2|cr3|nef|arw|raf|orf|rw2|pef|srw|raw)$", re.I)
# Characters in paths that Snakemake takes for a wildcard or a variable of its own, or that it cannot write down.
UNSAYABLE = re.compile("[{}<>\x00-\x1f\x7f\ud800-\udfff]")


def image_files(images: Mapping[str, str], root: Path = Path()) -> tuple[dict[str, str], list[str]]:
    """The photographs that the config names, by name, and what is wrong with its entries.

    An entry is a file, a folder, or a pattern such as `photos/*.jpg`. Those of a folder or pattern are named after
    entry and file, `photos-IMG_1.jpg`, with `_` for what is no letter or digit of any script, and with a number if that
    name is taken. What is not in the working directory is looked for at `root`, where the project's own photographs
    are.
    """
    found: dict[str, str] = {}
    faults = []
    for entry, text in images.items():
        path = Path(text).expanduser()
        files = _photographs(path) or _photographs(root / path)
        if not files:
            what = f"photograph ({', '.join(SUFFIXES)}) in the folder" if path.is_dir() else "file"
            faults.append(f"images.{entry}: there is no {what} {text}")
        for file in files:
            if fault := unsayable(file):
                faults.append(f"images.{entry}: {fault}")
            is_named = file in (path, root / path)
            found[unused(entry if is_named else f"{entry}-{_safe(file.name)}", found)] = str(file)
    return found, faults


def unused(name: str, taken: Collection[str]) -> str:
    """A name, with a number if it is taken: `IMG_1.jpg`, `IMG_1.jpg-2`."""
    numbers = (f"{name}-{number}" if number > 1 else name for number in count(1))
    return next(one for one in numbers if one not in taken)


def unsayable(path: Path) -> str | None:
    """Why Snakemake cannot take a file as input; `None` if it can."""
    if not UNSAYABLE.search(str(path)):
        return None
    return f"rename {str(path)!a}, because Snakemake misreads {{ }} < >, control characters and broken Unicode in it"


def unread_photographs(images: Mapping[str, str]) -> list[str]:
    """The paths of photographs in the config's folders that are left out because of their format."""
    folders = [folder for text in images.values() if (folder := Path(text).expanduser()).is_dir()]
    return [str(file) for folder in folders for file in _visible(folder.iterdir()) if UNREAD.search(file.name)]


def _safe(name: str) -> str:
    # Composed, because macOS writes a letter and its accent as two.
    return re.sub(r"[^\w.-]", "_", unicodedata.normalize("NFC", name))


def _photographs(path: Path) -> list[Path]:
    """The file at a path, the photographs in a folder, or the files that fit a pattern."""
    if path.is_file():
        return [path]
    if path.is_dir():
        return [file for file in _visible(path.iterdir()) if file.suffix.lower() in SUFFIXES]
    anchor = Path(path.anchor)
    return _visible(anchor.glob(str(path.relative_to(anchor))))


def _visible(paths: Iterable[Path]) -> list[Path]:
    """Files that are not hidden, in order. Beside a photograph, macOS puts `._IMG_1.jpg`, which is none."""
    return sorted(path for path in paths if not path.name.startswith(".") and path.is_file())


def of_first_image(cases: Iterable[str]) -> Sequence[str]:
    """The cases of the same name as the first: its image or text at all sizes."""
    cases = list(cases)
    return [case for case in cases if Case.parse(case).name == Case.parse(cases[0]).name]


def layer_inputs(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The input of every layer in injected mode, by layer, from the stages that a reference has written."""
    start = "inputs/"
    return {key.removeprefix(start): arrays[key] for key in arrays if key.startswith(start)}
