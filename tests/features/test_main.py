"""The command that turns photographs into a file of features, or says in one sentence why it does not."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import Spine
from tests.features.test_packed import DYNAMIC, FOLDER, PACKED
from vit2onnx.errors import InputError
from vit2onnx.features import Packed
from vit2onnx.features import __main__ as command
from vit2onnx.features.__main__ import main
from vit2onnx.files import read_arrays
from vit2onnx.onnx_file import initializers


@pytest.fixture(scope="module")
def graph(tiny: Spine) -> Path:
    return tiny.export(PACKED)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with two photographs of one name and what is none."""
    for path in ("chelsea.jpg", "photos/coffee.jpg", "photos/chelsea.jpg"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        shutil.copy(FOLDER / Path(path).name, tmp_path / path)
    (tmp_path / "photos/notes.txt").touch()
    (tmp_path / "photos/._coffee.jpg").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What is said instead of features, in one line without a traceback."""
    assert main([*map(str, arguments)]) == 1
    told = capsys.readouterr()
    assert not told.out and told.err.endswith(".\n") and told.err.count("\n") == 1
    return told.err


def test_photographs_become_one_file(graph: Path, here: Path, capsys: pytest.CaptureFixture[str]):
    before = files(here)
    assert main([str(graph), "chelsea.jpg", "--max-patches", "64", "photos"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "photograph     height x width  patches",
        "chelsea.jpg          96 x 144       54",
        "chelsea.jpg-2        96 x 144       54",
        "coffee.jpg           96 x 144       54",
        "Wrote features.npz.",
    ]
    assert files(here) - before == {"features.npz"}
    found = read_arrays(here / "features.npz")
    photographs = ["chelsea.jpg", "photos/chelsea.jpg", "photos/coffee.jpg"]
    wanted = Packed(graph).features([here / path for path in photographs], 64)
    assert len(found) == 3 * len(wanted)
    for name, one in zip(("chelsea.jpg", "chelsea.jpg-2", "coffee.jpg"), wanted, strict=True):
        for part in ("cls", "registers", "patches"):
            assert np.array_equal(found[f"{name}/{part}"], getattr(one, part))
    with np.load(here / "features.npz") as as_numpy_has_it:
        assert as_numpy_has_it["coffee.jpg/patches"].shape == (6, 9, 48)


def test_the_output_and_the_number_of_patches_are_as_asked(graph: Path, here: Path, capsys: pytest.CaptureFixture[str]):
    Image.new("RGB", (700, 650)).save("large.png")
    (here / "out").mkdir()
    for patches, size in (("1024", "480 x 528      990"), ("none", "656 x 704     1804")):
        assert main([str(graph), "large.png", "-o", "out/mine.npz", "--max-patches", patches]) == 0
        told = capsys.readouterr().out
        assert size in told and told.endswith("Wrote out/mine.npz.\n")
    assert main([str(graph), "large.png"]) == 0
    assert "480 x 528" in capsys.readouterr().out
    # The file of before was replaced.
    assert read_arrays(here / "out/mine.npz")["large.png/patches"].shape == (41, 44, 48)


def test_patterns_are_taken_as_a_shell_does(graph: Path, here: Path, capsys: pytest.CaptureFixture[str]):
    assert main([str(graph), "photos/*.jpg", "--max-patches", "4"]) == 0
    assert list(read_arrays(here / "features.npz"))[::3] == ["chelsea.jpg/cls", "coffee.jpg/cls"]


def test_a_name_that_no_terminal_can_show_is_escaped(graph: Path, here: Path, capsys: pytest.CaptureFixture[str]):
    names = [b"a\x1b[31m.png", b"\xff.png", "кот {1}.png".encode(), b"a.png-2", b"a.png"]
    for name in names:
        Image.new("RGB", (16, 16)).save(here / "new.png")
        os.replace(here / "new.png", os.fsencode(here) + b"/" + name)
    (here / "more").mkdir()
    shutil.copy("a.png", "more")
    os.replace("a.png-2", "a.png-2.png")
    assert main([str(graph), *(os.fsdecode(name) for name in names[:3]), "a.png", "more"]) == 0
    assert "\x1b" not in capsys.readouterr().out
    told = {key.partition("/")[0] for key in read_arrays(here / "features.npz")}
    assert told == {r"a\x1b[31m.png", r"\udcff.png", "кот {1}.png", "a.png", "a.png-2"}


def test_names_are_given_once():
    given = ("x/a.jpg", "y/a.jpg", "a.jpg-2", "z/a.jpg", "b.jpg")
    assert command.names_of(map(Path, given)) == ["a.jpg", "a.jpg-2", "a.jpg-2-2", "a.jpg-3", "b.jpg"]


def test_a_model_without_registers_has_none_in_the_file(graph: Path, here: Path):
    (image,) = Packed(graph).features(["chelsea.jpg"], 4)
    found = command.arrays_of("a.jpg", image._replace(registers=image.registers[:0]))
    assert list(found) == ["a.jpg/cls", "a.jpg/patches"]


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ([], "There are no photographs; name files or a folder."),
        (["gone.jpg"], "gone.jpg: there is no such photograph; correct the path or put the file there."),
        (
            ["empty"],
            "empty: there is no photograph (.jpg, .jpeg, .png, .webp, .avif, .tif, .tiff, .bmp) in this folder",
        ),
        (["*.gif"], "*.gif: there is no such photograph"),
        (["photos", "photos/notes.txt"], "photos/notes.txt: this is not a complete, readable image"),
        (["photos", "--max-patches", "0"], "--max-patches is 0; give a whole number of at least 1, or none for no l"),
        (["photos", "--max-patches=-5"], "--max-patches is -5; give"),
        (["photos", "--max-patches", "2.5"], "--max-patches is 2.5; give"),
        (["photos", "--max-patches", "many"], "--max-patches is many; give"),
        (["photos", "-o", "gone/features.npz"], "gone: there is no such folder for features.npz; make it or name an"),
        (["photos", "-o", "photos"], "photos is a folder; name a file in it."),
        (["photos", "-o", "features.jpg"], "features.jpg does not end in .npz; name a file that does."),
        (["photos", "-o", "photos/coffee.jpg"], "photos/coffee.jpg is one of the inputs; name another file for the"),
        (["photos", "-o", "empty/../photos/coffee.jpg"], "empty/../photos/coffee.jpg is one of the inputs"),
        (["photos", "-o", "link.npz"], "link.npz is one of the inputs; name another file"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    arguments: list[str], sentence: str, graph: Path, here: Path, capsys: pytest.CaptureFixture[str]
):
    (here / "empty").mkdir()
    (here / "link.npz").symlink_to("chelsea.jpg")
    before = {path: (here / path).read_bytes() for path in files(here)}
    assert sentence in refusal(capsys, graph, *(["chelsea.jpg"] if arguments else []), *arguments)
    assert {path: (here / path).read_bytes() for path in files(here)} == before


def test_a_graph_and_its_weights_are_not_overwritten(tiny: Spine, here: Path, capsys: pytest.CaptureFixture[str]):
    graph = tiny.export(PACKED, external=True)
    (weights,) = {one.file for one in initializers(graph).values()} - {graph}
    for path in (graph, weights):
        assert f"{path} is one of the inputs" in refusal(capsys, graph, "chelsea.jpg", "-o", path)


def test_a_graph_of_single_images_is_refused(tiny: Spine, here: Path, capsys: pytest.CaptureFixture[str]):
    assert "takes single images; export a packed graph: exp" in refusal(capsys, tiny.export(DYNAMIC), "chelsea.jpg")


def test_all_photographs_that_cannot_be_read_are_named_before_any_is_computed(
    graph: Path, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Packed, "run", None)
    (here / "photos/b.png").write_bytes(b"none")
    (here / "photos/c.jpg").write_bytes((here / "chelsea.jpg").read_bytes()[:9000])
    Image.new("I;16", (20, 20)).save("photos/d.png")
    before = files(here)
    assert main([str(graph), "photos", "chelsea.jpg"]) == 1
    told = capsys.readouterr()
    first, *others = told.err.splitlines()
    assert not told.out
    assert first == "3 of 6 photographs cannot be read; repair them or leave them out."
    assert [line.partition(":")[0] for line in others] == [f"  photos/{name}" for name in ("b.png", "c.jpg", "d.png")]
    assert files(here) == before


def test_a_photograph_that_may_not_be_read_is_named(
    graph: Path, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(command, "load_image", refuse)
    said = "chelsea.jpg: this photograph cannot be opened (Permission denied); grant permission to read it.\n"
    assert refusal(capsys, graph, "chelsea.jpg") == said


@pytest.mark.parametrize("failure", [InputError("It is full."), OSError(28, "No space left on device")])
def test_a_run_that_breaks_leaves_the_file_of_before(
    failure: Exception, graph: Path, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    (here / "features.npz").write_bytes(b"of before")
    before, run = files(here), Packed.stream

    def breaking(*arguments: Any) -> Any:
        yield next(run(*arguments))
        raise failure

    monkeypatch.setattr(Packed, "stream", breaking)
    assert main([str(graph), "photos"]) == 1
    told = capsys.readouterr()
    assert failure.args[-1] in told.err and "Wrote" not in told.out
    assert files(here) == before and (here / "features.npz").read_bytes() == b"of before"


def test_photographs_of_other_formats_are_told_of(graph: Path, here: Path, capsys: pytest.CaptureFixture[str]):
    (here / "photos/IMG_1.HEIC").touch()
    assert main([str(graph), "photos", "--max-patches", "4"]) == 0
    said = "Left out because of their format: photos/IMG_1.HEIC; convert them to JPEG or PNG.\n"
    assert capsys.readouterr().err == said


def test_it_is_a_module_that_runs(here: Path):
    done = subprocess.run(
        [sys.executable, "-m", "vit2onnx.features", "gone.onnx", "chelsea.jpg"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(FOLDER.parents[1])},
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("gone.onnx cannot be opened (") and done.stderr.count("\n") == 1
