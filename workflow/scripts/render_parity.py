"""Render the page on the parity of a variant's graphs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit2onnx.files import write_text
from vit2onnx.logs import logging_to
from vit2onnx.onnx_file import metadata, operator_sets
from vit2onnx.reporting.evidence import Evidence, LimitsByGate
from vit2onnx.reporting.parity_page import parity_page

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def read(path: str) -> Any:
    return json.loads(Path(path).read_text())


def render_parity(
    files: Any, photographs: Mapping[str, Path], exports: Sequence[str], limits: LimitsByGate, page: Path
) -> None:
    """Write the page; `files` has the rule's inputs by name, graphs and comparisons in the order of `exports`."""
    graphs = dict(zip(exports, map(Path, files.graphs), strict=True))
    self_test = files.get("self_test")
    evidence = Evidence(
        comparisons=[read(path) for path in files.comparisons],
        record=read(files.record),
        ledger=Path(files.ledger).read_text().splitlines(),
        preprocessing=read(files.preprocessing)["differences"],
        metadata={export: metadata(graph) for export, graph in graphs.items()},
        operator_sets={export: operator_sets(graph) for export, graph in graphs.items()},
        photographs=photographs,
        stages={ledger["export"]: ledger for ledger in map(read, files.stages)},
        self_test=read(self_test) if self_test else None,
    )
    write_text(page, parity_page(evidence, limits))


if __name__ == "__main__":
    with logging_to(snakemake.log[0]):
        render_parity(
            snakemake.input,
            dict(zip(snakemake.params.names, map(Path, snakemake.input.images), strict=True)),
            snakemake.params.exports,
            snakemake.params.limits,
            Path(snakemake.output.page),
        )
