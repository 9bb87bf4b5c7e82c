"""A folder of labelled photographs, and their masks. Standard library only, because the Snakefile may ask for it."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from vit2onnx.errors import InputError, first_few
from vit2onnx.spec.case import SUFFIXES, image_files, unread_photographs, unsayable


@dataclass(frozen=True)
class Labelled:
    """One photograph. `name` is its path in the folder, `label/file`; `label` is the name of its subfolder."""

    name: str
    label: str
    path: Path
    mask: Path | None


def labelled_images(folder: Path, masks: Path | None = None) -> list[Labelled]:
    """The photographs in the subfolders of a folder, ordered by label and file name.

    Every subfolder is a label. Hidden files and folders are left out, and so is a folder of masks inside of `folder`.
    The mask of `cat/1.jpg` is `cat/1.png` in the folder `masks`. Raises `InputError` if there is no folder of that
    name, if there are fewer than two labels, if a label has no photograph or all have only one, if a photograph lacks a
    mask of its own, if one is there twice, or if one would be passed over: beside the subfolders, in a folder of a
    label, of a format that is not read, or at the end of a broken link.
    """
    for given in (folder, masks):
        if given is not None and not given.is_dir():
            raise InputError(f"There is no folder {given}; correct the path.")
    inside = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    labels = [path for path in inside if path.is_dir() and not (masks and path.samefile(masks))]
    if len(labels) < 2:
        raise InputError(
            f"{folder} has {len(labels)} subfolders, each of which would be a label; sort the photographs into one"
            " subfolder per label, two at least."
        )
    if outside := [path.name for path in inside if path.is_file() and path.suffix.lower() in SUFFIXES]:
        raise InputError(f"{folder} has photographs without a label ({first_few(outside)}); move them to a subfolder.")
    photographs = {label: _photographs(label) for label in labels}
    places = Counter(path.resolve() for paths in photographs.values() for path in paths)
    if twice := [str(path) for path, count in places.items() if count > 1]:
        raise InputError(f"{folder} has a photograph twice ({first_few(twice)}); remove the link to it.")
    if empty := [label.name for label, paths in photographs.items() if not paths]:
        raise InputError(
            f"{folder} has labels without a photograph ({first_few(empty)}); add {', '.join(SUFFIXES)} files, or"
            " remove these subfolders."
        )
    if max(map(len, photographs.values())) < 2:
        raise InputError(f"{folder} has one photograph per label, so none can be found; add a second of some label.")
    found = [
        Labelled(
            f"{label.name}/{path.name}", label.name, path, masks and masks / label.name / path.with_suffix(".png").name
        )
        for label, paths in photographs.items()
        for path in paths
    ]
    wanted = [one.mask for one in found if one.mask]
    if missing := [str(mask) for mask in wanted if not mask.is_file()]:
        raise InputError(f"Masks are missing: {first_few(missing)}; add them, or set no folder of masks.")
    if shared := [str(mask) for mask, count in Counter(wanted).items() if count > 1]:
        raise InputError(f"Several photographs have the mask {first_few(shared)}; rename them and their masks.")
    return found


def _photographs(label: Path) -> list[Path]:
    visible = [path for path in sorted(label.iterdir()) if not path.name.startswith(".")]
    if passed := [str(path) for path in visible if not path.is_file()]:
        raise InputError(f"These are no files and would be passed over: {first_few(passed)}; move or repair them.")
    if unread := unread_photographs({"": str(label)}):
        raise InputError(f"These formats are not read: {first_few(unread)}; convert the files, or move them elsewhere.")
    paths = [Path(path) for path in image_files({"": str(label)})[0].values()]
    if faults := [fault for path in paths if (fault := unsayable(path))]:
        raise InputError(f"{first_few(faults, '; ')}.")
    return paths
