"""What an artefact was made from: digests of the code and versions of the tools. Standard library only."""

import hashlib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGE = Path(__file__).parent


def code_digest(*rooms: str) -> str:
    """A digest of modules and folders of this package, by name: `archive` or `models`.

    Rules put it among their parameters, so that a change of the library reruns what it affects.
    """
    digest = hashlib.sha256()
    for room in rooms:
        module = PACKAGE / f"{room}.py"
        folder = (path for path in (PACKAGE / room).rglob("*") if path.is_file() and path.suffix != ".pyc")
        paths = [module] if module.is_file() else sorted(folder)
        if not paths:
            raise ValueError(f"the package has no room {room!r}")
        for path in paths:
            digest.update(path.relative_to(PACKAGE).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The installed version of every package; those that are not installed are left out."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
