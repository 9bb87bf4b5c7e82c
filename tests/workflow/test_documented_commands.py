"""Commands of the guide to dense maps are planned as they stand there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from workflow_project import ROOT

GUIDE = (ROOT / "docs" / "dense.md").read_text()
CONFIG, OWN = re.findall(r"```yaml\n(weights: .*?)```", GUIDE, re.S)
FIRST, SECOND = re.findall(r"^python -m snakemake .*$", GUIDE, re.M)


def planned(command: str, folder: Path) -> str:
    """What a command would do in a folder."""
    arguments = command.replace("python", f"'{sys.executable}'", 1) + f" --snakefile '{ROOT}/Snakefile' --dry-run"
    done = subprocess.run(arguments, shell=True, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_two_releases_are_compared(tmp_path: Path) -> None:
    (tmp_path / "dense.yaml").write_text(CONFIG.replace("official", "synthetic"))
    (folder,) = re.findall(r"^R=.*$", GUIDE, re.M)
    output = planned(FIRST.replace("$R", folder.removeprefix("R=").replace("official", "synthetic")), tmp_path)
    assert re.search(r"render pair +1\b", output)
    assert not re.search(r"export onnx", output)


def test_two_checkpoints_are_compared(tmp_path: Path, tiny) -> None:
    text = re.sub(r"before: [^,]*, after: [^}]*", f"before: '{tiny.checkpoint}', after: '{tiny.checkpoint}'", OWN)
    (tmp_path / "own.yaml").write_text(text)
    assert re.search(r"compare models +1\b", planned(SECOND, tmp_path))


@pytest.mark.parametrize("name", ["dense.yaml", "own.yaml"])
def test_both_files_are_named_in_the_commands(name: str) -> None:
    assert f"--configfile {name}" in GUIDE
