"""The page on one variant: what was compared, how far it is apart, and whether that is near enough."""

import base64
import csv
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from vit2onnx.parity.verdict import GRAPH_RUNS, Verdict, judge, numbers_of
from vit2onnx.reporting import semantics
from vit2onnx.reporting.figures import heat_table, truth_figure
from vit2onnx.reporting.page import ENVIRONMENT, SUBJECTS
from vit2onnx.reporting.summary import differences, sizes_of

Limits = Mapping[str, Mapping[str, Any]]

LEGS = {
    "reference": (
        "Does the graph give what the original gives?",
        ("max_abs", "cosine", "golden", "neighbour_margin", "subspace_angle"),
    ),
    "truth": ("Is it as exact as the original?", ("truth_ratio", "truth_agreement")),
    "sanity": ("Is the file what it promises to be?", ()),
}


def parity_page(
    comparisons: Sequence[Mapping[str, Any]],
    record: Mapping[str, Any],
    ledger: Iterable[str],
    limits: Limits,
    preprocessing: Sequence[Mapping[str, Any]],
    preprocessing_limits: Limits,
) -> str:
    """The self-contained HTML page on a variant; the same input gives the same bytes.

    `comparisons` are those of its graphs, `record` is its `checkpoint.json`, `ledger` the lines of its `ledger.csv`,
    `limits` are those of the config. `preprocessing` has the differences of its `preprocessing.json`, and limits of
    its own.
    """
    numbers = numbers_of(limits)
    graphs = [graph_section(comparison, judge(comparison, numbers), limits) for comparison in comparisons]
    references = list(dict.fromkeys(name for comparison in comparisons for name in comparison["references"]))
    rows = pd.concat([differences(comparison, GRAPH_RUNS, references) for comparison in comparisons])
    return ENVIRONMENT.get_template("parity.html.j2").render(
        title=f"{record['variant']}: parity",
        graphs=graphs,
        failed=[graph for graph in graphs if not graph["passed"]],
        references=[SUBJECTS[name] for name in references],
        max_abs=rows["max_abs"].max(skipna=False),
        images=rows["image"].nunique(),
        sizes=len(sizes_of(rows)),
        limits=limits,
        confirmed=is_confirmed(comparisons, record),
        record=record,
        ledger=ledger_in_short(ledger),
        preprocessing=semantics.preprocessing(preprocessing, preprocessing_limits),
    )


def is_confirmed(comparisons: Iterable[Mapping[str, Any]], record: Mapping[str, Any]) -> bool:
    """Whether the weights are known to be the publisher's: by the file's hash, or by the features that it published."""
    published = [row for one in comparisons for row in one["differences"] if row["other"] == "published"]
    return bool(record["official_file"] or published)


def graph_section(comparison: Mapping[str, Any], verdict: Verdict, limits: Limits) -> dict[str, Any]:
    """What the page shows of one graph."""
    svg = truth_figure(comparison, limits["truth_ratio"]["limit"])
    return {
        "file": f"{comparison['export']}.onnx",
        "passed": verdict.passed,
        "faults": verdict.faults,
        "legs": [
            {
                "question": question,
                "findings": findings_of_leg(verdict, leg),
                "limits": {name: limits[name] for name in names},
            }
            for leg, (question, names) in LEGS.items()
        ],
        "distributions": semantics.distributions(comparison),
        "semantics": semantics.semantics(comparison),
        "heat": heat_table(comparison, limits),
        "figure": base64.b64encode(svg.encode()).decode(),
        "sha256": comparison["graph_sha256"],
        "runtime": comparison["runtime"],
    }


def findings_of_leg(verdict: Verdict, leg: str) -> list[dict[str, Any]]:
    """The findings of a leg, each once; those with figures lose these from their sentence, for they have columns."""
    return [
        {
            "what": finding.sentence if leg == "sanity" else finding.sentence.rpartition(":")[0],
            "passed": finding.passed,
            "measured": None if leg == "sanity" else finding.measured,
            "limit": finding.limit,
        }
        for finding in dict.fromkeys(verdict.findings)
        if finding.leg == leg
    ]


def ledger_in_short(lines: Iterable[str]) -> dict[str, Any]:
    """How many tensors the checkpoint has, and which of them have no place in the model, or the model none in it."""
    rows = list(csv.DictReader(lines))
    placed = [row for row in rows if row["source"] and row["target"]]
    copied = [row for row in placed if row["transform"] == "copy"]
    return {
        "tensors": sum(bool(row["source"]) for row in rows),
        "copied": len(copied),
        "changed": len(placed) - len(copied),
        "ignored": [(row["source"], row["transform"].removeprefix("ignored: ")) for row in rows if not row["target"]],
        "restored": [(row["target"], row["transform"]) for row in rows if not row["source"]],
    }
