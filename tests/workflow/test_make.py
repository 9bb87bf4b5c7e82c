"""`make` gives programs what the command line says, whatever the environment and the paths are."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from workflow_project import ROOT

# In the place of the Python of .venv.
PROGRAM = """#!/bin/sh
exec "{python}" -c 'import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ)]))' "$@"
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project that is installed, with a program that says what it is given."""
    folder = tmp_path / "it's a köln"
    (folder / ".venv" / "bin").mkdir(parents=True)
    for name in ("Makefile", "requirements.lock", "config"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    program = folder / ".venv" / "bin" / "python"
    program.write_text(PROGRAM.format(python=sys.executable))
    program.chmod(0o755)
    (folder / ".venv" / "installed").touch()
    return folder


def made(project: Path, *arguments: str, **environment: str) -> tuple[list[str], dict[str, str]]:
    """What the only program is given by `make`: its arguments and its environment."""
    (given,) = all_made(project, *arguments, **environment)
    return given


def all_made(project: Path, *arguments: str, **environment: str) -> list[tuple[list[str], dict[str, str]]]:
    """What every program is given."""
    command = ["make", "--silent", *arguments]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "PYTHON", "XDG"))}
    done = subprocess.run(command, cwd=project, env=clean | environment, capture_output=True, text=True, check=True)
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def test_what_the_environment_calls_alike_is_not_asked_for(project: Path):
    left = {"CORES": "3", "WEIGHTS": "official", "VARIANT": "debian", "CONFIGS": "/x"}
    left |= {"CHECKPOINT": "/x", "PART": "teacher", "IGNORE": "head.*", "NAME": "x"}
    plain = ["-m", "snakemake", "--cores", "all", "--config", "weights=synthetic"]
    report = ["--report", "results/synthetic/report.html", "--report-after-run"]
    assert made(project, "run", **left)[0] == made(project, "run")[0] == plain + report
    assert made(project, "run", "CORES=2", **left)[0][3] == "2"


def test_pythons_settings_stay_outside(project: Path):
    left = {"PYTHONPATH": "/x", "PYTHONHOME": "/x", "PYTHONSTARTUP": "/x", "PYTHONOPTIMIZE": "2", "PYTHONUTF8": "0"}
    _, environment = made(project, "run", **left)
    assert {name: value for name, value in environment.items() if name.startswith("PYTHON")} == {"PYTHONUTF8": "1"}


@pytest.mark.parametrize("home", [{"HOME": "/dev/null"}, {"HOME": "/proc"}, {"XDG_CACHE_HOME": "/dev/null/x"}])
def test_who_has_no_home_gets_a_cache(project: Path, home: dict[str, str]):
    assert made(project, "run", **home)[1]["XDG_CACHE_HOME"] == f"{project}/.snakemake/cache"


def test_a_home_is_used(project: Path, tmp_path: Path):
    assert "XDG_CACHE_HOME" not in made(project, "run", HOME=str(tmp_path))[1]
    assert made(project, "run", XDG_CACHE_HOME=str(tmp_path))[1]["XDG_CACHE_HOME"] == str(tmp_path)


@pytest.mark.parametrize("path", ["~/a b.pth", "/tmp/it's a köln/x.pth", "/a;b &c #d: {e}/f,[g].pth"])
def test_a_checkpoint_may_lie_anywhere(project: Path, path: str):
    arguments, _ = made(project, "run", "VARIANT=v", f"CHECKPOINT={path}")
    asked = f'official={{checkpoints: {{v: "{path}"}}}}'
    assert arguments[4:8] == ["--config", "weights=official", "variants=v", asked]
    described, run = all_made(project, "run", f"CHECKPOINT={path}", "PART=it's")
    config = "results/own/config.json"
    assert described[0] == ["-m", "vit2onnx.describe", path, "--config", config, "--part", "it's"]
    assert run[0][4:8] == ["--configfile", config, "--config", "weights=own"]
