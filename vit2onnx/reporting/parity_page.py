"""The page on one variant: what was compared, how far it is apart, and whether that is near enough."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from vit2onnx.parity.verdict import GRAPH_RUNS, Verdict, judge, numbers_of
from vit2onnx.reporting import semantics
from vit2onnx.reporting.drift import stage_section
from vit2onnx.reporting.evidence import Evidence, Limits, faults_by_gate
from vit2onnx.reporting.figures import heat_table, truth_figure
from vit2onnx.reporting.key_figures import key_figures
from vit2onnx.reporting.page import ENVIRONMENT, SUBJECTS
from vit2onnx.reporting.pictures import error_map_figure
from vit2onnx.reporting.sections import ledger_in_short, own_words, photographs
from vit2onnx.reporting.self_test import self_test_section
from vit2onnx.reporting.summary import differences, sizes_of

LEGS = {
    "reference": (
        "Does the graph give what the original gives?",
        ("max_abs", "cosine", "golden", "neighbour_margin", "subspace_angle"),
    ),
    "truth": ("Is it as exact as the original?", ("truth_ratio", "truth_agreement")),
    "sanity": ("Is the file what it promises to be?", ()),
}

# What stands over the faults of a gate.
TITLES = {
    "outputs": "{file}, outputs",
    "published": "{file}, against published features",
    "stages": "{file}, layer by layer",
    "preprocessing": "preprocessing",
    "self_test": "self-test",
}


def parity_page(evidence: Evidence, limits: Limits) -> str:
    """The self-contained HTML page on a variant; the same input gives the same bytes.

    `limits` are those of the config under `parity`.
    """
    preprocessing = semantics.preprocessing(evidence.preprocessing, limits["preprocessing"])
    tested = self_test_section(evidence.self_test) if evidence.self_test is not None else None
    graphs = [graph_section(evidence, comparison, limits) for comparison in evidence.comparisons]
    faults = faults_of_page(graphs)
    references = list(dict.fromkeys(name for one in evidence.comparisons for name in one["references"]))
    rows = pd.concat([differences(one, GRAPH_RUNS, references) for one in evidence.comparisons])
    stages = [graph["stages"] for graph in graphs if graph["stages"]]
    return ENVIRONMENT.get_template("parity.html.j2").render(
        title=f"{evidence.record['variant']}: parity",
        headline=headline(graphs, faults),
        faults=faults,
        key_figures=key_figures(evidence, limits, stages, preprocessing, tested),
        graphs=graphs,
        references=[SUBJECTS[name] for name in references],
        images=rows["image"].nunique(),
        sizes=len(sizes_of(rows)),
        limits=limits["limits"],
        confirmed=is_confirmed(evidence.comparisons, evidence.record),
        record=evidence.record,
        ledger=ledger_in_short(evidence.ledger),
        photographs=photographs(evidence.comparisons, evidence.photographs),
        preprocessing=preprocessing,
        self_test=tested,
    )


def faults_of_page(graphs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """All faults: by gate, in the order of `TITLES`, and by graph where they are a graph's."""
    found: list[dict[str, Any]] = []
    for gate, title in TITLES.items():
        for graph in graphs:
            if gate in graph["faults"]:
                fault = {"gate": gate, "title": title.format(file=graph["file"]), "sentences": graph["faults"][gate]}
                # Those of preprocessing and self-test are the same for every graph.
                found += [] if fault in found else [fault]
    return found


def headline(graphs: Sequence[Mapping[str, Any]], faults: Sequence[Mapping[str, Any]]) -> str:
    """The verdict on the variant in one sentence, whichever gates failed."""
    if not faults:
        files = " and ".join(graph["file"] for graph in graphs)
        verb = "gives" if len(graphs) == 1 else "give"
        return f"Passed: {files} {verb} what the original PyTorch model gives."
    gates = [fault["gate"] for fault in faults]
    said = []
    if count := gates.count("outputs"):
        verb = "does" if count == 1 else "do"
        said.append(f"{count} of {len(graphs)} ONNX files {verb} not give what the original PyTorch model gives")
    if "published" in gates:
        said.append("the checkpoint or the photograph is not the one whose features are published")
    if count := gates.count("stages"):
        said.append(f"inside {count} of {len(graphs)} ONNX files a layer goes wrong")
    if "preprocessing" in gates:
        said.append("photographs are not prepared as the publisher prepares them")
    if "self_test" in gates:
        said.append("these checks cannot be relied on")
    return f"FAILED: {'; '.join(said)}."


def is_confirmed(comparisons: Iterable[Mapping[str, Any]], record: Mapping[str, Any]) -> bool:
    """Whether the weights are known to be the publisher's: by the file's hash, or by the features that it published."""
    published = [row for one in comparisons for row in one["differences"] if row["other"] == "published"]
    return bool(record["official_file"] or published)


def graph_section(evidence: Evidence, comparison: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    """What the page shows of one graph."""
    export, of_models = comparison["export"], limits["limits"]
    verdict = judge(comparison, numbers_of(of_models))
    ledger = evidence.stages.get(export)
    faults = faults_by_gate(comparison, evidence.preprocessing, ledger, evidence.self_test, limits)
    maps = comparison["error_maps"]
    return {
        "file": f"{export}.onnx",
        "passed": not faults,
        "faults": faults,
        "legs": [
            {
                "question": question,
                "findings": findings_of_leg(verdict, leg),
                "limits": {name: of_models[name] for name in names},
            }
            for leg, (question, names) in LEGS.items()
        ],
        "error_maps": error_map_figure(maps, evidence.photographs, of_models["max_abs"]["limit"]) if maps else None,
        "stages": stage_section(ledger, of_models["noise_floors"]["limit"], faults.get("stages", []))
        if ledger
        else None,
        "own_words": own_words(evidence.metadata[export], evidence.operator_sets[export]),
        "distributions": semantics.distributions(comparison),
        "semantics": semantics.semantics(comparison),
        "heat": heat_table(comparison, of_models),
        "figure": truth_figure(comparison, of_models["truth_ratio"]["limit"]),
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
