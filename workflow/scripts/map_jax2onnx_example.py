"""Write a variant's weights for the example class that jax2onnx ships."""

from vit2onnx.job import snakemake

from pathlib import Path

from vit2onnx.errors import InputError
from vit2onnx.files import atomic
from vit2onnx.spec.family import has_part, part
from vit2onnx.spec.variant import VariantSpec
from vit2onnx.weights.archive import read_archive
from vit2onnx.weights.leaves import write_leaves
from vit2onnx.weights.model_file import map_archive


def map_jax2onnx_example(spec: VariantSpec, archive: Path, model: Path) -> None:
    if not has_part(spec.family, "jax2onnx_example"):
        raise InputError(f"jax2onnx ships no example class for {spec.family}; use model.eqx.")
    example = part(spec.family, "jax2onnx_example")
    table, skeleton = example.table(spec.architecture), example.skeleton(spec.architecture)
    leaves = map_archive(table, skeleton, read_archive(archive, spec))
    with atomic(model) as new, new.open("wb") as file:
        write_leaves(file, skeleton, leaves)


if __name__ == "__main__":
    map_jax2onnx_example(
        VariantSpec.from_mapping(snakemake.wildcards.variant, snakemake.params.spec),
        Path(snakemake.input.archive),
        Path(snakemake.output.model),
    )
