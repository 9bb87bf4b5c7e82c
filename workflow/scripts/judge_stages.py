"""Judge a ledger of stages and fail the run if a layer is at fault."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit2onnx.errors import InputError
from vit2onnx.files import write_json
from vit2onnx.logs import logging_to
from vit2onnx.onnx_file import withdraw_passport
from vit2onnx.parity.divergence import first_divergence, judge_stages
from vit2onnx.parity.verdict import faults_of, numbers_of
from vit2onnx.spec.case import MODES

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def judge(ledger: Path, limits: Mapping[str, Mapping[str, Any]], verdict: Path) -> None:
    measured, numbers = json.loads(ledger.read_text()), numbers_of(limits)
    found = judge_stages(measured, numbers)
    if faults := faults_of(found):
        withdraw_passport(ledger.parents[1] / f"{measured['export']}.onnx")
        raise InputError(
            f"The stages of {measured['variant']}/{measured['export']}.onnx are not at parity: {'; '.join(faults)}."
            f" All numbers are in {ledger}."
        )
    # In accumulated mode as well, though drift that adds up is no fault.
    parted = {mode: first_divergence(measured["stages"], mode, numbers["floors"]) for mode in MODES}
    first = {mode: asdict(place) if place else None for mode, place in parted.items()}
    result = {"passed": True, "first_divergence": first, "findings": [finding.as_data() for finding in found]}
    write_json(verdict, result)


if __name__ == "__main__":
    with logging_to(snakemake.log[0]):
        judge(Path(snakemake.input.ledger), snakemake.params.limits, Path(snakemake.output.verdict))
