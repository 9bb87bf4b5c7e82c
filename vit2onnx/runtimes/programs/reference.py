"""Runs a graph by ONNX's reference operators, which are plain and slow."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx.reference import ReferenceEvaluator

from vit2onnx.runtimes.programs.protocol import Arrays, Report, Run, main


def open_graph(graph: Path, sets: list[Arrays], report: Report, options: Mapping[str, Any]) -> Run:
    """The graph in an evaluator."""
    report.add(version=onnx.__version__)
    evaluator = ReferenceEvaluator(str(graph))

    def run(inputs: Arrays) -> Arrays:
        return dict(zip(options["outputs"], evaluator.run(options["outputs"], dict(inputs)), strict=True))

    return run


if __name__ == "__main__":
    main(open_graph)
