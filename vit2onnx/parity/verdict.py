"""Pass or fail: three legs, each judged on the numbers of a comparison. A missing leg fails."""

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vit2onnx.parity.divergence import DOUBLE, TRUTH
from vit2onnx.parity.finding import Finding
from vit2onnx.parity.metrics import severity, worst
from vit2onnx.spec.case import Case

LEGS = ("reference", "truth", "sanity")
# What the published features are called: as the other side of a comparison, and as a leg that not all weights have.
PUBLISHED = "published"
GRAPH_RUNS = ("onnx", "onnx_unoptimized")
DOUBLE_GRAPH = f"{GRAPH_RUNS[0]}{DOUBLE}"
TOKEN_ERROR = "error of a token (root mean square) in noise floors"


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
    legs = (_of_references, _of_published, _of_truth, _of_own_periods, _of_use)
    return Verdict((*(one for leg in legs for one in leg(comparison, limits)), *_of_checks(comparison)))


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
    limit = 1 - limits[name] if name == "cosine" else limits[name]
    return Finding(leg, measure, measured, limit, *pair, place, limit_name=name)


def _of_references(comparison: Mapping[str, Any], limits: Mapping[str, float]) -> Iterator[Finding]:
    for reference in comparison["references"]:
        for run in (*GRAPH_RUNS, "equinox"):
            pair = run, reference
            cosines = [row["cosine"] for row in rows_of(comparison, *pair)]
            distance = worst(None if cosine is None else 1 - cosine for cosine in cosines)
            yield _at_most(limits, "cosine", "reference", pair, "1 - lowest cosine of a token", distance)


def _of_own_periods(comparison: Mapping[str, Any], limits: Mapping[str, float]) -> Iterator[Finding]:
    for reference in dict.fromkeys(row["reference"] for row in comparison["known_differences"]):
        rows = [row for row in comparison["known_differences"] if row["reference"] == reference]
        measured, expected = (largest(rows, key) for key in ("max_abs", "expected"))
        measure = (
            f"{TOKEN_ERROR}, without the effect of the reference's own RoPE periods (float32; the release's are rounded"
            f" to bfloat16), which explain {expected:.1e} of a difference of {measured:.1e}"
        )
        # Of the reference, because it is that which is run otherwise.
        pair = reference, GRAPH_RUNS[0]
        yield _at_most(limits, "floors", "truth", pair, measure, largest(rows, "floors"))


def _of_published(comparison: Mapping[str, Any], limits: Mapping[str, float]) -> Iterator[Finding]:
    for subject in dict.fromkeys(row["subject"] for row in comparison["differences"] if row["other"] == PUBLISHED):
        measured = largest(rows_of(comparison, subject, PUBLISHED))
        measure = "max |difference| from the published features"
        yield _at_most(limits, "golden", PUBLISHED, (subject, ""), measure, measured)


def _of_truth(comparison: Mapping[str, Any], limits: Mapping[str, float]) -> Iterator[Finding]:
    for name, subjects in (("floors_double", _in_double(comparison)), ("floors", (*GRAPH_RUNS, "equinox"))):
        for pair in ((subject, TRUTH) for subject in subjects):
            rows = rows_of(comparison, *pair)
            measure = f"{TOKEN_ERROR} of double precision" if name == "floors_double" else TOKEN_ERROR
            yield _at_most(limits, name, "truth", pair, measure, largest(rows, "floors"), worst_place(rows, "floors"))
    # Over all inputs, because where rounding is amplified the ratio on one input is a matter of chance.
    own = [row["multiple"] for row in comparison["rounding"] if row["subject"] == "equinox"]
    mean = statistics.geometric_mean(own) if worst(own) > 0 and min(own) > 0 else math.nan
    pair = "equinox", (comparison["references"] or [""])[0]
    further = "the first" if mean > 1 else "the second"
    measure = f"how many times as far {further} rounds as the other, geometric mean over inputs"
    yield _at_most(limits, "rounding_ratio", "truth", pair, measure, max(mean, 1 / mean))


def _in_double(comparison: Mapping[str, Any]) -> list[str]:
    """All that runs in double precision besides the first reference, which is the truth."""
    return [*(f"{name}{DOUBLE}" for name in (*comparison["references"][1:], "equinox")), DOUBLE_GRAPH]


def _of_use(comparison: Mapping[str, Any], limits: Mapping[str, float]) -> Iterator[Finding]:
    for run in GRAPH_RUNS:
        found = rows_of(comparison, run, TRUTH, of="semantics")
        for name, measure, figure in USE:
            yield _at_most(limits, name, "truth", (run, TRUTH), measure, figure(found))


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
    pairs += [(name, TRUTH, 1) for name in (*references, "equinox", *_in_double(comparison))]
    rows = comparison["differences"]
    found = {(row["subject"], row["other"], row["batch"], case_of(row)) for row in rows}
    wanted = [(*pair, case) for pair in pairs for case in asked["cases"]]
    return [
        f"{one} - {other}, batch {batch}, {case}"
        for one, other, batch, case in wanted
        if (one, other, batch, case) not in found
    ]


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
    ("neighbour_margin", "cosine gap of neighbours that swapped ranks", neighbour_margin),
    ("subspace_angle", "degrees between principal components, times the gap behind them", subspace_angle),
)


def largest(rows: Iterable[Mapping[str, Any]], key: str = "max_abs") -> float:
    """The largest difference; NaN if one of them is not a finite number or there are no rows."""
    return worst(row[key] for row in rows)


def case_of(row: Mapping[str, Any]) -> str:
    """Of which input a row is."""
    return str(Case(row["image"], row["height"], row["width"]))


def place_of(row: Mapping[str, Any], key: str = "max_abs") -> str:
    """Where the largest figure of a row is, in words: the largest difference, or the error in noise floors."""
    token = row["floors_token" if key == "floors" else "token"]
    patch = divmod(token, row["columns"]) if row["group"] == "patches" else ()
    where = "patch {},{}".format(*patch) if patch else f"{row['group']} {token}"
    return f"{row['image']} {row['height']}x{row['width']}, batch {row['batch']}, {where}"


def worst_place(rows: Iterable[Mapping[str, Any]], key: str = "max_abs") -> str:
    """Where the largest of some figures is, in words; nothing if there are none."""
    row = max(rows, key=lambda row: severity(row[key]), default=None)
    return place_of(row, key) if row else ""
