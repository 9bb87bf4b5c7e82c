"""All verdicts of a run in one table: as data and as a page."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from vit2onnx.parity.divergence import TRUTH, judge_stages
from vit2onnx.parity.metrics import worst
from vit2onnx.parity.preprocessing import judge_preprocessing
from vit2onnx.parity.verdict import (
    DOUBLE_GRAPH,
    GRAPH_RUNS,
    faults_of,
    largest,
    numbers_of,
    rows_of,
    worst_place,
)
from vit2onnx.reporting.evidence import (
    GATES,
    Judgement,
    LimitsByGate,
    differences,
    faults_of_self_test,
    is_confirmed,
    judge_gates,
    sizes_of,
)
from vit2onnx.reporting.page import ENVIRONMENT, counted, fault_in_words, number
from vit2onnx.reporting.self_test import self_test_section

# What stands under `verdict` where no gate has found a fault.
PASSED = "passed"


@dataclass(frozen=True)
class Measured:
    """Files with the measurements: each graph's comparison, and the other gates' evidence.

    `missing` counts the graphs that were to be compared and were not. `self_test` is there if the checks were tested.
    """

    graphs: Mapping[Path, Path]
    preprocessing: Sequence[Path] = ()
    stages: Sequence[Path] = ()
    self_test: Path | None = None
    missing: int = 0


def summarise(measured: Measured, limits: LimitsByGate, weights: str) -> pd.DataFrame:
    """One row per graph; it passes if all gates let it pass of which something was measured.

    `limits` are those of the config under `parity`, `weights` says whether they are synthetic or official. That these
    are the publisher's is told by the record beside a graph, or by published features.
    """
    preprocessing = {found["variant"]: found["differences"] for found in map(_read, measured.preprocessing)}
    stages = {(found["variant"], found["export"]): found for found in map(_read, measured.stages)}
    self_test = _read(measured.self_test) if measured.self_test else None
    rows = []
    for path, graph in measured.graphs.items():
        comparison = _read(path)
        variant, export = comparison["variant"], comparison["export"]
        judgement = judge_gates(
            comparison,
            limits,
            stages=stages.get((variant, export)),
            preprocessing=preprocessing.get(variant),
            self_test=self_test,
        )
        is_unknown = weights == "official" and not is_confirmed([judgement], _read(graph.with_name("checkpoint.json")))
        kind = "unconfirmed" if is_unknown else weights
        row = summary_row(comparison, judgement, graph.stat().st_size, kind)
        diagnosis = judgement.diagnosis if "outputs" in judgement.faults else ""
        rows.append(row | {"told": _sentences(judgement.told), "diagnosis": diagnosis})
    return pd.DataFrame(rows)


def faults_by_gate(measured: Measured, limits: LimitsByGate, summary: pd.DataFrame) -> dict[str, list[str]]:
    """What gates find wrong of which no graph in the summary tells, by what it is about."""
    told = set(zip(summary["variant"], summary["export"], strict=True)) if len(summary) else set()
    faults = {}
    for found in map(_read, measured.preprocessing):
        if found["variant"] not in {variant for variant, _ in told}:
            judged = judge_preprocessing(found["differences"], numbers_of(limits["preprocessing"]))
            faults[f"The preprocessing of {found['variant']}"] = faults_of(judged, fault_in_words)
    for found in map(_read, measured.stages):
        if (found["variant"], found["export"]) not in told:
            judged = judge_stages(found, numbers_of(limits["limits"]))
            faults[f"A stage of {found['variant']}/{found['export']}.onnx"] = faults_of(judged, fault_in_words)
    if measured.self_test and not told:
        faults["The self-test"] = faults_of_self_test(_read(measured.self_test))
    return {what: sentences for what, sentences in faults.items() if sentences}


def stages_line(measured: Measured, limits: LimitsByGate) -> str:
    """How far the stages of all graphs are apart, in one sentence; nothing if they fail or were not compared."""
    ledgers = list(map(_read, measured.stages))
    numbers = numbers_of(limits["limits"])
    findings = [finding for ledger in ledgers for finding in judge_stages(ledger, numbers)]
    if not findings or faults_of(findings):
        return ""
    count = sum(len({row["stage"] for row in ledger["stages"]}) for ledger in ledgers)
    graphs = f" in {len(ledgers)} graphs" if len(ledgers) > 1 else ""
    most = number(worst(finding.measured for finding in findings if finding.limit_name == "floors"))
    return f"Stages: {count} compared{graphs}, at most {most} noise floors apart (limit {numbers['floors']:g})."


def self_test_line(measured: Measured) -> str:
    """What became of planted faults, in one sentence, and the page to open; nothing if there were none or it failed."""
    if not measured.self_test or not (tested := self_test_section(_read(measured.self_test)))["passed"]:
        return ""
    page = measured.self_test.with_suffix(".html")
    where = os.path.relpath(page if page.exists() else measured.self_test)
    return (
        f"Self-test: {tested['caught']} planted faults caught, {tested['named']} located, {tested['flagged']} flagged."
        f" See {where}"
    )


def _read(path: Path) -> Any:
    return json.loads(path.read_text())


def summary_row(comparison: Mapping[str, Any], judgement: Judgement, size: int, weights: str) -> dict[str, Any]:
    """One graph in short; `size` is that of its file in bytes.

    `floors` and `floors_double` are the error of the worst token in noise floors, of all runs in single precision and
    of the graph in double; `max_abs` and `cosine` are of graph and reference.
    """
    references, faults = comparison["references"], judgement.faults
    rows = differences(comparison, GRAPH_RUNS, references)
    of_truth = [row for run in GRAPH_RUNS for row in rows_of(comparison, run, TRUTH)]
    return {
        "variant": comparison["variant"],
        "export": comparison["export"],
        "weights": weights,
        "verdict": "FAILED" if faults else PASSED,
        "references": " ".join(references),
        "floors": largest(of_truth, "floors"),
        "limit": judgement.limits["floors"],
        "worst_at": worst_place(of_truth, "floors"),
        "floors_double": largest(rows_of(comparison, DOUBLE_GRAPH, TRUTH), "floors"),
        "limit_double": judgement.limits["floors_double"],
        "max_abs": rows["max_abs"].max(skipna=False),
        "cosine": rows["cosine"].min(skipna=False),
        "images": rows["image"].nunique(),
        "sizes": len(sizes_of(rows)),
        "bytes": size,
        "failed_gates": list(faults),
        "faults": _sentences(faults),
    }


def _sentences(faults: Mapping[str, Sequence[str]]) -> list[str]:
    """Faults by gate, each with what its gate is called."""
    return [GATES[gate].prefix + sentence for gate, sentences in faults.items() for sentence in sentences]


def failed_graphs(summary: pd.DataFrame) -> pd.DataFrame:
    """The rows of the graphs that some gate does not let pass."""
    return summary[summary["verdict"] != PASSED]


def verdict_line(summary: pd.DataFrame, *, complete: bool = True) -> str:
    """The verdict on all graphs in one sentence without a full stop; a run that is not `complete` has passed none."""
    count, failed = len(summary), len(failed_graphs(summary))
    if {gate for gates in summary["failed_gates"] for gate in gates} == {"self_test"}:
        verb = "is" if count == 1 else "are"
        return f"FAILED: the checks fail their own test, so their {counted(count, 'verdict')} {verb} void"
    references = " and ".join(dict.fromkeys(" ".join(summary["references"]).split())) or "no reference"
    weights = ", ".join(f"{kind} weights" for kind in summary["weights"].unique())
    verb = "is" if (failed or count) == 1 else "are"
    passed = "Passed:" if complete else "NOT FINISHED: so far"
    said = f"FAILED: {failed} of" if failed else f"{passed} {count} of"
    return f"{said} {counted(count, 'graph')} {verb}{' not' if failed else ''} at parity with {references} ({weights})"


def summary_csv(summary: pd.DataFrame) -> str:
    """The summary as comma-separated values, all faults in one cell."""
    joined = {name: summary[name].str.join("; ") for name in ("failed_gates", "faults")}
    text: str = summary.drop(columns="told").assign(**joined).to_csv(index=False)
    return text


def summary_json(summary: pd.DataFrame) -> str:
    """The verdict on all graphs and the same table, as JSON, in which what is no finite number is null."""
    graphs = json.loads(summary.drop(columns="told").to_json(orient="records", double_precision=15))
    passed = failed_graphs(summary).empty
    return json.dumps({"verdict": verdict_line(summary), "passed": passed, "graphs": graphs}, indent=1) + "\n"


def verdict_rst(summary: pd.DataFrame) -> str:
    """The verdicts as reStructuredText, for the front page of Snakemake's report."""
    lines = [f"**{verdict_line(summary)}.**", ""]
    for row in summary.itertuples():
        lines.append(f"- ``{row.variant}/{row.export}.onnx``: **{row.verdict}**")
        # Messages of onnxruntime have line ends and quotes of all kinds.
        faults = [" ".join(fault.replace("`", "'").split()) for fault in row.told]
        lines += ["", *(f"  - ``{fault}``" for fault in faults), ""]
    return "\n".join(lines)


def summary_page(summary: pd.DataFrame) -> str:
    """The summary as a self-contained HTML page."""
    template = ENVIRONMENT.get_template("summary.html.j2")
    passed, rows = failed_graphs(summary).empty, summary.to_dict("records")
    return template.render(title="Summary", rows=rows, verdict=verdict_line(summary), passed=passed)
