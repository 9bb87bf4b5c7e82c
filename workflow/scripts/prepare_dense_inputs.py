"""Prepare every photograph at the sizes at which dense maps are looked at."""

from vit2onnx.job import snakemake

from pathlib import Path

from vit2onnx.files import write_arrays
from vit2onnx.inputs import inputs_of
from vit2onnx.spec.case import Case
from vit2onnx.spec.variant import VariantSpec

if __name__ == "__main__":
    spec = VariantSpec.from_mapping(snakemake.wildcards.variant, snakemake.params.spec).uncropped
    photographs = dict(zip(snakemake.params.names, map(Path, snakemake.input.images), strict=True))
    cases = list(map(Case.parse, snakemake.params.cases))
    arrays = inputs_of(spec, spec.interface(snakemake.params.interface), cases, photographs, {})
    write_arrays(Path(snakemake.output.inputs), arrays)
