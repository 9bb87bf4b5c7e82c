"""The benchmark suite: contenders take turns in processes of their own, and ratios are to the fastest of others."""

import shutil
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest

from benchmarks import suite
from benchmarks.suite import Cell, Plan
from tests.conftest import Spine
from vit2onnx.errors import InputError
from vit2onnx.spec.recipe import Recipe

FIXED = Recipe("fixed", 23, {"batch": 1, "height": 32, "width": 48})
FREE = Recipe("free", 23, dict.fromkeys(("batch", "height", "width")))


def row(name: str, *cpu: float) -> dict[str, Any]:
    """A contender with one run in each round, which took twice as long as its CPU time."""
    starts = [{"runtime": "onnxruntime", "load_s": 1.0}, {"runtime": "onnxruntime", "load_s": 3.0}]
    return {"contender": name, "rounds": [[[one, 2 * one]] for one in cpu], "starts": starts}


def test_ratios_are_medians_within_rounds_to_the_fastest_of_others() -> None:
    rows = [
        row("ours", 8, 30, 9),
        row("torch.onnx", 20, 20, 20),
        row("transformers", 10, 60, 10),
        {**row("gone", 1), "left_out": "ended"},
    ]
    found = {one["contender"]: one for one in suite.with_ratios(rows)}
    assert {one["base"] for name, one in found.items() if name != "gone"} == {"transformers"}
    # The ratio of the medians would be 0.9.
    assert found["ours"]["ratio"] == pytest.approx(0.8)
    assert (found["ours"]["ratio_least"], found["ours"]["ratio_most"]) == pytest.approx((0.5, 0.9))
    assert (found["ours"]["cpu_ms"], found["ours"]["wall_ms"], found["ours"]["ratio_best"]) == (9, 18, 0.8)
    assert found["transformers"]["ratio"] == 1 and "ratio" not in found["gone"]
    assert (found["ours"]["load_s"], found["ours"]["runtime"]) == (2, "onnxruntime")


def test_graphs_take_part_where_their_sizes_fit(tiny: Spine) -> None:
    fixed, free = tiny.export(FIXED), tiny.export(FREE)
    fitting, larger = (suite.inputs_of(tiny.spec, Cell("images", 1, size, 1)) for size in ((32, 48), (48, 48)))
    assert suite.takes(fixed, fitting, named=True) and not suite.takes(fixed, larger, named=True)
    assert suite.takes(free, fitting, named=True) and suite.takes(free, larger, named=True)
    other = {"x": larger["pixel_values"]}
    assert suite.takes(free, other, named=False) and not suite.takes(free, other, named=True)


def test_sizes_are_numbers() -> None:
    assert suite.size_of("448") == (448, 448) and suite.size_of("160x288") == (160, 288)
    with pytest.raises(InputError, match=r"^448x is no size; write 448, or 160x288"):
        suite.size_of("448x")


def test_contenders_of_a_cell_are_measured_and_drawn(tiny: Spine, tmp_path: Path) -> None:
    shutil.copy(tiny.export(FREE), tmp_path / "free.onnx")
    broken = onnx.load(tiny.export(FREE))
    broken.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(broken, tmp_path / "broken.onnx")
    others = {"torch.onnx": tiny.export(FREE), "transformers": tiny.export(FIXED)}
    plan = Plan(tiny.spec, tmp_path, tmp_path, [], others, rounds=3, seconds=0, fresh=False)
    rows = suite.measure(plan, Cell("images", 1, (48, 48), 1))
    found = {one["contender"]: one for one in rows}
    assert found.keys() == {"vit2onnx free", "vit2onnx broken", "torch.onnx"}
    assert found["vit2onnx broken"]["left_out"].startswith("does not run") and "NoSuch" in str(found["vit2onnx broken"])
    ours = found["vit2onnx free"]
    assert ours["difference"] == 0 and ours["runs"] == 3 and ours["nodes"] > 20
    assert all(
        np.isfinite(ours[what]) and ours[what] > 0 for what in ("cpu_ms", "wall_ms", "load_s", "ratio", "file_mb")
    )
    place = {"interface": "images", "batch": 1, "height": 48, "width": 48, "threads": 1}
    suite.write([{**place, **one} for one in rows], tmp_path)
    assert len(pd.read_csv(tmp_path / "suite.csv")) == 3
    for name in ("time", "ratio"):
        drawn = ET.parse(tmp_path / f"{name}_images_1.svg").getroot()
        assert drawn.tag.endswith("svg")
