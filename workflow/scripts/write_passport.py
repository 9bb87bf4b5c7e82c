"""Write the passport of a graph that passed, and the sample by which it can be verified anywhere."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vit2onnx.files import open_arrays, write_arrays, write_json
from vit2onnx.handover.passport import passport_of, sample_of
from vit2onnx.logs import logging_to
from vit2onnx.parity.verdict import judge, numbers_of
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def write_passport(
    spec: VariantSpec,
    export: Recipe,
    *,
    graph: Path,
    checkpoint: Path,
    record: Path,
    ledger: Path,
    comparison: Path,
    pixel_values: Path,
    reference: Path,
    equinox: Path,
    limits: Mapping[str, float],
    sample: Path,
    passport: Path,
) -> None:
    measured = json.loads(comparison.read_text())
    with open_arrays(pixel_values) as inputs, open_arrays(reference) as features, open_arrays(equinox) as own:
        write_arrays(sample, sample_of(spec.interface(export.interface), export, inputs, features, own))
    found = passport_of(
        spec,
        graph,
        checkpoint,
        json.loads(record.read_text()),
        ledger,
        measured,
        judge(measured, limits),
        sample,
        limits["floors"],
    )
    write_json(passport, found)


if __name__ == "__main__":
    with logging_to(snakemake.log[0]):
        # Waited for only: what the verdict says is judged anew.
        waited_for = ("verdict", "preprocessing", "stages", "self_test")
        given = (*snakemake.input.items(), *snakemake.output.items())
        files = {name: Path(path) for name, path in given if name not in waited_for}
        write_passport(
            VariantSpec.from_mapping(snakemake.wildcards.variant, snakemake.params.spec),
            Recipe.from_mapping(snakemake.wildcards.export, snakemake.params.recipe),
            **files,
            limits=numbers_of(snakemake.params.limits),
        )
