"""Measure how well images of one label find each other by their features."""

from vit2onnx.job import snakemake

import os
from collections.abc import Iterable
from pathlib import Path

from vit2onnx.dense.composites import composites
from vit2onnx.dense.retrieval import LabelledImage
from vit2onnx.files import write_json, write_text
from vit2onnx.parity.tables import csv_of
from vit2onnx.runners.retrieval import gallery_of, images_of_files
from vit2onnx.spec.cases import Size
from vit2onnx.spec.dense import COMPOSITES
from vit2onnx.spec.interface import Interface
from vit2onnx.spec.variant import VariantSpec
from vit2onnx.weights.model_file import open_model


def retrieve_images(
    spec: VariantSpec,
    interface: Interface,
    model: Path,
    images: Iterable[LabelledImage],
    figures: Path,
    table: Path,
    *,
    name: str,
    size: Size,
    suppress: int,
    threads: int,
) -> None:
    # Read by XLA when it first runs something; it has no other setting for this.
    os.environ["NPROC"] = str(threads)
    gallery = gallery_of(spec, interface, *open_model(model), images, size)
    found = {"variant": spec.name, "set": name} | gallery.result(suppress)
    write_json(figures, found)
    write_text(table, csv_of(found["rows"]))


if __name__ == "__main__":
    spec = VariantSpec.from_mapping(snakemake.wildcards.variant, snakemake.params.spec).uncropped
    interface = spec.interface(snakemake.params.interface)
    paths, masks = (list(map(Path, snakemake.input[name])) for name in ("images", "masks"))
    labels = snakemake.params.labels
    retrieve_images(
        spec,
        interface,
        Path(snakemake.input.model),
        composites(Path(snakemake.params.resources))
        if snakemake.params.retrieval == COMPOSITES
        else images_of_files(paths, labels, masks, interface.patch_size),
        Path(snakemake.output.figures),
        Path(snakemake.output.table),
        name=Path(snakemake.params.retrieval).name,
        size=tuple(snakemake.params.size),
        suppress=snakemake.params.suppress,
        threads=snakemake.threads,
    )
