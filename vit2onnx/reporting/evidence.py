"""What was found on a variant, and what each gate says of it; page, summary and terminal ask here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vit2onnx.parity.divergence import judge_stages
from vit2onnx.parity.preprocessing import judge_preprocessing
from vit2onnx.parity.verdict import judge, numbers_of
from vit2onnx.reporting.self_test import self_test_section

# What the config has under `parity`: limits of models under `limits`, of the preprocessing under `preprocessing`.
Limits = Mapping[str, Mapping[str, Mapping[str, Any]]]

Plain = Mapping[str, Any]


@dataclass(frozen=True)
class Evidence:
    """All on one variant, as it stands in its files.

    `comparisons` are those of its graphs, `record` is its `checkpoint.json`, `ledger` the lines of its `ledger.csv`,
    `preprocessing` the differences of its `preprocessing.json`. By the name of the export come what its graph says of
    itself, the operator sets that it needs, and the ledger of its stages if stages are compared. `photographs` are
    files by name. `self_test` is what became of planted faults, if that was tried.
    """

    comparisons: Sequence[Plain]
    record: Plain
    ledger: Sequence[str]
    preprocessing: Sequence[Plain]
    metadata: Mapping[str, Mapping[str, str]]
    operator_sets: Mapping[str, Mapping[str, int]]
    photographs: Mapping[str, Path]
    stages: Mapping[str, Plain] = field(default_factory=dict)
    self_test: Plain | None = None


def faults_by_gate(
    comparison: Plain,
    preprocessing: Sequence[Plain] | None,
    stages: Plain | None,
    self_test: Plain | None,
    limits: Limits,
) -> dict[str, list[str]]:
    """What each gate finds wrong with a graph, in sentences; a gate that finds nothing is left out.

    That features are not the published ones is told apart from the rest (`outputs`): then the checkpoint or the
    photograph is another, and the graph may well be right. Checks that do not pass their own test (`self_test`) let no
    graph pass. `None` stands for what was not measured.
    """
    numbers = numbers_of(limits["limits"])
    own = [row for row in comparison["differences"] if row["other"] != "published"]
    outputs = judge({**comparison, "differences": own}, numbers).faults
    found = {
        "outputs": outputs,
        "published": [fault for fault in judge(comparison, numbers).faults if fault not in outputs],
        "stages": judge_stages(stages, numbers) if stages else [],
        "preprocessing": [
            finding.sentence
            for finding in judge_preprocessing(preprocessing or [], numbers_of(limits["preprocessing"]))
            if preprocessing is not None and not finding.passed
        ],
        "self_test": faults_of_self_test(self_test),
    }
    return {gate: faults for gate, faults in found.items() if faults}


def faults_of_self_test(result: Plain | None) -> list[str]:
    """What is wrong with the checks themselves, in one sentence, for their own page has the rest."""
    tested = self_test_section(result) if result is not None else None
    return [tested["sentence"]] if tested and not tested["passed"] else []
