"""All verdicts of a run in one table: as data and as a page."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from vit2onnx.parity.verdict import Verdict
from vit2onnx.reporting.evidence import GATES
from vit2onnx.reporting.page import ENVIRONMENT, counted, fault_in_words

# The verdict on a graph in which no gate has found a fault.
PASSED = "passed"


def summarise(verdicts: Iterable[Verdict]) -> pd.DataFrame:
    """One row per graph."""
    return pd.DataFrame(map(summary_row, verdicts))


def summary_row(verdict: Verdict) -> dict[str, Any]:
    """One graph in short.

    `floors` and `floors_double` are the error of the worst token in noise floors of the graph's precision, of all runs
    and of the graph in double precision, in which only graphs in single precision are run; `max_abs` and `cosine` are
    of graph and reference. `weights` are synthetic, official, or said to be official without proof.
    """
    faults, figures = verdict.faults_by_gate(), verdict.figures
    is_unknown = verdict.weights == "official" and not verdict.confirmed
    numbers = {name: np.nan if value is None else value for name, value in figures.items()}
    return {
        "variant": verdict.variant,
        "export": verdict.export,
        "precision": verdict.precision,
        "weights": "unconfirmed" if is_unknown else verdict.weights,
        "verdict": "FAILED" if faults else PASSED,
        "references": " ".join(verdict.references),
        "floors": numbers["floors"],
        "limit": verdict.limits["floors"]["limit"],
        "worst_at": figures["worst_at"],
        "floors_double": numbers["floors_double"],
        "limit_double": verdict.limits["floors_double"]["limit"],
        **{name: numbers[name] for name in ("max_abs", "cosine", "images", "sizes")},
        "kind": figures["kind"],
        "bytes": verdict.bytes,
        "failed_gates": list(faults),
        "faults": _sentences(faults),
        "told": _sentences(verdict.faults_by_gate(fault_in_words)),
        "diagnosis": verdict.diagnosis,
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
