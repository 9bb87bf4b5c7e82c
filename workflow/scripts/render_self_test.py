"""Render the page on the self-test."""

from pathlib import Path

from vit2onnx.files import read_json, write_text
from vit2onnx.logs import logging_to
from vit2onnx.reporting.self_test import self_test_page


def render_self_test(result: Path, page: Path) -> None:
    html = self_test_page(read_json(result))
    write_text(page, html)


if __name__ == "__main__":
    with logging_to(snakemake.log[0]):
        render_self_test(Path(snakemake.input.result), Path(snakemake.output.page))
