"""Runtimes are installed once, each in its own folder, in the versions that pyproject.toml pins."""

import subprocess
from pathlib import Path

import pytest

from vit2onnx.errors import InputError
from vit2onnx.runtimes.installing import install, packages_of
from vit2onnx.runtimes.register import OWN, ROOT, RUNTIMES, Runtime, chosen

PROJECT = ROOT / "pyproject.toml"
ENVIRONMENTS = sorted({one.environment for one in RUNTIMES} - {OWN})


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_every_environment_pins_its_runtime(name: str) -> None:
    packages = packages_of(name, PROJECT)
    assert [package for package in packages if "==" in package or "@" in package]


def test_an_environment_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], **options) -> None:
        commands.append(command)
        if "venv" in command:
            Path(command[-1]).mkdir()

    monkeypatch.setattr(subprocess, "run", run)
    assert not install(chosen("openvino,openvino_f32,ncnn,onnxruntime"), tmp_path, PROJECT)
    # One for both ways to run OpenVINO, none for the project's own onnxruntime.
    assert sorted(path.name for path in tmp_path.iterdir()) == [".gitignore", "ncnn", "openvino"]
    alone = [command for command in commands if "--no-deps" in command]
    assert len(alone) == 1 and alone[0][-1].startswith("pnnx==")
    assert not [command for command in commands if "--no-deps" not in command and command[-1].startswith("pnnx")]
    before = len(commands)
    assert not install(chosen("openvino,ncnn"), tmp_path, PROJECT)
    assert len(commands) == before


def test_what_fails_is_told_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(command: list[str], **options) -> None:
        Path(tmp_path / "tract").mkdir(exist_ok=True)
        raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(subprocess, "run", fail)
    for _ in range(2):
        (fault,) = install(chosen("tract"), tmp_path, PROJECT)
        assert fault.startswith("tract could not be installed")


def test_what_needs_other_hardware_is_left_out(tmp_path: Path) -> None:
    assert not install([Runtime("x", "x", "x", "onnxruntime_cuda", needs=("no-such-program",))], tmp_path, PROJECT)
    assert not (tmp_path / "onnxruntime_cuda").exists()


def test_an_unknown_runtime_is_named() -> None:
    with pytest.raises(InputError, match="There is no runtime openvno; name some of onnxruntime, "):
        chosen("tract,openvno")
    assert chosen("") == RUNTIMES
    assert [one.name for one in chosen(" mnn, tract")] == ["mnn", "tract"]
