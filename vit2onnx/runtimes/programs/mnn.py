"""Converts a graph for MNN and runs it there, in high precision.

MNN's own command line reports each conversion to a server, and installs a package for that. So its converter is called
directly, in a process of its own, because what it says goes past Python's streams.
"""

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import MNN
import numpy as np
from MNN import expr, nn

from vit2onnx.runtimes.programs.messages import operator_in
from vit2onnx.runtimes.programs.protocol import Arrays, RefusedError, Report, Run, how_it_ended, main

CONVERT = "import sys, _tools; _tools.mnnconvert(sys.argv)"
# MNN's names of types. It has no whole numbers of 64 bits.
KINDS = {"float32": expr.float, "int32": expr.int, "uint8": expr.uint8}


def open_graph(graph: Path, sets: list[Arrays], report: Report, options: Mapping[str, Any]) -> Run:
    """The graph converted and loaded."""
    report.add(version=MNN.version())
    with tempfile.TemporaryDirectory() as folder:
        converted = Path(folder) / "graph.mnn"
        _convert(graph, converted)
        config = {"precision": "high", "backend": "CPU", "numThread": options["threads"]}
        manager = nn.create_runtime_manager((config,))
        module = nn.load_module_from_file(
            str(converted), options["inputs"], options["outputs"], runtime_manager=manager, rearrange=True
        )

    def run(inputs: Arrays) -> Arrays:
        made = module.forward([_variable(inputs[name]) for name in options["inputs"]])
        values = made if isinstance(made, (list, tuple)) else [made]
        found = [np.array(expr.convert(one, expr.NCHW).read()) for one in values]
        return dict(zip(options["outputs"], found, strict=True))

    return run


def _convert(graph: Path, converted: Path) -> None:
    """Convert a graph. Raises `RefusedError` if no file comes out, whatever the converter's status is."""
    flags = ["-f", "ONNX", "--modelFile", str(graph), "--MNNModel", str(converted), "--bizCode", "vit2onnx"]
    done = subprocess.run(
        [sys.executable, "-c", CONVERT, *flags], capture_output=True, text=True, errors="replace", check=False
    )
    said = done.stdout + done.stderr
    print(said)
    if not converted.exists():
        ended = how_it_ended(done.returncode)
        raise RefusedError(f"the converter wrote no file ({ended})", operator_in("mnn", said))


def _variable(array: np.ndarray) -> Any:
    array = np.ascontiguousarray(array.astype(np.int32) if array.dtype == np.int64 else array)
    return expr.const(array, list(array.shape), expr.NCHW, KINDS[array.dtype.name])


if __name__ == "__main__":
    main(open_graph)
