"""A folder of labelled photographs: what is found in it, and what is refused."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from vit2onnx.errors import InputError
from vit2onnx.spec.labelled import Labelled, labelled_images


def written(folder: Path, *names: str) -> Path:
    """A folder with empty files of these names; nothing opens them."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def names(found: Sequence[Labelled]) -> list[str]:
    return [one.name for one in found]


PHOTOGRAPHS = ["cat/2.jpg", "cat/1.PNG", "dog/1.jpg", "a dog/x.webp"]


def test_photographs_are_ordered_by_label_and_name(tmp_path):
    written(tmp_path, *PHOTOGRAPHS)
    found = labelled_images(tmp_path)
    assert names(found) == ["a dog/x.webp", "cat/1.PNG", "cat/2.jpg", "dog/1.jpg"]
    assert [one.label for one in found] == ["a dog", "cat", "cat", "dog"]
    assert found[1].path == tmp_path / "cat/1.PNG" and found[1].mask is None


def test_hidden_and_other_files_are_left_out(tmp_path):
    written(tmp_path, *PHOTOGRAPHS, "cat/._1.jpg", ".cache/1.jpg", "cat/notes.txt", "README.md")
    assert len(labelled_images(tmp_path)) == len(PHOTOGRAPHS)


def test_what_would_be_passed_over_is_told(tmp_path):
    written(tmp_path, *PHOTOGRAPHS)
    link = tmp_path / "cat" / "gone.jpg"
    link.symlink_to(tmp_path / "nowhere.jpg")
    with pytest.raises(InputError, match=r"These are no files and would be passed over: .*gone\.jpg"):
        labelled_images(tmp_path)
    link.unlink()
    written(tmp_path, "cat/deep/3.jpg")
    with pytest.raises(InputError, match=r"would be passed over: .*deep"):
        labelled_images(tmp_path)


def test_a_photograph_that_is_there_twice_is_told(tmp_path):
    written(tmp_path, *PHOTOGRAPHS)
    (tmp_path / "cats").symlink_to(tmp_path / "cat")
    with pytest.raises(InputError, match=r"has a photograph twice \(.*cat"):
        labelled_images(tmp_path)


@pytest.mark.parametrize("place", ["photographs/masks", "masks"], ids=["inside", "beside"])
def test_masks_have_the_names_of_photographs(tmp_path, place):
    folder = written(tmp_path / "photographs", *PHOTOGRAPHS)
    masks = written(tmp_path / place, "cat/2.png", "cat/1.png", "dog/1.png", "a dog/x.png", "cat/unused.png")
    found = labelled_images(folder, masks)
    assert [one.mask for one in found] == [
        masks / name for name in ("a dog/x.png", "cat/1.png", "cat/2.png", "dog/1.png")
    ]


@pytest.mark.parametrize(
    "files, message",
    [
        ([], "0 subfolders"),
        (["1.jpg", "2.jpg"], "0 subfolders"),
        (["cat/1.jpg", "cat/2.jpg"], "1 subfolders"),
        ([*PHOTOGRAPHS, "loose.jpg"], "without a label .loose.jpg.; move"),
        ([*PHOTOGRAPHS, "bird/notes.txt"], "labels without a photograph .bird.; add"),
        ([*PHOTOGRAPHS, "cat/3.HEIC"], "not read: .*3.HEIC; convert"),
        (["cat/1.jpg", "dog/1.jpg"], "one photograph per label"),
        ([*PHOTOGRAPHS, "cat/{a}.jpg"], "rename .*Snakemake"),
    ],
)
def test_a_folder_without_an_answer_is_refused(tmp_path, files, message):
    written(tmp_path, *files)
    with pytest.raises(InputError, match=message):
        labelled_images(tmp_path)


def test_all_missing_masks_are_told_of_at_once(tmp_path):
    folder = written(tmp_path / "photographs", *PHOTOGRAPHS, "eel/1.jpg")
    masks = written(tmp_path / "masks", "cat/2.png")
    with pytest.raises(InputError, match=r"a dog/x\.png.*cat/1\.png.*dog/1\.png, and 1 more; add them"):
        labelled_images(folder, masks)


def test_two_photographs_cannot_share_a_mask(tmp_path):
    folder = written(tmp_path / "photographs", "cat/1.jpg", "cat/1.png", "dog/1.jpg")
    masks = written(tmp_path / "masks", "cat/1.png", "dog/1.png")
    with pytest.raises(InputError, match=r"Several photographs have the mask .*cat/1\.png; rename"):
        labelled_images(folder, masks)


@pytest.mark.parametrize("given", [("none", None), (".", "none")])
def test_a_folder_that_is_none_is_named(tmp_path, given):
    written(tmp_path, *PHOTOGRAPHS)
    folder, masks = (name and tmp_path / name for name in given)
    with pytest.raises(InputError, match=r"no folder .*none; correct"):
        labelled_images(folder, masks)
