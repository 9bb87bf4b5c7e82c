"""Judge a graph from the files on it: for its verdict, and once more for its passport, which believes no verdict."""

import math
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from vit2onnx.errors import InputError
from vit2onnx.files import read_json, sha256_of
from vit2onnx.parity.comparison import Comparison
from vit2onnx.parity.divergence import StageComparison
from vit2onnx.parity.finding import Finding
from vit2onnx.parity.metrics import finite
from vit2onnx.parity.verdict import Verdict, judge_graph
from vit2onnx.self_test.verdict import finding_of

# How far figures may be apart that two processors compute from the same arrays, as a share of figure or limit.
TOLERANCE = 0.01


def judge_files(
    evidence: Mapping[str, Path], limits: Mapping[str, Mapping[str, Any]], comparison: Comparison | None = None
) -> Verdict:
    """The verdict by all files of `evidence`: the inputs of the rule `judge_graph`, by name.

    A `comparison` that was made anew is judged instead of the file's. Raises `InputError` if it is of another graph.
    """
    graph, stages, self_test = evidence["graph"], evidence.get("stages"), evidence.get("self_test")
    comparison = comparison or Comparison.read(evidence["comparison"])
    if comparison.graph_sha256 != sha256_of(graph):
        raise InputError(
            f"{evidence['comparison']} is of another {graph.name}; delete features/{graph.name}.npz and run again."
        )
    return judge_graph(
        comparison,
        limits,
        read_json(evidence["record"]),
        read_json(evidence["preprocessing"])["differences"],
        StageComparison.read(stages) if stages else None,
        finding_of(read_json(self_test)) if self_test else None,
        bytes=graph.stat().st_size,
        evidence={os.path.relpath(path, graph.parent): sha256_of(path) for path in evidence.values()},
    )


def check_verdict(path: Path, own: Verdict) -> None:
    """Raise `InputError` if the verdict in a file is not the one that was judged anew, but for rounding and words."""
    told = Verdict.read(path)
    names = sorted({name for name, _ in told.evidence.items() ^ own.evidence.items()})
    if names:
        raise InputError(f"{', '.join(names)} changed after {path} was written; delete {path} and run again.")
    judged = (entry.name for entry in fields(Verdict) if entry.name not in ("findings", "figures"))
    other = [name for name in judged if getattr(told, name) != getattr(own, name)]
    if len(told.findings) != len(own.findings) or not all(map(_agree, told.findings, own.findings)):
        other.append("findings")
    if other:
        raise InputError(
            f"{path} or parity/{own.export}.json was edited: the features give other {', '.join(other)}. Delete"
            " both and run again."
        )


def _agree(a: Finding, b: Finding) -> bool:
    judged = ("leg", "limit_name", "subject", "other", "limit")
    x, y = finite(a.measured), finite(b.measured)
    near = x == y if x is None or y is None else math.isclose(x, y, rel_tol=TOLERANCE, abs_tol=TOLERANCE * b.limit)
    return near and all(getattr(a, name) == getattr(b, name) for name in judged)
