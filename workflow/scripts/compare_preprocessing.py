"""Measure how far our preprocessing is from that of others."""

from vit2onnx.job import snakemake

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from vit2onnx.files import write_json, write_text
from vit2onnx.images import load_image, preprocess
from vit2onnx.parity.preprocessing import compare_preprocessing
from vit2onnx.parity.tables import csv_of
from vit2onnx.spec.family import part
from vit2onnx.spec.texts import texts_in
from vit2onnx.spec.variant import VariantSpec


def compare(
    spec: VariantSpec,
    images: Mapping[str, Path],
    sizes: Sequence[tuple[int, int]],
    texts: Path | None,
    tokenizer: Path | None,
    comparison: Path,
    table: Path,
    *,
    threads: int,
) -> None:
    torch.set_num_threads(threads)
    loaded = ((name, load_image(path)) for name, path in images.items())
    rows = compare_preprocessing(loaded, sizes, spec, part(spec.family, "references"), preprocess)
    if texts and tokenizer:
        words = {name: text for name, text in texts_in(texts, str(texts)).items() if isinstance(text, str)}
        rows += part(spec.family, "references").compare_texts(words, tokenizer, spec.architecture.text_length)  # type: ignore[attr-defined]
    write_json(comparison, {"variant": spec.name, "differences": rows})
    write_text(table, csv_of(rows))


if __name__ == "__main__":
    compare(
        VariantSpec.from_mapping(snakemake.wildcards.variant, snakemake.params.spec),
        dict(zip(snakemake.params.names, map(Path, snakemake.input.images), strict=True)),
        snakemake.params.sizes,
        next(map(Path, snakemake.input.texts), None),
        next(map(Path, snakemake.input.tokenizer), None),
        Path(snakemake.output.comparison),
        Path(snakemake.output.table),
        threads=snakemake.threads,
    )
