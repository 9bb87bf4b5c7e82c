"""Whether the images of a pack are kept apart: how far probes are apart, and whether wrong inputs are refused."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from vit2onnx.packing.probes import EXACT, EXCHANGED, ROUNDED, Probed
from vit2onnx.parity.comparison import Row
from vit2onnx.parity.finding import Finding
from vit2onnx.parity.floors import in_floors
from vit2onnx.parity.metrics import TOKEN_ERROR, finite, token_cosines, worst
from vit2onnx.parity.plain_file import PlainFile
from vit2onnx.spec.case import Case
from vit2onnx.spec.subject import TRUTH

# The leg of the verdict.
PACKING = "packing"
ROUNDING = (TRUTH, *ROUNDED)


@dataclass(frozen=True)
class PackingComparison(PlainFile):
    """What probes have shown of a packed graph, as plain data.

    `rows` are one per probe and image, `images` the names of all images, and `refusals` say of each wrong input whether
    the graph refused it at each optimisation level.
    """

    variant: str
    export: str
    graph_sha256: str
    images: Sequence[str]
    rows: Sequence[Row]
    refusals: Sequence[Row]

    def of(self, probe: str) -> list[Row]:
        """The rows of a probe."""
        return [row for row in self.rows if row["probe"] == probe]

    def judge(self, limits: Mapping[str, float]) -> Iterator[Finding]:
        """The findings: nothing may leak or get through, and an exchange of rows and columns must show."""
        for probe in EXACT:
            measured = worst(None if row["max_abs"] is None else abs(row["max_abs"]) for row in self._all(probe))
            yield Finding(PACKING, f"max |difference| of an image {probe}", measured, 0.0, place=_worst(self.of(probe)))
        for probe in ROUNDING:
            rows, where = self._all(probe), probe if probe in ROUNDED else "all at once"
            measured = worst(row["floors"] for row in rows if row["judged"])
            yield Finding(PACKING, f"{TOKEN_ERROR}, {where}", measured, limits["floors"], limit_name="floors")
            # Noise has no truth and so no floors.
            if others := [row for row in rows if not row["judged"]]:
                measured = worst(None if row["cosine"] is None else 1 - row["cosine"] for row in others)
                measure = f"1 - lowest cosine of a token of noise, {where}"
                yield Finding(PACKING, measure, measured, 1 - limits["cosine"], limit_name="cosine")
        exchanged = self.of(EXCHANGED)
        passed = [row["image"] for row in exchanged if not _shows(row, limits)]
        told = f"{', '.join(passed)} would pass" if passed else "every one would be caught"
        count = float(len(passed)) if exchanged else math.nan
        yield Finding(PACKING, f"images with {EXCHANGED} that would pass", count, 0.0, detail=told)
        silent = [f"{row['wrong']} ({row['level']})" for row in self.refusals if not row["refused"]]
        told = f"not refused: {', '.join(silent)}" if silent else f"{len(self.refusals)} of {len(self.refusals)}"
        count = float(len(silent)) if self.refusals else math.nan
        yield Finding(PACKING, "wrong inputs are refused", count, 0.0, detail=told)

    def _all(self, probe: str) -> list[Row]:
        """The rows of a probe, and one without figures if it lacks an image that it should have."""
        rows = self.of(probe)
        wanted = {row["image"] for row in self.of(TRUTH)} if probe == TRUTH else {*self.images}
        lacking = not wanted or {row["image"] for row in rows} != wanted
        return [*rows, *([{"max_abs": None, "floors": None, "judged": True}] if lacking else [])]


def _shows(row: Row, limits: Mapping[str, float]) -> bool:
    """Whether a fault is beyond the limits: in noise floors, or by the cosine of an image that has none."""
    if row["judged"]:
        return row["floors"] is None or row["floors"] > limits["floors"]
    return row["cosine"] is None or row["cosine"] < limits["cosine"]


def _worst(rows: Iterable[Row]) -> str:
    row = max(rows, key=lambda row: math.inf if row["max_abs"] is None else row["max_abs"], default=None)
    return row["image"] if row and row["max_abs"] != 0 else ""


def rows_of(probed: Iterable[Probed], floors: Mapping[str, np.ndarray]) -> Iterator[Row]:
    """A row per probe and image. `floors` are the noise floors of the tokens of those images that have a truth."""
    for one in probed:
        own = floors.get(one.image)
        figures = asdict(in_floors(one.tokens, one.expected, own)) if own is not None else {"floors": None}
        yield {
            "probe": one.probe,
            "image": one.image,
            "tokens": len(one.tokens),
            **_distances(one.tokens, one.expected),
            "floors": figures["floors"],
            "judged": own is not None,
        }


def _distances(a: np.ndarray, b: np.ndarray) -> dict[str, float | None]:
    """The largest difference of any number, and the least, mean and greatest cosine of a token."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(invalid="ignore"):
        cosines = token_cosines(a, b)
        # Equal tokens have the cosine 1, which rounding would miss.
        cosines[(a == b).all(axis=1)] = 1.0
        largest = np.abs(a - b).max()
    named = {"cosine": cosines.min(), "mean_cosine": cosines.mean(), "greatest_cosine": cosines.max()}
    return {"max_abs": finite(largest), **{name: finite(value) for name, value in named.items()}}


def figures_of(rows: Sequence[Row]) -> dict[str, float]:
    """The worst of some rows, and the mean of their cosines; NaN if a figure is not known or there are no rows."""
    cosines = [np.nan if row["mean_cosine"] is None else row["mean_cosine"] for row in rows]
    return {
        "max_abs": worst(row["max_abs"] for row in rows),
        "least": -worst(None if row["cosine"] is None else -row["cosine"] for row in rows),
        "mean": float(np.mean(cosines)) if cosines else math.nan,
        "most": worst(row["greatest_cosine"] for row in rows),
        "floors": worst(row["floors"] for row in rows if row["judged"]),
    }


def mixed(cases: Sequence[str]) -> list[str]:
    """A few of all cases, so that every photograph and every size is among them."""
    parsed = list(map(Case.parse, cases))
    names = list(dict.fromkeys(case.name for case in parsed))
    sizes = list(dict.fromkeys((case.height, case.width) for case in parsed))
    wanted = (
        str(Case(names[number % len(names)], *sizes[number % len(sizes)]))
        for number in range(max(len(names), len(sizes)))
    )
    return [case for case in wanted if case in cases]
