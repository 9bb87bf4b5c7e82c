"""Prepare every photograph and text as the input of an interface, at every size that is compared."""

from vit2onnx.job import snakemake

from collections.abc import Mapping, Sequence
from pathlib import Path

from vit2onnx.files import write_arrays
from vit2onnx.images import load_image, preprocess
from vit2onnx.inputs import ids_of_texts, inputs_of
from vit2onnx.spec.case import GOLDEN, Case
from vit2onnx.spec.texts import texts_in
from vit2onnx.spec.variant import VariantSpec


def prepare_inputs(
    spec: VariantSpec,
    interface: str,
    cases: Sequence[str],
    photographs: Mapping[str, Path],
    texts: Path | None,
    tokenizer: Path | None,
    golden: Path | None,
    inputs: Path,
) -> None:
    own = spec.interface(interface)
    found = {}
    if texts:
        found = ids_of_texts(texts_in(texts, str(texts)), tokenizer, own.facts["text"]["vocabulary"])
    arrays = inputs_of(spec, own, list(map(Case.parse, cases)), photographs, found)
    if golden and spec.golden and interface == "images":
        image = load_image(golden)
        arrays[str(GOLDEN)] = preprocess(image, GOLDEN.height, GOLDEN.width, spec.golden.preprocessing)
    write_arrays(inputs, arrays)


if __name__ == "__main__":
    prepare_inputs(
        VariantSpec.from_mapping(snakemake.wildcards.variant, snakemake.params.spec),
        snakemake.wildcards.interface,
        snakemake.params.cases,
        dict(zip(snakemake.params.names, map(Path, snakemake.input.images), strict=True)),
        next(map(Path, snakemake.input.texts), None),
        next(map(Path, snakemake.input.tokenizer), None),
        next(map(Path, snakemake.input.golden), None),
        Path(snakemake.output.inputs),
    )
