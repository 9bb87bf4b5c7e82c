"""The page on dense maps in a real browser: clicks, keys, a phone, and numbers that are those of numpy."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.reporting.dense_data import GRID, HIGH, REFERENCE, TIMES, features, model, retrieved
from tests.reporting.test_browser import CHROMIUM, title_of
from vit2onnx.dense.description import compare_models
from vit2onnx.dense.figures import smoothness_map, unit
from vit2onnx.dense.similarity import quantised
from vit2onnx.reporting.dense_page import dense_page
from vit2onnx.reporting.dense_pictures import COSINE_COLOURS, colour_table

Plain = dict[str, Any]
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")

# One of them is written to break a page that does not escape names.
IMAGES = ["cat", "</script><b>tree</b>"]
NAMES = ["vit_small", "vit_other"]
# How far a cosine of quantised features may be from that of the features.
QUANTISED = 4e-3
# The picture that is clicked: norms of the second model, of the second photograph.
CLICKED, ROW, COLUMN = 5 * 3 + 4, 6, 9

# Before the page's own scripts.
LISTEN = """
const wrong = [];
addEventListener("error", (event) => wrong.push(event.message));
addEventListener("unhandledrejection", (event) => wrong.push(String(event.reason)));
console.error = console.warn = (...told) => wrong.push(told.join(" "));
"""
# Everything that a test asks for, after each step.
LOOK = """
const boxes = [...document.querySelectorAll(".picture")];
const centre = (box, row, column) => {
  const { left, top, width, height } = box.getBoundingClientRect();
  const [x, y] = [(column + 0.5) / COLUMNS, (row + 0.5) / ROWS];
  return { clientX: left + x * width, clientY: top + y * height, bubbles: true };
};
const look = () => ({
  similarities: dense.photographs.map((_, i) => dense.models.map((_, j) => [...similarities(i, j)])),
  shown: boxes.filter((box) => box.dataset.kind === "similarity").map((box) => {
    const canvas = box.querySelector("canvas"), image = box.querySelector("img");
    if (!canvas || canvas.hidden) return image.hidden ? "nothing" : "picture";
    const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    return image.hidden ? [...pixels] : "both";
  }),
  markers: boxes.map((box) => {
    const marker = box.querySelector(".marker");
    const area = marker.getBoundingClientRect(), whole = box.getBoundingClientRect();
    if (getComputedStyle(marker).display === "none") return null;
    const middle = [(area.top + area.bottom) / 2 - whole.top, (area.left + area.right) / 2 - whole.left];
    return [Math.floor(middle[0] / whole.height * ROWS), Math.floor(middle[1] / whole.width * COLUMNS)];
  }),
  told: boxes.map((box) => box.closest("figure").querySelector("figcaption").textContent.trim().replace(/\\s+/g, " ")),
  chosen: document.getElementById("chosen").textContent,
  pointer: document.getElementById("pointer").textContent,
  canReset: !document.getElementById("reset").disabled,
});
const press = (box, ...keys) => {
  box.focus();
  return keys.map((key) => box.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true })));
};
"""
STEPS = """
const found = { start: look() };
boxes[CLICKED].dispatchEvent(new MouseEvent("click", centre(boxes[CLICKED], ROW, COLUMN)));
found.clicked = look();
boxes[0].dispatchEvent(new PointerEvent("pointermove", centre(boxes[0], 1, 2)));
found.pointed = look();
boxes[0].dispatchEvent(new PointerEvent("pointerleave"));
found.left = look();
found.prevented = press(boxes[CLICKED], "ArrowUp", "ArrowLeft", "ArrowLeft", "a", "Tab").map((passed) => !passed);
found.moved = look();
press(boxes[CLICKED], ...Array(20).fill("ArrowDown"), ...Array(20).fill("ArrowRight"));
found.cornered = look();
found.focus = document.activeElement === boxes[CLICKED] && getComputedStyle(boxes[CLICKED]).outlineWidth;
press(boxes[0], "ArrowRight");
found.elsewhere = look();
press(boxes[0], "Escape");
found.escaped = look();
press(boxes[1], "ArrowDown");
press(boxes[1], "Enter");
found.entered = look();
boxes[1].click();
document.getElementById("reset").click();
found.reset = look();
const table = document.querySelector('table[data-name="figures"]');
[...table.querySelectorAll("th button")].find((one) => one.textContent === "contrast").click();
found.sorted = [...table.tBodies[0].rows].map((row) => Number(row.cells[4].textContent));
const isNamed = (box) => box.getAttribute("aria-label") && box.querySelector("img").alt && box.tabIndex === 0;
found.unnamed = boxes.filter((box) => !isNamed(box)).length;
found.loaded = performance.getEntriesByType("resource").map((entry) => entry.name);
found.images = [...document.images].map((image) => image.complete && image.naturalWidth > 0);
found.sharp = boxes.map((box) => getComputedStyle(box.querySelector("img")).imageRendering);
found.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
found.injected = document.querySelectorAll("b").length;
found.wrong = wrong;
document.title = JSON.stringify(found);
"""


def with_scripts(page: str, *scripts: str) -> str:
    """A page that listens for errors from its head on, and runs scripts when it is open."""
    for name, value in {"CLICKED": CLICKED, "ROWS": GRID[0], "COLUMNS": GRID[1], "ROW": ROW, "COLUMN": COLUMN}.items():
        scripts = tuple(f"const {name} = {value};\n{one}" if name in one else one for one in scripts)
    at_end = "addEventListener('load', () => {" + "\n".join(scripts) + "});"
    return page.replace("<head>", f"<head><script>{LISTEN}</script>").replace(
        "</body>", f"<script>{at_end}</script></body>"
    )


@pytest.fixture(scope="module")
def maps() -> list[dict[str, np.ndarray]]:
    return [features(IMAGES, seed) for seed in (0, 1)]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    path = tmp_path_factory.mktemp("photograph") / "grey.png"
    Image.linear_gradient("L").save(path)
    return dict.fromkeys(IMAGES, path)


@pytest.fixture(scope="module")
def page(maps: list[dict[str, np.ndarray]], photographs: dict[str, Path]) -> str:
    models = [model(own, name) for own, name in zip(maps, NAMES, strict=True)]
    return dense_page(models, photographs, pair=compare_models(*models, maps))


@pytest.fixture(scope="module")
def found(page: str, tmp_path_factory: pytest.TempPathFactory) -> Plain:
    folder = tmp_path_factory.mktemp("dense")
    (folder / "page.html").write_text(with_scripts(page, LOOK + STEPS))
    opened: Plain = title_of(folder / "page.html", folder)
    return opened


def cosines(maps: list[dict[str, np.ndarray]], photograph: int, place: tuple[int, int]) -> np.ndarray:
    """Similarities to a patch of a photograph as numpy has them: [photograph, model, patch]."""
    units = [{image: unit(grid) for image, grid in own.items()} for own in maps]
    return np.array([[(own[image] @ own[IMAGES[photograph]][place]).ravel() for own in units] for image in IMAGES])


def test_nothing_is_loaded_and_nothing_is_wrong(found: Plain) -> None:
    assert found["wrong"] == found["loaded"] == []
    # Five of two photographs and two models, and a chart for each model.
    assert len(found["images"]) == 5 * 4 + 2 and all(found["images"])
    assert found["overflow"] == found["injected"] == found["unnamed"] == 0
    assert found["sharp"].count("pixelated") == 4 * 4


def test_a_photograph_begins_with_its_own_reference_patch(found: Plain, maps: list[dict[str, np.ndarray]]) -> None:
    start = found["start"]
    for photograph in (0, 1):
        expected = cosines(maps, photograph, REFERENCE)[photograph]
        assert np.abs(np.array(start["similarities"][photograph]) - expected).max() < QUANTISED
    assert start["shown"] == ["picture"] * 4
    assert start["markers"] == [list(REFERENCE)] * 20
    assert not start["canReset"]


@pytest.mark.parametrize(
    ("step", "photograph", "place"),
    [
        ("clicked", 1, (ROW, COLUMN)),
        ("moved", 1, (ROW - 1, COLUMN - 2)),
        ("cornered", 1, (GRID[0] - 1, GRID[1] - 1)),
        # From the reference patch of a photograph that was not chosen.
        ("elsewhere", 0, (REFERENCE[0], REFERENCE[1] + 1)),
    ],
)
def test_a_choice_is_compared_in_all_photographs_and_models(
    found: Plain, maps: list[dict[str, np.ndarray]], step: str, photograph: int, place: tuple[int, int]
) -> None:
    seen = found[step]
    similar = np.array(seen["similarities"])
    assert similar.shape == (2, 2, GRID[0] * GRID[1])
    assert np.abs(similar - cosines(maps, photograph, place)).max() < QUANTISED
    # Of the int8 vectors themselves they are the cosines.
    stored = [{image: quantised(grid).astype(float) for image, grid in own.items()} for own in maps]
    assert similar == pytest.approx(cosines(stored, photograph, place), abs=1e-12)
    # Pictures have the colours of these numbers, on the scale from zero to one.
    levels = np.floor(255 * np.clip(similar, 0, 1) + 0.5).astype(int)
    pixels = np.array(seen["shown"]).reshape(*similar.shape, 4)
    assert (pixels[..., :3] == colour_table(COSINE_COLOURS)[levels]).all() and (pixels[..., 3] == 255).all()
    markers = [[list(place) if i == photograph else None] * 10 for i in (0, 1)]
    assert seen["markers"] == markers[0] + markers[1]
    said = f"{IMAGES[photograph]}, row {place[0]}, column {place[1]}"
    assert seen["chosen"].startswith(f"Chosen: {said}; vit_small: smoothness ")
    for i in (0, 1):
        for j in (0, 1):
            told = seen["told"][10 * i + 5 * j + 3]
            assert told == f"to {said} mean {similar[i, j].mean():.3f}"
    assert seen["canReset"]


def test_values_are_read_out(found: Plain, maps: list[dict[str, np.ndarray]]) -> None:
    image = IMAGES[1]
    smooth = [smoothness_map(own[image])[ROW, COLUMN] for own in maps]
    for name, one in zip(("vit_small", "vit_other"), smooth, strict=True):
        assert f"{name}: smoothness {one:.3f}, norm " in found["clicked"]["chosen"]
    similarity = found["clicked"]["similarities"][0][0][HIGH[0] * GRID[1] + HIGH[1]]
    told = found["pointed"]["pointer"]
    assert told.startswith(
        f"Under the pointer: cat, row 1, column 2 (vit_small); similarity {similarity:.3f}, smoothness"
    )
    assert told.endswith(f"norm {TIMES:.2f} times the median")
    assert found["left"]["pointer"] == ""


def test_keys_that_mean_nothing_here_are_the_browsers(found: Plain) -> None:
    assert found["prevented"] == [True, True, True, False, False]
    assert found["focus"] == "3px"


@pytest.mark.parametrize("step", ["escaped", "entered", "reset"])
def test_the_start_comes_back(found: Plain, step: str) -> None:
    assert found[step] == found["start"] | {"told": found[step]["told"]}
    assert found[step]["told"] == found["start"]["told"]


def test_tables_sort(found: Plain) -> None:
    assert found["sorted"] == sorted(found["sorted"], reverse=True)
    assert len(set(found["sorted"])) == 4


def test_no_page_scrolls_sideways_on_a_phone(
    maps: list[dict[str, np.ndarray]], photographs: dict[str, Path], tmp_path: Path
) -> None:
    """After a click, with everything that a page may say; the second photograph is too much for it."""
    names = ["vit_large_pretrain_of_many_images_with_registers_1234567890", "vit_small"]
    long = "a_photograph_with_a_name_that_has_no_end_and_no_place_to_break_it"
    renamed = [{long: own["cat"], IMAGES[1]: own[IMAGES[1]]} for own in maps]
    files = {long: photographs["cat"]} | photographs
    del files["cat"]
    models = [model(own, name, "synthetic", foreground="automatic") for own, name in zip(renamed, names, strict=True)]
    rest = list(map(retrieved, names)), compare_models(*models, renamed)
    whole = dense_page(models, files, *rest)
    html = dense_page(models, files, *rest, most_bytes=len(whole.encode()) - 1000)
    assert 'id="left-out"' in html and 'role="application"' in html
    script = """
    for (const folded of document.querySelectorAll("details")) folded.open = true;
    document.querySelector(".picture").click();
    const root = document.documentElement;
    const wide = [...document.querySelectorAll("main *")].filter((box) =>
      box.scrollWidth > box.clientWidth + 1 && getComputedStyle(box).overflowX == "auto");
    const unsigned = wide.filter((box) => !getComputedStyle(box).backgroundAttachment.startsWith("local"));
    const sizes = [...document.querySelectorAll(".picture")].map((box) => box.getBoundingClientRect().width);
    const bar = document.querySelector(".readout").getBoundingClientRect().height;
    parent.postMessage(JSON.stringify([root.scrollWidth, root.clientWidth, unsigned.length, sizes, bar, wrong]), "*");
    """
    (tmp_path / "page.html").write_text(with_scripts(html, script))
    frame = tmp_path / "frame.html"
    frame.write_text(
        "<script>addEventListener('message', (event) => { document.title = event.data; })</script>"
        "<iframe src='page.html' style='width: 400px; height: 900px; border: 0'></iframe>"
    )
    needed, there, unsigned, sizes, bar, wrong = title_of(frame, tmp_path)
    assert 300 < there <= 400
    assert needed == there
    assert unsigned == 0 and wrong == []
    # A photograph as wide as the page once, and two pictures side by side.
    assert min(size for size in sizes if size) > 150 and max(sizes) > 350
    # The bar that stays on top leaves most of the screen.
    assert bar < 220
