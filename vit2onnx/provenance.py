"""What an artefact was made from: digests of the code and versions of the tools. Standard library only."""

import ast
import hashlib
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGE = Path(__file__).parent
FAMILIES = PACKAGE / "families"
SCRIPTS = PACKAGE.parent / "workflow" / "scripts"


@cache
def code_digest(script: str, *families: str) -> str:
    """A digest of all of this package that a script of the workflow runs, by the script's name, for some families.

    Rules put it among their parameters, so that a change of the library reruns what it affects. What lies in a module's
    folder and is no module, such as a template, counts as the module's.
    """
    digest = hashlib.sha256()
    for path in sorted(_with_data(closure(SCRIPTS / f"{script}.py", families))):
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def closure(path: Path, families: Iterable[str] = ()) -> set[Path]:
    """The modules of this package that a file imports, at its top or in a function, and that these import in turn.

    Where one of them asks the register for a part of a family, the part counts as imported, for each of `families`.
    """
    found: set[Path] = set()
    queue = [path]
    while queue:
        path = queue.pop()
        _, parts = imported(path)
        modules = {*modules_of(path), *(FAMILIES / family / f"{part}.py" for family in families for part in parts)}
        new = {module for module in modules if module.is_file()} - found
        found |= new
        queue += new
    return found


@cache
def imported(path: Path) -> tuple[frozenset[str], frozenset[str]]:
    """The full names of all that a file imports, at its top or in a function, modules and what is taken from them; and
    the parts of families that it asks for: the second argument of every `part(family, "name")` or `optional(…)`.
    """
    names: set[str] = set()
    parts: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("part", "optional"):
            # Within the register, the name is not known.
            parts |= {str(name.value) for name in node.args[1:2] if isinstance(name, ast.Constant)}
    return frozenset(names), frozenset(parts)


@cache
def modules_of(path: Path) -> tuple[Path, ...]:
    """The modules of this package that a file imports itself, in the order of their names, and the packages around."""
    split = [name.split(".") for name in sorted(imported(path)[0])]
    inner = [parts for first, *parts in split if first == PACKAGE.name]
    bases = (PACKAGE.joinpath(*parts[:end]) for parts in inner for end in range(len(parts) + 1))
    files = (file for base in bases for file in (base.with_suffix(".py"), base / "__init__.py"))
    return tuple(file for file in files if file.is_file())


def _with_data(modules: set[Path]) -> set[Path]:
    folders = {module.parent for module in modules}
    others = (path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc", ".md"))
    return modules | {path for path in others if _package_of(path) in folders}


def _package_of(path: Path) -> Path:
    """The nearest folder around a file that is a package."""
    return next(folder for folder in path.parents if (folder / "__init__.py").is_file())


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The installed version of every package; those that are not installed are left out."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
