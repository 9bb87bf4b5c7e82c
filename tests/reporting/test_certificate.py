"""The table of what float16 can hold, of plans as `plan_precision` writes them."""

from typing import Any

from vit2onnx.reporting.certificate import certificate_section
from vit2onnx.reporting.page import ENVIRONMENT

BLOCKS = [
    {"block": "blocks.0", "part": "norm", "bound": 32.0, "at": "blocks.0/norm1", "seen": 6.5},
    {"block": "blocks.0", "part": "residual", "bound": 2e5, "at": "blocks.0/Add", "seen": 9e4},
    {"block": "blocks.1", "part": "residual", "bound": None, "at": "blocks.1/Add", "seen": None},
]


def plan(**changed: Any) -> dict[str, Any]:
    healthy = {
        "limit": 65504.0,
        "room": 8.0,
        "cleared": 484,
        "measured": {},
        "float32": {},
        "parts": [],
        "blocks": BLOCKS,
    }
    return healthy | {"trials": {"as planned": 0.9999991}, "accuracy": 0.9999991} | changed


def page(**changed: Any) -> str:
    graph = {"export": "half", "file": "half.onnx", "certificate": certificate_section(plan(**changed))}
    return " ".join(ENVIRONMENT.get_template("certificate.html.j2").render(graph=graph).split())


def test_every_block_has_a_cell_for_every_part() -> None:
    section = certificate_section(plan())
    assert section["parts"] == ["norm", "residual"]
    assert [(row["block"], [cell and cell["bound"] for cell in row["cells"]]) for row in section["rows"]] == [
        ("blocks.0", [32.0, 2e5]),
        ("blocks.1", [None, None]),
    ]


def test_what_could_overflow_is_red() -> None:
    text = page()
    assert "<td>32 (6.5)</td>" in text
    assert text.count('class="red"') == 2
    assert "∞" in text


def test_what_stays_in_float32_is_told_with_the_reason() -> None:
    text = page(float32={"blocks.0/Add": "bound 2e+05, measured 9e+04"}, measured={"blocks.1/Add": [None, 3.0]})
    assert "1 value stays in float32" in text
    assert "<code>blocks.0/Add</code> stays in float32: bound 2e+05, measured 9e+04" in text
    assert "<code>blocks.1/Add</code> is in float16: bound ∞, seen 3" in text
    assert "nothing more has to stay in float32 for accuracy" in text


def test_what_stays_there_for_accuracy_is_told_with_what_it_gains() -> None:
    text = page(parts=["blocks.0"], trials={"as planned": 0.98}, accuracy=0.99999)
    assert "would be 0.980000. So more stays there: blocks.0. Now the lowest cosine is 0.999990." in text
