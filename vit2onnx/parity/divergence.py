"""Where implementations part, told from a ledger of their stages."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from vit2onnx.parity.finding import Finding
from vit2onnx.parity.metrics import worst

# What the double precision of the first reference is called, and how the names of others end in that.
TRUTH = "truth"
DOUBLE = "_float64"


@dataclass(frozen=True)
class Divergence:
    """The first stage at which two implementations are further apart than rounding explains."""

    mode: str
    stage: str
    subject: str
    other: str
    max_abs: float | None
    floors: float | None

    def __str__(self) -> str:
        what = f"{self.stage}, {self.subject} and {self.other}"
        if self.max_abs is None or self.floors is None:
            return f"{what}, not finite"
        return f"{what}, {self.max_abs:.1e}, {self.floors:.3g} x the noise floor"


def first_divergence(rows: Iterable[Mapping[str, Any]], mode: str, limit: float) -> Divergence | None:
    """The first stage at which two implementations are more than `limit` noise floors apart, if there is one.

    Of several it names the first that parts from one before it, and the last of these. So a fault of the Equinox model,
    which its graph has as well, is one between reference and Equinox; one of the export is between Equinox and ONNX.
    For that, rows must be in the order of `compare_stages`: stage by stage, and of a stage every implementation with
    those before it, the nearest first.
    """
    for row in rows:
        is_close = row["floors"] is not None and row["floors"] <= limit
        if row["mode"] == mode and row["other"] != TRUTH and not is_close:
            return Divergence(**{name: row[name] for name in Divergence.__dataclass_fields__})
    return None


def judge_stages(ledger: Mapping[str, Any], limits: Mapping[str, float]) -> tuple[Finding, ...]:
    """Judge a ledger: no two truths may differ, and no layer diverge by itself.

    Drift in accumulated mode is no fault as long as every layer by itself is right.
    """
    alone = [row for row in ledger["stages"] if row["mode"] == "injected"]
    return (
        _in_double(alone, limits["floors_double"]),
        _divergence(alone, limits["floors"], {*ledger["implementations"], "onnx"}),
    )


def _in_double(rows: Iterable[Mapping[str, Any]], limit: float) -> Finding:
    finding = partial(Finding, "stages", limit=limit, limit_name="floors_double")
    doubles = [row for row in rows if row["other"] == TRUTH and row["subject"].endswith(DOUBLE)]
    if not doubles:
        return finding("in double precision", math.nan, detail="there is no second implementation")
    for row in doubles:
        measured = worst([row["floors"]])
        if not measured <= limit:
            found = f"{measured:.3g} noise floors > {limit:g}" if math.isfinite(measured) else "not finite"
            first = {"subject": row["subject"], "other": TRUTH, "detail": found}
            return finding(f"first apart at {row['stage']}", measured, **first)
    measure = "largest difference from truth at a stage, in noise floors of double precision"
    return finding(measure, worst(row["floors"] for row in doubles))


def _divergence(rows: Iterable[Mapping[str, Any]], limit: float, implementations: set[str]) -> Finding:
    finding = partial(Finding, "stages", limit=limit, limit_name="floors")
    rows = [row for row in rows if row["other"] != TRUTH]
    if missing := implementations - {row[side] for row in rows for side in ("subject", "other")}:
        detail = f"{', '.join(sorted(missing))} was not compared" if rows else "nothing was compared"
        return finding("each layer by itself", math.nan, detail=detail)
    if found := first_divergence(rows, "injected", limit):
        return finding("first divergence", worst([found.floors]), detail=str(found))
    return finding("largest difference at a stage, each layer by itself, in noise floors", largest_floors(rows))


def largest_floors(rows: Iterable[Mapping[str, Any]]) -> float:
    """The largest difference between two implementations of a layer that are given the same input, in noise floors."""
    return worst(row["floors"] for row in rows if row["mode"] == "injected" and row["other"] != TRUTH)
