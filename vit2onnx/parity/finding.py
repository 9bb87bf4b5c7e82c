"""What a gate finds: one judged statement. Standard library only."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """Something was measured, and may be at most the limit.

    `leg` is the leg of the verdict, or the gate, that it belongs to; `measure` is what was measured, of `subject`, or
    between `subject` and `other`, and `place` where it is worst. `detail` takes the place of the figures where words
    say more. `limit_name` is the limit's key in the config, if it is from there.
    """

    leg: str
    measure: str
    measured: float
    limit: float
    subject: str = ""
    other: str = ""
    place: str = ""
    detail: str = ""
    limit_name: str = ""

    @property
    def passed(self) -> bool:
        # NaN compares false, so it fails.
        return self.measured <= self.limit

    @property
    def what(self) -> str:
        return self.what_in({})

    def what_in(self, names: Mapping[str, str], between: str = "-") -> str:
        """What was measured, with other `names` for what was compared."""
        compared = f" {between} ".join(names.get(name, name) for name in (self.subject, self.other) if name)
        where = f" (worst at {self.place})" if self.place else ""
        return ", ".join(filter(None, (compared, self.measure))) + where

    @property
    def sentence(self) -> str:
        """All that was found."""
        if self.detail:
            return ": ".join(filter(None, (self.what, self.detail)))
        if not math.isfinite(self.measured):
            return f"{self.what}: not finite (limit {self.limit:.2e})"
        return f"{self.what}: {self.measured:.2e} {'<=' if self.passed else '>'} {self.limit:.2e}"

    def as_data(self) -> dict[str, Any]:
        """For JSON, which has no NaN."""
        measured = self.measured if math.isfinite(self.measured) else None
        return asdict(self) | {"measured": measured, "passed": self.passed, "sentence": self.sentence}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> "Finding":
        """The finding that was written so. Whether it passed is told by its figures alone."""
        given = {name: data[name] for name in cls.__dataclass_fields__}
        return cls(**given | {"measured": math.nan if data["measured"] is None else data["measured"]})
