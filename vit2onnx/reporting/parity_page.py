"""The page on one variant: what was compared, how far it is apart, and whether that is near enough."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from vit2onnx.parity.finding import Finding
from vit2onnx.parity.metrics import worst
from vit2onnx.parity.verdict import GRAPH_RUNS, PUBLISHED
from vit2onnx.reporting.drift import stage_section
from vit2onnx.reporting.evidence import (
    GATES,
    Evidence,
    Judgement,
    LimitsByGate,
    differences,
    is_confirmed,
    judge_gates,
    sizes_of,
)
from vit2onnx.reporting.figures import heat_table, truth_figure
from vit2onnx.reporting.key_figures import key_figures
from vit2onnx.reporting.page import ENVIRONMENT, SUBJECTS
from vit2onnx.reporting.pictures import error_map_figure
from vit2onnx.reporting.sections import ledger_section, own_words_section, photograph_section
from vit2onnx.reporting.self_test import self_test_section
from vit2onnx.reporting.semantics import distribution_section, preprocessing_section, semantics_section

# What each leg of a verdict answers, and by which limits.
QUESTIONS = {
    "reference": ("Does the graph match the original?", ("cosine",)),
    "truth": (
        "Is it as accurate as the original?",
        ("floors", "floors_double", "rounding_ratio", "neighbour_margin", "subspace_angle"),
    ),
    "sanity": ("Is the file what it promises to be?", ()),
    PUBLISHED: ("Are the features those that the publisher published?", ("golden",)),
}


def parity_page(evidence: Evidence, limits: LimitsByGate) -> str:
    """The self-contained HTML page on a variant; the same input gives the same bytes.

    `limits` are those of the config under `parity`.
    """
    return ENVIRONMENT.get_template("parity.html.j2").render(page_content(evidence, limits))


def page_content(evidence: Evidence, limits: LimitsByGate) -> dict[str, Any]:
    """What the page says, as data, by the names that its template has for it."""
    judged = judgements(evidence, limits)
    of_preprocessing = next(iter(judged.values())).preprocessing
    preprocessing = preprocessing_section(evidence.preprocessing, of_preprocessing, limits["preprocessing"])
    tested = self_test_section(evidence.self_test) if evidence.self_test is not None else None
    graphs = [graph_section(evidence, one, judged[one["export"]], limits) for one in evidence.comparisons]
    references = list(dict.fromkeys(name for one in evidence.comparisons for name in one["references"]))
    rows = pd.concat([differences(one, GRAPH_RUNS, references) for one in evidence.comparisons])
    known = [row for one in evidence.comparisons for row in one["known_differences"]]
    stages = [graph["stages"] for graph in graphs if graph["stages"]]
    words = [SUBJECTS[name] for name in references]
    return {
        "title": f"{evidence.record['variant']}: parity",
        "headline": headline(judged, words),
        "diagnosis": diagnosis(judged),
        "faults": faults_section(judged),
        "key_figures": key_figures(evidence, judged.values(), stages, preprocessing, tested),
        "graphs": graphs,
        "references": words,
        "images": rows["image"].nunique(),
        "sizes": len(sizes_of(rows)),
        "own_periods": worst([0.0, *(row["max_abs"] for row in known)]),
        "limits": limits["limits"],
        "confirmed": is_confirmed(judged.values(), evidence.record),
        "record": evidence.record,
        "ledger": ledger_section(evidence.ledger),
        "photographs": photograph_section(evidence.comparisons, evidence.photographs),
        "preprocessing": preprocessing,
        "self_test": tested,
    }


def judgements(evidence: Evidence, limits: LimitsByGate) -> dict[str, Judgement]:
    """What all gates say of each graph, by its export."""
    return {
        one["export"]: judge_gates(
            one,
            limits,
            stages=evidence.stages.get(one["export"]),
            preprocessing=evidence.preprocessing,
            self_test=evidence.self_test,
        )
        for one in evidence.comparisons
    }


def faults_section(judged: Mapping[str, Judgement]) -> list[dict[str, Any]]:
    """All faults: by gate, and by graph where they are a graph's."""
    found: list[dict[str, Any]] = []
    for name, gate in GATES.items():
        for export, judgement in judged.items():
            if name in judgement.faults:
                fault = {"title": gate.title.format(file=f"{export}.onnx"), "sentences": judgement.told[name]}
                # Those of preprocessing and self-test are the same for every graph.
                found += [] if fault in found else [fault]
    return found


def diagnosis(judged: Mapping[str, Judgement]) -> list[str]:
    """Which part is at fault, in one sentence, or in one for each graph where they are not the same."""
    found = {export: judgement.diagnosis for export, judgement in judged.items() if "outputs" in judgement.faults}
    if len(set(found.values())) == 1:
        return [sentence for sentence in set(found.values()) if sentence]
    return [f"{export}.onnx: {sentence}" for export, sentence in found.items() if sentence]


def headline(judged: Mapping[str, Judgement], references: Sequence[str]) -> str:
    """The verdict on the variant in one sentence, whichever gates failed; `references` are names for readers."""
    named = " and ".join(references) or "the original model"
    faults = [judgement.faults for judgement in judged.values()]
    if not any(faults):
        files = " and ".join(f"{export}.onnx" for export in judged)
        verb = "matches" if len(judged) == 1 else "match"
        return f"Passed: {files} {verb} {named}."
    said = []
    for name, gate in GATES.items():
        if count := sum(name in own for own in faults):
            files = f"{count} of {len(judged)} ONNX files" if len(judged) > 1 else f"{next(iter(judged))}.onnx"
            said.append(gate.headline.format(files=files, do="does" if count == 1 else "do", references=named))
    return f"FAILED: {'; '.join(said)}."


def graph_section(
    evidence: Evidence, comparison: Mapping[str, Any], judgement: Judgement, limits: LimitsByGate
) -> dict[str, Any]:
    """What the page shows of one graph."""
    export, of_models = comparison["export"], limits["limits"]
    ledger = evidence.stages.get(export)
    maps = comparison["error_maps"]
    return {
        "export": export,
        "file": f"{export}.onnx",
        "passed": judgement.passed,
        "legs": leg_section(judgement, of_models),
        "error_maps": error_map_figure(maps, evidence.photographs, judgement.limits["floors"]) if maps else None,
        "stages": stage_section(ledger, judgement.limits["floors"], judgement.stages) if ledger else None,
        "own_words": own_words_section(evidence.metadata[export], evidence.operator_sets[export]),
        "distributions": distribution_section(comparison),
        "semantics": semantics_section(comparison),
        "heat": heat_table(comparison, judgement.limits),
        "figure": truth_figure(comparison, judgement.limits["floors"]),
        "sha256": comparison["graph_sha256"],
        "runtime": comparison["runtime"],
    }


def leg_section(judgement: Judgement, limits: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The findings of every leg, each once; nothing of the published features where they were not compared."""
    legs = []
    for leg, (question, names) in QUESTIONS.items():
        findings: list[Finding] = [f for f in dict.fromkeys(judgement.outputs.findings) if f.leg == leg]
        if findings or leg != PUBLISHED:
            legs.append({"question": question, "findings": findings, "limits": {name: limits[name] for name in names}})
    return legs
