"""Render the dense maps of two models side by side: a page to click in, and a strip of pictures per photograph."""

from vit2onnx.job import snakemake

from collections.abc import Mapping, Sequence
from pathlib import Path

from vit2onnx.files import read_arrays, read_json, write_bytes, write_text
from vit2onnx.reporting.dense_page import DenseModel, DensePair, dense_page
from vit2onnx.reporting.dense_pictures import pair_strip


def render_pair(
    models: Sequence[DenseModel],
    pair: DensePair,
    photographs: Mapping[str, Path],
    page: Path,
    pictures: Sequence[Path],
) -> None:
    write_text(page, dense_page(models, photographs, pair))
    figures, maps = [one.figures for one in models], [one.maps for one in models]
    for (image, photograph), path in zip(photographs.items(), pictures, strict=True):
        write_bytes(path, pair_strip(figures, maps, image, photograph, pair.maps[f"{image}/colours"]))


if __name__ == "__main__":
    files = snakemake.input
    retrieval = [read_json(Path(path)) for path in files.retrieval] if files.get("retrieval") else [None, None]
    models = [
        DenseModel(read_json(Path(figures)), read_arrays(Path(maps)), own)
        for figures, maps, own in zip(files.figures, files.maps, retrieval, strict=True)
    ]
    render_pair(
        models,
        DensePair(read_json(Path(files.pair_figures)), read_arrays(Path(files.pair_maps))),
        dict(zip(snakemake.params.names, map(Path, files.images), strict=True)),
        Path(snakemake.output.page),
        list(map(Path, snakemake.output.pictures)),
    )
