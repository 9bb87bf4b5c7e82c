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

from tests.reporting.dense_data import GRID, WIDTH, Plain, features, model, pair_of
from vit2onnx.errors import InputError
from vit2onnx.reporting.dense_page import DenseModel, DensePair, dense_page, figure, percentage

IMAGES = ["cat", "tree"]
NAMES = ["vit_small", "vit_other"]


@pytest.fixture
def both() -> tuple[list[DenseModel], DensePair]:
    maps = [features(IMAGES, seed) for seed in (0, 1)]
    models = [model(own, name) for own, name in zip(maps, NAMES, strict=True)]
    return models, pair_of(*models, maps)


def data_of(page: str) -> Plain:
    """What the script of a page reads."""
    found: Plain = json.loads(
        re.search(r'<script type="application/json" id="dense-data">(.*?)</script>', page, re.S)[1]
    )
    return found


def rows_of(page: str, name: str) -> list[list[str]]:
    """The cells of a table, row by row."""
    table = re.search(rf'data-name="{name}">(.*?)</table>', page, re.S)[1]
    rows = re.findall(r"<tr>(.*?)</tr>", table.partition("<tbody>")[2], re.S)
    return [[unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows]


def text_of(page: str) -> str:
    without = re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.S)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", without)))


def pictures(page: str, kind: str) -> list[Image.Image]:
    sources = re.findall(rf'data-kind="{kind}".*?src="data:image/\w+;base64,([^"]+)"', page, re.S)
    return [Image.open(io.BytesIO(base64.b64decode(source))) for source in sources]


def test_the_same_models_give_the_same_page(
    both: tuple[list[DenseModel], DensePair], photographs: dict[str, Path]
) -> None:
    models, pair = both
    page = dense_page(models, photographs, pair)
    assert page == dense_page(models, photographs, pair)
    # Nothing is loaded; the two sources are links.
    assert set(re.findall(r'(?:src|href)="(?!data:|#)([^"]*)"', page)) == {
        "https://arxiv.org/abs/2508.10104",
        "https://arxiv.org/abs/2309.16588",
    }
    assert "url(" not in page and "@import" not in page


def test_every_photograph_has_five_pictures_for_each_model(
    both: tuple[list[DenseModel], DensePair], photographs: dict[str, Path]
) -> None:
    models, pair = both
    page = dense_page(models, photographs, pair)
    for kind in ("photograph", "components", "smoothness", "similarity", "norms"):
        found = pictures(page, kind)
        assert len(found) == 4
        assert {picture.width / picture.height for picture in found} == {GRID[1] / GRID[0]}
    shown = [np.asarray(picture) for picture in pictures(page, "components")]
    for i, image in enumerate(IMAGES):
        assert (shown[2 * i] == models[0].maps[f"{image}/colours"]).all()
        assert (shown[2 * i + 1] == pair.maps[f"{image}/colours"]).all()
    assert page.count("turned into the colours above") == 2
    assert all(f'aria-label="{text}, {name}"' in page for name in NAMES for text in ("The photograph cat",))


def test_figures_stand_below_pictures_and_in_tables(
    both: tuple[list[DenseModel], DensePair], photographs: dict[str, Path]
) -> None:
    models, pair = both
    page = dense_page(models, photographs, pair)
    text = text_of(page)
    for one in models:
        for row in one.figures["photographs"]:
            below = f"contrast {figure(row['contrast'])} smoothness {figure(row['smoothness'])}"
            assert f"{below} chance {figure(row['chance'])} high frequencies" in text
            assert f"high frequencies {percentage(row['high_frequency'])}" in text
            assert f"largest {row['norm_ratio']:.2f} times the median 1 high-norm patch" in text
    row = models[1].figures["photographs"][0]
    cells = [figure(row[name]) for name in ("smoothness", "chance", "contrast", "high_frequency")]
    assert rows_of(page, "figures")[1] == ["cat", "vit_other", *cells, f"{row['norm_ratio']:.2f}", "1", "3,5"]
    assert len(rows_of(page, "norms")) == len(rows_of(page, "layers")) == 8
    assert rows_of(page, "norms")[0][-2:] == ["1", "1,2"]
    assert len(rows_of(page, "ablation")) == 4
    assert rows_of(page, "retrieval")[0] == [NAMES[0], "pooled embedding", "0.500", "0.750", "0.461", "0.224", "0.613"]
    # A background mAP that is not known.
    assert rows_of(page, "retrieval")[1][-1] == ""
    assert rows_of(page, "pair")[0][:2] == ["cat", figure(pair.figures["rows"][0]["agreement"])]
    assert f"agree to {figure(pair.figures['agreement'])} after one rotation" in text


def test_one_model_needs_no_other(photographs: dict[str, Path]) -> None:
    page = dense_page([model(features(IMAGES))], photographs)
    assert 'data-name="pair"' not in page and "Agreement" not in page
    assert rows_of(page, "figures")[0][0] == "cat" and len(rows_of(page, "figures")[0]) == 8


def test_features_of_the_page_are_those_of_the_maps(photographs: dict[str, Path]) -> None:
    one = model(features(IMAGES))
    data = data_of(dense_page([one], photographs))
    assert data["models"] == ["vit_small"]
    for photograph, image in zip(data["photographs"], IMAGES, strict=True):
        assert (photograph["name"], photograph["rows"], photograph["columns"]) == (image, *GRID)
        (own,) = photograph["models"]
        found = np.frombuffer(base64.b64decode(own["features"]), np.int8).reshape(*GRID, WIDTH)
        assert (found == one.maps[f"{image}/quantised"]).all()
        norms = np.frombuffer(base64.b64decode(own["norms"]), "<f4")
        assert norms.max() == pytest.approx(9, rel=0.05)


@pytest.mark.parametrize(
    "name", ["</script><script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a & b", "кот", "x" * 3000]
)
def test_names_of_photographs_are_text(photographs: dict[str, Path], name: str) -> None:
    page = dense_page([model(features([name]))], {name: photographs["cat"]})
    assert "<script>alert" not in page and "<img src=x" not in page
    # Scripts: data, program, and none besides.
    assert page.count("<script") == 2
    assert data_of(page)["photographs"][0]["name"][:100] == name[:100]
    assert name[:100] in text_of(page)


def test_names_that_are_no_text_are_escaped(photographs: dict[str, Path]) -> None:
    page = dense_page([model(features(["\ud800a\u202eb\n"]))], {})
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


def test_two_models_may_have_weights_of_two_kinds(both: tuple[list[DenseModel], DensePair]) -> None:
    models, pair = both
    models[1] = replace(models[1], figures=models[1].figures | {"weights": "synthetic"})
    text = text_of(dense_page(models, {}, pair))
    assert "maps of random weights (vit_other)" in text


def test_what_is_optional_may_be_missing() -> None:
    maps = features(IMAGES)
    bare = model(maps, retrieval=False, norms=[], layers=[], ablation=None)
    page = dense_page([bare], {})
    tables = set(re.findall(r'data-name="(\w+)"', page))
    assert tables == {"figures", "components"}
    links = set(re.findall(r'href="#(\w+)"', page))
    assert links == {"maps", "meaning", "why", "figures"}
    # White, because there is no photograph.
    assert (np.asarray(pictures(page, "photograph")[0]) > 250).all()


def test_a_single_patch_has_no_figures_and_a_page() -> None:
    one = model(features(["dot"], grid=(1, 1)))
    assert one.figures["photographs"][0]["contrast"] is None
    page = dense_page([one], {})
    assert "contrast not defined" in text_of(page)
    assert rows_of(page, "figures")[0][1:5] == [""] * 4
    assert "NaN" not in json.dumps(data_of(page))
    assert 'data-name="components"' not in page


def test_norms_without_a_median_have_no_multiples() -> None:
    one = model(features(["cat"]))
    maps = {**one.maps, "cat/norms": np.zeros(GRID)}
    row = one.figures["photographs"][0] | {"norm_ratio": None, "high_norms": 0}
    norms = [row | {"ratio": None, "median": 0.0, "largest": 0.0} for row in one.figures["norms"]]
    page = dense_page([DenseModel(one.figures | {"photographs": [row], "norms": norms}, maps)], {})
    assert "largest not defined no high-norm patches" in text_of(page)


@pytest.mark.parametrize(("gap", "told"), [(0.03, True), (0.06, False), (None, False)])
@pytest.mark.parametrize("fit", ["shared", "image"])
def test_components_that_may_turn_are_named(fit: str, gap: float | None, told: bool) -> None:
    basis = {"shares": [0.31, 0.12, 0.08], "gaps": [0.5, gap, 0.2]}
    one = model(features(["cat"]))
    rows = [row | (basis if fit == "image" else {}) for row in one.figures["photographs"]]
    of_all = {"fit": fit, "patches": 96, "turning": []} | (basis if fit == "shared" else {"shares": None, "gaps": None})
    page = dense_page([replace(one, figures=one.figures | {"photographs": rows, "basis": of_all})], {})
    assert "31, 12 and 8 % of the variance" in text_of(page)
    assert ("component 2 may turn" in page) == told
    assert [row[-1] for row in rows_of(page, "components")] == ["", "may turn" if told else "", ""]
    assert rows_of(page, "components")[0][0] == ("all photographs" if fit == "shared" else "cat")


def test_the_foreground_is_named_as_a_heuristic(photographs: dict[str, Path]) -> None:
    one = model(features(IMAGES), foreground=True)
    page = dense_page([one], photographs)
    shown = np.asarray(pictures(page, "components")[0])
    assert not shown[:, : GRID[1] // 2].any() and shown[:, GRID[1] // 2 :].any()
    text = text_of(page)
    assert "foreground 50.0 %" in text and "It is a heuristic" in text
    assert "Automatic foreground" not in text_of(dense_page([model(features(IMAGES))], photographs))


def test_a_photograph_that_one_model_has_not_seen(photographs: dict[str, Path]) -> None:
    models = [model(features(["cat"])), model(features(IMAGES, 1), "vit_other")]
    page = dense_page(models, photographs)
    assert [row[:2] for row in rows_of(page, "figures")] == [["cat", NAMES[0]], ["cat", NAMES[1]], ["tree", NAMES[1]]]
    seen = data_of(page)["photographs"][1]["models"]
    assert seen[0] is None and seen[1]


def test_a_large_page_loses_the_last_photographs(photographs: dict[str, Path]) -> None:
    images = [f"photo{i}" for i in range(8)]
    one = model(features(images, width=1024))
    files = dict.fromkeys(images, photographs["cat"])
    whole = len(dense_page([one], files).encode())
    kept = []
    for most in (whole, whole - 1, whole * 2 // 3, whole // 3, whole // 5):
        page = dense_page([one], files, most_bytes=most)
        assert len(page.encode()) <= most
        clickable = [photograph["name"] for photograph in data_of(page)["photographs"]]
        shown = len(pictures(page, "photograph"))
        assert clickable == images[: len(clickable)]
        assert page.count('role="application"') == 5 * len(clickable)
        told = re.search(r'id="left-out">(.*?)</div>', page, re.S)
        if most == whole:
            assert told is None
        else:
            assert f"without the data for clicks: {', '.join(images[len(clickable) : shown])}." in told[1] or shown == 0
            assert ("In the tables only" in told[1]) == (shown < 8)
            assert "describe fewer photographs" in told[1] and "smaller grid" in told[1]
        assert len(rows_of(page, "figures")) == 8
        kept.append((len(clickable), shown))
    assert kept[:2] == [(8, 8), (7, 8)]
    # Ever fewer, and as many as fit: two thirds of the page hold at least half of its photographs.
    assert kept == sorted(kept, reverse=True) and len(set(kept)) == len(kept)
    assert kept[2][0] >= 4


def test_pictures_go_last(photographs: dict[str, Path]) -> None:
    """All data for clicks goes before the first picture does."""
    images = [f"photo{i}" for i in range(8)]
    one = model(features(images), norms=[], layers=[], ablation=None)
    files = dict.fromkeys(images, photographs["cat"])
    whole = dense_page([one], files)
    without_data = len(whole.encode()) - len(json.dumps(data_of(whole)["photographs"]))
    page = dense_page([one], files, most_bytes=without_data - 10_000)
    shown = len(pictures(page, "photograph"))
    assert 0 < shown < 8 and not data_of(page)["photographs"]
    assert f"without pictures: {', '.join(images[shown:])}." in text_of(page)


def test_tables_alone_may_be_too_large() -> None:
    with pytest.raises(InputError, match="describe fewer photographs"):
        dense_page([model(features(IMAGES))], {}, most_bytes=1000)


def test_what_cannot_be_compared_is_refused(both: tuple[list[DenseModel], DensePair]) -> None:
    models, pair = both
    with pytest.raises(InputError, match=r"8 x 12 patches and .* 8 x 11; maps are comparable at equal grids only"):
        dense_page([models[0], model(features(IMAGES, grid=(8, 11)), "vit_other")], {})
    with pytest.raises(
        InputError, match="The pair is of vit_small and vit_other and the page shows vit_other, vit_small"
    ):
        dense_page(models[::-1], {}, pair)
    with pytest.raises(InputError, match="give each model once"):
        dense_page([models[0], models[0]], {})
    with pytest.raises(InputError, match="no model to show"):
        dense_page([], {})


@pytest.mark.parametrize(
    ("value", "written"), [(0.97349, "0.973"), (-0.0001, "0.000"), (1.0, "1.000"), (None, "not defined")]
)
def test_figures_have_three_decimals(value: float | None, written: str) -> None:
    assert figure(value) == written
    assert figure(float("nan")) == percentage(float("nan")) == "not defined"
    assert percentage(0.1834) == "18.3 %"


def test_the_page_explains_what_not_to_conclude(photographs: dict[str, Path]) -> None:
    page = dense_page([model(features(IMAGES))], photographs)
    assert page.count("<em>Do not conclude</em>") >= 6
    text = text_of(page)
    for words in ("no benchmark", "different grids cannot be compared", "Read contrast instead", "is an assumption"):
        assert words in text, words
