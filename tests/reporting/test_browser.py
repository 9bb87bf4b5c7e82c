"""The parity page in a real browser: it is drawn, loads nothing, and its tables sort by their headers."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from vit2onnx.reporting.evidence import Evidence
from vit2onnx.reporting.parity_page import parity_page

Comparison = dict[str, Any]
Limits = dict[str, dict[str, dict[str, Any]]]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")

# Sorts the first table of stages by two columns and says what it found.
SCRIPT = """
const table = document.querySelector("table.numbers");
const headers = [...table.querySelectorAll("th[aria-sort]")];
const column = (number) => [...table.tBodies[0].rows].map((row) => row.cells[number].textContent);
const click = (number) => {
  headers[number].querySelector("button").click();
  return [headers.map((header) => header.getAttribute("aria-sort")), column(number)];
};
document.title = JSON.stringify({
  headers: headers.length,
  cells: table.tBodies[0].rows[0].cells.length,
  unsorted: column(2),
  descending: click(8),
  ascending: click(8),
  stages: click(2),
  order: click(0),
  loaded: performance.getEntriesByType("resource").map((entry) => entry.name),
  images: [...document.images].map((image) => image.complete && image.naturalWidth > 0),
  overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
});
"""


@pytest.fixture
def found(
    healthy: Comparison,
    diverging: Comparison,
    tested: Comparison,
    evidence_of: Callable[..., Evidence],
    limits: Limits,
    tmp_path: Path,
) -> Comparison:
    html = parity_page(evidence_of(healthy, stages={"dynamic": diverging}, self_test=tested), limits)
    # As a reader scrolls to them.
    html = html.replace(' loading="lazy"', "")
    page = tmp_path / "page.html"
    page.write_text(html.replace("</body>", f"<script>addEventListener('load', () => {{{SCRIPT}}})</script></body>"))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1280,900", "--virtual-time-budget=3000"]
    command = [CHROMIUM, *options, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return json.loads(unescape(re.search(r"<title>(.*?)</title>", done.stdout, re.S)[1]))


def test_page_in_a_browser(found: Comparison) -> None:
    assert found["loaded"] == []
    assert len(found["images"]) == 5
    assert all(found["images"])
    # Wide tables scroll by themselves.
    assert found["overflow"] == 0
    # A column each for number, mode, stage, scale and floor, and two for each of six pairs.
    assert found["headers"] == found["cells"] == 5 + 2 * 6

    states, column = found["descending"]
    assert states == ["descending" if i == 8 else "none" for i in range(17)]
    assert column[:2] == ["not finite", "400"]
    assert column[-1] == "1.7"
    states, column = found["ascending"]
    assert states[8] == "ascending"
    assert (column[0], column[-1]) == ("1.7", "not finite")
    states, column = found["stages"]
    assert (states[8], states[2]) == ("none", "ascending")
    assert column[0].startswith("blocks.0.")
    states, column = found["order"]
    assert column[0] == str(len(found["unsorted"]))
