"""Pass or fail: three legs, each judged on the numbers of a comparison. One missing leg fails."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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

Rows = Sequence[Mapping[str, Any]]
# What limits are multiplied by, by input.
Factors = Mapping[str, float]


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


def numbers_of(limits: Mapping[str, Mapping[str, Any]], *, stages: bool = True) -> dict[str, float]:
    """The limits of the config, without where they come from.

    Without `stages` none grows with rounding: what is hidden by it in outputs shows only in a layer by itself.
    """
    numbers = {name: limit["limit"] for name, limit in limits.items()}
    return numbers if stages else numbers | {"rounding": math.inf}


def judge(comparison: Mapping[str, Any], limits: Mapping[str, float]) -> Verdict:
    """Judge a comparison, as `compare_outputs` made it, by the limits of the config."""
    legs = (_of_references, _of_use, _of_own_periods, _of_published, _of_truth)
    return Verdict((*(one for leg in legs for one in leg(comparison, limits)), *_of_checks(comparison)))


def _at_most(
    limits: Mapping[str, float],
    name: str,
    leg: str,
    pair: tuple[str, str],
    measure: str,
    measured: float,
    factor: float = 1.0,
    place: str = "",
) -> Finding:
    # Distance from one, so that every limit is an upper one and NaN fails in one way.
    limit = 1 - limits[name] if name == "cosine" else factor * limits[name]
    return Finding(leg, measure, measured, limit, *pair, place, limit_name=name, factor=factor)


def _worst_row(rows: Rows, factors: Factors, key: str = "max_abs") -> tuple[float, float, str]:
    """Of the row that is largest by its own limit: how large, by what its limit is multiplied, and where it is."""
    row = max(rows, key=lambda row: severity(row[key]) / factors.get(case_of(row), 1.0), default=None)
    if row is None:
        return math.nan, 1.0, ""
    return worst([row[key]]), factors.get(case_of(row), 1.0), place_of(row) if "group" in row else ""


def _of_references(comparison: Mapping[str, Any], limits: Mapping[str, float]) -> Iterator[Finding]:
    for reference in comparison["references"]:
        factors = differences_factors(comparison, reference, limits)
        for run in (*GRAPH_RUNS, "equinox"):
            pair = run, reference
            rows = rows_of(comparison, *pair)
            yield _at_most(limits, "max_abs", "reference", pair, LARGEST, *_worst_row(rows, factors))
            cosines = [row["cosine"] for row in rows]
            distance = worst(None if cosine is None else 1 - cosine for cosine in cosines)
            yield _at_most(limits, "cosine", "reference", pair, "1 - lowest cosine of a token", distance)


def _of_use(comparison: Mapping[str, Any], limits: Mapping[str, float]) -> Iterator[Finding]:
    for reference in comparison["references"]:
        of_rounding = max(rounding_factors(comparison, reference, limits).values(), default=1.0)
        own = rows_of(comparison, reference, TRUTH, of="semantics")
        for run in GRAPH_RUNS:
            pair = run, reference
            found = rows_of(comparison, *pair, of="semantics")
            for name, measure, figure in USE:
                # The reference's own rounding may move flat photographs by more than any limit.
                reachable = (1 + limits["truth_ratio"]) * figure(own) / limits[name]
                factor = max(of_rounding, reachable) if math.isfinite(reachable) else of_rounding
                yield _at_most(limits, name, "reference", pair, measure, figure(found), factor)


def _of_own_periods(comparison: Mapping[str, Any], limits: Mapping[str, float]) -> Iterator[Finding]:
    for reference in dict.fromkeys(row["reference"] for row in comparison["known_differences"]):
        rows = [row for row in comparison["known_differences"] if row["reference"] == reference]
        measured, expected = (largest(rows, key) for key in ("max_abs", "expected"))
        measure = (
            f"{LARGEST} that RoPE periods of its own (float32, not rounded to bfloat16 as the release's) do not"
            f" explain; of {measured:.1e} they explain {expected:.1e}"
        )
        # Of the reference, because it is that which is run otherwise.
        pair = reference, GRAPH_RUNS[0]
        figures = _worst_row(rows, differences_factors(comparison, reference, limits), "unexplained")
        yield _at_most(limits, "max_abs", "reference", pair, measure, *figures)


def _of_published(comparison: Mapping[str, Any], limits: Mapping[str, float]) -> Iterator[Finding]:
    for subject in dict.fromkeys(row["subject"] for row in comparison["differences"] if row["other"] == PUBLISHED):
        measured = largest(rows_of(comparison, subject, PUBLISHED))
        measure = f"{LARGEST} from the published features"
        yield _at_most(limits, "golden", PUBLISHED, (subject, ""), measure, measured)


def _of_truth(comparison: Mapping[str, Any], limits: Mapping[str, float]) -> Iterator[Finding]:
    first, *others = comparison["references"] or [""]
    measure = "distance from float64 (root mean square) as a multiple of the latter's"
    yield _at_most(limits, "truth_ratio", "truth", (GRAPH_RUNS[0], first), measure, truth_ratio(comparison))
    factors = differences_factors(comparison, first, limits)
    for subject in (f"{name}{DOUBLE}" for name in ("equinox", *others)):
        figures = _worst_row(rows_of(comparison, subject, TRUTH), factors)
        yield _at_most(limits, "truth_agreement", "truth", (subject, TRUTH), LARGEST, *figures)


def _of_checks(comparison: Mapping[str, Any]) -> Iterator[Finding]:
    for check in comparison["checks"]:
        # None of one may fail.
        failed = float(not check["passed"])
        yield Finding("sanity", check["name"], failed, 0.0, check["subject"], detail=check["detail"])
    # Not by itself, or a comparison without checks would have this leg.
    if comparison["checks"]:
        missing, asked = not_compared(comparison), comparison["asked"]
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        detail = f"{len(asked['cases'])} inputs in batches of {' and '.join(map(str, asked['batches']))}"
        detail = f"not {'; '.join(missing[:3])}{more}" if missing else detail
        yield Finding("sanity", "everything was compared", float(len(missing)), 0.0, detail=detail)


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
    pairs += [(name, TRUTH, 1) for name in (*references, "equinox", f"equinox{DOUBLE}")]
    rows = comparison["differences"]
    found = {(row["subject"], row["other"], row["batch"], case_of(row)) for row in rows}
    wanted = [(*pair, case) for pair in pairs for case in asked["cases"]]
    return [
        f"{one} - {other}, batch {batch}, {case}"
        for one, other, batch, case in wanted
        if (one, other, batch, case) not in found
    ]


def truth_ratio(comparison: Mapping[str, Any]) -> float:
    """The distance of the graph from the float64 truth, as users run it, as a multiple of the first reference's own.

    By root mean square, because the largest of some rounding errors is a matter of chance; of every input on its own,
    and then of all inputs, because one that is rounded further must not hide the others. NaN if one is not known.
    """
    references = comparison["references"]
    graph, own = (_distances(comparison, name) for name in (GRAPH_RUNS[0], references[0] if references else ""))
    if not graph or graph.keys() - own.keys():
        return math.nan
    squares = [graph[case] / own[case] if own[case] else math.nan for case in graph]
    mean = sum(squares) / len(squares)
    return math.sqrt(mean) if math.isfinite(mean) else math.nan


def _distances(comparison: Mapping[str, Any], subject: str) -> dict[str, float]:
    """The mean square distance from float64 of every input."""
    return {
        case: sum(row["count"] * worst([row["rms"]]) ** 2 for row in rows) / sum(row["count"] for row in rows)
        for case, rows in by_case(rows_of(comparison, subject, TRUTH)).items()
    }


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


# What people do with features: the name of the limit, what is measured, and how.
USE = (
    ("neighbour_margin", "cosine by which a neighbour that fell behind was nearer", neighbour_margin),
    ("subspace_angle", "degrees between principal components, times their relative gap", subspace_angle),
)


def largest(rows: Iterable[Mapping[str, Any]], key: str = "max_abs") -> float:
    """The largest difference; NaN if one of them is not a finite number or there are no rows."""
    return worst(row[key] for row in rows)


def unit(comparison: Mapping[str, Any], reference: str) -> float:
    """The least standard deviation of a reference's features, where above one."""
    deviations = [row["scale"] for row in comparison["differences"] if row["other"] == reference]
    return max(1.0, min(filter(None, deviations), default=1.0))


def case_of(row: Mapping[str, Any]) -> str:
    """Of which input a row is."""
    return str(Case(row["image"], row["height"], row["width"]))


def by_case(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Rows by the input that they are of."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(case_of(row), []).append(row)
    return found


def rounding(comparison: Mapping[str, Any], reference: str) -> dict[str, float]:
    """How far single precision alone takes a reference and the Equinox model from float64, by input.

    The mean of their largest distances, which are a matter of chance, but at most twice the nearer one's: weights that
    amplify rounding do so in both, and a fault is in one. NaN where this is not known.
    """
    reference_rows, equinox_rows = (by_case(rows_of(comparison, one, TRUTH)) for one in (reference, "equinox"))
    found = {}
    for case in {**reference_rows, **equinox_rows}:
        both = [largest(rows.get(case, [])) for rows in (reference_rows, equinox_rows)]
        found[case] = min(sum(both) / 2, 2 * min(both)) if all(map(math.isfinite, both)) else math.nan
    return found


def rounding_factors(comparison: Mapping[str, Any], reference: str, limits: Mapping[str, float]) -> dict[str, float]:
    """By what limits grow, by input, where rounding is amplified more than the config's limits are for.

    Twice as fast as that, because the largest of amplified errors is in one implementation often twice that in another.
    """
    most = unit(comparison, reference) * limits["rounding"]
    times = {case: distance / most for case, distance in rounding(comparison, reference).items()}
    return {case: 2 * x - 1 if x > 1 else 1.0 for case, x in times.items()}


def differences_factors(comparison: Mapping[str, Any], reference: str, limits: Mapping[str, float]) -> dict[str, float]:
    """What `max_abs`, which is for features of unit scale, is multiplied by for a reference, by input."""
    scale = unit(comparison, reference)
    return {case: scale * factor for case, factor in rounding_factors(comparison, reference, limits).items()}


def allowed(comparison: Mapping[str, Any], limits: Mapping[str, float]) -> dict[str, float]:
    """How far any element of an input's features may be from every reference."""
    found: dict[str, float] = {}
    for reference in comparison["references"]:
        for case, factor in differences_factors(comparison, reference, limits).items():
            found[case] = min(found.get(case, math.inf), factor * limits["max_abs"])
    return found


def largest_allowed(comparison: Mapping[str, Any], limits: Mapping[str, float]) -> float:
    """How far any element of any input's features may be from every reference."""
    return max(allowed(comparison, limits).values(), default=limits["max_abs"])


def place_of(row: Mapping[str, Any]) -> str:
    """Where the largest difference of a row is, in words."""
    where = f"patch {row['row']},{row['column']}" if "row" in row else f"{row['group']} {row['token']}"
    return f"{row['image']} {row['height']}x{row['width']}, batch {row['batch']}, {where}"


def worst_place(rows: Iterable[Mapping[str, Any]]) -> str:
    """Where the largest of some differences is, in words; nothing if there are none."""
    row = max(rows, key=lambda row: severity(row["max_abs"]), default=None)
    return place_of(row) if row else ""
