"""Dense features of the reference, in single and in double precision."""

from vit2onnx.job import snakemake

from collections.abc import Sequence
from pathlib import Path

import torch

from vit2onnx.files import read_arrays, write_arrays
from vit2onnx.runners.torch import dense_features, reference_of
from vit2onnx.spec.variant import VariantSpec


def run_dense_reference(
    spec: VariantSpec,
    interface: str,
    checkpoint: Path,
    inputs: Path,
    output: Path,
    *,
    layers: Sequence[int],
    threads: int,
) -> None:
    torch.set_num_threads(threads)
    reference = reference_of(spec, "transformers", checkpoint)
    write_arrays(output, dense_features(reference, read_arrays(inputs), spec.interface(interface), layers))


if __name__ == "__main__":
    run_dense_reference(
        VariantSpec.from_mapping(snakemake.wildcards.variant, snakemake.params.spec),
        snakemake.params.interface,
        Path(snakemake.input.checkpoint),
        Path(snakemake.input.inputs),
        Path(snakemake.output.features),
        layers=snakemake.params.layers,
        threads=snakemake.threads,
    )
