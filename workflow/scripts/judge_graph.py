"""Judge all that was measured of a graph; the verdict is written whether it passes or not."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vit2onnx.errors import InputError
from vit2onnx.files import sha256_of, write_json
from vit2onnx.logs import logging_to
from vit2onnx.parity.comparison import Comparison
from vit2onnx.parity.divergence import StageComparison
from vit2onnx.parity.verdict import judge_graph
from vit2onnx.self_test.verdict import finding_of


def judge(evidence: Mapping[str, Path], limits: Mapping[str, Mapping[str, Any]], verdict: Path) -> None:
    """Write the verdict; `evidence` has the rule's inputs by name."""
    stages, self_test = evidence.get("stages"), evidence.get("self_test")
    comparison, graph = Comparison.read(evidence["comparison"]), evidence["graph"]
    if comparison.graph_sha256 != sha256_of(graph):
        raise InputError(f"{evidence['comparison']} is of another {graph.name}; delete it and run again.")
    result = judge_graph(
        comparison,
        limits,
        json.loads(evidence["record"].read_text()),
        json.loads(evidence["preprocessing"].read_text())["differences"],
        StageComparison.read(stages) if stages else None,
        finding_of(json.loads(self_test.read_text())) if self_test else None,
        bytes=graph.stat().st_size,
        evidence={os.path.relpath(path, verdict.parent): sha256_of(path) for path in evidence.values()},
    )
    write_json(verdict, result.as_data())


if __name__ == "__main__":
    with logging_to(snakemake.log[0]):
        judge(
            {name: Path(path) for name, path in snakemake.input.items() if path},
            snakemake.params.limits,
            Path(snakemake.output.verdict),
        )
