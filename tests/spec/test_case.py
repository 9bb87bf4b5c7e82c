"""Cases: which image at which size."""

from pathlib import Path

import pytest

from vit2onnx.spec.case import Case, image_files, last_word, layer_inputs, unread_photographs


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
            "images.empty: there is no photograph (.jpg, .jpeg, .png, .webp, .avif, .tif, .tiff, .bmp) in the folder"
            f" {folder}/deeper.jpg",
            f"images.gone: there is no file {folder}/gone.jpg",
            f"images.none: there is no file {folder}/*.gif",
        ],
    )


@pytest.mark.parametrize(
    "names",
    [
        ["a 2 x.png", "a@2 x.png", "a_2_x.png"],
        ["кот.jpg", "пёс.jpg", "猫.jpg", "köln.jpg", "ko\u0308ln.jpg"],
        ["🐈.jpg", "🐕.jpg", "👩‍👩‍👧.jpg"],
        [
            "-rf.jpg",
            "--help.jpg",
            "$HOME.jpg",
            "`x`.jpg",
            "it's.jpg",
            '"x".jpg',
            "a;b.jpg",
            "*.jpg",
            "[a].jpg",
            "a?.jpg",
        ],
        [" a.jpg", "a .jpg", "%s.jpg", "a\\b.jpg", "a#b.jpg", "a: b.jpg", "@.jpg", "a@48x112.jpg"],
    ],
)
def test_each_photograph_has_a_name_of_its_own(tmp_path: Path, names: list[str]):
    for name in names:
        (tmp_path / name).touch()
    found, faults = image_files({"mine": str(tmp_path)})
    assert faults == []
    assert sorted(found.values()) == sorted(f"{tmp_path}/{name}" for name in names)
    for name in found:
        # As in files, where nothing but letters of any script and digits comes from the photograph.
        assert name.replace("_", "").replace("-", "").replace(".", "").isalnum()
        assert Case.parse(str(Case(name, 16, 32))) == Case(name, 16, 32)


def test_scripts_other_than_latin_are_kept_and_composed(tmp_path: Path):
    for name in ("кот.jpg", "ko\u0308ln.jpg"):
        (tmp_path / name).touch()
    assert list(image_files({"mine": str(tmp_path)})[0]) == ["mine-köln.jpg", "mine-кот.jpg"]


def test_a_name_that_an_entry_has_is_numbered(folder: Path):
    found, faults = image_files({"mine-b.JPG": f"{folder}/c.webp", "mine": str(folder)})
    assert found["mine-b.JPG"] == f"{folder}/c.webp"
    assert found["mine-b.JPG-2"] == f"{folder}/b.JPG"
    assert faults == []


@pytest.mark.parametrize(
    "name", ["a{b}.jpg", "{variant}.jpg", "<x>.jpg", "<results>.jpg", "a\nb.jpg", "\x1b[2J.jpg", "\udcff.jpg", "{}.jpg"]
)
def test_what_snakemake_would_misread_is_named_with_the_way_out(tmp_path: Path, name: str):
    (tmp_path / name).touch()
    for entry in (f"{tmp_path}/{name}", str(tmp_path), f"{tmp_path}/*.jpg"):
        _, (fault,) = image_files({"mine": entry})
        assert fault.startswith("images.mine: rename '") and ascii(name)[1:-1] in fault
        assert fault.isascii() and fault.isprintable()


def test_hidden_files_are_no_photographs(tmp_path: Path):
    for name in ("IMG_1.jpg", "._IMG_1.jpg", ".thumb.png"):
        (tmp_path / name).write_bytes(b"\x00\x05\x16\x07")
    for entry in (str(tmp_path), f"{tmp_path}/*", f"{tmp_path}/*.jpg"):
        assert list(image_files({"mine": entry})[0].values()) == [f"{tmp_path}/IMG_1.jpg"]


def test_photographs_of_other_formats_are_named(tmp_path: Path):
    for name in ("a.jpg", "b.HEIC", "c.gif", "d.jxl", "e.CR3", "._f.heic", "notes.txt", "Thumbs.db"):
        (tmp_path / name).touch()
    unread = unread_photographs({"mine": str(tmp_path), "one": f"{tmp_path}/a.jpg", "some": f"{tmp_path}/*.jpg"})
    assert unread == [f"{tmp_path}/{name}" for name in ("b.HEIC", "c.gif", "d.jxl", "e.CR3")]


def test_inputs_of_layers_are_told_from_stages():
    assert layer_inputs({"inputs/blocks.0": 1, "float32/injected/blocks.0.q": 2, "inputs/norm": 3}) == {
        "blocks.0": 1,
        "norm": 3,
    }


def test_the_last_word_of_a_stage_is_its_name_without_tower_and_layer():
    assert [*map(last_word, ("norm", "vision.norm", "vision.blocks.0.q"))] == ["norm", "norm", "q"]
