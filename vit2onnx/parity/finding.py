"""What a gate finds: one judged statement. Standard library only."""

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """`what` was measured, and may be at most the limit.

    `leg` is what of a verdict it belongs to, `limit_name` the limit's key in the config, if it is from there, `subject`
    the implementation that is held against others, if it is one. `detail` takes the place of the figures where words
    say more.
    """

    leg: str
    what: str
    measured: float
    limit: float
    detail: str = ""
    limit_name: str = ""
    subject: str = ""

    @property
    def passed(self) -> bool:
        # NaN compares false, so it fails.
        return self.measured <= self.limit

    @property
    def sentence(self) -> str:
        if self.detail:
            return f"{self.what}: {self.detail}"
        if not math.isfinite(self.measured):
            return f"{self.what}: not finite (limit {self.limit:.2e})"
        return f"{self.what}: {self.measured:.2e} {'<=' if self.passed else '>'} {self.limit:.2e}"

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        names = ("leg", "what", "sentence", "passed", "measured", "limit", "limit_name")
        return {name: getattr(self, name) for name in names}
