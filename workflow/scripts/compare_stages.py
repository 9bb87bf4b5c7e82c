"""Measure how far all implementations are apart at every stage."""

from vit2onnx.job import snakemake

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from vit2onnx.files import open_arrays, write_text
from vit2onnx.onnx_file import check_file
from vit2onnx.parity.stages import compare_implementations
from vit2onnx.parity.tables import csv_of
from vit2onnx.runners.onnx_stages import run_stage_graphs
from vit2onnx.spec.case import layer_inputs
from vit2onnx.spec.interface import Interface
from vit2onnx.spec.variant import VariantSpec


def compare(
    accumulated: Path,
    injected: Path,
    interface: Interface,
    inputs: Path,
    features: Mapping[str, Path],
    comparison: Path,
    table: Path,
    *,
    about: Mapping[str, str],
    threads: int,
) -> None:
    for graph in (accumulated, injected):
        check_file(graph)
    with ExitStack() as stack:
        given = interface.compared_as.inputs_of(stack.enter_context(open_arrays(inputs)), about["case"])
        stages = {name: stack.enter_context(open_arrays(path)) for name, path in features.items()}
        of_layers = layer_inputs(next(iter(stages.values())))
        onnx = run_stage_graphs(accumulated, injected, given, of_layers, threads, interface)
        result = compare_implementations(about, {**stages, "onnx": onnx})
    result.write(comparison)
    write_text(table, csv_of(result.stages))


if __name__ == "__main__":
    spec = VariantSpec.from_mapping(snakemake.wildcards.variant, snakemake.params.spec)
    references = dict(zip(snakemake.params.references, map(Path, snakemake.input.references), strict=True))
    compare(
        Path(snakemake.input.accumulated),
        Path(snakemake.input.injected),
        spec.interface(snakemake.params.interface),
        Path(snakemake.input.inputs),
        {**references, "equinox": Path(snakemake.input.equinox)},
        Path(snakemake.output.comparison),
        Path(snakemake.output.table),
        about={**snakemake.wildcards, "case": snakemake.params.case},
        threads=snakemake.threads,
    )
