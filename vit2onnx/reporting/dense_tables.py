"""The tables of the page on dense maps: their columns as data, and the rows of one model or of two."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vit2onnx.dense.description import Described, flat
from vit2onnx.errors import printable
from vit2onnx.reporting.page import number

Row = Mapping[str, Any]


def figure(value: float | None) -> str:
    """A figure around one with three decimals."""
    # Plus zero, because -0.0001 would be -0.000.
    return "not defined" if value is None else f"{round(value, 3) + 0.0:.3f}"


def _two_decimals(value: float) -> str:
    return f"{value:.2f}"


def _place(place: Sequence[int]) -> str:
    return "{},{}".format(*place)


def _places(places: Sequence[Sequence[int]]) -> str:
    """The first four places; their number is in another column."""
    return " ".join([*map(_place, places[:4]), *(["…"] if len(places) > 4 else [])])


@dataclass(frozen=True)
class Column:
    """A column: its heading, the key of its values in a row, how they are written, and whether it sorts as numbers."""

    heading: str
    key: str
    write: Callable[[Any], str] = figure
    kind: str = "number"


@dataclass(frozen=True)
class Table:
    """A table that can be sorted. Cells of figures that are not defined are empty, and sort last."""

    name: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]


def _text(heading: str, key: str) -> Column:
    return Column(heading, key, printable, "text")


def _both(*columns: Column, words: tuple[str, str]) -> list[Column]:
    """Two columns for each, of figures that `flat` has numbered."""
    return [replace(one, heading=one.heading + words[i], key=f"{one.key}_{i + 1}") for one in columns for i in (0, 1)]


MODEL, PHOTOGRAPH = _text("model", "model"), _text("photograph", "image")
OF_MAPS = [
    Column("smoothness", "smoothness"),
    Column("chance", "chance"),
    Column("contrast", "contrast"),
    Column("high frequencies", "high_frequency"),
]
OF_NORMS = [Column("largest norm / median", "norm_ratio", _two_decimals), Column("high norms", "high_norms", str)]
GRAM = [Column("Gram, mean square", "gram_mean_square", number), Column("Gram, largest", "gram_max", number)]
FIGURES = [
    *(PHOTOGRAPH, MODEL, *OF_MAPS),
    *(Column("foreground", "foreground"), *OF_NORMS),
    Column("reference", "reference", _place, "text"),
]
COMPONENTS = [
    *(PHOTOGRAPH, MODEL),
    Column("component", "component", str),
    Column("share of the variance", "share"),
    Column("gap to the next", "gap"),
    _text("colours", "colours"),
]
NORMS = [
    *(PHOTOGRAPH, MODEL),
    Column("layer", "layer", str),
    Column("median", "median", number),
    Column("largest", "largest", number),
    Column("largest / median", "ratio", _two_decimals),
    Column("high norms", "high", str),
    Column("where (row,column)", "where", _places, "text"),
]
LAYERS = [
    *(PHOTOGRAPH, MODEL),
    Column("layer", "layer", str),
    Column("final norm", "normed", lambda normed: "yes" if normed else "no", "text"),
    Column("grid", "grid", lambda grid: "{} x {}".format(*grid), "text"),
    *OF_MAPS,
]
ABLATION = [*(PHOTOGRAPH, MODEL), *_both(*OF_MAPS, *OF_NORMS, words=("", ", without")), *GRAM]
PAIR = [
    *(PHOTOGRAPH, Column("agreement", "agreement"), Column("overlap of foregrounds", "foreground_overlap")),
    *(*GRAM, *_both(*OF_MAPS, words=(", 1st", ", 2nd"))),
]
NAMES = {column.key: column.heading for column in OF_MAPS}
DIFFERENCES = [
    Column("figure", "figure", NAMES.__getitem__, "text"),
    Column("photographs", "photographs", str),
    Column("larger in the 2nd", "second_larger", str),
    Column("2nd less 1st, mean", "mean"),
    Column("standard deviation", "deviation"),
]
DESCRIPTORS = {
    "pooled": "pooled embedding",
    "mean": "mean of all patches",
    "suppressed": "mean without background directions",
    "automatic": "mean of the automatic foreground",
    "masked": "mean inside the given masks",
}
RETRIEVAL = [
    MODEL,
    Column("descriptor", "descriptor", DESCRIPTORS.__getitem__, "text"),
    *(Column("R@1", "r1"), Column("R@5", "r5"), Column("mAP", "map")),
    *(Column("mAP by chance", "chance"), Column("background mAP", "background_map")),
]


def tables(models: Sequence[Described], retrieval: Sequence[Row], pair: Described | None) -> dict[str, Table | None]:
    """All tables by name; `None` for those without rows."""
    made: dict[str, tuple[Sequence[Column], Sequence[Row]]] = {
        "figures": (FIGURES, _rows(models, "photographs")),
        "components": (COMPONENTS, list(_components(models))),
        "norms": (NORMS, _rows(models, "norms")),
        "layers": (LAYERS, _rows(models, "layers")),
        "ablation": (ABLATION, list(map(flat, _rows(models, "ablation")))),
        "pair": (PAIR, list(map(flat, pair.figures["rows"])) if pair else []),
        "differences": (DIFFERENCES, pair.figures["differences"] if pair else []),
        "retrieval": (
            RETRIEVAL,
            [_of(one, row) | {"chance": one["chance"]} for one in retrieval for row in one["rows"]],
        ),
    }
    return {name: _table(name, columns, rows, len(models)) for name, (columns, rows) in made.items()}


def _table(name: str, columns: Sequence[Column], rows: Sequence[Row], models: int) -> Table | None:
    """A table of rows. Columns without a value are left out, and the name of a model that is the only one."""
    shown = [
        column
        for column in columns
        if any(row.get(column.key) is not None for row in rows) and (column is not MODEL or models > 1)
    ]
    cells = [["" if row[one.key] is None else one.write(row[one.key]) for one in shown] for row in rows]
    return Table(name, shown, cells) if rows else None


def _of(figures: Row, row: Row) -> dict[str, Any]:
    """A row of the figures of a model, with its name."""
    return {**row, "model": figures["variant"]}


def _rows(models: Sequence[Described], part: str) -> list[dict[str, Any]]:
    """The rows in a part of the figures, photograph by photograph, so that models can be compared."""
    images = [row["image"] for row in models[0].figures["photographs"]]
    rows = [_of(model.figures, row) for model in models for row in model.figures[part] or ()]
    return sorted(rows, key=lambda row: images.index(row["image"]))


def _components(models: Sequence[Described]) -> Iterable[Row]:
    """Components of the basis of all photographs, or of each."""
    for model in models:
        basis = model.figures["basis"]
        is_shared = basis["fit"] == "shared"
        for row in [basis | {"image": "all photographs"}] if is_shared else model.figures["photographs"]:
            for i, (share, gap) in enumerate(zip(row["shares"], row["gaps"], strict=True), start=1):
                colours = "may mix" if i in row["turning"] else None
                found = {"image": row["image"], "component": i, "share": share, "gap": gap, "colours": colours}
                yield _of(model.figures, found)
