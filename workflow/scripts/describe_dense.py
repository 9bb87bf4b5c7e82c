"""Describe the dense maps of a model by figures, tables and arrays."""

from vit2onnx.job import snakemake

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import vit2onnx
from vit2onnx.dense.description import Settings, describe, flat
from vit2onnx.dense.features import registers_of
from vit2onnx.files import open_arrays, read_json, write_arrays, write_json, write_text
from vit2onnx.parity.tables import csv_of
from vit2onnx.provenance import versions
from vit2onnx.spec.interface import Interface
from vit2onnx.spec.variant import VariantSpec


def describe_dense(
    spec: VariantSpec,
    interface: Interface,
    record: Path,
    cases: Sequence[str],
    settings: Settings,
    reference: Path,
    equinox: Path,
    outputs: Mapping[str, Path],
) -> None:
    known = read_json(record)
    about: dict[str, Any] = {
        "variant": spec.name,
        "weights": known["weights"],
        "confirmed": known["official_file"] is not None,
        "checkpoint_sha256": known["sha256"],
        "patch_size": interface.patch_size,
        "registers": registers_of(interface),
        "preprocessing": {name: getattr(spec.preprocessing, name) for name in ("interpolation", "mean", "std")},
        "versions": {"vit2onnx": vit2onnx.__version__} | versions(["transformers", "torch", "numpy", "scipy"]),
    }
    with open_arrays(reference) as truth, open_arrays(equinox) as ours:
        described = describe(about, truth, ours, cases, settings)
    write_json(outputs["figures"], described.figures)
    write_arrays(outputs["maps"], described.maps)
    for name, rows in (("table", "photographs"), ("layers", "layers"), ("norms", "norms")):
        write_text(outputs[name], csv_of(flat(row) for row in described.figures[rows]))


if __name__ == "__main__":
    spec = VariantSpec.from_mapping(snakemake.wildcards.variant, snakemake.params.spec)
    masks = dict(zip(snakemake.params.masked, map(Path, snakemake.input.masks), strict=True))
    describe_dense(
        spec,
        spec.interface(snakemake.params.interface),
        Path(snakemake.input.record),
        snakemake.params.cases,
        Settings(masks=masks, **snakemake.params.settings),
        Path(snakemake.input.reference),
        Path(snakemake.input.equinox),
        {name: Path(path) for name, path in snakemake.output.items()},
    )
