"""Render the page on the parity of a variant's graphs."""

from vit2onnx.job import snakemake

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vit2onnx.files import read_json, write_text
from vit2onnx.onnx_file import metadata, operator_sets
from vit2onnx.parity.comparison import Comparison
from vit2onnx.parity.dense_comparison import DenseComparison
from vit2onnx.parity.divergence import StageComparison
from vit2onnx.parity.packing import PackingComparison
from vit2onnx.parity.verdict import Verdict
from vit2onnx.reporting.evidence import Evidence
from vit2onnx.reporting.parity_page import parity_page


def render_parity(files: Any, photographs: Mapping[str, Path], exports: Sequence[str], page: Path) -> None:
    """Write the page; `files` has the rule's inputs by name, those of graphs in the order of `exports`."""
    graphs = dict(zip(exports, map(Path, files.graphs), strict=True))
    self_test = files.get("self_test")
    evidence = Evidence(
        verdicts=[Verdict.read(Path(path)) for path in files.verdicts],
        comparisons=[Comparison.read(Path(path)) for path in files.comparisons],
        record=read_json(Path(files.record)),
        ledger=Path(files.ledger).read_text().splitlines(),
        preprocessing=read_json(Path(files.preprocessing))["differences"],
        metadata={export: metadata(graph) for export, graph in graphs.items()},
        operator_sets={export: operator_sets(graph) for export, graph in graphs.items()},
        photographs=photographs,
        stages={one.export: one for one in map(StageComparison.read, map(Path, files.stages))},
        dense={one.export: one for one in map(DenseComparison.read, map(Path, files.dense))},
        packing={one.export: one for one in map(PackingComparison.read, map(Path, files.packing))},
        plans={path.name.removesuffix(".plan.json"): read_json(path) for path in map(Path, files.plans)},
        self_test=read_json(Path(self_test)) if self_test else None,
    )
    write_text(page, parity_page(evidence))


if __name__ == "__main__":
    render_parity(
        snakemake.input,
        dict(zip(snakemake.params.names, map(Path, snakemake.input.images), strict=True)),
        snakemake.params.exports,
        Path(snakemake.output.page),
    )
