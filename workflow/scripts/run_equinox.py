"""Features of the Equinox model, in single and in double precision."""

from vit2onnx.job import snakemake

import os
from collections.abc import Sequence
from pathlib import Path

from vit2onnx.files import read_arrays, write_arrays
from vit2onnx.runners.equinox import features
from vit2onnx.spec.case import of_first_image
from vit2onnx.spec.interface import cases_in
from vit2onnx.spec.variant import VariantSpec
from vit2onnx.weights.model_file import open_model


def run_equinox(
    spec: VariantSpec,
    interface: str,
    model: Path,
    inputs: Path,
    output: Path,
    *,
    outputs: Sequence[str],
    threads: int,
) -> None:
    # Read by XLA when it first runs something; it has no other setting for this.
    os.environ["NPROC"] = str(threads)
    cases = read_arrays(inputs)
    native = of_first_image(cases_in(cases)) if spec.architecture.may_differ(interface) else ()
    write_arrays(output, features(*open_model(model), cases, spec.interface(interface, outputs), native))


if __name__ == "__main__":
    run_equinox(
        VariantSpec.from_mapping(snakemake.wildcards.variant, snakemake.params.spec),
        snakemake.wildcards.interface,
        Path(snakemake.input.model),
        Path(snakemake.input.inputs),
        Path(snakemake.output.features),
        outputs=snakemake.params.outputs,
        threads=snakemake.threads,
    )
