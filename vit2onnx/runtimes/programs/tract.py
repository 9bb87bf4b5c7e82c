"""Runs a graph in tract."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tract

from vit2onnx.runtimes.programs.messages import operator_in
from vit2onnx.runtimes.programs.protocol import Arrays, RefusedError, Report, Run, main


def open_graph(graph: Path, sets: list[Arrays], report: Report, options: Mapping[str, Any]) -> Run:
    """The graph, with the free sizes that the file has."""
    report.add(version=tract.version())
    try:
        model = tract.onnx().load(str(graph)).into_model().into_runnable()
    except tract.TractError as problem:
        raise _refused(problem) from problem

    def run(inputs: Arrays) -> Arrays:
        try:
            made = model.run([inputs[name] for name in options["inputs"]])
        except tract.TractError as problem:
            raise _refused(problem) from problem
        return {name: values.to_numpy() for name, values in zip(options["outputs"], made, strict=True)}

    return run


def _refused(problem: Exception) -> RefusedError:
    return RefusedError(str(problem), operator_in("tract", str(problem)))


if __name__ == "__main__":
    main(open_graph)
