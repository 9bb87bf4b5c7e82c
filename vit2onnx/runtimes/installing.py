"""Install runtimes, each in an environment of its own, so that none changes another or the project's own."""

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path

from vit2onnx.errors import InputError
from vit2onnx.runtimes.register import FOLDER, OWN, ROOT, Runtime

# Environments of npm's packages. The others are dependency groups in pyproject.toml.
NPM = {"web": ("onnxruntime-web@1.30.0",)}
# Packages whose dependencies are left out: pnnx imports torch, and its program, which alone is used, does not.
ALONE = ("pnnx",)
# What a finished environment holds: a list of its packages.
DONE = "installed.txt"


def install(runtimes: Iterable[Runtime], folder: Path = FOLDER, project: Path = ROOT / "pyproject.toml") -> list[str]:
    """Install the environments of runtimes that are not there yet; returns a sentence for each that failed.

    What needs a program that this machine lacks is left out. Raises `InputError` if pip or npm are missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Nothing in it belongs to the project.
    (folder / ".gitignore").write_text("*\n")
    wanted = {one.environment for one in runtimes if not one.lacks} - {OWN}
    faults = []
    for name in sorted(wanted):
        packages, place = packages_of(name, project), folder / name
        done = place / DONE
        if done.is_file() and done.read_text().split() == list(packages):
            continue
        print(f"Installing {', '.join(packages)} into {place}.", flush=True)
        try:
            _npm(place, packages) if name in NPM else _pip(place, packages)
        except subprocess.CalledProcessError as error:
            faults.append(f"{name} could not be installed: {error.cmd[0]} ended with status {error.returncode}.")
        else:
            done.write_text("\n".join(packages) + "\n")
    return faults


def packages_of(name: str, project: Path) -> Sequence[str]:
    """The packages of an environment, with their versions."""
    if name in NPM:
        return NPM[name]
    if not project.is_file():
        raise InputError(f"{project} is missing, which lists the runtimes' packages; run this in the project's folder.")
    groups = tomllib.loads(project.read_text()).get("dependency-groups", {})
    if group := groups.get(name):
        return [str(package) for package in group]
    raise InputError(f"{project} has no dependency group {name}; take the file as it was released.")


def _pip(place: Path, packages: Sequence[str]) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    alone = [package for package in packages if re.split(r"\W", package)[0] in ALONE]
    for some, flags in (([package for package in packages if package not in alone], []), (alone, ["--no-deps"])):
        if some:
            pip = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, *flags, *some], check=True)


def _npm(place: Path, packages: Sequence[str]) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise InputError("There is no npm, which installs onnxruntime-web; install Node 20 or newer.")
    place.mkdir(exist_ok=True)
    subprocess.run([npm, "install", "--silent", "--ignore-scripts", "--prefix", str(place), *packages], check=True)
