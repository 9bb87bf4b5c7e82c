"""Render the dense maps of one model: a page to click in, and a strip of pictures per photograph."""

from vit2onnx.job import snakemake

from collections.abc import Mapping, Sequence
from pathlib import Path

from vit2onnx.files import read_arrays, read_json, write_bytes, write_text
from vit2onnx.reporting.dense_page import DenseModel, dense_page
from vit2onnx.reporting.dense_pictures import strip


def render_dense(model: DenseModel, photographs: Mapping[str, Path], page: Path, pictures: Sequence[Path]) -> None:
    write_text(page, dense_page([model], photographs))
    for (image, photograph), path in zip(photographs.items(), pictures, strict=True):
        write_bytes(path, strip(model.figures, model.maps, image, photograph))


if __name__ == "__main__":
    files = snakemake.input
    retrieval = read_json(Path(files.retrieval)) if files.get("retrieval") else None
    render_dense(
        DenseModel(read_json(Path(files.figures)), read_arrays(Path(files.maps)), retrieval),
        dict(zip(snakemake.params.names, map(Path, files.images), strict=True)),
        Path(snakemake.output.page),
        list(map(Path, snakemake.output.pictures)),
    )
