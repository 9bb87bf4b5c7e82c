"""`verify.py` as one file that needs nothing of vit2onnx, to be handed over with the graph."""

import ast
from collections.abc import Iterator
from pathlib import Path

from vit2onnx import __version__, verify
from vit2onnx.errors import InternalError
from vit2onnx.provenance import PACKAGE, modules_of

HEAD = '''"""{doc}"""

# Written by vit2onnx {version} from its modules
# {modules}.
# Apache License 2.0. Runs on Python 3.9 and newer.

from __future__ import annotations

try:
    import numpy
    import onnxruntime
except ImportError as missing:
    raise SystemExit(f"error: {{missing}}; pip install numpy onnxruntime") from None
'''


def verify_alone() -> str:
    """The source of `verify.py` after that of all modules of vit2onnx that it imports, each before its first use."""
    modules = list(_in_order(Path(verify.__file__), set()))
    names = ", ".join(path.relative_to(PACKAGE).as_posix() for path in modules)
    head = HEAD.format(doc=verify.__doc__, version=__version__, modules=names)
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
