"""Prepare every photograph at every size that is compared."""

from vit2onnx.job import snakemake

from collections.abc import Mapping, Sequence
from pathlib import Path

from vit2onnx.files import write_arrays
from vit2onnx.images import check_image, load_image, preprocess
from vit2onnx.parity.photographs import telling_first
from vit2onnx.spec.case import GOLDEN, Case
from vit2onnx.spec.variant import VariantSpec


def preprocess_images(
    spec: VariantSpec,
    images: Mapping[str, Path],
    sizes: Sequence[tuple[int, int]],
    golden: Path | None,
    pixel_values: Path,
) -> None:
    inputs = {}
    for name, path in images.items():
        image = load_image(path)
        check_image(path, image, spec.interface().least["height"])
        for height, width in sizes:
            inputs[str(Case(name, height, width))] = preprocess(image, height, width, spec.preprocessing)
    arrays = telling_first(inputs, spec.preprocessing)
    if golden and spec.golden:
        image = load_image(golden)
        arrays[str(GOLDEN)] = preprocess(image, GOLDEN.height, GOLDEN.width, spec.golden.preprocessing)
    write_arrays(pixel_values, arrays)


if __name__ == "__main__":
    preprocess_images(
        VariantSpec.from_mapping(snakemake.wildcards.variant, snakemake.params.spec),
        dict(zip(snakemake.params.names, map(Path, snakemake.input.images), strict=True)),
        snakemake.params.sizes,
        next(map(Path, snakemake.input.golden), None),
        Path(snakemake.output.pixel_values),
    )
