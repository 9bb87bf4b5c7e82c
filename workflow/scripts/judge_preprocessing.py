"""Judge the comparison of the preprocessing and fail the run if it does not pass."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit2onnx.errors import InputError
from vit2onnx.files import write_json
from vit2onnx.logs import logging_to
from vit2onnx.onnx_file import withdraw_passport
from vit2onnx.parity.preprocessing import judge_preprocessing
from vit2onnx.parity.verdict import faults_of, numbers_of

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def judge(comparison: Path, limits: Mapping[str, Mapping[str, Any]], verdict: Path) -> None:
    measured = json.loads(comparison.read_text())
    found = judge_preprocessing(measured["differences"], numbers_of(limits))
    if faults := faults_of(found):
        for graph in comparison.parent.glob("*.onnx"):
            withdraw_passport(graph)
        raise InputError(
            f"{measured['variant']}: the preprocessing is not at parity: {'; '.join(faults)}."
            f" All numbers are in {comparison}."
        )
    write_json(verdict, {"passed": True, "findings": [finding.as_data() for finding in found]})


if __name__ == "__main__":
    with logging_to(snakemake.log[0]):
        judge(Path(snakemake.input.comparison), snakemake.params.limits, Path(snakemake.output.verdict))
