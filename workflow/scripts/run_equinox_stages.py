"""Every stage of the Equinox model on one image, in single and in double precision."""

from vit2onnx.job import snakemake

import os
from pathlib import Path

from vit2onnx.files import open_arrays, write_arrays
from vit2onnx.runners.equinox import stages
from vit2onnx.spec.case import layer_inputs
from vit2onnx.weights.model_file import open_model


def run_equinox_stages(
    model: Path, pixel_values: Path, reference: Path, output: Path, *, case: str, threads: int
) -> None:
    # Read by XLA when it first runs something; it has no other setting for this.
    os.environ["NPROC"] = str(threads)
    with open_arrays(pixel_values) as images, open_arrays(reference) as arrays:
        write_arrays(output, stages(*open_model(model), images[case], layer_inputs(arrays)))


if __name__ == "__main__":
    run_equinox_stages(
        Path(snakemake.input.model),
        Path(snakemake.input.pixel_values),
        Path(snakemake.input.reference),
        Path(snakemake.output.stages),
        case=snakemake.params.case,
        threads=snakemake.threads,
    )
