"""Plant faults in small models and note what the checks say."""

from vit2onnx.job import snakemake

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from vit2onnx.files import write_json, write_text
from vit2onnx.images import load_image
from vit2onnx.parity.tables import csv_of
from vit2onnx.parity.verdict import numbers_of
from vit2onnx.self_test.planting import plant_faults
from vit2onnx.spec.variant import VariantSpec


def plant(
    specs: Mapping[str, Mapping[str, Any]],
    photographs: Sequence[Path],
    limits: Mapping[str, Mapping[str, Any]],
    preprocessing_limits: Mapping[str, Mapping[str, Any]],
    result: Path,
    table: Path,
    *,
    seeds: int,
    threads: int,
) -> None:
    torch.set_num_threads(threads)
    with TemporaryDirectory() as folder:
        outcome = plant_faults(
            {name: VariantSpec.from_mapping(name, spec) for name, spec in specs.items()},
            {path.stem: load_image(path) for path in photographs},
            numbers_of(limits),
            numbers_of(preprocessing_limits),
            seeds,
            Path(folder),
            threads,
        )
    write_json(result, outcome)
    write_text(table, csv_of(outcome["faults"]))


if __name__ == "__main__":
    plant(
        snakemake.params.specs,
        [Path(path) for path in snakemake.input.photographs],
        snakemake.params.limits,
        snakemake.params.preprocessing_limits,
        Path(snakemake.output.result),
        Path(snakemake.output.table),
        seeds=snakemake.params.seeds,
        threads=snakemake.threads,
    )
