"""Runs a graph in onnxruntime, of any version, by any of its providers."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime as ort

from vit2onnx.runtimes.programs.messages import operator_in
from vit2onnx.runtimes.programs.protocol import Arrays, RefusedError, Report, Run, main

CPU = "CPUExecutionProvider"


def open_graph(graph: Path, sets: list[Arrays], report: Report, options: Mapping[str, Any]) -> Run:
    """The graph in a session of a `provider` with its own `settings`; nodes that it does not take go to the CPU."""
    provider, settings = options.get("provider", CPU), options.get("settings", {})
    report.add(version=ort.__version__)
    if provider not in ort.get_available_providers():
        raise RuntimeError(f"there is no {provider}, but {', '.join(ort.get_available_providers())}")
    profiles = tempfile.TemporaryDirectory()
    session = _session(graph, provider, settings, options["threads"], Path(profiles.name))
    if provider not in session.get_providers():
        raise RuntimeError(f"{provider} does not start here; the log says why")
    left = len(sets)

    def run(inputs: Arrays) -> Arrays:
        nonlocal left
        outputs = dict(zip(options["outputs"], session.run(options["outputs"], dict(inputs)), strict=True))
        left -= 1
        if not left:
            report.add(placement=placement_of(Path(session.end_profiling())))
            profiles.cleanup()
        return outputs

    return run


def _session(graph: Path, provider: str, settings: Mapping[str, Any], threads: int, profiles: Path) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    # The profile says which provider has run each node.
    options.enable_profiling = True
    options.profile_file_prefix = str(profiles / "profile")
    providers = [(provider, dict(settings)), *([CPU] if provider != CPU else [])]
    try:
        return ort.InferenceSession(str(graph), options, providers=providers)
    # Any exception, because onnxruntime has none in common to all of its own.
    except Exception as problem:
        raise RefusedError(str(problem), operator_in("onnxruntime", str(problem))) from problem


def placement_of(profile: Path) -> dict[str, dict[str, int]]:
    """How many nodes of each operator have run on each provider, from a profile of a session."""
    events = json.loads(profile.read_text(encoding="utf-8"))
    # A node has an event for each run.
    placed = {
        event["name"]: (event["args"]["provider"], event["args"].get("op_name", ""))
        for event in events
        if event.get("cat") == "Node" and event.get("args", {}).get("provider")
    }
    found: dict[str, dict[str, int]] = {}
    for provider, operator in placed.values():
        counts = found.setdefault(provider, {})
        counts[operator] = counts.get(operator, 0) + 1
    return found


if __name__ == "__main__":
    main(open_graph)
