"""Fail where the checks do not pass their own test."""

from vit2onnx.job import snakemake

from pathlib import Path

from vit2onnx.errors import InputError
from vit2onnx.files import read_json, write_json
from vit2onnx.self_test.verdict import finding_of


def judge(result: Path, verdict: Path) -> None:
    finding = finding_of(read_json(result))
    if not finding.passed:
        raise InputError(
            f"The checks do not pass their own test: {finding.detail} If config/limits.yaml was changed, set it back."
            f" All rows are in {result}."
        )
    write_json(verdict, finding.as_data())


if __name__ == "__main__":
    judge(Path(snakemake.input.result), Path(snakemake.output.verdict))
