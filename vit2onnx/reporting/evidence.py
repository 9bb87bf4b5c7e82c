"""All that is known of a variant, for its page, and what pages say of each gate."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from vit2onnx.parity.comparison import Comparison
from vit2onnx.parity.dense_comparison import DENSE, DenseComparison
from vit2onnx.parity.divergence import StageComparison
from vit2onnx.parity.packing import PACKING, PackingComparison
from vit2onnx.parity.verdict import Verdict
from vit2onnx.spec.subject import PUBLISHED

Plain = Mapping[str, Any]

FIGURES = ("max_abs", "rms", "cosine", "scale", "floors")
COLUMNS = ["subject", "other", "image", "height", "width", "batch", "group", "token", "count", *FIGURES]


@dataclass(frozen=True)
class Gate:
    """The names of a gate: the title of its faults on a page, their prefix elsewhere, and its words in a headline."""

    title: str
    prefix: str
    headline: str


# By the gates of verdicts, in the order in which pages list them.
GATES = {
    "outputs": Gate("{file}, outputs", "", "{files} {do} not match {references}"),
    PUBLISHED: Gate(
        "{file}, against published features",
        "checkpoint or photograph: ",
        "the checkpoint or the photograph is not the one whose features are published",
    ),
    PACKING: Gate("{file}, images in one call", "packing: ", "{files} {do} not keep the images of a call apart"),
    DENSE: Gate("{file}, dense maps", "dense maps: ", "the dense maps of {files} differ from the original's"),
    "stages": Gate("{file}, stage by stage", "stages: ", "a stage of {files} is wrong"),
    "preprocessing": Gate("preprocessing", "preprocessing: ", "photographs are not prepared as for the original model"),
    "self_test": Gate("self-test", "self-test: ", "these checks cannot be relied on"),
}


@dataclass(frozen=True)
class Evidence:
    """All on one variant, as it stands in its files.

    `verdicts` and `comparisons` are those of its graphs, in the same order. `record` is its `checkpoint.json`, `ledger`
    the lines of its `ledger.csv`, `preprocessing` the differences of its `preprocessing.json`. By the name of the
    export come what its graph says of itself, the operator sets that it needs, the comparisons of its stages and of its
    dense maps if these were asked for, what probes showed if it packs images, and the plan of its precision if it is in
    float16. `photographs` are files by name.
    `self_test` is what became of planted faults, if that was tried.
    """

    verdicts: Sequence[Verdict]
    comparisons: Sequence[Comparison]
    record: Plain
    ledger: Sequence[str]
    preprocessing: Sequence[Plain]
    metadata: Mapping[str, Mapping[str, str]]
    operator_sets: Mapping[str, Mapping[str, int]]
    photographs: Mapping[str, Path]
    stages: Mapping[str, StageComparison] = field(default_factory=dict)
    packing: Mapping[str, PackingComparison] = field(default_factory=dict)
    plans: Mapping[str, Plain] = field(default_factory=dict)
    dense: Mapping[str, DenseComparison] = field(default_factory=dict)
    self_test: Plain | None = None


def table_of(rows: Iterable[Plain]) -> pd.DataFrame:
    """Rows of differences as a table; `None` becomes NaN."""
    return pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys(FIGURES, float))


def by_area(sizes: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Every size once, from the smallest area to the largest."""
    return sorted(set(sizes), key=lambda size: (size[0] * size[1], size))


def sizes_of(rows: pd.DataFrame) -> list[tuple[int, int]]:
    """Heights and widths that were compared, from the smallest area to the largest."""
    return by_area(zip(rows["height"], rows["width"], strict=True))
