"""Pass or fail: all gates of one graph, judged once on what was measured. A gate without a finding fails."""

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from vit2onnx.errors import first_few
from vit2onnx.files import read_json
from vit2onnx.parity.comparison import Comparison, Row, largest, worst_place
from vit2onnx.parity.dense_comparison import DENSE, DenseComparison
from vit2onnx.parity.divergence import StageComparison
from vit2onnx.parity.finding import Finding
from vit2onnx.parity.metrics import TOKEN_ERROR, finite, worst
from vit2onnx.parity.packing import PACKING, PackingComparison
from vit2onnx.parity.preprocessing import judge_preprocessing, judge_texts
from vit2onnx.spec.limits import OF_MODELS
from vit2onnx.spec.subject import DOUBLE, DOUBLE_GRAPH, GRAPH_RUNS, PUBLISHED, TRUTH

# The legs on which a graph stands by itself, which make up the gate "outputs". Every other gate is a leg of its name.
LEGS = ("reference", "truth", "sanity")
GATES = ("outputs", PUBLISHED, PACKING, DENSE, "stages", "preprocessing", "self_test")

LOGITS = "logits"
# What is judged of images and texts together: the groups of rows, the limit, the figure of a row, and its name.
JOINT = (
    (("image_embeds", "text_embeds"), "embedding", "max_abs", "max |difference| of embeddings of length one"),
    ((LOGITS,), "logit", "max_abs", "max |difference| of logits"),
    ((LOGITS,), "probability", "probability", "max |difference| of probabilities"),
)


@dataclass(frozen=True)
class Verdict:
    """What all gates found on one graph.

    `asked` are the legs that must have a finding. `weights` says whether these are official, and `is_release` whether
    their file is known by its hash to be the publisher's. `evidence` are the SHA-256 of the files that were judged, by
    their path from the verdict's folder, `figures` the worst of what was measured, and `limits` are as the config has
    them, with what was measured when they were set, and why.
    """

    findings: tuple[Finding, ...]
    asked: Sequence[str] = LEGS
    variant: str = ""
    export: str = ""
    weights: str = "synthetic"
    is_release: bool = False
    references: Sequence[str] = ()
    runtime: Mapping[str, Any] = field(default_factory=dict)
    precision: str = "float32"
    bytes: int = 0
    figures: Mapping[str, Any] = field(default_factory=dict)
    limits: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    evidence: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "Verdict":
        """Read a verdict. Whether it passed is told by its findings alone."""
        data = read_json(path)
        given = {entry.name: data[entry.name] for entry in fields(cls)}
        return cls(**given | {"findings": tuple(map(Finding.from_data, data["findings"]))})

    def as_data(self) -> dict[str, Any]:
        """For JSON: what was found and judged, and all that follows from it."""
        told = {"passed": self.passed, "faults": self.faults, "diagnosis": self.diagnosis, "confirmed": self.confirmed}
        given = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return told | {"missing": self.missing} | given | {"findings": [finding.as_data() for finding in self.findings]}

    @property
    def file(self) -> str:
        return f"{self.export}.onnx"

    @property
    def passed(self) -> bool:
        """Whether all findings passed and no leg is without one."""
        return not self.faults

    @property
    def missing(self) -> list[str]:
        """The legs without a finding."""
        legs = {finding.leg for finding in self.findings}
        return [leg for leg in self.asked if leg not in legs]

    @property
    def faults(self) -> list[str]:
        """All that did not pass, in sentences."""
        return [sentence for sentences in self.faults_by_gate().values() for sentence in sentences]

    def faults_by_gate(self, tell: Callable[[Finding], str] = lambda finding: finding.sentence) -> dict[str, list[str]]:
        """What each gate of `GATES` found wrong, in sentences; a gate that found nothing is left out.

        That features are not the published ones is told apart from the rest of the outputs: then the checkpoint or the
        photograph is another, and the graph may well be right.
        """
        told = [(leg, f"nothing was found on the {leg} leg") for leg in self.missing]
        told += [(finding.leg, tell(finding)) for finding in self.findings if not finding.passed]
        by_gate: dict[str, list[str]] = {gate: [] for gate in GATES}
        for leg, sentence in told:
            by_gate["outputs" if leg in LEGS else leg].append(sentence)
        return {gate: sentences for gate, sentences in by_gate.items() if sentences}

    def of(self, leg: str) -> list[Finding]:
        """The findings on a leg, each once."""
        return [finding for finding in dict.fromkeys(self.findings) if finding.leg == leg]

    @property
    def confirmed(self) -> bool:
        """Whether weights are known to be the publisher's: by the file's hash, or by the features that it published."""
        published = self.of(PUBLISHED)
        return self.is_release or (bool(published) and all(finding.passed for finding in published))

    @property
    def diagnosis(self) -> str:
        """Which part is at fault where outputs are, and what to do next; nothing where this cannot be told."""
        legs = [*self.of("reference"), *self.of("truth")]
        failed = [finding for finding in legs if not finding.passed]
        off = {finding.subject for finding in failed}
        runs = [run for run in (*GRAPH_RUNS, DOUBLE_GRAPH) if run in off]
        # Without a comparison of the Equinox model nothing can be told, and no place is named.
        has_equinox = any(finding.place for finding in legs if finding.subject == "equinox")
        if not runs or not has_equinox or "outputs" not in self.faults_by_gate():
            return ""
        said = "The Equinox model is within the limits, so the export (or onnxruntime) is at fault."
        if self.precision != "float32" and not off & {"equinox", f"equinox{DOUBLE}"}:
            return f"The model is right, and {self.precision} is too coarse for it; export it in a larger precision."
        if off & {"equinox", f"equinox{DOUBLE}"}:
            said = "The Equinox model is off too, so weights, model or reference are at fault."
        elif runs == [GRAPH_RUNS[0]]:
            said = "The graph fails only if onnxruntime optimises it, so onnxruntime is at fault."
        elif DOUBLE_GRAPH not in off:
            said = "In double precision the graph is right, so onnxruntime is at fault."
        elif any(finding.subject == DOUBLE_GRAPH and math.isfinite(finding.measured) for finding in failed):
            said = "The Equinox model is within the limits and its graph is not, so the export is at fault."
        return said if "stages" in self.asked else f"{said} `make proof` names the first stage that is wrong."


def numbers_of(limits: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The limits of the config, without where they come from."""
    return {name: limit["limit"] for name, limit in limits.items()}


def faults_of(findings: Iterable[Finding]) -> list[str]:
    """What did not pass, in sentences."""
    return [finding.sentence for finding in findings if not finding.passed]


def judge_graph(
    comparison: Comparison,
    limits: Mapping[str, Mapping[str, Any]],
    record: Mapping[str, Any],
    preprocessing: Sequence[Row],
    stages: StageComparison | None = None,
    self_test: Finding | None = None,
    packing: PackingComparison | None = None,
    dense: DenseComparison | None = None,
    **about: Any,
) -> Verdict:
    """Judge all that was measured of a graph; `None` stands for what was not asked for.

    `limits` are those of its precision and of the preprocessing, `record` is what `checkpoint.json` says of the
    weights, and `about` has the other fields of the verdict.
    """
    numbers = numbers_of(limits)
    prepared = [*(judge_preprocessing(preprocessing, numbers) if comparison.kind != "text" else ())]
    prepared += judge_texts(preprocessing) if comparison.kind != "image" else ()
    findings = [*judge(comparison, numbers), *prepared]
    findings += stages.judge(numbers) if stages else []
    findings += packing.judge(numbers) if packing else []
    findings += dense.judge(numbers) if dense else []
    findings += [self_test] if self_test else []
    also_asked = {
        "preprocessing": bool(prepared),
        "stages": stages is not None,
        PACKING: packing is not None,
        DENSE: dense is not None,
        "self_test": self_test is not None,
    }
    return Verdict(
        tuple(findings),
        asked=[*LEGS, *(gate for gate, asked in also_asked.items() if asked)],
        variant=comparison.variant,
        export=comparison.export,
        weights=record["weights"],
        is_release=record["official_file"] is not None,
        references=comparison.references,
        runtime=comparison.runtime,
        precision=comparison.precision,
        figures=_figures(comparison) | {"stages": len(stages.names) if stages else 0},
        limits=limits,
        **about,
    )


def _figures(comparison: Comparison) -> dict[str, Any]:
    """The worst of what was measured: against the truth in noise floors, and of graph and reference; and how much."""
    of_truth, of_references = comparison.rows_of("graph"), comparison.of_graph()
    return {
        "floors": finite(largest(of_truth, "floors")),
        "worst_at": worst_place(of_truth, "floors"),
        "floors_double": finite(largest(comparison.rows(DOUBLE_GRAPH, TRUTH), "floors")),
        "max_abs": finite(largest(of_references)),
        "cosine": finite(1 - _lowest_cosine(of_references)),
        "images": len({row["image"] for row in of_references}),
        "sizes": len({(row["height"], row["width"]) for row in of_references}),
        "kind": comparison.kind,
    }


def judge(comparison: Comparison, limits: Mapping[str, float]) -> tuple[Finding, ...]:
    """Judge a comparison on its legs, by the limits of the config."""
    legs = (_of_references, _of_published, _of_truth, _of_known_differences, _of_use)
    findings = (finding for leg in legs for finding in leg(comparison, limits))
    return (*findings, *_of_checks(comparison))


def _at_most(
    limits: Mapping[str, float],
    name: str,
    leg: str,
    pair: tuple[str, str],
    measure: str,
    measured: float,
    place: str = "",
) -> Finding:
    # Distance from one, so that every limit is an upper one and NaN fails in one way.
    limit = 1 - limits[name] if name.startswith("cosine") else limits[name]
    return Finding(leg, measure, measured, limit, *pair, place, limit_name=name)


def _lowest_cosine(rows: Iterable[Row]) -> float:
    """Its distance from one; NaN if it is not known. Of logits near zero it is arbitrary, so theirs do not count."""
    judged = (row["cosine"] for row in rows if row["group"] != LOGITS)
    return worst(None if cosine is None else 1 - cosine for cosine in judged)


def _of_references(comparison: Comparison, limits: Mapping[str, float]) -> Iterator[Finding]:
    for pair in comparison.of("reference"):
        distance, own = _lowest_cosine(comparison.rows(*pair)), _own(pair, comparison)
        yield _at_most(limits, f"cosine{own}", "reference", pair, "1 - lowest cosine of a token", distance)
        for groups, name, figure, measure in JOINT:
            if rows := [row for row in comparison.rows(*pair) if row["group"] in groups]:
                found = largest(rows, figure), worst_place(rows, figure)
                yield _at_most(limits, f"{name}{own}", "reference", pair, measure, *found)


def _of_known_differences(comparison: Comparison, limits: Mapping[str, float]) -> Iterator[Finding]:
    for reference in dict.fromkeys(row["reference"] for row in comparison.known_differences):
        rows = [row for row in comparison.known_differences if row["reference"] == reference]
        measured, expected = (largest(rows, key) for key in ("max_abs", "expected"))
        explained = f"which explains {expected:.1e} of a difference of {measured:.1e}"
        measure = f"{TOKEN_ERROR}, without the effect of {rows[0]['cause']}, {explained}"
        # The reference is the subject, because it is run in another way here.
        pair = reference, GRAPH_RUNS[0]
        yield _at_most(limits, "floors", "truth", pair, measure, largest(rows, "floors"))


def _own(pair: tuple[str, str], comparison: Comparison) -> str:
    """How the name of a limit ends by which two implementations are judged."""
    return "" if pair[0] in GRAPH_RUNS or comparison.precision == "float32" else OF_MODELS


def _of_published(comparison: Comparison, limits: Mapping[str, float]) -> Iterator[Finding]:
    for subject in dict.fromkeys(row["subject"] for row in comparison.differences if row["other"] == PUBLISHED):
        measured = largest(comparison.rows(subject, PUBLISHED))
        measure = "max |difference| from the published features"
        yield _at_most(limits, "golden", PUBLISHED, (subject, ""), measure, measured)


def _of_truth(comparison: Comparison, limits: Mapping[str, float]) -> Iterator[Finding]:
    for name, kinds in (("floors_double", ("double",)), ("floors", ("graph", "model"))):
        for pair in (pair for kind in kinds for pair in comparison.of(kind)):
            rows = comparison.rows(*pair)
            measure = f"{TOKEN_ERROR} of double precision" if name == "floors_double" else TOKEN_ERROR
            found = largest(rows, "floors"), worst_place(rows, "floors")
            yield _at_most(
                limits, name + (_own(pair, comparison) if name == "floors" else ""), "truth", pair, measure, *found
            )
    # Over all inputs, because where rounding is amplified the ratio on one input is a matter of chance.
    own = [row["multiple"] for row in comparison.rounding if row["subject"] == "equinox"]
    mean = statistics.geometric_mean(own) if worst(own) > 0 and min(own) > 0 else math.nan
    pair = "equinox", (*comparison.references, "")[0]
    further = "the first" if mean > 1 else "the second"
    measure = f"how many times as far {further} rounds as the other, geometric mean over inputs"
    yield _at_most(limits, "rounding_ratio", "truth", pair, measure, max(mean, 1 / mean))


def _of_use(comparison: Comparison, limits: Mapping[str, float]) -> Iterator[Finding]:
    for run in GRAPH_RUNS:
        rows = [row for row in comparison.semantics if (row["subject"], row["other"]) == (run, TRUTH)]
        for name, measure, figure in USE:
            # Principal components are those of patches.
            if name == "subspace_angle" and comparison.kind != "image":
                continue
            yield _at_most(limits, name, "truth", (run, TRUTH), measure, figure(rows))


def _of_checks(comparison: Comparison) -> Iterator[Finding]:
    for check in comparison.checks:
        # The number of failures, which must be zero.
        failed = float(not check["passed"])
        yield Finding("sanity", check["name"], failed, 0.0, check["subject"], detail=check["detail"])
    # Only with checks: otherwise a comparison without any would seem to have this leg.
    if comparison.checks:
        missing = comparison.not_compared
        # An input that is a whole batch has the batch 0.
        batches = f" in batches of {' and '.join(map(str, comparison.batches))}" if any(comparison.batches) else ""
        detail = f"{len(comparison.cases)} inputs{batches}"
        detail = f"not {first_few(missing, '; ')}" if missing else detail
        yield Finding("sanity", "everything was compared", float(len(missing)), 0.0, detail=detail)


def neighbour_margin(semantics: Sequence[Row]) -> float:
    """The largest margin by which a neighbour or a match changed its rank; NaN if this is not known."""
    if not semantics or not all(row["finite"] for row in semantics):
        return math.nan
    asked = [figures for row in semantics for figures in (*row["neighbours"], row["matches"]) if figures]
    return worst([0.0, *(figures["margin"] for figures in asked)])


def subspace_angle(semantics: Sequence[Row]) -> float:
    """The largest angle between principal subspaces, in degrees, times their gap; NaN if this is not known.

    Noise turns a subspace by an angle in inverse proportion to the gap behind it, so the product is what is comparable.
    """
    if not semantics or not all(row["finite"] for row in semantics):
        return math.nan
    return worst([0.0, *(angle["degrees"] * angle["gap"] for row in semantics for angle in row["subspaces"])])


# What people do with features: the name of the limit, what is measured, and how.
USE = (
    ("neighbour_margin", "cosine gap of neighbours that swapped ranks", neighbour_margin),
    ("subspace_angle", "degrees between principal components, times the gap behind them", subspace_angle),
)
