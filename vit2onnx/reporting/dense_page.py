"""The page on the dense maps of one model or of two: pictures of photographs that answer to a click, and all figures.

It is one file that loads nothing. Quantised features of all patches are in it, so a browser computes the similarity of
any patch to all others.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from vit2onnx.dense.components import SMALL_GAP
from vit2onnx.dense.description import Described, row_of
from vit2onnx.errors import InputError, printable
from vit2onnx.reporting.dense_pictures import (
    COSINE_COLOURS,
    MOST_NORM,
    NORM_COLOURS,
    as_jpeg,
    as_png,
    colour_table,
    colours_of,
    cosine_picture,
    norm_chart,
    norm_multiples,
    norm_picture,
    photograph_picture,
    pixels_for,
)
from vit2onnx.reporting.dense_tables import OF_MAPS, figure, tables
from vit2onnx.reporting.page import ENVIRONMENT, counted, data_uri, megabytes, number

Array = np.ndarray
Plain = dict[str, Any]

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
# Colours between the ends of a legend.
STOPS = 9


def dense_page(
    models: Sequence[Described],
    photographs: Mapping[str, Path],
    retrieval: Sequence[Plain] = (),
    pair: Described | None = None,
    most_bytes: int = 10_000_000,
) -> str:
    """The self-contained HTML page on one model, or on two and their `pair`; the same input gives the same bytes.

    `photographs` are the files of all images by name, and `retrieval` has the figures of each model, if there are any.
    If the page would be larger than `most_bytes`, the last photographs are in its tables only, and it says so. Raises
    `InputError` if there is no room for the first one, or as `load_image`.
    """
    template = ENVIRONMENT.get_template("dense.html.j2")
    content = _content(models, retrieval, pair)

    def rendered(shown: Sequence[str]) -> str:
        left_out = {"most": megabytes(most_bytes), "first": len(shown), "all": len(photographs)}
        return template.render(**content, left_out=left_out, photographs=Markup("".join(shown)))

    shown: list[str] = []
    left = most_bytes - len(rendered(shown).encode())
    for image, path in photographs.items():
        one = _photograph(models, image, path, pair, len(shown))
        left -= len(one.encode())
        if left < 0:
            break
        shown.append(one)
    if not shown:
        raise InputError(
            f"A page with all tables and one photograph is larger than {megabytes(most_bytes)}; describe fewer"
            " photographs, or use a smaller grid."
        )
    return rendered(shown)


def _content(models: Sequence[Described], retrieval: Sequence[Plain], pair: Described | None) -> Plain:
    """What the page says besides its photographs, as data, by the names that its template has for it."""
    names = [_name(model) for model in models]
    # What the config says is the same for both models.
    config = models[0].figures
    return {
        "title": f"{' and '.join(names)}: dense maps",
        "names": names,
        "weights": config["weights"],
        "grid": config["grid"],
        "foreground": config["foreground"],
        "high_norm": f"{config['high_norm']:g}",
        "most_norm": f"{MOST_NORM:g}",
        "small_gap": f"{SMALL_GAP:g}",
        "facts": _facts(models),
        "legends": {"cosine": _gradient(COSINE_COLOURS), "norm": _gradient(NORM_COLOURS)},
        "tables": tables(models, retrieval, pair),
        "norm_charts": [
            data_uri("image/png", norm_chart(model.figures["norms"], config["high_norm"])) for model in models
        ],
        "pair": pair and {name: _if_defined(pair.figures[name]) for name in ("agreement", "baseline", "same_basis")},
        "retrieval": [
            {
                "model": printable(found["variant"]),
                "set": None if found["set"] == "composites" else printable(found["set"]),
                "images": counted(found["images"], "image"),
                "labels": counted(len(found["labels"]), "label"),
                "suppress": counted(found["suppress"], "direction"),
            }
            for found in retrieval
        ],
        "data": {"models": names, "colours": _base64(colour_table(COSINE_COLOURS))},
    }


def _name(model: Described) -> str:
    return printable(model.figures["variant"])


def _if_defined(value: float | None) -> str | None:
    return None if value is None else figure(value)


def _base64(values: Array) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def _gradient(scale: str) -> str:
    """The colours of a scale, as CSS has them."""
    colours = colour_table(scale)[np.rint(np.linspace(0, 255, STOPS)).astype(int)]
    return f"linear-gradient(90deg, {', '.join('#' + bytes(colour.tolist()).hex() for colour in colours)})"


def _photograph(models: Sequence[Described], image: str, path: Path, pair: Described | None, photograph: int) -> str:
    """The part of the page on one photograph: a row of pictures for each model, and the data for clicks."""
    rows, columns = models[0].figures["grid"]
    name = printable(image)
    said = pair and row_of(pair.figures["rows"], image)
    return ENVIRONMENT.get_template("dense_photograph.html.j2").render(
        number=photograph,
        name=name,
        rows=rows,
        columns=columns,
        reference=row_of(models[0].figures["photographs"], image)["reference"],
        models=[
            {"name": _name(model), "tiles": _tiles(model, image, path, pair if i else None)}
            for i, model in enumerate(models)
        ],
        pair=said
        and {
            "agreement": "not defined" if said["agreement"] is None else figure(said["agreement"]),
            "overlap": said["foreground_overlap"],
            "gram": number(said["gram_mean_square"]),
        },
        data={"name": name, "rows": rows, "columns": columns, "models": [_data_of(one, image) for one in models]},
    )


def _data_of(model: Described, image: str) -> Plain:
    """What clicks on one photograph need of a model: its features, and maps for the readout."""
    features, smoothness, norms = (model.maps[f"{image}/{what}"] for what in ("quantised", "smoothness", "norms"))
    return {
        "reference": row_of(model.figures["photographs"], image)["reference"],
        "features": _base64(features),
        # Bytes in the order that all browsers' machines have.
        "smoothness": _base64(smoothness.astype("<f4")),
        "norms": _base64(norm_multiples(norms).astype("<f4")),
    }


def _tiles(model: Described, image: str, path: Path, pair: Described | None) -> list[Plain]:
    """The five pictures of a photograph with what is told below each; those of the second model are of a `pair`."""
    row = row_of(model.figures["photographs"], image)
    smoothness, similarity, norms = (model.maps[f"{image}/{what}"] for what in ("smoothness", "similarity", "norms"))
    name, high = printable(image), row["high_norms"]
    rows, columns = smoothness.shape
    pixels = pixels_for(rows, columns)
    patches = f"{high or 'no'} high-norm patch{'' if high == 1 else 'es'}"
    reference = "row {}, column {}".format(*row["reference"])
    foreground = [] if row["foreground"] is None else [f"foreground {percentage(row['foreground'])}"]
    ratio = row["norm_ratio"]
    tiles = [
        (
            "photograph",
            "photograph",
            f"The photograph {name}",
            data_uri("image/jpeg", as_jpeg(photograph_picture(path, rows, columns, pixels))),
            [f"reference {reference}", *foreground],
        ),
        (
            "components",
            "PCA",
            f"The first three principal components of the patches of {name} as red, green and blue",
            _png(colours_of(model, image, pair)),
            [*(["rotated to match the colours above"] if pair else []), *_of_components(row)],
        ),
        (
            "smoothness",
            "smoothness",
            f"How alike each patch of {name} is to its neighbours",
            _png(cosine_picture(smoothness)),
            [
                f"contrast {figure(row['contrast'])}",
                f"smoothness {figure(row['smoothness'])}",
                f"chance {figure(row['chance'])}",
                f"high frequencies {percentage(row['high_frequency'])}",
            ],
        ),
        (
            "similarity",
            "similarity",
            f"How similar each patch of {name} is to the chosen patch",
            _png(cosine_picture(similarity)),
            [f"to {reference}", f"mean {figure(float(np.mean(similarity)))}"],
        ),
        (
            "norms",
            "norms",
            f"Norms of the patches of {name} by their median, before the final norm; {patches}",
            _png(norm_picture(norms, model.figures["high_norm"], pixels)),
            [f"largest {'not defined' if ratio is None else f'{ratio:.2f} times the median'}", patches],
        ),
    ]
    return [dict(zip(("kind", "title", "alt", "source", "lines"), tile, strict=True)) for tile in tiles]


def _of_components(row: Mapping[str, Any]) -> list[str]:
    """What is told of the components that a picture shows."""
    turning = list(map(str, row["turning"]))
    told = f"components {' and '.join(turning)} may mix"
    return [f"{_listed(row['shares'])} of the variance", *([told] if turning else [])]


def _png(picture: Any) -> str:
    return data_uri("image/png", as_png(picture))


def percentage(share: float | None) -> str:
    return "not defined" if share is None else f"{100 * share:.1f} %"


def _listed(shares: Sequence[float]) -> str:
    """Shares of three components: 31, 12 and 8 %."""
    return "{:.0f}, {:.0f} and {:.0f} %".format(*(100 * share for share in shares))


def _facts(models: Sequence[Described]) -> list[tuple[str, list[str]]]:
    """What each model is and how its maps were made, and means over its photographs."""
    facts: dict[str, Callable[[Plain], str]] = {
        "weights": _weights_in_words,
        "SHA-256 of the checkpoint": lambda figures: figures["checkpoint_sha256"][:16],
        "layer": lambda _: "the last, after the final norm",
        "input": _input_in_words,
        "feature": lambda figures: counted(figures["embed_dim"], "number"),
        "register tokens": lambda figures: str(figures["registers"] or "none"),
        "computed by": lambda figures: f"{figures['source']}; vit2onnx {figures['versions']['vit2onnx']}",
        "foreground": lambda figures: FOREGROUNDS[figures["foreground"]],
        "PCA": _basis_in_words,
    }
    return [
        *((words, [told(model.figures) for model in models]) for words, told in facts.items()),
        *((f"{one.heading}, mean", [_mean_of(model.figures, one.key) for model in models]) for one in OF_MAPS),
    ]


def _weights_in_words(figures: Plain) -> str:
    is_unconfirmed = figures["weights"] == "official" and not figures["confirmed"]
    return WEIGHTS[figures["weights"]] + (" as it is said; unconfirmed" if is_unconfirmed else "")


def _input_in_words(figures: Plain) -> str:
    """How photographs are prepared: their size, and the filter by which they are resized."""
    height, width = (count * figures["patch_size"] for count in figures["grid"])
    rows, columns = figures["grid"]
    return (
        f"{height} x {width} pixels, {rows} x {columns} patches; the whole photograph, resized by a"
        f" {figures['preprocessing']['interpolation']} filter"
    )


def _basis_in_words(figures: Plain) -> str:
    basis = figures["basis"]
    shares = f", {_listed(basis['shares'])} of the variance" if basis["fit"] == "shared" else ""
    return FITS[basis["fit"]] + shares


def _mean_of(figures: Plain, name: str) -> str:
    values = [row[name] for row in figures["photographs"] if row[name] is not None]
    return f"{figure(float(np.mean(values)))} ({counted(len(values), 'photograph')})" if values else "not defined"
