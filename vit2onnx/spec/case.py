"""What is compared: which image at which size. Standard library only, because the Snakefile imports it."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vit2onnx.spec.recipe import Recipe


@dataclass(frozen=True, order=True)
class Case:
    """One image at one size in pixels; written `name@heightxwidth` in files."""

    image: str
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.image}@{self.height}x{self.width}"

    @property
    def sizes(self) -> dict[str, int]:
        """Its sizes by the names of the axes."""
        return {"height": self.height, "width": self.width}

    @classmethod
    def parse(cls, text: str) -> "Case":
        image, _, size = text.rpartition("@")
        height, _, width = size.partition("x")
        return cls(image, int(height), int(width))


# The image whose features are published.
GOLDEN = Case("golden", 224, 224)

# The input of a layer when stages are compared: the output of the layer before it, or, in all implementations alike,
# the truth rounded to single precision.
MODES = ("accumulated", "injected")

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
            wanted = name = entry if is_named else f"{entry}-{_safe(file.name)}"
            number = 1
            while name in found:
                number += 1
                name = f"{wanted}-{number}"
            found[name] = str(file)
    return found, faults


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
    """The cases that show the same image as the first."""
    cases = list(cases)
    return [case for case in cases if Case.parse(case).image == Case.parse(cases[0]).image]


def accepted(cases: Iterable[str], recipe: Recipe) -> list[Case]:
    """The cases whose sizes a recipe accepts."""
    return [case for case in map(Case.parse, cases) if recipe.accepts(case.sizes)]


def sizes_of(recipes: Iterable[Recipe], sizes: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The sizes to compare at: the listed ones that a recipe accepts, and the fixed sizes of recipes."""
    recipes = [recipe for recipe in recipes if {"height", "width"} <= recipe.sizes.keys()]
    fixed = {size for one in recipes if (size := _fixed(one))}
    listed = {size for size in sizes if any(one.accepts(_named(size)) for one in recipes)}
    return sorted(fixed | listed)


def _fixed(recipe: Recipe) -> tuple[int, int] | None:
    """The size of a recipe that accepts only one."""
    height, width = recipe.sizes["height"], recipe.sizes["width"]
    return None if height is None or width is None else (height, width)


def _named(size: tuple[int, int]) -> dict[str, int]:
    return dict(zip(("height", "width"), size, strict=True))


def case_of_stages(image: str, recipe: Recipe, sizes: Iterable[tuple[int, int]]) -> Case:
    """The case on which the stages of a graph are compared: at the first listed size that is not square.

    A square image does not tell rows from columns. Where a graph accepts no such size, it is the first that it accepts.
    """
    accepted = [size for size in sizes if recipe.accepts(_named(size))]
    if fixed := _fixed(recipe):
        accepted = [fixed]
    return Case(image, *next((size for size in accepted if size[0] != size[1]), accepted[0]))


def layer_inputs(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The input of every layer in injected mode, by layer, from the stages that a reference has written."""
    start = "inputs/"
    return {key.removeprefix(start): arrays[key] for key in arrays if key.startswith(start)}
