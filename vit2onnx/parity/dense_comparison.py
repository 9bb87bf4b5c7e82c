"""How far the dense maps of implementations may be from the truth: what was measured, and its limits.

Apart from `dense.py`, because the verdict is read where scipy is not installed.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from vit2onnx.parity.comparison import Row
from vit2onnx.parity.finding import Finding
from vit2onnx.parity.floors import MOST_APART
from vit2onnx.parity.metrics import severity, worst
from vit2onnx.parity.plain_file import PlainFile
from vit2onnx.spec.subject import TRUTH

# The leg of the verdict.
DENSE = "dense"
# What is compared with the truth. The reference is the truth's own, and is shown without being judged.
IMPLEMENTATIONS = ("transformers", "equinox", "onnx")
REFERENCE, EQUINOX, _ = IMPLEMENTATIONS
JUDGED = IMPLEMENTATIONS[1:]
# The map that is shown in colours, the one before the final norm, and the norms of patches, by layer.
PATCHES, BEFORE_NORM, NORMS = "patches", "before_norm", "norms"


@dataclass(frozen=True)
class Figure:
    """A difference from the truth: the key of a row, the limit by which it is judged, and its words."""

    key: str
    limit: str
    words: str


@dataclass(frozen=True)
class Count:
    """A number of things that are not as in the truth: the key of a row, and its words.

    Where something is not the same, the key `margin` says how far the truth is from a tie at most. It is a tie within
    what the difference with the key `of` may be.
    """

    key: str
    margin: str
    of: str
    words: str


FIGURES = (
    Figure("smoothness", "dense_map", "|difference| of smoothness"),
    Figure("smoothness_map", "dense_map", "max |difference| of a smoothness map"),
    Figure("high_frequency", "dense_map", "|difference| of the share of high frequencies"),
    Figure("similarity", "dense_similarity", "max |difference| of the similarity to the patch in the middle"),
    Figure("gram", "dense_gram", "max |difference| of the similarity of any two patches"),
    Figure("colours", "dense_colour", "max |difference| of a colour"),
    # Similarities are blind to what all patches have in common: a sign, a scale, the order of channels.
    Figure("features", "dense_feature", "max |difference| of a patch, as a share of its length"),
    Figure("norms", "dense_feature", "max |difference| of a norm, as a share of the median"),
)
COUNTS = (
    Count("levels", "level_margin", "colours", "8-bit colours that differ"),
    Count("mask", "mask_margin", "colours", "patches in the foreground of one only"),
    Count("high_norms", "norm_margin", "norms", "patches whose norm is high in one only"),
)
# The figures of which one noise floor is made: those of the same limit.
TOGETHER = {one.key: [other.key for other in FIGURES if other.limit == one.limit] for one in FIGURES}
TIES = "dense_colour"
# However far the reference itself rounds, people would see more than this.
MOST_ALLOWED = 1e-2
# What rows have: of a map, of one that is shown in colours as well, and of norms.
OF_MAPS = (*(figure.key for figure in FIGURES if figure.key not in ("colours", "norms")), "gram_mean_square")
OF_COLOURS = ("colours", "levels", "level_margin", "mask", "mask_margin")
OF_NORMS = ("norms", "high_norms", "norm_margin")


@dataclass(frozen=True)
class DenseComparison(PlainFile):
    """How far the dense maps of implementations are from the truth's, as plain data.

    `cases` are photographs, all of one size, and `maps` the names of what there is of each. `rows` are one per case,
    map and implementation.
    """

    variant: str
    export: str
    graph_sha256: str
    cases: Sequence[str]
    maps: Sequence[str]
    rows: Sequence[Row]

    def of(self, subject: str, key: str, name: str | None = None) -> list[Row]:
        """The rows of an implementation that have a figure, of all maps or of one."""
        return [row for row in self.rows if row["subject"] == subject and key in row and name in (None, row["map"])]

    def maps_with(self, key: str) -> list[str]:
        """The maps that have a figure."""
        return [name for name in self.maps if self.of(REFERENCE, key, name)]

    def allowed(self, key: str, limit: float, name: str, floors: float) -> float:
        """What a difference of a map may be: its limit, or so many noise floors if these are more.

        Rounding moves the maps of a model whose weights amplify it, however right the model is. The noise floor is made
        as that of tokens is: of the largest differences of reference and Equinox model in single precision, by any
        figure of the same limit in the same map of all cases. The larger counts, but at most five times the smaller, so
        that neither can make a floor alone. However many floors these are, no more than a hundredth is allowed.
        """
        own = [
            worst(row[other] for other in TOGETHER[key] for row in self.of(subject, other, name))
            for subject in (REFERENCE, EQUINOX)
        ]
        floor = min(max(own), MOST_APART * min(own)) if all(map(math.isfinite, own)) else 0.0
        return max(limit, min(floors * floor, MOST_ALLOWED))

    def judge(self, limits: Mapping[str, float]) -> Iterator[Finding]:
        """The findings: the Equinox model and the graph must show what the truth shows."""
        for subject in JUDGED:
            yield from (self._of_figure(subject, figure, limits) for figure in FIGURES)
            yield from (self._of_count(subject, count, limits) for count in COUNTS)

    def _of_figure(self, subject: str, figure: Figure, limits: Mapping[str, float]) -> Finding:
        """The largest difference, as a share of what it may be in its map."""
        found = [(math.nan, limits[figure.limit], "")] * (not self.maps_with(figure.key))
        for name in self.maps_with(figure.key):
            rows = self.of(subject, figure.key, name)
            place = place_of(max(rows, key=lambda row: severity(row[figure.key]))) if rows else ""
            limit = self.allowed(figure.key, limits[figure.limit], name, limits["floors"])
            is_whole = len(rows) == len(self.cases)
            found.append((worst(row[figure.key] for row in rows) if is_whole else math.nan, limit, place))
        measured, limit, place = max(found, key=lambda one: severity(one[0] / one[1]))
        return Finding(DENSE, figure.words, measured, limit, subject, TRUTH, place, limit_name=figure.limit)

    def _of_count(self, subject: str, count: Count, limits: Mapping[str, float]) -> Finding:
        """How many are not as in the truth. Ties do not count."""
        rows, names = self.of(subject, count.key), self.maps_with(count.key)
        allowed = {name: self.allowed(count.of, limits[TIES], name, limits["floors"]) for name in names}
        beyond = [row for row in rows if row[count.margin] is None or row[count.margin] > allowed[row["map"]]]
        numbers = [row[count.key] for row in beyond]
        is_unknown = not names or len(rows) != len(names) * len(self.cases) or None in numbers
        place = place_of(max(beyond, key=lambda row: severity(row[count.margin]))) if beyond else ""
        measured = math.nan if is_unknown else float(sum(numbers))
        return Finding(DENSE, count.words, measured, 0.0, subject, TRUTH, place)


def place_of(row: Row) -> str:
    """The map of a row, in words."""
    return f"{row['map']} of {row['image']} {row['height']}x{row['width']}"


def keys_of(name: str) -> tuple[str, ...]:
    """The figures that a row has of a map with a name."""
    if name.startswith(f"{NORMS}."):
        return OF_NORMS
    return (*OF_MAPS, *OF_COLOURS) if name == PATCHES else OF_MAPS
