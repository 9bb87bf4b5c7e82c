"""The page on the dense maps of one model or of two: pictures of photographs that answer to a click, and all figures.

It is one file that loads nothing. Quantised features of all patches are in it, so a browser computes the similarity of
any patch to all others.
"""

import base64
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vit2onnx.dense.components import SMALL_GAP
from vit2onnx.errors import InputError, first_few, printable
from vit2onnx.reporting.dense_pictures import (
    COSINE_COLOURS,
    MOST_NORM,
    NORM_COLOURS,
    as_jpeg,
    as_png,
    colour_table,
    component_picture,
    cosine_picture,
    norm_chart,
    norm_multiples,
    norm_picture,
    photograph_picture,
    pixels_for,
)
from vit2onnx.reporting.page import ENVIRONMENT, counted, data_uri, megabytes, number

Array = np.ndarray
Plain = dict[str, Any]

# Figures of a map, with the words for them at the heads of columns.
FIGURES = {
    "smoothness": "smoothness",
    "chance": "chance",
    "contrast": "contrast",
    "high_frequency": "high frequencies",
}
DESCRIPTORS = {
    "pooled": "pooled embedding",
    "mean": "mean of all patches",
    "suppressed": "mean without background directions",
    "automatic": "mean of the automatic foreground",
    "masked": "mean inside the given masks",
}
FITS = {
    "shared": "one basis for all photographs",
    "image": "a basis for each photograph, so colours of different photographs cannot be compared",
}
FOREGROUNDS = {
    "none": "not separated",
    "automatic": "found automatically in the first component, a heuristic",
    "masks": "from the given masks",
}
WEIGHTS = {
    "synthetic": "random numbers",
    "official": "the publisher's",
    "own": "your own",
}
# Places that a table lists of a layer; the figures hold more.
MOST_PLACES = 4
# Colours between the ends of a legend.
STOPS = 9


@dataclass(frozen=True)
class DenseModel:
    """The dense features of one model: `figures.json`, `maps.npz`, and `retrieval.json` if there is one."""

    figures: Mapping[str, Any]
    maps: Mapping[str, Array]
    retrieval: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        return printable(self.figures["variant"])

    @property
    def rows(self) -> dict[str, Mapping[str, Any]]:
        """The figures of each photograph, by its name."""
        return {row["image"]: row for row in self.figures["photographs"]}


@dataclass(frozen=True)
class DensePair:
    """How far the maps of two models are alike: `figures.json` and `maps.npz` of the pair."""

    figures: Mapping[str, Any]
    maps: Mapping[str, Array]


@dataclass(frozen=True)
class _Table:
    """A table that can be sorted: columns with their kinds, `text` or `number`, and the texts of all cells."""

    name: str
    columns: Sequence[tuple[str, str]]
    rows: Sequence[Sequence[str]]


def dense_page(
    models: Sequence[DenseModel],
    photographs: Mapping[str, Path],
    pair: DensePair | None = None,
    most_bytes: int = 10_000_000,
) -> str:
    """The self-contained HTML page on some models, which share a grid; the same input gives the same bytes.

    `photographs` are files by the names of images in the figures; one that is missing is left white. If the page would
    be larger than `most_bytes`, the last photographs lose the data that clicks need, then their pictures as well, and
    the page says so. Raises `InputError` if grids differ, if tables alone are too large, or as `load_image`.
    """
    _check(models, pair)
    content = _content(models, pair)
    shown = [_photograph(models, image, photographs.get(image), pair) for image in _images(models)]
    template = ENVIRONMENT.get_template("dense.html.j2")

    def rendered(pictured: int, clickable: int) -> str:
        left_out = _left_out(shown, pictured, clickable, most_bytes)
        data = _data(models, [one["data"] for one in shown[:clickable]])
        return template.render(
            **content, photographs=shown[:pictured], clickable=clickable, left_out=left_out, data=data
        )

    # From the largest page to the smallest: fewer photographs with data for clicks, then fewer with pictures.
    count = len(shown)
    choices = [(count, count - left) for left in range(count + 1)]
    choices += [(count - left, 0) for left in range(1, count + 1)]
    found = _first_that_fits(lambda i: rendered(*choices[i]), len(choices), most_bytes)
    if found is None:
        raise InputError(
            f"The tables of this page alone are larger than {megabytes(most_bytes)}; describe fewer photographs."
        )
    return found


def _first_that_fits(render: Callable[[int], str], count: int, most_bytes: int) -> str | None:
    """The first of `count` pages, from the largest to the smallest, that has at most `most_bytes`; none if none has."""
    found, first, end = None, 0, count
    # The largest nearly always fits, so it comes first.
    middle = 0
    while first < end:
        page = render(middle)
        if len(page.encode()) <= most_bytes:
            found, end = page, middle
        else:
            first = middle + 1
        middle = (first + end) // 2
    return found


def _check(models: Sequence[DenseModel], pair: DensePair | None) -> None:
    if not models:
        raise InputError("There is no model to show; describe one.")
    grids = {tuple(model.figures["grid"]): model.name for model in models}
    if len(grids) > 1:
        (rows, columns), (other_rows, other_columns) = list(grids)[:2]
        raise InputError(
            f"{models[0].name} has a grid of {rows} x {columns} patches and another model {other_rows} x"
            f" {other_columns}; maps are comparable at equal grids only, so describe all models at one."
        )
    names = [model.figures["variant"] for model in models]
    if len(set(names)) < len(names):
        raise InputError(f"{first_few(names)} are shown on one page, and a name is there twice; give each model once.")
    if pair is not None and list(pair.figures["models"]) != names:
        told = " and ".join(pair.figures["models"])
        raise InputError(f"The pair is of {told} and the page shows {first_few(names)}; give the pair of these models.")


def _images(models: Sequence[DenseModel]) -> list[str]:
    """The names of all photographs, in the order of the first model that has them."""
    return list(dict.fromkeys(image for model in models for image in model.rows))


def _content(models: Sequence[DenseModel], pair: DensePair | None) -> Plain:
    """What the page says besides its pictures, as data, by the names that its template has for it."""
    names = [model.name for model in models]
    kinds = {kind: [one.name for one in models if one.figures["weights"] == kind] for kind in WEIGHTS}
    legends = {"cosine": COSINE_COLOURS, "norm": NORM_COLOURS}
    return {
        "title": f"{' and '.join(names)}: dense maps",
        "names": names,
        "synthetic": kinds["synthetic"],
        "own": kinds["own"],
        "grid": models[0].figures["grid"],
        "facts": _facts(models),
        "legends": {name: _gradient(scale) for name, scale in legends.items()},
        "most_norm": f"{MOST_NORM:g}",
        "small_gap": f"{SMALL_GAP:g}",
        "high_norms": list(dict.fromkeys(f"{model.figures['high_norm']:g}" for model in models)),
        "foreground": any(model.figures["foreground"] != "none" for model in models),
        "automatic": any(model.figures["foreground"] == "automatic" for model in models),
        "figures": _figures_table(models),
        "components": _components_table(models),
        "norms": _norms_table(models),
        "norm_charts": [
            {"model": model.name, "chart": data_uri("image/png", norm_chart(rows, model.figures["high_norm"]))}
            for model in models
            if (rows := model.figures.get("norms"))
        ],
        "layers": _layers_table(models),
        "ablation": _ablation_table(models),
        "pair": _pair_section(pair),
        "retrieval": _retrieval_section(models),
    }


def _data(models: Sequence[DenseModel], photographs: Sequence[Plain]) -> Plain:
    """What the page's script reads."""
    return {
        "models": [model.name for model in models],
        "colours": _base64(colour_table(COSINE_COLOURS)),
        "photographs": photographs,
    }


def _base64(values: Array) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def _gradient(scale: str) -> str:
    """The colours of a scale, as CSS has them."""
    colours = colour_table(scale)[np.rint(np.linspace(0, 255, STOPS)).astype(int)]
    return f"linear-gradient(90deg, {', '.join('#' + bytes(colour.tolist()).hex() for colour in colours)})"


def _left_out(shown: Sequence[Plain], pictured: int, clickable: int, most_bytes: int) -> Plain | None:
    """Which photographs have no pictures and which answer to no click, so that the page stays small."""
    names = [one["name"] for one in shown]
    if clickable == len(names):
        return None
    return {
        "most": megabytes(most_bytes),
        "pictures": first_few(names[pictured:], most=20),
        "clicks": first_few(names[clickable:pictured], most=20),
    }


def _photograph(models: Sequence[DenseModel], image: str, path: Path | None, pair: DensePair | None) -> Plain:
    """What the page shows of one photograph: a row of pictures for each model that saw it, and the data for clicks."""
    found: list[Plain] = []
    data: list[Plain | None] = []
    for i, model in enumerate(models):
        row = model.rows.get(image)
        if row is None:
            data.append(None)
            continue
        shared = pair.maps.get(f"{image}/colours") if pair and i == 1 else None
        tiles = _tiles(model, row, path, shared)
        found.append({"model": model.name, "number": i, "tiles": tiles})
        data.append(_data_of(model, row))
    rows, columns = (int(side) for side in next(m for m in models if image in m.rows).maps[f"{image}/smoothness"].shape)
    said = next((row for row in (pair.figures["rows"] if pair else ()) if row["image"] == image), None)
    name = printable(image)
    return {
        "name": name,
        "rows": rows,
        "columns": columns,
        "models": found,
        "pair": said and {"agreement": figure(said["agreement"]), "gram": number(said["gram_mean_square"])},
        "data": {"name": name, "rows": rows, "columns": columns, "models": data},
    }


def _data_of(model: DenseModel, row: Mapping[str, Any]) -> Plain:
    """What clicks on one photograph need of a model: its features, and maps for the readout."""
    maps = {what: model.maps[f"{row['image']}/{what}"] for what in ("quantised", "smoothness", "norms")}
    return {
        "reference": [int(place) for place in row["reference"]],
        "features": _base64(maps["quantised"]),
        # Bytes in the order that all browsers' machines have.
        "smoothness": _base64(maps["smoothness"].astype("<f4")),
        "norms": _base64(norm_multiples(maps["norms"]).astype("<f4")),
    }


def _tiles(model: DenseModel, row: Mapping[str, Any], path: Path | None, shared: Array | None) -> list[Plain]:
    """The five pictures of a photograph with what is told below each.

    `shared` are the colours of components, turned into those of the model above.
    """
    image, maps, figures = row["image"], model.maps, model.figures
    name = printable(image)
    rows, columns = maps[f"{image}/smoothness"].shape
    pixels = pixels_for(rows, columns)
    foreground = maps.get(f"{image}/foreground")
    colours = maps[f"{image}/colours"] if shared is None else shared
    seen = photograph_picture(path, rows, columns, pixels)
    reference = "row {}, column {}".format(*row["reference"])
    high = row["high_norms"]
    patches = f"{high or 'no'} high-norm patch{'' if high == 1 else 'es'}"
    pictures = {
        "photograph": (
            "photograph",
            f"The photograph {name}",
            data_uri("image/jpeg", as_jpeg(seen)),
            _of_photograph(row),
        ),
        "components": (
            "PCA",
            f"The first three principal components of the patches of {name} as red, green and blue",
            _png(component_picture(colours, foreground)),
            _of_components(figures, row) if shared is None else ["turned into the colours above"],
        ),
        "smoothness": (
            "smoothness",
            f"How alike each patch of {name} is to its neighbours",
            _png(cosine_picture(maps[f"{image}/smoothness"])),
            [
                f"contrast {figure(row['contrast'])}",
                f"smoothness {figure(row['smoothness'])}",
                f"chance {figure(row['chance'])}",
                f"high frequencies {percentage(row['high_frequency'])}",
            ],
        ),
        "similarity": (
            "similarity",
            f"How similar each patch of {name} is to the chosen patch",
            _png(cosine_picture(maps[f"{image}/similarity"])),
            [f"to {reference}", f"mean {figure(float(np.mean(maps[f'{image}/similarity'])))}"],
        ),
        "norms": (
            "norms",
            f"Norms of the patches of {name} by their median, before the final norm; {patches}",
            _png(norm_picture(maps[f"{image}/norms"], figures["high_norm"], pixels)),
            [f"largest {_multiple(row['norm_ratio'])}", patches],
        ),
    }
    place = {"row": row["reference"][0], "column": row["reference"][1]}
    return [
        {"kind": kind, "title": title, "alt": alt, "source": source, "lines": lines} | place
        for kind, (title, alt, source, lines) in pictures.items()
    ]


def _of_photograph(row: Mapping[str, Any]) -> list[str]:
    reference = "reference row {}, column {}".format(*row["reference"])
    share = row.get("foreground")
    return [reference, *([] if share is None else [f"foreground {percentage(share)}"])]


def _of_components(figures: Mapping[str, Any], row: Mapping[str, Any]) -> list[str]:
    """What is told of the components that a picture shows."""
    shares, gaps = _basis_of(figures, row)
    if not shares:
        return []
    turning = [str(i) for i, gap in enumerate(gaps, start=1) if gap is not None and gap < SMALL_GAP]
    told = f"component{'s' if len(turning) > 1 else ''} {' and '.join(turning)} may turn"
    return [f"{_listed(shares)} of the variance", *([told] if turning else [])]


def _basis_of(figures: Mapping[str, Any], row: Mapping[str, Any]) -> tuple[Sequence[float], Sequence[float]]:
    """Shares and gaps of the components that a photograph is shown in: its own, or those of all."""
    one = figures["basis"] if figures["basis"].get("shares") else row
    return one.get("shares") or [], one.get("gaps") or []


def _png(picture: Any) -> str:
    return data_uri("image/png", as_png(picture))


def _undefined(value: float | None) -> bool:
    return value is None or not math.isfinite(value)


def figure(value: float | None) -> str:
    """A figure around one with three decimals."""
    # Plus zero, because -0.0001 would be -0.000.
    return "not defined" if value is None or _undefined(value) else f"{round(value, 3) + 0.0:.3f}"


def percentage(share: float | None) -> str:
    return "not defined" if share is None or _undefined(share) else f"{100 * share:.1f} %"


def _listed(shares: Sequence[float]) -> str:
    """Shares of components: 31, 12 and 8 %."""
    told = [f"{100 * share:.0f}" for share in shares]
    return f"{', '.join(told[:-1])} and {told[-1]} %" if len(told) > 1 else f"{told[0]} %"


def _multiple(ratio: float | None) -> str:
    return "not defined" if ratio is None or _undefined(ratio) else f"{ratio:.2f} times the median"


def _cell(value: float | None, write: Callable[[float], str] = figure) -> str:
    """A figure in a table, which sorts empty cells last."""
    return "" if value is None or _undefined(value) else write(value)


def _two_decimals(value: float) -> str:
    return f"{value:.2f}"


def _columns(models: Sequence[DenseModel], *columns: tuple[str, str]) -> list[tuple[str, str]]:
    """The columns of a table of photographs, with one for the model if there are several."""
    return [("photograph", "text"), *([("model", "text")] if len(models) > 1 else []), *columns]


def _start(models: Sequence[DenseModel], model: DenseModel, image: str) -> list[str]:
    """What a row of such a table begins with."""
    return [printable(image), *([model.name] if len(models) > 1 else [])]


def _by_photograph(models: Sequence[DenseModel], what: str) -> Iterable[tuple[DenseModel, Mapping[str, Any]]]:
    """The rows of all models in a part of their figures, photograph by photograph, so that models can be compared."""
    for image in _images(models):
        for model in models:
            yield from ((model, row) for row in model.figures.get(what) or () if row["image"] == image)


def _facts(models: Sequence[DenseModel]) -> list[tuple[str, list[str]]]:
    """What each model is and how its maps were made, and means over its photographs."""
    facts: dict[str, Callable[[DenseModel], str]] = {
        "weights": lambda model: WEIGHTS.get(model.figures["weights"], model.figures["weights"]),
        "grid": lambda model: "{} x {} patches".format(*model.figures["grid"]),
        "patch": lambda model: "{0} x {0} pixels".format(model.figures["patch_size"]),
        "feature": lambda model: counted(model.figures["embed_dim"], "number"),
        "register tokens": lambda model: str(model.figures["registers"] or "none"),
        "computed by": lambda model: model.figures["source"],
        "foreground": lambda model: FOREGROUNDS.get(model.figures["foreground"], model.figures["foreground"]),
        "PCA": _basis_in_words,
    }
    means = {f"{words}, mean": name for name, words in FIGURES.items()}
    return [
        *((words, [told(model) for model in models]) for words, told in facts.items()),
        *((words, [_mean_of(model, name) for model in models]) for words, name in means.items()),
    ]


def _basis_in_words(model: DenseModel) -> str:
    basis = model.figures["basis"]
    told = FITS.get(basis["fit"], basis["fit"])
    return f"{told}, {_listed(basis['shares'])} of the variance" if basis.get("shares") else told


def _mean_of(model: DenseModel, name: str) -> str:
    values = [row[name] for row in model.figures["photographs"] if not _undefined(row[name])]
    return f"{figure(float(np.mean(values)))} ({counted(len(values), 'photograph')})" if values else "not defined"


def _figures_table(models: Sequence[DenseModel]) -> _Table:
    with_foreground = any(row.get("foreground") is not None for _, row in _by_photograph(models, "photographs"))
    columns = [*((words, "number") for words in FIGURES.values())]
    columns += [("foreground", "number")] if with_foreground else []
    columns += [("largest norm / median", "number"), ("high norms", "number"), ("reference", "text")]
    rows = []
    for model, row in _by_photograph(models, "photographs"):
        cells = [_cell(row[name]) for name in FIGURES]
        cells += [_cell(row.get("foreground"))] if with_foreground else []
        cells += [_cell(row["norm_ratio"], _two_decimals), str(row["high_norms"]), "{},{}".format(*row["reference"])]
        rows.append([*_start(models, model, row["image"]), *cells])
    return _Table("figures", _columns(models, *columns), rows)


def _components_table(models: Sequence[DenseModel]) -> _Table | None:
    """Shares and gaps: of the shared basis of each model, and of photographs that have their own."""
    rows = []
    for model in models:
        is_shared = bool(model.figures["basis"].get("shares"))
        for row in model.figures["photographs"][: 1 if is_shared else None]:
            start = _start(models, model, "all photographs" if is_shared else row["image"])
            for i, (share, gap) in enumerate(zip(*_basis_of(model.figures, row), strict=False), start=1):
                turns = gap is not None and gap < SMALL_GAP
                rows.append([*start, str(i), _cell(share), _cell(gap), "may turn" if turns else ""])
    columns = [
        ("component", "number"),
        ("share of the variance", "number"),
        ("gap to the next", "number"),
        ("", "text"),
    ]
    return _Table("components", _columns(models, *columns), rows) if rows else None


def _norms_table(models: Sequence[DenseModel]) -> _Table | None:
    names = ("layer", "median", "largest", "largest / median", "high norms")
    rows = []
    for model, row in _by_photograph(models, "norms"):
        places = [f"{y},{x}" for y, x in row["where"][:MOST_PLACES]]
        more = row["high"] - len(places)
        where = " ".join([*places, *([f"and {more} more"] if more > 0 else [])])
        cells = [str(row["layer"]), _cell(row["median"], number), _cell(row["largest"], number)]
        cells += [_cell(row["ratio"], _two_decimals), str(row["high"]), where]
        rows.append([*_start(models, model, row["image"]), *cells])
    columns = [*((name, "number") for name in names), ("where (row,column)", "text")]
    return _Table("norms", _columns(models, *columns), rows) if rows else None


def _layers_table(models: Sequence[DenseModel]) -> _Table | None:
    rows = []
    for model, row in _by_photograph(models, "layers"):
        cells = [str(row["layer"]), "yes" if row["normed"] else "no", "{} x {}".format(*row["grid"])]
        rows.append([*_start(models, model, row["image"]), *cells, *(_cell(row[name]) for name in FIGURES)])
    columns = [("layer", "number"), ("final norm", "text"), ("grid", "text")]
    columns += [(words, "number") for words in FIGURES.values()]
    return _Table("layers", _columns(models, *columns), rows) if rows else None


def _ablation_table(models: Sequence[DenseModel]) -> _Table | None:
    """Each figure with register tokens and without, side by side."""
    rows = []
    for model, row in _by_photograph(models, "ablation"):
        whole = model.rows.get(row["image"], {})
        cells = [_cell(one.get(name)) for name in FIGURES for one in (whole, row)]
        cells += [_cell(row["gram_mean_square"], number), _cell(row["gram_max"], number)]
        rows.append([*_start(models, model, row["image"]), *cells])
    columns = [(words, "number") for name in FIGURES.values() for words in (name, f"{name}, without")]
    columns += [("Gram, mean square", "number"), ("Gram, largest", "number")]
    return _Table("ablation", _columns(models, *columns), rows) if rows else None


def _pair_section(pair: DensePair | None) -> Plain | None:
    if pair is None:
        return None
    names = [printable(name) for name in pair.figures["models"]]
    shown = {name: words for name, words in FIGURES.items() if name != "chance"}
    rows = []
    for row in pair.figures["rows"]:
        cells = [_cell(row["agreement"]), _cell(row["gram_mean_square"], number), _cell(row["gram_max"], number)]
        rows.append([printable(row["image"]), *cells, *(_cell(value) for name in shown for value in row[name])])
    columns = [("photograph", "text"), ("agreement", "number")]
    columns += [("Gram, mean square", "number"), ("Gram, largest", "number")]
    columns += [(f"{words}, {which}", "number") for words in shown.values() for which in ("1st", "2nd")]
    same = pair.figures.get("same_basis")
    return {
        "names": names,
        "agreement": figure(pair.figures["agreement"]),
        "same_basis": None if same is None else figure(same),
        "table": _Table("pair", columns, rows),
    }


def _retrieval_section(models: Sequence[DenseModel]) -> Plain | None:
    with_retrieval = [model for model in models if model.retrieval]
    sets, rows = [], []
    for model in with_retrieval:
        found = model.retrieval or {}
        sets.append(
            {
                "model": model.name,
                "set": None if found["set"] == "composites" else printable(str(found["set"])),
                "images": counted(found["images"], "image"),
                "labels": counted(len(set(found["labels"])), "label"),
                "chance": figure(found["chance"]),
                "suppress": counted(found["suppress"], "direction"),
            }
        )
        for row in found["rows"]:
            words = DESCRIPTORS.get(row["descriptor"], row["descriptor"])
            start = [*([model.name] if len(models) > 1 else []), words]
            figures = (row["r1"], row["r5"], row["map"], found["chance"], row.get("background_map"))
            rows.append([*start, *map(_cell, figures)])
    names = ("R@1", "R@5", "mAP", "mAP by chance", "background mAP")
    columns = [*([("model", "text")] if len(models) > 1 else []), ("descriptor", "text")]
    columns += [(name, "number") for name in names]
    return {"sets": sets, "table": _Table("retrieval", columns, rows)} if rows else None
