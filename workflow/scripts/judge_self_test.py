"""Judge the self-test and fail the run if the checks are at fault."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from vit2onnx.errors import InputError
from vit2onnx.files import write_json
from vit2onnx.logs import logging_to
from vit2onnx.onnx_file import withdraw_passport
from vit2onnx.self_test.verdict import in_short, judge_self_test

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def judge(result: Path, verdict: Path) -> None:
    if faults := judge_self_test(json.loads(result.read_text())):
        # By checks that cannot be relied on, none has passed.
        for graph in result.parent.glob("*/*.onnx"):
            withdraw_passport(graph)
        raise InputError(
            f"The checks do not pass their own test: {in_short(faults)}. If limits under parity were"
            f" changed, set them back. All rows are in {result}."
        )
    write_json(verdict, {"passed": True})


if __name__ == "__main__":
    with logging_to(snakemake.log[0]):
        judge(Path(snakemake.input.result), Path(snakemake.output.verdict))
