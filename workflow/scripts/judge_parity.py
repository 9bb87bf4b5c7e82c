"""Judge a comparison and fail the run if it does not pass."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit2onnx.errors import InputError
from vit2onnx.files import write_json
from vit2onnx.logs import logging_to
from vit2onnx.onnx_file import withdraw_passport
from vit2onnx.parity.verdict import judge, numbers_of

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def judge_parity(comparison: Path, limits: Mapping[str, Mapping[str, Any]], verdict: Path) -> None:
    measured = json.loads(comparison.read_text())
    found = judge(measured, numbers_of(limits))
    if not found.passed:
        withdraw_passport(comparison.parents[1] / f"{measured['export']}.onnx")
        raise InputError(
            f"{measured['variant']}/{measured['export']}.onnx is not at parity: {'; '.join(found.faults)}."
            f" All numbers are in {comparison}."
        )
    write_json(verdict, {"passed": True, "findings": [finding.as_data() for finding in found.findings]})


if __name__ == "__main__":
    with logging_to(snakemake.log[0]):
        judge_parity(Path(snakemake.input.comparison), snakemake.params.limits, Path(snakemake.output.verdict))
