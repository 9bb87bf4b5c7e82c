"""Measure how far the dense maps of all implementations are from those of the reference in double precision."""

from vit2onnx.job import snakemake

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from vit2onnx.files import open_arrays, write_text
from vit2onnx.parity.dense import compare_dense
from vit2onnx.parity.dense_comparison import IMPLEMENTATIONS
from vit2onnx.parity.tables import csv_of
from vit2onnx.runners.onnx_dense import GRAPH


def compare(
    about: Mapping[str, str],
    cases: Sequence[str],
    features: Mapping[str, Path],
    comparison: Path,
    table: Path,
    *,
    high_norm: float,
) -> None:
    with ExitStack() as stack:
        arrays = {name: stack.enter_context(open_arrays(path)) for name, path in features.items()}
        graph = {GRAPH: str(arrays["onnx"][GRAPH])}
        result = compare_dense({**about, **graph}, cases, arrays, high_norm)
    result.write(comparison)
    write_text(table, csv_of(result.rows))


if __name__ == "__main__":
    paths = (Path(snakemake.input[name]) for name in ("reference", "equinox", "onnx"))
    compare(
        dict(snakemake.wildcards),
        snakemake.params.cases,
        dict(zip(IMPLEMENTATIONS, paths, strict=True)),
        Path(snakemake.output.comparison),
        Path(snakemake.output.table),
        high_norm=snakemake.params.high_norm,
    )
