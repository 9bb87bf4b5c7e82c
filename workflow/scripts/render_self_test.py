"""Render the page on the self-test."""

from vit2onnx.job import snakemake

from pathlib import Path

from vit2onnx.files import read_json, write_text
from vit2onnx.reporting.self_test import self_test_page


def render_self_test(result: Path, page: Path) -> None:
    html = self_test_page(read_json(result))
    write_text(page, html)


if __name__ == "__main__":
    render_self_test(Path(snakemake.input.result), Path(snakemake.output.page))
