"""Pass or fail: three legs, each judged on the numbers of a comparison. One missing leg fails."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LEGS = ("reference", "truth", "sanity")
GRAPH_RUNS = ("onnx", "onnx_unoptimized")


@dataclass(frozen=True)
class Finding:
    """One judged statement. `measured` and `limit` are compared as the sentence says."""

    leg: str
    sentence: str
    passed: bool
    measured: float
    limit: float


@dataclass(frozen=True)
class Verdict:
    """What was found on every leg."""

    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether all findings passed and no leg is without one."""
        legs = {finding.leg for finding in self.findings}
        return legs == set(LEGS) and all(finding.passed for finding in self.findings)

    @property
    def faults(self) -> list[str]:
        missing = [f"nothing was found on the {leg} leg" for leg in LEGS if leg not in {f.leg for f in self.findings}]
        return missing + [finding.sentence for finding in self.findings if not finding.passed]


def judge(comparison: Mapping[str, Any], limits: Mapping[str, float]) -> Verdict:
    """Judge a comparison by the limits of the config."""
    rows = comparison["differences"]

    def select(subject: str, other: str) -> list[Mapping[str, Any]]:
        return [row for row in rows if (row["subject"], row["other"]) == (subject, other)]

    findings: list[Finding] = []

    def at_most(leg: str, what: str, measured: float, limit: float) -> None:
        # NaN compares false, so it fails.
        sign = "<=" if measured <= limit else ">"
        sentence = f"{what}: {measured:.2e} {sign} {limit:.2e}"
        findings.append(Finding(leg, sentence, measured <= limit, measured, limit))

    for reference in comparison["references"]:
        for run in GRAPH_RUNS:
            found = select(run, reference)
            place = _place(found)
            at_most("reference", f"{run} - {reference}, max |difference|{place}", _worst(found), limits["max_abs"])
            cosine = min((row["cosine"] for row in found), key=_nan_first, default=math.nan)
            sign = ">=" if cosine >= limits["cosine"] else "<"
            findings.append(
                Finding(
                    "reference",
                    f"{run} - {reference}, lowest cosine of a token: {cosine:.9f} {sign} {limits['cosine']}",
                    cosine >= limits["cosine"],
                    cosine,
                    limits["cosine"],
                )
            )
    first = next(iter(comparison["references"]), "")
    own = _worst(select(first, "truth"))
    for run in (*GRAPH_RUNS, "equinox"):
        ratio = _worst(select(run, "truth")) / own if own else math.nan
        at_most("truth", f"{run}'s error against float64, in multiples of {first}'s own", ratio, limits["truth_ratio"])
    for subject in ("equinox_float64", *(f"{name}_float64" for name in comparison["references"][1:])):
        at_most("truth", f"{subject} - truth, max |difference|", _worst(select(subject, "truth")), limits["truth_agreement"])
    for check in comparison["checks"]:
        findings.append(
            Finding("sanity", f"{check['name']}: {check['detail']}", check["passed"], float(check["passed"]), 1.0)
        )
    return Verdict(tuple(findings))


def _nan_first(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def _worst(rows: list[Mapping[str, Any]]) -> float:
    """The largest difference; NaN if any is NaN or there are no rows."""
    figures = [row["max_abs"] for row in rows]
    return math.nan if not figures or any(map(math.isnan, figures)) else max(figures)


def _place(rows: list[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    row = max(rows, key=lambda row: math.inf if math.isnan(row["max_abs"]) else row["max_abs"])
    where = f"patch {row['row']},{row['column']}" if "row" in row else f"{row['group']} {row['token']}"
    return f" (worst at {row['image']} {row['height']}x{row['width']}, batch {row['batch']}, {where})"
