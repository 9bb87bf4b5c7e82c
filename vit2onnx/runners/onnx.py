"""How graphs are run, and all that they give."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from vit2onnx.errors import DamagedError
from vit2onnx.files import sha256_of
from vit2onnx.onnx_file import is_external, metadata, operator_sets
from vit2onnx.runners.batches import batches_of
from vit2onnx.runners.onnx_double import run_in_double
from vit2onnx.runners.session import ALL, session_of
from vit2onnx.spec.interface import Interface, cases_in
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.subject import DOUBLE_GRAPH, GRAPH_RUNS

logger = logging.getLogger(__name__)

RUNS = dict(zip(GRAPH_RUNS, (ALL, ort.GraphOptimizationLevel.ORT_DISABLE_ALL), strict=True))
# onnxruntime's names for types, in numpy's words.
DTYPES = {"tensor(float)": "float32", "tensor(int32)": "int32", "tensor(int64)": "int64", "tensor(uint8)": "uint8"}


def run_graph(
    path: Path,
    interface: Interface,
    recipe: Recipe,
    inputs: Mapping[str, np.ndarray],
    batch_sizes: Sequence[int],
    threads: int,
) -> Iterator[tuple[str, np.ndarray]]:
    """All outputs of a graph for the cases that it accepts, whose inputs are called as `key_of` says, in every run.

    `inputs` are of the interface on whose cases graphs are compared. The runs are those of `RUNS`, in batches of every
    size, and one in double precision if the graph is in single. Outputs are called
    `{run}/{batch}/{number}/{output}`, by the number of the batch. The last array, `seen`, is JSON: what the file says
    of itself, the runtime, and of every run its ports, the cases in each batch, and the error, if any. A graph that
    does not load or run is something seen, and no error here.
    """
    cases = {case: interface.compared_as.inputs_of(inputs, case) for case in cases_in(inputs)}
    batches = interface.batches(recipe, batch_sizes, len(cases))
    in_double = interface.batch_in_double(recipe, len(cases))
    runs: list[dict[str, Any]] = []

    def begin(run: str, batch: int) -> dict[str, Any]:
        runs.append({"run": run, "batch": batch, "ports": {}, "batches": [], "error": None})
        return runs[-1]

    def end(run: dict[str, Any], problem: Exception) -> None:
        logger.error("%s does not run", path, exc_info=problem)
        run["error"] = f"{type(problem).__name__}: {problem}"

    for level in RUNS:
        # The session of the other level is gone by then, so that no two are in memory at once.
        session = None
        for batch in batches:
            run = begin(level, batch)
            # Any exception, because onnxruntime has none in common to all of its own.
            try:
                session = session or session_of(path, RUNS[level], threads)
                run["ports"] = ports_of(session)
                names = [port.name for port in session.get_outputs()]
                for number, (given, values) in enumerate(batches_of(cases, batch, interface)):
                    outputs = session.run(names, values)
                    run["batches"].append(given)
                    yield from ((f"{level}/{batch}/{number}/{x}", y) for x, y in zip(names, outputs, strict=True))
            except Exception as problem:
                end(run, problem)
    if in_double is not None:
        run = begin(DOUBLE_GRAPH, in_double)
        # Any exception, because a faulty graph makes numpy raise what it likes.
        try:
            named = list(batches_of(cases, in_double, interface))
            for number, outputs in enumerate(run_in_double(path, [values for _, values in named])):
                run["batches"].append(named[number][0])
                yield from ((f"{DOUBLE_GRAPH}/{in_double}/{number}/{x}", y) for x, y in outputs.items())
        except DamagedError:
            raise
        except Exception as problem:
            end(run, problem)
    seen = {
        "graph": {"sha256": sha256_of(path), "metadata": metadata(path), "operator_sets": operator_sets(path)},
        "runtime": {
            "onnxruntime": ort.__version__,
            "provider": "CPUExecutionProvider",
            "threads": threads,
            "packed_weights": not is_external(path),
        },
        "runs": runs,
    }
    yield "seen", np.array(json.dumps(seen))


def ports_of(session: ort.InferenceSession) -> dict[str, tuple[str, list[int | str]]]:
    """Type and shape of every input and output, as the runtime has them."""
    ports = (*session.get_inputs(), *session.get_outputs())
    return {port.name: (DTYPES.get(port.type, port.type), port.shape) for port in ports}
