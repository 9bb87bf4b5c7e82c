"""The page on dense maps: what it shows, what it says of gaps and of its size, and that strangers' names do no harm."""

import base64
import io
import json
import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.reporting.dense_data import GRID, REFERENCE, TIMES, WIDTH, Plain, features, model, retrieved
from vit2onnx.dense.description import Described, compare_models
from vit2onnx.errors import InputError
from vit2onnx.reporting.dense_page import dense_page, percentage
from vit2onnx.reporting.dense_tables import figure

IMAGES = ["cat", "tree"]
NAMES = ["vit_small", "vit_other"]
TABLES = re.compile(r'data-name="(\w+)">(.*?)</table>', re.S)
Pair = tuple[list[Described], Described]


@pytest.fixture
def both() -> Pair:
    maps = [features(IMAGES, seed) for seed in (0, 1)]
    models = [model(own, name) for own, name in zip(maps, NAMES, strict=True)]
    return models, compare_models(*models, maps)


def data_of(page: str) -> list[Plain]:
    """What the script of a page reads of each photograph."""
    found = re.findall(r'<script type="application/json" class="photograph">(.*?)</script>', page, re.S)
    return list(map(json.loads, found))


def rows_of(page: str, name: str) -> list[list[str]]:
    """The cells of a table, row by row."""
    table = dict(TABLES.findall(page))[name]
    rows = re.findall(r"<tr>(.*?)</tr>", table.partition("<tbody>")[2], re.S)
    return [[unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows]


def text_of(page: str) -> str:
    without = re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.S)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", without)))


def pictures(page: str, kind: str) -> list[Image.Image]:
    sources = re.findall(rf'data-kind="{kind}".*?src="data:image/\w+;base64,([^"]+)"', page, re.S)
    return [Image.open(io.BytesIO(base64.b64decode(source))) for source in sources]


def test_the_same_models_give_the_same_page(both: Pair, photographs: dict[str, Path]) -> None:
    models, pair = both
    page = dense_page(models, photographs, pair=pair)
    assert page == dense_page(models, photographs, pair=pair)
    # Nothing is loaded; the two sources are links.
    assert set(re.findall(r'(?:src|href)="(?!data:|#)([^"]*)"', page)) == {
        "https://arxiv.org/abs/2508.10104",
        "https://arxiv.org/abs/2309.16588",
    }
    assert "url(" not in page and "@import" not in page


def test_every_photograph_has_five_pictures_for_each_model(both: Pair, photographs: dict[str, Path]) -> None:
    models, pair = both
    page = dense_page(models, photographs, pair=pair)
    for kind in ("photograph", "components", "smoothness", "similarity", "norms"):
        found = pictures(page, kind)
        assert len(found) == 4
        assert {picture.width / picture.height for picture in found} == {GRID[1] / GRID[0]}
    shown = [np.asarray(picture) for picture in pictures(page, "components")]
    for i, image in enumerate(IMAGES):
        assert (shown[2 * i] == models[0].maps[f"{image}/colours"]).all()
        assert (shown[2 * i + 1] == pair.maps[f"{image}/colours"]).all()
    assert page.count("rotated to match the colours above") == 2
    assert all(f'aria-label="{text}, {name}"' in page for name in NAMES for text in ("The photograph cat",))


def test_figures_stand_below_pictures_and_in_tables(both: Pair, photographs: dict[str, Path]) -> None:
    models, pair = both
    retrieval = [retrieved(name) for name in NAMES]
    page = dense_page(models, photographs, retrieval, pair)
    text = text_of(page)
    for one in models:
        for row in one.figures["photographs"]:
            below = f"contrast {figure(row['contrast'])} smoothness {figure(row['smoothness'])}"
            assert f"{below} chance {figure(row['chance'])} high frequencies" in text
            assert f"high frequencies {percentage(row['high_frequency'])}" in text
            assert f"largest {TIMES:.2f} times the median 1 high-norm patch" in text
    row = models[1].figures["photographs"][0]
    cells = [figure(row[name]) for name in ("smoothness", "chance", "contrast", "high_frequency")]
    assert rows_of(page, "figures")[1] == ["cat", "vit_other", *cells, f"{TIMES:.2f}", "1", "4,6"]
    assert len(rows_of(page, "norms")) == len(rows_of(page, "layers")) == 8
    assert rows_of(page, "norms")[0][-2:] == ["1", "1,2"]
    assert [row[2:5] for row in rows_of(page, "layers")[:2]] == [["0", "no", "8 x 12"], ["1", "yes", "8 x 12"]]
    # With registers, then without.
    assert rows_of(page, "ablation")[0][2:4] == list(map(figure, models[0].figures["ablation"][0]["smoothness"]))
    assert len(rows_of(page, "ablation")) == 4
    found = retrieval[0]["rows"][0]
    told = [found["r1"], found["r5"], found["map"], retrieval[0]["chance"], found["background_map"]]
    assert rows_of(page, "retrieval")[0] == [NAMES[0], "pooled embedding", *map(figure, told)]
    two = pair.figures["rows"][0]
    assert rows_of(page, "pair")[0][:2] == ["cat", figure(two["agreement"])]
    assert list(map(figure, two["high_frequency"])) == rows_of(page, "pair")[0][-2:]
    difference = pair.figures["differences"][0]
    cells = ["2", str(difference["second_larger"]), figure(difference["mean"]), figure(difference["deviation"])]
    assert rows_of(page, "differences")[0] == ["smoothness", *cells]
    assert f"an agreement of {figure(pair.figures['agreement'])}, over all photographs and with one rotation" in text


def test_each_basis_of_its_own_has_its_own_rotation(photographs: dict[str, Path]) -> None:
    maps = [features(IMAGES, seed) for seed in (0, 1)]
    models = [model(own, name, basis="image") for own, name in zip(maps, NAMES, strict=True)]
    page = dense_page(models, photographs, pair=compare_models(*models, maps))
    assert "Their PCA maps are rotated photograph by photograph." in text_of(page)
    assert [row[0] for row in rows_of(page, "components")] == [*["cat"] * 3, *["tree"] * 3] * 2
    assert "In the basis of the first" not in page


def test_columns_without_a_value_are_left_out(photographs: dict[str, Path]) -> None:
    page = dense_page([model(features(IMAGES))], photographs, [retrieved(NAMES[0], backgrounds=False)])
    heads = {name: re.findall("<button[^>]*>(.*?)</button>", found) for name, found in TABLES.findall(page)}
    assert heads["figures"][:3] == ["photograph", "smoothness", "chance"] and "foreground" not in heads["figures"]
    assert heads["retrieval"] == ["descriptor", "R@1", "R@5", "mAP", "mAP by chance"]
    assert len(rows_of(page, "figures")[0]) == len(heads["figures"]) == 8
    assert "pair" not in heads and "Agreement" not in page


def test_many_places_are_not_all_listed(photographs: dict[str, Path]) -> None:
    one = model(features(["cat"]))
    norms = [row | {"high": 9, "where": [[0, i] for i in range(9)]} for row in one.figures["norms"]]
    page = dense_page([replace(one, figures=one.figures | {"norms": norms})], {"cat": photographs["cat"]})
    assert rows_of(page, "norms")[0][-2:] == ["9", "0,0 0,1 0,2 0,3 …"]


def test_features_of_the_page_are_those_of_the_maps(photographs: dict[str, Path]) -> None:
    one = model(features(IMAGES))
    for photograph, image in zip(data_of(dense_page([one], photographs)), IMAGES, strict=True):
        assert (photograph["name"], photograph["rows"], photograph["columns"]) == (image, *GRID)
        (own,) = photograph["models"]
        found = np.frombuffer(base64.b64decode(own["features"]), np.int8).reshape(*GRID, WIDTH)
        assert (found == one.maps[f"{image}/quantised"]).all()
        assert own["reference"] == list(REFERENCE)
        norms = np.frombuffer(base64.b64decode(own["norms"]), "<f4")
        assert norms.max() == pytest.approx(TIMES)


@pytest.mark.parametrize(
    "name", ["</script><script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a & b", "кот", "x" * 3000]
)
def test_names_of_photographs_are_text(photographs: dict[str, Path], name: str) -> None:
    page = dense_page([model(features([name]))], {name: photographs["cat"]})
    assert "<script>alert" not in page and "<img src=x" not in page
    # Scripts: data of the page and of the photograph, program, and none besides.
    assert page.count("<script") == 3
    assert data_of(page)[0]["name"][:100] == name[:100]
    assert name[:100] in text_of(page)


def test_names_that_are_no_text_are_escaped(photographs: dict[str, Path]) -> None:
    name = "\ud800a\u202eb\n"
    page = dense_page([model(features([name]))], {name: photographs["cat"]})
    page.encode()
    assert "\u202e" not in page and r"\ud800a\u202eb\n" in text_of(page)


@pytest.mark.parametrize(
    ("weights", "said", "unsaid"),
    [
        ("synthetic", "RANDOM NUMBERS: these are maps of random weights (vit_small)", "YOUR OWN"),
        ("own", "YOUR OWN WEIGHTS (vit_small): only you can say", "RANDOM"),
        ("official", "the publisher's", "RANDOM"),
    ],
)
def test_the_page_says_whose_weights_these_are(
    photographs: dict[str, Path], weights: str, said: str, unsaid: str
) -> None:
    text = text_of(dense_page([model(features(IMAGES), weights=weights)], photographs))
    assert said in text and unsaid not in text


def test_what_is_optional_may_be_missing(photographs: dict[str, Path]) -> None:
    page = dense_page([model(features(IMAGES), further=False)], photographs)
    assert {name for name, _ in TABLES.findall(page)} == {"figures", "components", "norms"}
    assert set(re.findall(r'href="#(\w+)"', page)) == {"maps", "meaning", "why", "figures", "norms"}


def test_single_patches_have_no_figures_and_a_page(photographs: dict[str, Path]) -> None:
    one = model(features(IMAGES, grid=(1, 1)))
    assert one.figures["photographs"][0]["contrast"] is None
    page = dense_page([one], photographs)
    assert "contrast not defined" in text_of(page)
    assert rows_of(page, "figures")[0] == ["cat", "1.00", "0", "0,0"]


def test_norms_without_a_median_have_no_multiples(photographs: dict[str, Path]) -> None:
    one = model({"cat": np.zeros((*GRID, WIDTH))})
    assert one.figures["photographs"][0]["norm_ratio"] is None
    page = dense_page([one], {"cat": photographs["cat"]})
    assert "largest not defined no high-norm patches" in text_of(page)


@pytest.mark.parametrize("basis", ["shared", "image"])
def test_components_that_may_turn_are_named(photographs: dict[str, Path], basis: str) -> None:
    one = model(features(["cat"]), basis=basis)
    found = {"shares": [0.31, 0.12, 0.08], "gaps": [0.5, 0.03, 0.2], "turning": [2, 3]}
    rows = [one.figures["photographs"][0] | found]
    of_all = one.figures["basis"] | (found if basis == "shared" else {})
    figures = one.figures | {"photographs": rows, "basis": of_all}
    page = dense_page([replace(one, figures=figures)], {"cat": photographs["cat"]})
    assert "31, 12 and 8 % of the variance components 2 and 3 may mix" in text_of(page)
    name = "all photographs" if basis == "shared" else "cat"
    assert rows_of(page, "components")[1] == [name, "2", "0.120", "0.030", "may mix"]
    assert [row[-1] for row in rows_of(page, "components")] == ["", "may mix", "may mix"]


def test_the_foreground_is_named_as_a_heuristic(photographs: dict[str, Path]) -> None:
    one = model(features(IMAGES), foreground="automatic")
    page = dense_page([one], photographs)
    shown = np.asarray(pictures(page, "components")[0])
    inside = one.maps["cat/foreground"]
    assert not shown[~inside].any() and shown[inside].any(axis=-1).all()
    text = text_of(page)
    assert f"foreground {percentage(inside.mean())}" in text and "It is a heuristic" in text
    assert "Automatic foreground" not in text_of(dense_page([model(features(IMAGES))], photographs))


def test_a_large_page_shows_the_first_photographs(photographs: dict[str, Path]) -> None:
    images = [f"photo{i}" for i in range(8)]
    one, files = model(features(images)), dict.fromkeys(images, photographs["cat"])
    whole = dense_page([one], files)
    assert 'id="left-out"' not in whole and len(data_of(whole)) == 8
    each = max(map(len, re.findall("<article.*?</article>", whole, re.S)))
    for most, count in ((len(whole) - 1000, 7), (len(whole) - 3 * each, 4)):
        page = dense_page([one], files, most_bytes=most)
        assert most - each < len(page.encode()) <= most
        assert [photograph["name"] for photograph in data_of(page)] == images[:count]
        assert page.count('role="application"') == 5 * count
        assert f"it shows the first {count} of 8 photographs. The others are in the tables only." in text_of(page)
        assert len(rows_of(page, "figures")) == 8


def test_a_page_without_photographs_is_refused(photographs: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=r"all tables and one photograph is larger than 0.0 MB; describe fewer"):
        dense_page([model(features(IMAGES))], photographs, most_bytes=1000)


@pytest.mark.parametrize(
    ("value", "written"), [(0.97349, "0.973"), (-0.0001, "0.000"), (1.0, "1.000"), (None, "not defined")]
)
def test_figures_have_three_decimals(value: float | None, written: str) -> None:
    assert figure(value) == written
    assert percentage(None) == "not defined"
    assert percentage(0.1834) == "18.3 %"


def test_the_page_explains_what_not_to_conclude(photographs: dict[str, Path]) -> None:
    page = dense_page([model(features(IMAGES))], photographs, [retrieved(NAMES[0])])
    assert page.count("<em>Do not conclude</em>") >= 6
    text = text_of(page)
    for words in ("no benchmark", "different grids cannot be compared", "Read contrast instead", "is an assumption"):
        assert words in text, words
