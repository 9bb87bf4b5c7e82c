"""Run the workflow in a copy of the project."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
TINY = "dinov3_tiny"


def make_tiny_project(project: Path) -> None:
    """Copy the project to an empty folder, with a tiny variant only, and two photographs at two sizes."""
    for name in ("LICENSE", "Snakefile", "workflow", "vit2onnx", "config", "profiles", "resources", "envs"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, project / name)
    (project / ".venv").symlink_to(sys.prefix)
    add_variant(
        project,
        TINY,
        like="dinov3_vits16_pretrain_lvd1689m",
        architecture={"embed_dim": 48, "depth": 2, "num_heads": 3, "ffn_hidden": 96},
    )
    edit_config(project, lambda config: config.update(variants=[TINY]))
    edit_config(project, lambda config: [config["images"].pop(name) for name in ("astronaut", "chelsea")])
    edit_config(
        project,
        lambda config: config["parity"].update(sizes=[[48, 112], [50, 34]], batch_sizes=[1, 3]),
    )


def add_variant(project: Path, name: str, *, like: str, architecture: dict[str, object]) -> None:
    """Add a small variant that is as a released one but for its dimensions."""
    path = variant_file(project, like)
    variant = yaml.safe_load(path.read_text())
    variant["parameters"] = 100_000
    variant["architecture"] |= architecture
    path.with_name(f"{name}.yaml").write_text(yaml.safe_dump(variant))


def variant_file(project: Path, name: str) -> Path:
    """The file of a variant of a project."""
    (path,) = (project / "config" / "variants").glob(f"*/{name}.yaml")
    return path


def edit_config(project: Path, change: Callable[[dict], object]) -> None:
    path = project / "config" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    change(config)
    path.write_text(yaml.safe_dump(config, sort_keys=False))


def set_limit(project: Path, name: str, value: float) -> None:
    """Set a limit of the verdict, of graphs or of the preprocessing."""
    path = project / "config" / "limits.yaml"
    limits = yaml.safe_load(path.read_text())
    for of in limits["limits"].values():
        if name in of:
            of[name]["limit"] = value
    path.write_text(yaml.safe_dump(limits, sort_keys=False))


def python_of(project: Path) -> str:
    """This Python, by its path in a project that has one."""
    own = project / ".venv" / "bin" / "python"
    return str(own) if own.exists() else sys.executable


def snakemake(project: Path, *arguments: str, fails: bool = False, **environment: str) -> str:
    """Run Snakemake in a project and return what it prints; `fails` says whether it should."""
    done = subprocess.run(
        [python_of(project), "-m", "snakemake", "--cores", "2", *arguments],
        cwd=project,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert (done.returncode != 0) == fails, done.stdout
    return done.stdout
