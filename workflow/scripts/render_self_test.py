"""Render the page on the self-test."""

from vit2onnx.job import snakemake

import json
from pathlib import Path

from vit2onnx.files import write_text
from vit2onnx.reporting.self_test import self_test_page


def render_self_test(result: Path, page: Path) -> None:
    html = self_test_page(json.loads(result.read_text()))
    write_text(page, html)


if __name__ == "__main__":
    render_self_test(Path(snakemake.input.result), Path(snakemake.output.page))
