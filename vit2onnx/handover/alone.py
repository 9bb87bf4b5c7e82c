"""`verify.py` and `packing.py` as files that need nothing of vit2onnx, to be handed over with the graph."""

import ast
from collections.abc import Iterator
from pathlib import Path

from vit2onnx import __version__, verify
from vit2onnx.errors import InternalError
from vit2onnx.packing import arrays
from vit2onnx.provenance import PACKAGE, modules_of

HEAD = '''"""{doc}"""

# Written by vit2onnx {version} from its modules
# {modules}.
# Apache License 2.0. Runs on Python {python} and newer.

from __future__ import annotations
'''
NEEDED = """
try:
    import numpy
    import onnxruntime
except ImportError as missing:
    raise SystemExit(f"error: {missing}; pip install numpy onnxruntime") from None
"""


def verify_alone() -> str:
    """The program that verifies a graph."""
    return _alone(Path(verify.__file__), verify.__doc__, NEEDED, python="3.9")


def packing_alone() -> str:
    """The module that makes the inputs of packed graphs and takes their outputs apart."""
    return _alone(Path(arrays.__file__), arrays.__doc__, "", python="3.10")


def _alone(module: Path, doc: str | None, needed: str, *, python: str) -> str:
    """The source of a module after that of all modules of vit2onnx that it imports, each before its first use."""
    modules = list(_in_order(module, set()))
    names = ", ".join(path.relative_to(PACKAGE).as_posix() for path in modules)
    head = HEAD.format(doc=doc, version=__version__, modules=names, python=python) + needed
    return "\n\n".join([head, *(_body(path) for path in modules)])


def _in_order(path: Path, seen: set[Path]) -> Iterator[Path]:
    """A module of vit2onnx after all that it imports, each once."""
    seen.add(path)
    for module in modules_of(path):
        if module not in seen and module.name != "__init__.py":
            yield from _in_order(module, seen)
    yield path


def _body(path: Path) -> str:
    """The lines of a module without its docstring and its imports from vit2onnx."""
    lines = path.read_text().splitlines()
    tree = ast.parse("\n".join(lines))
    for node in tree.body:
        if (node is tree.body[0] and ast.get_docstring(tree)) or _is_ours(node):
            lines[node.lineno - 1 : node.end_lineno] = [""] * ((node.end_lineno or node.lineno) - node.lineno + 1)
    body = "\n".join(lines).strip() + "\n"
    if any(map(_is_ours, ast.walk(ast.parse(body)))):
        raise InternalError(f"{path} imports from vit2onnx within a function, which cannot be left out")
    return body


def _is_ours(node: ast.AST) -> bool:
    """Whether a statement imports names from vit2onnx without renaming them."""
    if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE.name:
        return not any(alias.asname for alias in node.names)
    return False
