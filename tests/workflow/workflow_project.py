"""Run the workflow in a copy of the project."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
TINY = "dinov3_tiny"


def edit_config(project: Path, change: Callable[[dict], object]) -> None:
    path = project / "config" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    change(config)
    path.write_text(yaml.safe_dump(config, sort_keys=False))


def snakemake(project: Path, *arguments: str, fails: bool = False, **environment: str) -> str:
    """Run Snakemake in a project and return what it prints; `fails` says whether it should."""
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "2", *arguments],
        cwd=project,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert (done.returncode != 0) == fails, done.stdout
    return done.stdout
