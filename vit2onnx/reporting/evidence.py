"""The evidence on a variant and the judgement of every gate, for page, summary and terminal."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from vit2onnx.parity.divergence import DOUBLE, TRUTH, judge_stages
from vit2onnx.parity.finding import Finding
from vit2onnx.parity.preprocessing import judge_preprocessing
from vit2onnx.parity.verdict import DOUBLE_GRAPH, GRAPH_RUNS, PUBLISHED, Verdict, faults_of, judge, numbers_of, rows_of
from vit2onnx.reporting.page import fault_in_words
from vit2onnx.reporting.self_test import self_test_section

# What the config has under `parity`: limits of models under `limits`, of the preprocessing under `preprocessing`.
LimitsByGate = Mapping[str, Mapping[str, Mapping[str, Any]]]

Plain = Mapping[str, Any]

COLUMNS = [
    *("subject", "other", "image", "height", "width", "batch", "group", "token"),
    *("count", "max_abs", "rms", "cosine", "scale", "floors"),
]


@dataclass(frozen=True)
class Gate:
    """The names of a gate: the title of its faults on a page, their prefix elsewhere, and its words in a headline."""

    title: str
    prefix: str
    headline: str


# By their names in `Judgement.faults`, in the order in which pages list them.
GATES = {
    "outputs": Gate("{file}, outputs", "", "{files} {do} not match {references}"),
    PUBLISHED: Gate(
        "{file}, against published features",
        "checkpoint or photograph: ",
        "the checkpoint or the photograph is not the one whose features are published",
    ),
    "stages": Gate("{file}, stage by stage", "stages: ", "a stage of {files} is wrong"),
    "preprocessing": Gate(
        "preprocessing", "preprocessing: ", "photographs are not prepared as the publisher prepares them"
    ),
    "self_test": Gate("self-test", "self-test: ", "these checks cannot be relied on"),
}


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


@dataclass(frozen=True)
class Judgement:
    """What all gates say of a graph. What was not measured has no findings and no faults.

    `self_test` are the faults of the checks themselves: if they do not pass their own test, no graph passes by them.
    """

    outputs: Verdict
    stages: Sequence[Finding]
    preprocessing: Sequence[Finding]
    self_test: Sequence[str]
    # The numbers by which outputs and stages are judged.
    limits: Mapping[str, float]
    # Whether the Equinox model was compared with the truth, without which nothing can be told of it.
    has_equinox: bool = True

    @property
    def faults(self) -> dict[str, list[str]]:
        """What each gate of `GATES` finds wrong, in sentences; a gate that finds nothing is left out.

        That features are not the published ones is told apart from the rest of the outputs: then the checkpoint or the
        photograph is another, and the graph may well be right.
        """
        return self._faults(lambda finding: finding.sentence)

    @property
    def told(self) -> dict[str, list[str]]:
        """The same faults in words for readers who do not know the project."""
        return self._faults(fault_in_words)

    def _faults(self, tell: Callable[[Finding], str]) -> dict[str, list[str]]:
        published = [finding for finding in self.outputs.findings if finding.leg == PUBLISHED]
        own = [finding for finding in self.outputs.findings if finding.leg != PUBLISHED]
        found = {
            "outputs": self.outputs.missing + faults_of(own, tell),
            PUBLISHED: faults_of(published, tell),
            "stages": faults_of(self.stages, tell),
            "preprocessing": faults_of(self.preprocessing, tell),
            "self_test": list(self.self_test),
        }
        return {gate: found[gate] for gate in GATES if found[gate]}

    @property
    def passed(self) -> bool:
        return not self.faults

    @property
    def diagnosis(self) -> str:
        """Which part is at fault where outputs are, and what to do next; nothing where this cannot be told."""
        failed = [one for one in self.outputs.findings if one.leg in ("reference", "truth") and not one.passed]
        off = {one.subject for one in failed}
        runs = [run for run in (*GRAPH_RUNS, DOUBLE_GRAPH) if run in off]
        if not runs or not self.has_equinox:
            return ""
        said = "The Equinox model is within the limits, so the export (or onnxruntime) is at fault."
        if off & {"equinox", f"equinox{DOUBLE}"}:
            said = "The Equinox model is off too, so weights, model or reference are at fault."
        elif runs == [GRAPH_RUNS[0]]:
            said = "The graph fails only if onnxruntime optimises it, so onnxruntime is at fault."
        elif DOUBLE_GRAPH not in off:
            said = "In double precision the graph is right, so onnxruntime is at fault."
        elif any(one.subject == DOUBLE_GRAPH and math.isfinite(one.measured) for one in failed):
            said = "The Equinox model is within the limits and its graph is not, so the export is at fault."
        return said if self.stages else f"{said} `make proof` names the first stage that is wrong."


def judge_gates(
    comparison: Plain,
    limits: LimitsByGate,
    *,
    stages: Plain | None = None,
    preprocessing: Sequence[Plain] | None = None,
    self_test: Plain | None = None,
) -> Judgement:
    """Judge all that was measured of a graph; `None` stands for what was not."""
    numbers = numbers_of(limits["limits"])
    return Judgement(
        limits=numbers,
        outputs=judge(comparison, numbers),
        has_equinox=bool(rows_of(comparison, "equinox", TRUTH)),
        stages=() if stages is None else judge_stages(stages, numbers),
        preprocessing=()
        if preprocessing is None
        else judge_preprocessing(preprocessing, numbers_of(limits["preprocessing"])),
        self_test=() if self_test is None else faults_of_self_test(self_test),
    )


def is_confirmed(judged: Iterable[Judgement], record: Plain) -> bool:
    """Whether the weights are known to be the publisher's: by the file's hash, or by the features that it published."""
    published = [finding for one in judged for finding in one.outputs.findings if finding.leg == PUBLISHED]
    return bool(record["official_file"] or (published and all(finding.passed for finding in published)))


def faults_of_self_test(result: Plain) -> list[str]:
    """What is wrong with the checks themselves, in one sentence, for their own page has the rest."""
    tested = self_test_section(result)
    return [] if tested["passed"] else [tested["sentence"]]


def differences(comparison: Plain, subjects: Iterable[str], others: Iterable[str]) -> pd.DataFrame:
    """The rows of a comparison that set one of `subjects` against one of `others`; `None` becomes NaN."""
    rows = pd.DataFrame(comparison["differences"], columns=COLUMNS).astype(
        dict.fromkeys(("max_abs", "rms", "cosine", "scale", "floors"), float)
    )
    return rows[rows["subject"].isin(list(subjects)) & rows["other"].isin(list(others))]


def sizes_of(rows: pd.DataFrame) -> list[tuple[int, int]]:
    """Heights and widths that were compared, from the smallest area to the largest."""
    return by_area(zip(rows["height"], rows["width"], strict=True))


def by_area(sizes: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Every size once, from the smallest area to the largest."""
    return sorted(set(sizes), key=lambda size: (size[0] * size[1], size))
