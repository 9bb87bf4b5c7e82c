"""Runs a graph in OpenCV's module of neural networks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vit2onnx.runtimes.programs.messages import operator_in
from vit2onnx.runtimes.programs.protocol import Arrays, RefusedError, Report, Run, main


def open_graph(graph: Path, sets: list[Arrays], report: Report, options: Mapping[str, Any]) -> Run:
    """The graph as a network."""
    report.add(version=cv2.__version__)
    cv2.setNumThreads(options["threads"])
    try:
        net = cv2.dnn.readNetFromONNX(str(graph))
    except cv2.error as problem:
        raise _refused(problem) from problem

    def run(inputs: Arrays) -> Arrays:
        try:
            for name, values in inputs.items():
                net.setInput(np.ascontiguousarray(values), name)
            return dict(zip(options["outputs"], net.forward(options["outputs"]), strict=True))
        except cv2.error as problem:
            raise _refused(problem) from problem

    return run


def _refused(problem: Exception) -> RefusedError:
    return RefusedError(str(problem), operator_in("opencv", str(problem)))


if __name__ == "__main__":
    main(open_graph)
