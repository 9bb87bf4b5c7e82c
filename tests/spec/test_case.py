"""Cases: which image at which size."""

from pathlib import Path

import pytest

from vit2onnx.spec.case import Case, case_of_stages, image_files, layer_inputs, sizes_of
from vit2onnx.spec.recipe import Recipe

STATIC = Recipe("static", 23, {"batch": 1, "height": 224, "width": 224})
WIDE = Recipe("wide", 23, {"batch": 1, "height": 224, "width": None})
DYNAMIC = Recipe("dynamic", 23, {"batch": None, "height": None, "width": None})
LISTED = [(512, 320), (48, 112), (224, 64)]


@pytest.mark.parametrize("case", [Case("astronaut", 224, 160), Case("me@work", 48, 112), Case("a b-c.d", 16, 1600)])
def test_a_case_is_read_as_it_is_written(case):
    assert Case.parse(str(case)) == case


def test_a_case_is_written_height_first():
    assert str(Case("astronaut", 224, 160)) == "astronaut@224x160"


@pytest.mark.parametrize("text", ["astronaut", "astronaut@224", "astronaut@x", "astronaut@axb", ""])
def test_what_is_no_case_is_refused(text):
    with pytest.raises(ValueError, match="invalid literal"):
        Case.parse(text)


def test_cases_sort_by_image_then_size():
    cases = [Case("b", 16, 16), Case("a", 224, 16), Case("a", 16, 224), Case("a", 16, 16)]
    assert list(map(str, sorted(cases))) == ["a@16x16", "a@16x224", "a@224x16", "b@16x16"]


@pytest.mark.parametrize(
    "exports, sizes",
    [
        ([STATIC], [(224, 224)]),
        ([DYNAMIC], sorted(LISTED)),
        ([WIDE], [(224, 64)]),
        ([STATIC, WIDE], [(224, 64), (224, 224)]),
        ([STATIC, DYNAMIC], [(48, 112), (224, 64), (224, 224), (512, 320)]),
        ([], []),
    ],
    ids=["static", "dynamic", "wide", "static and wide", "static and dynamic", "none"],
)
def test_sizes_are_those_listed_that_fit_and_those_that_are_fixed(exports, sizes):
    assert sizes_of(iter(exports), iter(LISTED)) == sizes


def test_a_size_that_is_both_listed_and_fixed_is_compared_once():
    assert sizes_of([STATIC, DYNAMIC], [(224, 224)]) == [(224, 224)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three photographs, one with a name that no case can have, and what is none."""
    for name in ("b.JPG", "a@2 x.png", "c.webp", "notes.txt", ".hidden"):
        (tmp_path / name).touch()
    (tmp_path / "deeper.jpg").mkdir()
    return tmp_path


def test_a_file_keeps_its_entrys_name(folder: Path):
    assert image_files({"cat": f"{folder}/b.JPG"}) == ({"cat": f"{folder}/b.JPG"}, [])


def test_a_folder_gives_its_photographs_in_order_with_safe_names(folder: Path):
    found, faults = image_files({"mine": str(folder)})
    assert found == {
        "mine-a_2_x.png": f"{folder}/a@2 x.png",
        "mine-b.JPG": f"{folder}/b.JPG",
        "mine-c.webp": f"{folder}/c.webp",
    }
    assert faults == []
    assert all(Case.parse(str(Case(name, 16, 32))) == Case(name, 16, 32) for name in found)


@pytest.mark.parametrize("relative", [False, True])
def test_a_pattern_gives_the_files_that_match(folder: Path, relative: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    found, faults = image_files({"some": "[bc].*" if relative else f"{folder}/[bc].*"})
    assert list(found) == ["some-b.JPG", "some-c.webp"]
    assert faults == []


def test_what_was_found_is_found_again_as_it_is(folder: Path):
    found, _ = image_files({"mine": str(folder), "cat": f"{folder}/b.JPG"})
    assert image_files(found) == (found, [])


def test_a_home_is_expanded(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(folder))
    assert image_files({"cat": "~/c.webp"}) == ({"cat": f"{folder}/c.webp"}, [])


def test_what_gives_no_photograph_is_named(folder: Path):
    (folder / "deeper.jpg" / "notes.txt").touch()
    entries = {"empty": f"{folder}/deeper.jpg", "gone": f"{folder}/gone.jpg", "none": f"{folder}/*.gif"}
    assert image_files(entries) == (
        {},
        [
            "images.empty: there is no photograph (.jpg, .jpeg, .png, .webp, .tif, .tiff, .bmp) in the folder"
            f" {folder}/deeper.jpg",
            f"images.gone: there is no file {folder}/gone.jpg",
            f"images.none: there is no file {folder}/*.gif",
        ],
    )


def test_photographs_of_one_name_are_named(folder: Path):
    (folder / "a_2_x.png").touch()
    _, (fault,) = image_files({"mine": str(folder)})
    assert (
        fault
        == f"images.mine: {folder}/a@2 x.png and {folder}/a_2_x.png would both be named mine-a_2_x.png; rename one"
    )


@pytest.mark.parametrize(
    ("export", "sizes", "size"),
    [
        # The first that is not square, in the order of the list.
        (DYNAMIC, [(224, 224), (160, 288), (48, 112)], (160, 288)),
        (DYNAMIC, [(224, 224), (448, 448)], (224, 224)),
        (WIDE, [(48, 112), (224, 224), (224, 64)], (224, 64)),
        # A fixed size need not be listed.
        (STATIC, [(48, 112)], (224, 224)),
    ],
)
def test_stages_are_compared_where_rows_and_columns_differ(export, sizes, size):
    assert case_of_stages("astronaut", export, sizes) == Case("astronaut", *size)


def test_inputs_of_layers_are_told_from_stages():
    assert layer_inputs({"inputs/blocks.0": 1, "float32/injected/blocks.0.q": 2, "inputs/norm": 3}) == {
        "blocks.0": 1,
        "norm": 3,
    }
