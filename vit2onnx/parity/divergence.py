"""Where implementations part, by the comparison of their stages."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from vit2onnx.parity.finding import Finding
from vit2onnx.parity.metrics import worst
from vit2onnx.parity.plain_file import PlainFile
from vit2onnx.spec.subject import DOUBLE, TRUTH


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


@dataclass(frozen=True)
class StageComparison(PlainFile):
    """How far implementations are apart at every stage of a graph, on one case; `stages` are rows."""

    variant: str
    export: str
    case: str
    implementations: Sequence[str]
    stages: Sequence[Mapping[str, Any]]

    @property
    def names(self) -> list[str]:
        """The names of all stages, in order."""
        return list(dict.fromkeys(row["stage"] for row in self.stages))

    def first_divergence(self, mode: str, limit: float) -> Divergence | None:
        """The first stage at which two implementations are more than `limit` noise floors apart, if there is one.

        Names the earliest implementation that differs from one listed before it, paired with the nearest such
        predecessor. So a fault of the Equinox model, which its graph has as well, is one between reference and Equinox;
        one of the export is between Equinox and ONNX. For that, rows must be in the order of `compare_stages`: stage by
        stage, and of a stage every implementation with those before it, the nearest first.
        """
        for row in self.stages:
            is_close = row["floors"] is not None and row["floors"] <= limit
            if row["mode"] == mode and row["other"] != TRUTH and not is_close:
                return Divergence(**{name: row[name] for name in Divergence.__dataclass_fields__})
        return None

    @property
    def largest_floors(self) -> float:
        """The largest difference between two implementations of a layer that are given the same input."""
        return worst(row["floors"] for row in self.stages if row["mode"] == "injected" and row["other"] != TRUTH)

    def judge(self, limits: Mapping[str, float]) -> tuple[Finding, ...]:
        """No two truths may differ, and no layer diverge by itself.

        Drift in accumulated mode is no fault as long as every layer by itself is right.
        """
        return self._in_double(limits["floors_double"]), self._divergence(limits["floors"])

    def _in_double(self, limit: float) -> Finding:
        finding = partial(Finding, "stages", limit=limit, limit_name="floors_double")
        alone = [row for row in self.stages if row["mode"] == "injected"]
        doubles = [row for row in alone if row["other"] == TRUTH and row["subject"].endswith(DOUBLE)]
        if not doubles:
            return finding("in double precision", math.nan, detail="there is no second implementation")
        for row in doubles:
            measured = worst([row["floors"]])
            if not measured <= limit:
                told = f"{measured:.3g} noise floors > {limit:g}" if math.isfinite(measured) else "not finite"
                first = {"subject": row["subject"], "other": TRUTH, "detail": told}
                return finding(f"first apart at {row['stage']}", measured, **first)
        measure = "largest difference from truth at a stage, in noise floors of double precision"
        return finding(measure, worst(row["floors"] for row in doubles))

    def _divergence(self, limit: float) -> Finding:
        finding = partial(Finding, "stages", limit=limit, limit_name="floors")
        rows = [row for row in self.stages if row["mode"] == "injected" and row["other"] != TRUTH]
        compared = {row[side] for row in rows for side in ("subject", "other")}
        if missing := {*self.implementations, "onnx"} - compared:
            detail = f"{', '.join(sorted(missing))} was not compared" if rows else "nothing was compared"
            return finding("each layer by itself", math.nan, detail=detail)
        if parted := self.first_divergence("injected", limit):
            return finding("first divergence", worst([parted.floors]), detail=str(parted))
        return finding("largest difference at a stage, each layer by itself, in noise floors", self.largest_floors)
