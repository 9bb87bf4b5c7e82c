"""Runs a graph in OpenVINO, on the CPU."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from vit2onnx.runtimes.programs.messages import operator_in
from vit2onnx.runtimes.programs.protocol import Arrays, RefusedError, Report, Run, main

# Nodes of the compiled graph that compute nothing.
STORED = ("Const", "Input", "Output")


def open_graph(graph: Path, sets: list[Arrays], report: Report, options: Mapping[str, Any]) -> Run:
    """The graph compiled with `settings` of the device, as `INFERENCE_PRECISION_HINT`; its own without."""
    report.add(version=ov.__version__.partition("-")[0])
    core, settings = ov.Core(), {"INFERENCE_NUM_THREADS": options["threads"], **options.get("settings", {})}
    try:
        compiled = core.compile_model(core.read_model(graph), "CPU", settings)
    except RuntimeError as problem:
        raise RefusedError(str(problem), operator_in("openvino", str(problem))) from problem
    report.add(placement=_placement_of(compiled))

    def run(inputs: Arrays) -> Arrays:
        made = compiled(dict(inputs))
        return {name: np.array(made[place]) for place, name in enumerate(options["outputs"])}

    return run


def _placement_of(compiled: Any) -> dict[str, dict[str, int]]:
    """How many nodes of each kind are computed in each precision; all of them are on the CPU."""
    found: dict[str, dict[str, int]] = {}
    for node in compiled.get_runtime_model().get_ops():
        about = node.get_rt_info()
        precision, kind = (str(getattr(about[key], "value", about[key])) for key in ("runtimePrecision", "layerType"))
        if kind not in STORED:
            counts = found.setdefault(precision, {})
            counts[kind] = counts.get(kind, 0) + 1
    return found


if __name__ == "__main__":
    main(open_graph)
