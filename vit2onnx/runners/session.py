"""A graph in onnxruntime. Needs onnxruntime only."""

from collections.abc import Mapping
from pathlib import Path
from typing import Optional

import onnxruntime as ort

from vit2onnx.onnx_file import is_external

# Errors only: the warnings are about what onnxruntime could not make faster.
ort.set_default_logger_severity(3)
CPU = "CPUExecutionProvider"
ALL = ort.GraphOptimizationLevel.ORT_ENABLE_ALL


def batch_of(session: ort.InferenceSession) -> int:
    """How many images a graph is given at once: its own number, or one if that is free."""
    size = session.get_inputs()[0].shape[0]
    return size if isinstance(size, int) else 1


def session_of(
    graph: Path,
    level: ort.GraphOptimizationLevel = ALL,
    threads: int = 0,
    *,
    quiet: bool = False,
    provider: str = CPU,
    settings: Optional[Mapping[str, str]] = None,
) -> ort.InferenceSession:
    """A session with a stated optimisation level and thread count (0: as onnxruntime likes), on the CPU.

    With another `provider`, which has `settings`, nodes that it does not know are on the CPU still. A `quiet` session
    does not log the errors that it raises.
    """
    options = ort.SessionOptions()
    if quiet:
        options.log_severity_level = 4
    options.graph_optimization_level = level
    options.intra_op_num_threads = threads
    # Idle sessions that spin slow their neighbours in the same process.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # External weights are mapped from their file, so that a model may be larger than memory; packed copies would undo
    # that.
    options.add_session_config_entry("session.disable_prepacking", str(int(is_external(graph))))
    first = [] if provider == CPU else [(provider, dict(settings or {}))]
    return ort.InferenceSession(str(graph), options, providers=[*first, CPU])
