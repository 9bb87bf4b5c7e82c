"""Judge a ledger of stages and fail the run if a layer is at fault."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit2onnx.errors import InputError
from vit2onnx.files import atomic
from vit2onnx.logs import logging_to
from vit2onnx.parity.divergence import judge_stages
from vit2onnx.parity.verdict import numbers_of

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def judge(ledger: Path, limits: Mapping[str, Mapping[str, Any]], verdict: Path) -> None:
    found = json.loads(ledger.read_text())
    if faults := judge_stages(found, numbers_of(limits)):
        raise InputError(
            f"The stages of {found['variant']}/{found['export']}.onnx are not at parity: {'; '.join(faults)}."
            f" All numbers are in {ledger}."
        )
    with atomic(verdict) as new:
        new.write_text(json.dumps({"passed": True}) + "\n")


if __name__ == "__main__":
    with logging_to(snakemake.log[0]):
        judge(Path(snakemake.input.ledger), snakemake.params.limits, Path(snakemake.output.verdict))
