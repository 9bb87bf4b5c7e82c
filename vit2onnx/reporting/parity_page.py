"""The page on one variant: what was compared, how far it is apart, and whether that is near enough."""

from collections.abc import Sequence
from typing import Any

from vit2onnx.parity.comparison import Comparison
from vit2onnx.parity.dense_comparison import DENSE
from vit2onnx.parity.finding import Finding
from vit2onnx.parity.floors import ROUNDOFF
from vit2onnx.parity.metrics import worst
from vit2onnx.parity.packing import PACKING
from vit2onnx.parity.photographs import PHOTOGRAPHS
from vit2onnx.parity.verdict import LEGS, Verdict
from vit2onnx.reporting.certificate import certificate_section
from vit2onnx.reporting.dense import dense_section
from vit2onnx.reporting.drift import stage_section
from vit2onnx.reporting.evidence import GATES, Evidence, sizes_of, table_of
from vit2onnx.reporting.figures import heat_table, truth_figure
from vit2onnx.reporting.key_figures import key_figures
from vit2onnx.reporting.packing import packing_section
from vit2onnx.reporting.page import ENVIRONMENT, NOUNS, SUBJECTS, compared, fault_in_words
from vit2onnx.reporting.pictures import error_map_figure
from vit2onnx.reporting.sections import ledger_section, own_words_section, photograph_section
from vit2onnx.reporting.self_test import self_test_section
from vit2onnx.reporting.semantics import distribution_section, preprocessing_section, semantics_section
from vit2onnx.spec.subject import PUBLISHED

# What each leg of a verdict answers, and by which limits.
QUESTIONS = {
    "reference": ("Does the graph match the original?", ("cosine", "embedding", "logit", "probability")),
    "truth": (
        "Is it as accurate as the original?",
        ("floors", "floors_double", "rounding_ratio", "neighbour_margin", "subspace_angle"),
    ),
    "sanity": ("Is the file what it promises to be?", ()),
    PACKING: ("Does an image depend on the others in its call?", ("floors",)),
    DENSE: (
        "Are its dense maps those of the original?",
        ("dense_map", "dense_similarity", "dense_gram", "dense_colour", "dense_feature"),
    ),
    PUBLISHED: ("Are the features those that the publisher published?", ("golden",)),
}


def parity_page(evidence: Evidence) -> str:
    """The self-contained HTML page on a variant; the same input gives the same bytes."""
    return ENVIRONMENT.get_template("parity.html.j2").render(page_content(evidence))


def page_content(evidence: Evidence) -> dict[str, Any]:
    """What the page says, as data, by the names that its template has for it."""
    verdicts = evidence.verdicts
    kinds = [comparison.kind for comparison in evidence.comparisons]
    of_images = next((verdict for verdict, kind in zip(verdicts, kinds, strict=True) if kind != "text"), verdicts[0])
    preprocessing = preprocessing_section(evidence.preprocessing, verdicts)
    tested = self_test_section(evidence.self_test) if evidence.self_test is not None else None
    graphs = [graph_section(evidence, *pair) for pair in zip(evidence.comparisons, verdicts, strict=True)]
    references = dict.fromkeys(name for verdict in verdicts for name in verdict.references)
    known = [row for comparison in evidence.comparisons for row in comparison.known_differences]
    stages = [graph["stages"] for graph in graphs if graph["stages"]]
    words = [SUBJECTS[name] for name in references]
    return {
        "title": f"{evidence.record['variant']}: parity",
        "headline": headline(verdicts, words),
        "diagnosis": diagnosis(verdicts),
        "faults": faults_section(verdicts),
        "key_figures": key_figures(evidence, stages, preprocessing, tested),
        "graphs": graphs,
        "references": words,
        "inputs": inputs_in_words(evidence.comparisons),
        "has_texts": any(comparison.kind != "image" for comparison in evidence.comparisons),
        "known_difference": known[0]["cause"] if known else None,
        "known_size": worst([0.0, *(row["expected"] for row in known)]),
        # By precision, because each has noise floors of its own, so many times those of single precision.
        "floors": {verdict.precision: verdict.limits["floors"]["limit"] for verdict in verdicts},
        "roundoff": ROUNDOFF,
        "confirmed": all(verdict.confirmed for verdict in verdicts),
        "record": evidence.record,
        "ledger": ledger_section(evidence.ledger),
        "evidence": [one.detail for one in of_images.of("sanity") if one.measure == PHOTOGRAPHS],
        "photographs": photograph_section(evidence.comparisons, evidence.photographs),
        "preprocessing": preprocessing,
        "self_test": tested,
    }


def inputs_in_words(comparisons: Sequence[Comparison]) -> str:
    """What was compared, of all graphs."""
    said = []
    for kind in NOUNS:
        rows = table_of(row for one in comparisons if one.kind == kind for row in one.of_graph())
        if count := rows["image"].nunique():
            said.append(compared(kind, count, len(sizes_of(rows))))
    return " and ".join(said) or "Nothing"


def faults_section(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """All faults: by gate, and by graph where they are a graph's."""
    faults: list[dict[str, Any]] = []
    for name, gate in GATES.items():
        for verdict in verdicts:
            if sentences := verdict.faults_by_gate(fault_in_words).get(name):
                fault = {"title": gate.title.format(file=verdict.file), "sentences": sentences}
                # Those of preprocessing and self-test are the same for every graph.
                faults += [] if fault in faults else [fault]
    return faults


def diagnosis(verdicts: Sequence[Verdict]) -> list[str]:
    """Which part is at fault, in one sentence, or in one for each graph where they are not the same."""
    failed = [verdict for verdict in verdicts if "outputs" in verdict.faults_by_gate()]
    if len({verdict.diagnosis for verdict in failed}) == 1:
        return [failed[0].diagnosis] if failed[0].diagnosis else []
    return [f"{verdict.file}: {verdict.diagnosis}" for verdict in failed if verdict.diagnosis]


def headline(verdicts: Sequence[Verdict], references: Sequence[str]) -> str:
    """The verdict on the variant in one sentence, whichever gates failed; `references` are names for readers."""
    named = " and ".join(references) or "the original model"
    faults = [verdict.faults_by_gate() for verdict in verdicts]
    if not any(faults):
        files = enumerated([verdict.file for verdict in verdicts])
        verb = "matches" if len(verdicts) == 1 else "match"
        return f"Passed: {files} {verb} {named}."
    said = []
    for name, gate in GATES.items():
        if count := sum(name in own for own in faults):
            files = f"{count} of {len(verdicts)} ONNX files" if len(verdicts) > 1 else verdicts[0].file
            said.append(gate.headline.format(files=files, do="does" if count == 1 else "do", references=named))
    return f"FAILED: {'; '.join(said)}."


def enumerated(names: Sequence[str]) -> str:
    """Names in a sentence: the last after "and", the others after commas."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def graph_section(evidence: Evidence, comparison: Comparison, verdict: Verdict) -> dict[str, Any]:
    """What the page shows of one graph."""
    export, maps, stages = verdict.export, comparison.error_maps, evidence.stages.get(verdict.export)
    dense = evidence.dense.get(export)
    floors = verdict.limits["floors"]["limit"]
    return {
        "export": export,
        "file": verdict.file,
        "precision": verdict.precision,
        "passed": verdict.passed,
        "legs": leg_section(verdict),
        "error_maps": error_map_figure(maps, evidence.photographs, floors) if maps else None,
        "stages": stage_section(stages, verdict) if stages else None,
        "packing": packing_section(evidence.packing[export]) if export in evidence.packing else None,
        "certificate": certificate_section(evidence.plans[export]) if export in evidence.plans else None,
        "dense": dense_section(dense, verdict) if dense else None,
        "own_words": own_words_section(evidence.metadata[export], evidence.operator_sets[export]),
        "distributions": distribution_section(comparison),
        "semantics": semantics_section(comparison),
        "heat": heat_table(comparison, verdict.limits),
        "figure": truth_figure(comparison, floors),
        "sha256": comparison.graph_sha256,
        "runtime": comparison.runtime,
    }


def leg_section(verdict: Verdict) -> list[dict[str, Any]]:
    """The findings of every leg; nothing of gates that are no part of outputs where these were not asked for."""
    return [
        {"question": question, "findings": findings, "limits": _limits_of(findings, names, verdict)}
        for leg, (question, names) in QUESTIONS.items()
        if (findings := verdict.of(leg)) or leg in LEGS
    ]


def _limits_of(findings: Sequence[Finding], names: Sequence[str], verdict: Verdict) -> dict[str, Any]:
    """Those limits by which something was judged; all of them if nothing was."""
    used = {finding.limit_name for finding in findings} or set(names)
    return {name: verdict.limits[name] for name in names if name in used}
