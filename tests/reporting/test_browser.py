"""The pages in a real browser: they are drawn, load nothing, fit a phone, and their tables sort by their headers."""

import json
import math
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from vit2onnx.parity.comparison import Comparison
from vit2onnx.parity.divergence import StageComparison
from vit2onnx.parity.verdict import Verdict
from vit2onnx.reporting.evidence import Evidence
from vit2onnx.reporting.parity_page import parity_page
from vit2onnx.reporting.self_test import self_test_page
from vit2onnx.reporting.summary import summarise, summary_page

Plain = dict[str, Any]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")

# Clicks every header of every table twice, and says what each column shows after that.
SCRIPT = """
const text = (cell) => cell.textContent.trim();
const tables = {};
for (const folded of document.querySelectorAll("details")) folded.open = true;
for (const table of document.querySelectorAll("table.sortable")) {
  const headers = [...table.querySelectorAll("th[aria-sort]")];
  const states = () => headers.map((header) => header.getAttribute("aria-sort"));
  const rows = () => [...table.tBodies[0].rows].map((row) => [...row.cells].map(text));
  const before = rows();
  const clicks = headers.map((header) => [1, 2].map(() => {
    header.querySelector("button").click();
    return [states(), rows()];
  }));
  tables[table.dataset.name] = {
    headers: headers.map(text),
    kinds: headers.map((header) => header.dataset.kind),
    before, clicks,
    overflow: table.offsetWidth - table.parentElement.clientWidth,
  };
}
document.title = JSON.stringify({
  tables,
  loaded: performance.getEntriesByType("resource").map((entry) => entry.name),
  images: [...document.images].map((image) => image.complete && image.naturalWidth > 0),
  overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
});
"""
# The columns of each table that a click on its headers sorts, in their order.
COLUMNS = {
    "photographs": [1, 2, 3, 4, 5],
    # A column each for number, mode, stage, scale and floor, and two for each of six pairs.
    "stages": list(range(5 + 2 * 6)),
    "faults": list(range(11)),
    "healthy": list(range(7)),
}


@pytest.fixture
def found(
    healthy: Comparison,
    diverging: StageComparison,
    tested: Plain,
    evidence_of: Callable[..., Evidence],
    tmp_path: Path,
) -> Plain:
    for row in diverging.stages:
        # As long as the names of released variants are.
        row["stage"] = row["stage"].replace("blocks.0.", "stages.2.blocks.26.")
    html = parity_page(evidence_of(healthy, stages={"dynamic": diverging}, self_test=tested))
    # As a reader scrolls to them.
    html = html.replace(' loading="lazy"', "")
    page = tmp_path / "page.html"
    page.write_text(html.replace("</body>", f"<script>addEventListener('load', () => {{{SCRIPT}}})</script></body>"))
    return title_of(page, tmp_path)


def title_of(page: Path, folder: Path) -> Any:
    """What scripts leave in the title of a page when it is open, as JSON."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1280,900", "--virtual-time-budget=3000"]
    command = [CHROMIUM, *options, f"--user-data-dir={folder / 'profile'}", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return json.loads(unescape(re.search(r"<title>(.*?)</title>", done.stdout, re.S)[1]))


def test_page_in_a_browser(found: Plain) -> None:
    assert found["loaded"] == []
    assert len(found["images"]) == 5
    assert all(found["images"])
    # Wide tables scroll by themselves.
    assert found["overflow"] == 0


@pytest.mark.parametrize("name", COLUMNS)
def test_every_header_sorts_its_own_column(found: Plain, name: str) -> None:
    table = found["tables"][name]
    assert len(table["headers"]) == len(COLUMNS[name])
    for index, (column, kind) in enumerate(zip(COLUMNS[name], table["kinds"], strict=True)):
        orders = ["descending", "ascending"] if kind == "number" else ["ascending", "descending"]
        for order, (states, rows) in zip(orders, table["clicks"][index], strict=True):
            assert states == [order if i == index else "none" for i in range(len(states))]
            assert sorted(rows) == sorted(table["before"])
            shown = [row[column] for row in rows if row[column]]
            keys = [_key(cell, kind) for cell in shown]
            assert keys == sorted(keys, reverse=order == "descending"), (table["headers"][index], shown)
            # An empty cell has nothing to say.
            assert kind != "number" or not any(row[column] for row in rows[len(shown) :])


def test_what_is_no_number_is_worse_than_any(found: Plain) -> None:
    _, rows = found["tables"]["stages"]["clicks"][8][0]
    assert [row[8] for row in rows[:2]] == ["not finite", "400"]
    assert rows[-1][8] == "1.7"


@pytest.mark.parametrize("name", COLUMNS)
def test_tables_fit_the_page(found: Plain, name: str) -> None:
    # In pixels, at a width of 1280.
    assert found["tables"][name]["overflow"] <= 0


@pytest.mark.parametrize("fixture", ["healthy", "not_finite"])
@pytest.mark.parametrize("page", ["parity", "summary", "self_test"])
def test_no_page_scrolls_sideways_on_a_phone(
    diverging: StageComparison,
    tested: Plain,
    known_difference: Plain,
    evidence_of: Callable[..., Evidence],
    judged: Callable[..., Verdict],
    tmp_path: Path,
    request: pytest.FixtureRequest,
    fixture: str,
    page: str,
) -> None:
    variant = "dinov3_convnext_small_pretrain_lvd1689m"
    comparison = request.getfixturevalue(fixture)
    comparison = replace(comparison, variant=variant, known_differences=[known_difference])
    evidence = evidence_of(comparison, stages={"dynamic": diverging}, self_test=tested)
    digest = "0123456789abcdef" * 4
    record = evidence.record | {"variant": variant, "sha256": digest}
    own_words = evidence.metadata["dynamic"] | {"variant": variant, "ledger_sha256": digest}
    evidence = replace(evidence, record=record, metadata={"dynamic": own_words})
    html = {
        "parity": lambda: parity_page(evidence),
        "summary": lambda: summary_page(summarise([judged(comparison)])),
        "self_test": lambda: self_test_page(tested),
    }[page]()
    # No window of Chromium is that narrow, but a frame may be.
    script = """
    addEventListener("load", () => {
      for (const folded of document.querySelectorAll("details")) folded.open = true;
      const root = document.documentElement;
      const wide = [...document.querySelectorAll("main *")].filter((box) =>
        box.scrollWidth > box.clientWidth + 1 && getComputedStyle(box).overflowX == "auto");
      // A shadow that goes when the last column is there.
      const unsigned = wide.filter((box) => !getComputedStyle(box).backgroundAttachment.startsWith("local"));
      parent.postMessage(JSON.stringify([root.scrollWidth, root.clientWidth, unsigned.length]), "*");
    });
    """
    (tmp_path / "page.html").write_text(html.replace("</body>", f"<script>{script}</script></body>"))
    frame = tmp_path / "frame.html"
    frame.write_text(
        "<script>addEventListener('message', (event) => { document.title = event.data; })</script>"
        "<iframe src='page.html' style='width: 400px; height: 900px; border: 0'></iframe>"
    )
    needed, there, unsigned = title_of(frame, tmp_path)
    assert 300 < there <= 400
    assert needed == there
    # What is wide scrolls by itself, and shows that it does.
    assert unsigned == 0


def _key(text: str, kind: str) -> Any:
    if kind == "text":
        # As people sort: regardless of case and signs, and 9 before 10.
        return [
            (0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.findall(r"\d+|[a-z]+", text.lower())
        ]
    return math.inf if text == "not finite" else float(text)
