"""Every stage of a reference implementation on one image, in single and in double precision."""

from vit2onnx.job import snakemake

from pathlib import Path

import torch

from vit2onnx.files import open_arrays, write_arrays
from vit2onnx.runners.torch import reference_of, stages
from vit2onnx.spec.case import layer_inputs
from vit2onnx.spec.interface import Interface
from vit2onnx.spec.variant import VariantSpec


def run_reference_stages(
    spec: VariantSpec,
    reference: str,
    checkpoint: Path,
    interface: Interface,
    inputs: Path,
    first: Path | None,
    output: Path,
    *,
    case: str,
    repository: str | None,
    threads: int,
) -> None:
    torch.set_num_threads(threads)
    clone = Path(repository).expanduser() if repository else None
    with open_arrays(inputs) as arrays:
        given = interface.inputs_of(arrays, case)
    injected = None
    if first:
        with open_arrays(first) as arrays:
            injected = layer_inputs(arrays)
    found = stages(lambda: reference_of(spec, reference, checkpoint, clone), given, interface, injected)
    write_arrays(output, found)


if __name__ == "__main__":
    spec = VariantSpec.from_mapping(snakemake.wildcards.variant, snakemake.params.spec)
    run_reference_stages(
        spec,
        snakemake.wildcards.reference,
        Path(snakemake.input.checkpoint),
        spec.interface(snakemake.params.interface),
        Path(snakemake.input.inputs),
        Path(snakemake.input.first) if snakemake.input.first else None,
        Path(snakemake.output.stages),
        case=snakemake.params.case,
        repository=snakemake.params.repository,
        threads=snakemake.threads,
    )
