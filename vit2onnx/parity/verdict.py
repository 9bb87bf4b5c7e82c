"""Pass or fail: three legs, each judged on the numbers of a comparison. One missing leg fails."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vit2onnx.cases import Case
from vit2onnx.parity.divergence import DOUBLE, TRUTH
from vit2onnx.parity.finding import Finding
from vit2onnx.parity.metrics import severity, worst

LEGS = ("reference", "truth", "sanity")
# What the published features are called: as the other side of a comparison, and as a leg that not all weights have.
PUBLISHED = "published"
GRAPH_RUNS = ("onnx", "onnx_unoptimized")
LARGEST = "max |difference|"


@dataclass(frozen=True)
class Verdict:
    """What was found on every leg."""

    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether all findings passed and no leg is without one."""
        return not self.faults

    @property
    def missing(self) -> list[str]:
        """The legs without a finding, in sentences."""
        legs = {finding.leg for finding in self.findings}
        return [f"nothing was found on the {leg} leg" for leg in LEGS if leg not in legs]

    @property
    def faults(self) -> list[str]:
        return self.missing + faults_of(self.findings)


def faults_of(findings: Iterable[Finding], tell: Callable[[Finding], str] = lambda one: one.sentence) -> list[str]:
    """What did not pass, in sentences."""
    return [tell(finding) for finding in findings if not finding.passed]


def numbers_of(limits: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The limits of the config, without where they come from."""
    return {name: limit["limit"] for name, limit in limits.items()}


def judge(comparison: Mapping[str, Any], limits: Mapping[str, float]) -> Verdict:
    """Judge a comparison, as `compare_outputs` made it, by the limits of the config."""
    references = comparison["references"]
    first = references[0] if references else ""
    findings: list[Finding] = []

    def at_most(name: str, leg: str, pair: tuple[str, str], measure: str, measured: float, **more: Any) -> None:
        # Distance from one, so that every limit is an upper one and NaN fails in one way.
        limit = 1 - limits[name] if name == "cosine" else more.pop("factor", 1.0) * limits[name]
        findings.append(Finding(leg, measure, measured, limit, *pair, limit_name=name, **more))

    for reference in references:
        of_rounding = rounding_factor(comparison, reference, limits)
        factor = differences_factor(comparison, reference, limits)
        for run in (*GRAPH_RUNS, "equinox"):
            pair = run, reference
            rows = rows_of(comparison, *pair)
            at_most("max_abs", "reference", pair, LARGEST, largest(rows), factor=factor, place=worst_place(rows))
            cosines = [row["cosine"] for row in rows]
            distance = worst(None if cosine is None else 1 - cosine for cosine in cosines)
            at_most("cosine", "reference", pair, "1 - lowest cosine of a token", distance)
        for run in GRAPH_RUNS:
            pair = run, reference
            found = rows_of(comparison, *pair, of="semantics")
            measure = "cosine by which a neighbour that fell behind was nearer"
            at_most("neighbour_margin", "reference", pair, measure, neighbour_margin(found), factor=of_rounding)
            measure = "degrees between principal components, times their relative gap"
            at_most("subspace_angle", "reference", pair, measure, subspace_angle(found), factor=of_rounding)
    for reference in dict.fromkeys(row["reference"] for row in comparison["known_differences"]):
        rows = [row for row in comparison["known_differences"] if row["reference"] == reference]
        measured, expected, unexplained = (largest(rows, key) for key in ("max_abs", "expected", "unexplained"))
        measure = (
            f"{LARGEST} that RoPE periods of its own (float32, not rounded to bfloat16 as the release's) do not"
            f" explain; of {measured:.1e} they explain {expected:.1e}"
        )
        factor = differences_factor(comparison, reference, limits)
        # Of the reference, because it is that which is run otherwise.
        at_most("max_abs", "reference", (reference, GRAPH_RUNS[0]), measure, unexplained, factor=factor)
    for subject in dict.fromkeys(row["subject"] for row in comparison["differences"] if row["other"] == PUBLISHED):
        measured = largest(rows_of(comparison, subject, PUBLISHED))
        at_most("golden", PUBLISHED, (subject, ""), f"{LARGEST} from the published features", measured)
    measure = "distance from float64 (root mean square) as a multiple of the latter's"
    at_most("truth_ratio", "truth", (GRAPH_RUNS[0], first), measure, truth_ratio(comparison))
    factor = differences_factor(comparison, first, limits)
    for subject in (f"{name}{DOUBLE}" for name in ("equinox", *references[1:])):
        measured = largest(rows_of(comparison, subject, TRUTH))
        at_most("truth_agreement", "truth", (subject, TRUTH), LARGEST, measured, factor=factor)
    for check in comparison["checks"]:
        # None of one may fail.
        failed = float(not check["passed"])
        findings.append(Finding("sanity", check["name"], failed, 0.0, check["subject"], detail=check["detail"]))
    # Not by itself, or a comparison without checks would have this leg.
    if comparison["checks"]:
        missing, asked = not_compared(comparison), comparison["asked"]
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        detail = f"{len(asked['cases'])} inputs in batches of {' and '.join(map(str, asked['batches']))}"
        detail = f"not {'; '.join(missing[:3])}{more}" if missing else detail
        findings.append(Finding("sanity", "everything was compared", float(len(missing)), 0.0, detail=detail))
    return Verdict(tuple(findings))


def rows_of(
    comparison: Mapping[str, Any], subject: str, other: str, of: str = "differences"
) -> list[Mapping[str, Any]]:
    """The differences of one pair, or what else a comparison has by pairs."""
    return [row for row in comparison[of] if (row["subject"], row["other"]) == (subject, other)]


def not_compared(comparison: Mapping[str, Any]) -> list[str]:
    """Which inputs of which pairs have no row, though a verdict needs it."""
    if not comparison["asked"]["cases"]:
        return ["anything"]
    asked, references = comparison["asked"], comparison["references"]
    pairs = [(run, other, batch) for run in GRAPH_RUNS for other in (*references, TRUTH) for batch in asked["batches"]]
    pairs += [("equinox", reference, 1) for reference in references]
    rows = comparison["differences"]
    found = {(r["subject"], r["other"], r["batch"], str(Case(r["image"], r["height"], r["width"]))) for r in rows}
    wanted = [(*pair, case) for pair in pairs for case in asked["cases"]]
    return [
        f"{one} - {other}, batch {batch}, {case}"
        for one, other, batch, case in wanted
        if (one, other, batch, case) not in found
    ]


def truth_ratio(comparison: Mapping[str, Any]) -> float:
    """The distance of the graph from the float64 truth, as users run it, as a multiple of the first reference's own.

    By root mean square, because the largest of some rounding errors is a matter of chance. NaN if one is not known.
    """

    def distance(subject: str) -> float:
        rows = rows_of(comparison, subject, TRUTH)
        squares = [math.nan if row["rms"] is None else row["count"] * row["rms"] ** 2 for row in rows]
        mean = sum(squares) / sum(row["count"] for row in rows) if rows else math.nan
        return math.sqrt(mean) if math.isfinite(mean) else math.nan

    references = comparison["references"]
    return distance(GRAPH_RUNS[0]) / ((references and distance(references[0])) or math.nan)


def neighbour_margin(semantics: Sequence[Mapping[str, Any]]) -> float:
    """The largest margin by which a neighbour or a match changed its rank; NaN if this is not known."""
    if not semantics or not all(row["finite"] for row in semantics):
        return math.nan
    asked = [figures for row in semantics for figures in (*row["neighbours"], row["matches"]) if figures]
    return worst([0.0, *(figures["margin"] for figures in asked)])


def subspace_angle(semantics: Sequence[Mapping[str, Any]]) -> float:
    """The largest angle between principal subspaces, in degrees, times their gap; NaN if this is not known.

    Noise turns a subspace by an angle in inverse proportion to the gap behind it, so the product is what is comparable.
    """
    if not semantics or not all(row["finite"] for row in semantics):
        return math.nan
    return worst([0.0, *(angle["degrees"] * angle["gap"] for row in semantics for angle in row["subspaces"])])


def largest(rows: Iterable[Mapping[str, Any]], key: str = "max_abs") -> float:
    """The largest difference; NaN if one of them is not a finite number or there are no rows."""
    return worst(row[key] for row in rows)


def unit(comparison: Mapping[str, Any], reference: str) -> float:
    """The least standard deviation of a reference's features, where above one."""
    deviations = [row["scale"] for row in comparison["differences"] if row["other"] == reference]
    return max(1.0, min(filter(None, deviations), default=1.0))


def rounding(comparison: Mapping[str, Any], reference: str) -> float:
    """How far single precision alone takes a reference and the Equinox model from float64; NaN if this is not known.

    The nearer one's largest distance, because weights that amplify rounding do so in both, and a fault is in one.
    """
    distances = [largest(rows_of(comparison, subject, TRUTH)) for subject in (reference, "equinox")]
    return min(distances) if all(map(math.isfinite, distances)) else math.nan


def rounding_factor(comparison: Mapping[str, Any], reference: str, limits: Mapping[str, float]) -> float:
    """By what limits grow for weights that amplify rounding more than those for which the config has them."""
    factor = rounding(comparison, reference) / (unit(comparison, reference) * limits["rounding"])
    return factor if factor > 1 else 1.0


def differences_factor(comparison: Mapping[str, Any], reference: str, limits: Mapping[str, float]) -> float:
    """What `max_abs`, which is for features of unit scale, is multiplied by for a reference."""
    return unit(comparison, reference) * rounding_factor(comparison, reference, limits)


def largest_allowed(comparison: Mapping[str, Any], limits: Mapping[str, float]) -> float:
    """How far any element may be from every reference."""
    factors = [differences_factor(comparison, reference, limits) for reference in comparison["references"]]
    return limits["max_abs"] * min(factors, default=1.0)


def worst_place(rows: Iterable[Mapping[str, Any]]) -> str:
    """Where the largest of some differences is, in words; nothing if there are none."""
    row = max(rows, key=lambda row: severity(row["max_abs"]), default=None)
    if row is None:
        return ""
    where = f"patch {row['row']},{row['column']}" if "row" in row else f"{row['group']} {row['token']}"
    return f"{row['image']} {row['height']}x{row['width']}, batch {row['batch']}, {where}"
