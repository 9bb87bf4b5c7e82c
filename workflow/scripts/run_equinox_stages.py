"""Every stage of the Equinox model on one image, in single and in double precision."""

from vit2onnx.job import snakemake

import os
from pathlib import Path

from vit2onnx.files import open_arrays, write_arrays
from vit2onnx.runners.equinox import stages
from vit2onnx.spec.case import layer_inputs
from vit2onnx.spec.interface import Interface
from vit2onnx.spec.variant import VariantSpec
from vit2onnx.weights.model_file import open_model


def run_equinox_stages(
    interface: Interface, model: Path, inputs: Path, reference: Path, output: Path, *, case: str, threads: int
) -> None:
    # Read by XLA when it first runs something; it has no other setting for this.
    os.environ["NPROC"] = str(threads)
    with open_arrays(inputs) as cases, open_arrays(reference) as arrays:
        given = interface.inputs_of(cases, case)
        write_arrays(output, stages(*open_model(model), given, layer_inputs(arrays), interface))


if __name__ == "__main__":
    spec = VariantSpec.from_mapping(snakemake.wildcards.variant, snakemake.params.spec)
    run_equinox_stages(
        spec.interface(snakemake.params.interface),
        Path(snakemake.input.model),
        Path(snakemake.input.inputs),
        Path(snakemake.input.reference),
        Path(snakemake.output.stages),
        case=snakemake.params.case,
        threads=snakemake.threads,
    )
