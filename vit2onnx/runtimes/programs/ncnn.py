"""Converts a graph for ncnn by pnnx, and runs it there in single precision."""

import importlib.util
import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ncnn
import numpy as np

from vit2onnx.runtimes.programs.messages import operator_in
from vit2onnx.runtimes.programs.protocol import Arrays, RefusedError, Report, Run, how_it_ended, main

# pnnx's names of types.
SHORT = {"float32": "f32", "int64": "i64", "int32": "i32", "uint8": "u8"}


def open_graph(graph: Path, sets: list[Arrays], report: Report, options: Mapping[str, Any]) -> Run:
    """The graph converted for the sizes of the first two sets of inputs, and for any between if there are two."""
    report.add(version=ncnn.__version__)
    net = ncnn.Net()
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = False
    net.opt.num_threads = options["threads"]
    with tempfile.TemporaryDirectory() as folder:
        example = _converted(graph, Path(folder), sets, options["inputs"], net)

    def run(inputs: Arrays) -> Arrays:
        extractor = net.create_extractor()
        for number, name in enumerate(options["inputs"]):
            batch = _batch_axis(rf"in{number}\.numpy\(\), batch_index=(\d+)", example)
            extractor.input(f"in{number}", ncnn.Mat(np.ascontiguousarray(inputs[name]), **batch).clone())
        found = {}
        for number, name in enumerate(options["outputs"]):
            status, values = extractor.extract(f"out{number}")
            if status:
                raise RuntimeError(f"ncnn ended with status {status} at the output {name}")
            found[name] = values.numpy(**_batch_axis(rf"out{number}\.numpy\(batch_index=(\d+)\)", example)).copy()
        return found

    return run


def _converted(graph: Path, folder: Path, sets: list[Arrays], inputs: list[str], net: Any) -> str:
    """Convert a graph and load it; returns the example of use that pnnx writes. Raises `RefusedError`."""
    # Found and not imported, because importing it needs torch.
    found = importlib.util.find_spec("pnnx")
    if found is None or found.origin is None:
        raise RuntimeError("pnnx is not installed")
    flags = [
        f"{key}={','.join(_shape(one[name]) for name in inputs)}"
        for key, one in zip(("inputshape", "inputshape2"), sets, strict=False)
    ]
    copy = folder / "graph.onnx"
    copy.symlink_to(graph.resolve())
    command = [str(Path(found.origin).with_name("pnnx")), str(copy), *flags, "fp16=0"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", cwd=folder, check=False)
    said = done.stdout + done.stderr
    print(said)
    operator = operator_in("ncnn", said)
    param, weights = copy.with_name("graph.ncnn.param"), copy.with_name("graph.ncnn.bin")
    if not param.exists():
        raise RefusedError(f"pnnx wrote no file ({how_it_ended(done.returncode)})", operator)
    text = param.read_text()
    print(text)
    if net.load_param(str(param)):
        layers = [line.split()[0] for line in text.splitlines()[2:] if line.strip()]
        unknown = next((one for one in layers if ncnn.layer_to_index(one) < 0), None)
        raise RefusedError(f"ncnn does not load what pnnx has made, for want of {unknown}", operator or unknown)
    if net.load_model(str(weights)):
        raise RefusedError("ncnn does not load the weights that pnnx has written", operator)
    # Which axis is the batch, because an ncnn.Mat has none.
    return copy.with_name("graph_ncnn.py").read_text()


def _batch_axis(pattern: str, example: str) -> dict[str, int]:
    found = re.search(pattern, example)
    return {"batch_index": int(found[1])} if found else {}


def _shape(array: np.ndarray) -> str:
    return f"[{','.join(map(str, array.shape))}]{SHORT[array.dtype.name]}"


if __name__ == "__main__":
    main(open_graph)
