"""Write the inference model of a variant from its archive."""

from vit2onnx.job import snakemake

from pathlib import Path

from vit2onnx.files import atomic
from vit2onnx.spec.variant import VariantSpec
from vit2onnx.weights.archive import read_archive
from vit2onnx.weights.model_file import map_model, write_model


def map_weights(spec: VariantSpec, archive: Path, model: Path) -> None:
    with atomic(model) as new:
        write_model(new, spec, map_model(spec, read_archive(archive, spec)))


if __name__ == "__main__":
    map_weights(
        VariantSpec.from_mapping(snakemake.wildcards.variant, snakemake.params.spec),
        Path(snakemake.input.archive),
        Path(snakemake.output.model),
    )
