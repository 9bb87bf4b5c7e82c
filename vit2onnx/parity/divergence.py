"""Where implementations part, told from a ledger of their stages. Standard library only."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

# What the double precision of the first reference is called.
TRUTH = "truth"


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
    """
    for row in rows:
        is_close = row["floors"] is not None and row["floors"] <= limit
        if row["mode"] == mode and row["other"] != TRUTH and not is_close:
            return Divergence(**{name: row[name] for name in Divergence.__dataclass_fields__})
    return None


def judge_stages(ledger: Mapping[str, Any], limits: Mapping[str, float]) -> list[str]:
    """What is wrong with a ledger, in sentences: two truths that differ, or a layer that diverges by itself.

    Drift in accumulated mode is no fault as long as every layer by itself is right.
    """
    rows, limit = ledger["stages"], limits["truth_agreement"]
    faults = []
    doubles = [row for row in rows if row["other"] == TRUTH and row["subject"].endswith("_float64")]
    if not doubles:
        faults.append("there is no second implementation in double precision")
    if not any(row["mode"] == "injected" and row["other"] != TRUTH for row in rows):
        faults.append("no layer was compared by itself")
    for row in doubles:
        if row["relative"] is None or not row["relative"] <= limit:
            found = "not finite" if row["relative"] is None else f"{row['relative']:.2e} > {limit:.2e} of its scale"
            where = f"{row['stage']} ({row['mode']})"
            faults.append(f"in double precision {row['subject']} and truth differ first at {where}: {found}")
            break
    if divergence := first_divergence(rows, "injected", limits["noise_floors"]):
        faults.append(f"first divergence: {divergence}")
    return faults
