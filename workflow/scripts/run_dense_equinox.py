"""Dense features of the Equinox model in single precision, with and without register tokens."""

from vit2onnx.job import snakemake

import os
from collections.abc import Sequence
from pathlib import Path

from vit2onnx.files import read_arrays, write_arrays
from vit2onnx.runners.equinox import dense_features
from vit2onnx.spec.variant import VariantSpec
from vit2onnx.weights.model_file import open_model


def run_dense_equinox(
    spec: VariantSpec, interface: str, model: Path, inputs: Path, output: Path, *, layers: Sequence[int], threads: int
) -> None:
    # Read by XLA when it first runs something; it has no other setting for this.
    os.environ["NPROC"] = str(threads)
    found = dense_features(*open_model(model), read_arrays(inputs), spec.interface(interface), layers)
    write_arrays(output, found)


if __name__ == "__main__":
    run_dense_equinox(
        VariantSpec.from_mapping(snakemake.wildcards.variant, snakemake.params.spec),
        snakemake.params.interface,
        Path(snakemake.input.model),
        Path(snakemake.input.inputs),
        Path(snakemake.output.features),
        layers=snakemake.params.layers,
        threads=snakemake.threads,
    )
