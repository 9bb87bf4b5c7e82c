"""Features of a reference implementation, in single and in double precision."""

from vit2onnx.job import snakemake

from collections.abc import Sequence
from pathlib import Path

import torch

from vit2onnx.files import read_arrays, write_arrays
from vit2onnx.runners.torch import features, reference_of
from vit2onnx.spec.case import of_first_image
from vit2onnx.spec.interface import cases_in
from vit2onnx.spec.variant import VariantSpec


def run_reference(
    spec: VariantSpec,
    reference: str,
    checkpoint: Path,
    interface: str,
    inputs: Path,
    output: Path,
    *,
    outputs: Sequence[str],
    repository: str | None,
    threads: int,
) -> None:
    torch.set_num_threads(threads)
    cases = read_arrays(inputs)
    model = reference_of(spec, reference, checkpoint, Path(repository).expanduser() if repository else None)
    native = of_first_image(cases_in(cases)) if spec.architecture.may_differ(interface) else ()
    write_arrays(output, features(model, cases, spec.interface(interface, outputs), native))


if __name__ == "__main__":
    run_reference(
        VariantSpec.from_mapping(snakemake.wildcards.variant, snakemake.params.spec),
        snakemake.wildcards.reference,
        Path(snakemake.input.checkpoint),
        snakemake.wildcards.interface,
        Path(snakemake.input.inputs),
        Path(snakemake.output.features),
        outputs=snakemake.params.outputs,
        repository=snakemake.params.repository,
        threads=snakemake.threads,
    )
