"""Render the dense maps of one model, or of two beside each other: a page to click in, and a strip per photograph."""

from vit2onnx.job import snakemake

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vit2onnx.dense.description import Described
from vit2onnx.files import read_json, write_bytes, write_text
from vit2onnx.reporting.dense_page import dense_page
from vit2onnx.reporting.dense_pictures import strip


def render_dense(
    models: Sequence[Described],
    retrieval: Sequence[dict[str, Any]],
    pair: Described | None,
    photographs: Mapping[str, Path],
    page: Path,
    pictures: Path,
) -> None:
    write_text(page, dense_page(models, photographs, retrieval, pair))
    for image, photograph in photographs.items():
        write_bytes(pictures / f"{image}.png", strip(models, image, photograph, pair))


def paths(name: str) -> list[Path]:
    """The inputs of a name: none, one of one model, or those of two."""
    given = snakemake.input.get(name, [])
    return [Path(given)] if isinstance(given, str) else list(map(Path, given))


def described(figures: str, maps: str) -> list[Described]:
    return list(map(Described.read, paths(figures), paths(maps)))


if __name__ == "__main__":
    render_dense(
        described("figures", "maps"),
        list(map(read_json, paths("retrieval"))),
        next(iter(described("pair_figures", "pair_maps")), None),
        dict(zip(snakemake.params.names, paths("images"), strict=True)),
        Path(snakemake.output.page),
        Path(snakemake.output.pictures),
    )
