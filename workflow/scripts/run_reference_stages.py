"""Every stage of a reference implementation on one image, in single and in double precision."""

from vit2onnx.job import snakemake

from pathlib import Path

import torch

from vit2onnx.files import open_arrays, write_arrays
from vit2onnx.runners.torch import reference_of, stages
from vit2onnx.spec.case import layer_inputs
from vit2onnx.spec.variant import VariantSpec


def run_reference_stages(
    spec: VariantSpec,
    reference: str,
    checkpoint: Path,
    pixel_values: Path,
    first: Path | None,
    output: Path,
    *,
    case: str,
    repository: str | None,
    threads: int,
) -> None:
    torch.set_num_threads(threads)
    clone = Path(repository).expanduser() if repository else None
    with open_arrays(pixel_values) as arrays:
        image = arrays[case]
    inputs = None
    if first:
        with open_arrays(first) as arrays:
            inputs = layer_inputs(arrays)
    write_arrays(output, stages(lambda: reference_of(spec, reference, checkpoint, clone), image, inputs))


if __name__ == "__main__":
    run_reference_stages(
        VariantSpec.from_mapping(snakemake.wildcards.variant, snakemake.params.spec),
        snakemake.wildcards.reference,
        Path(snakemake.input.checkpoint),
        Path(snakemake.input.pixel_values),
        Path(snakemake.input.first) if snakemake.input.first else None,
        Path(snakemake.output.stages),
        case=snakemake.params.case,
        repository=snakemake.params.repository,
        threads=snakemake.threads,
    )
