"""Render the dense maps of two models side by side: a page to click in, and a strip of pictures per photograph."""

from vit2onnx.job import snakemake

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vit2onnx.dense.description import Described
from vit2onnx.files import read_arrays, read_json, write_bytes, write_text
from vit2onnx.reporting.dense_page import dense_page
from vit2onnx.reporting.dense_pictures import strip


def render_pair(
    models: Sequence[Described],
    retrieval: Sequence[dict[str, Any]],
    pair: Described,
    photographs: Mapping[str, Path],
    page: Path,
    pictures: Sequence[Path],
) -> None:
    write_text(page, dense_page(models, photographs, retrieval, pair))
    for (image, photograph), path in zip(photographs.items(), pictures, strict=True):
        write_bytes(path, strip(models, image, photograph, pair))


if __name__ == "__main__":
    files = snakemake.input
    render_pair(
        [
            Described(read_json(Path(one)), read_arrays(Path(two)))
            for one, two in zip(files.figures, files.maps, strict=True)
        ],
        [read_json(Path(path)) for path in files.get("retrieval") or ()],
        Described(read_json(Path(files.pair_figures)), read_arrays(Path(files.pair_maps))),
        dict(zip(snakemake.params.names, map(Path, files.images), strict=True)),
        Path(snakemake.output.page),
        list(map(Path, snakemake.output.pictures)),
    )
