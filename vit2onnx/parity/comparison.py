"""All that was measured of an exported graph. Nothing is judged here."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from vit2onnx.parity.metrics import severity, worst
from vit2onnx.parity.plain_file import PlainFile
from vit2onnx.spec.case import Case
from vit2onnx.spec.subject import DOUBLE, DOUBLE_GRAPH, GRAPH_RUNS, TRUTH

# A row of figures by their names; a figure that is no finite number is `None`.
Row = dict[str, Any]


@dataclass(frozen=True)
class Pair:
    """Two implementations to compare on all inputs, in batches of one size.

    `kind` says for what: an `original`, the `model` or the `graph` with the truth in single precision, or any of them
    in `double`; graph or model with a `reference`; or to be `shown` only.
    """

    subject: str
    other: str
    kind: str
    batch: int = 1


def pairs_of(references: Sequence[str], batches: Iterable[int], batch_in_double: int | None) -> list[Pair]:
    """All that is compared, by subject, of a graph that is run in batches of such sizes; `None` is for no such run."""
    first, *others = references
    pairs = [Pair(first, TRUTH, "original")]
    for name in others:
        doubles = Pair(f"{name}{DOUBLE}", TRUTH, "double")
        pairs += [Pair(name, TRUTH, "original"), Pair(name, first, "shown"), doubles]
    pairs += [Pair("equinox", TRUTH, "model"), *(Pair("equinox", name, "reference") for name in references)]
    pairs += [Pair(f"equinox{DOUBLE}", TRUTH, "double")]
    pairs += [] if batch_in_double is None else [Pair(DOUBLE_GRAPH, TRUTH, "double", batch_in_double)]
    for run, batch in product(GRAPH_RUNS, batches):
        pairs += [Pair(run, TRUTH, "graph", batch), Pair(run, "equinox", "shown", batch)]
        pairs += [Pair(run, name, "reference", batch) for name in references]
    return pairs


@dataclass(frozen=True)
class Comparison(PlainFile):
    """How far the graph, the Equinox model and the references of a variant are apart, as plain data.

    `cases` are the inputs on which all `pairs` were to be compared; `differences` has what was. `kind` is what one
    case is: an `image`, a `text` or a `pair` of both. `precision` is the graph's, whose noise floors are as much larger
    than those of single precision as its unit roundoff is.
    """

    variant: str
    export: str
    graph_sha256: str
    runtime: Row
    references: Sequence[str]
    cases: Sequence[str]
    pairs: Sequence[Row]
    checks: Sequence[Row]
    rounding: Sequence[Row]
    differences: Sequence[Row]
    distributions: Sequence[Row]
    semantics: Sequence[Row]
    known_differences: Sequence[Row]
    error_maps: Sequence[Row]
    kind: str = "image"
    precision: str = "float32"

    def of(self, kind: str) -> list[tuple[str, str]]:
        """The pairs of a kind, each once, whatever the batch."""
        return list(dict.fromkeys((pair["subject"], pair["other"]) for pair in self.pairs if pair["kind"] == kind))

    def rows(self, subject: str, other: str) -> list[Row]:
        """The differences of one pair."""
        return [row for row in self.differences if (row["subject"], row["other"]) == (subject, other)]

    def rows_of(self, kind: str, subjects: Iterable[str] | None = None) -> list[Row]:
        """The differences of all pairs of a kind, or of those with some subjects."""
        pairs = {pair for pair in self.of(kind) if subjects is None or pair[0] in subjects}
        return [row for row in self.differences if (row["subject"], row["other"]) in pairs]

    def of_graph(self) -> list[Row]:
        """The differences between graph and references in single precision."""
        return self.rows_of("reference", GRAPH_RUNS)

    @property
    def batches(self) -> list[int]:
        """The batch sizes that the graph was run with."""
        return list(dict.fromkeys(pair["batch"] for pair in self.pairs if pair["kind"] == "graph"))

    @property
    def not_compared(self) -> list[str]:
        """Inputs of pairs that have no row."""
        if not (self.cases and self.pairs):
            return ["anything"]
        compared = {(row["subject"], row["other"], row["batch"], case_of(row)) for row in self.differences}
        wanted = [(pair["subject"], pair["other"], pair["batch"], case) for pair in self.pairs for case in self.cases]
        return [
            f"{subject} - {other}, batch {batch}, {case}"
            for subject, other, batch, case in wanted
            if (subject, other, batch, case) not in compared
        ]


def largest(rows: Iterable[Mapping[str, Any]], key: str = "max_abs") -> float:
    """The largest difference; NaN if one of them is not a finite number or there are no rows."""
    return worst(row[key] for row in rows)


def case_of(row: Row) -> str:
    """The input of a row."""
    return str(Case.of_row(row))


def place_of(row: Row, key: str = "max_abs") -> str:
    """Where the largest figure of a row is, in words: the largest difference, or the error in noise floors."""
    token = row["floors_token" if key == "floors" else "token"]
    patch = divmod(token, row["columns"]) if row["group"] == "patches" else ()
    where = "patch {},{}".format(*patch) if patch else f"{row['group']} {token}"
    # A case can be a batch by itself.
    batch = f", batch {row['batch']}" if row["batch"] else ""
    return f"{row['image']} {row['height']}x{row['width']}{batch}, {where}"


def worst_place(rows: Iterable[Row], key: str = "max_abs") -> str:
    """Where the largest of some figures is, in words; nothing if there are none."""
    row = max(rows, key=lambda row: severity(row[key]), default=None)
    return place_of(row, key) if row else ""
