"""The real runtimes, where `make runtimes` has installed them: what they take, and what they get wrong."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, helper

from tests.runtimes.conftest import written
from vit2onnx.runtimes.comparing import Row
from vit2onnx.runtimes.register import BASELINE, RUNTIMES
from vit2onnx.runtimes.running import absence_of, run_in
from vit2onnx.runtimes.table import rows_of

HERE = [one for one in RUNTIMES if one != BASELINE and not absence_of(one)]
# These compute in lower precision by default, where the processor can.
LOWER = ("openvino", "onnxruntime_cuda")
HEADS = {"x": [1, 3, 11, 16]}, {"y": [1, 3, 11, 16]}


def node(operator: str, inputs: str, outputs: str, **attributes: Any) -> NodeProto:
    return helper.make_node(operator, inputs.split(), outputs.split(), name=outputs.split()[0], **attributes)


def rows(graph: Path, names: str) -> Mapping[str, Row]:
    """What becomes of a graph in those of the named runtimes that are here."""
    wanted = [one for one in HERE if one.name in names.split()]
    found = rows_of(graph.stem, graph, wanted, run_in, lambda *kept: None)
    return {row.runtime: row for row in found}


def rotation(path: Path, *halves: NodeProto) -> Path:
    """Heads that are rotated by tables: `halves` make `lo` and `hi` of x."""
    generator = np.random.default_rng(0)
    constants = {name: generator.standard_normal((11, 16), np.float32) for name in ("cos", "sin")}
    constants |= {"zero": np.array([0]), "half": np.array([8]), "whole": np.array([16]), "axis": np.array([3])}
    constants["halves"] = np.array([8, 8])
    rest = [
        node("Neg", "hi", "negative"),
        node("Concat", "negative lo", "turned", axis=-1),
        node("Mul", "x cos", "unturned"),
        node("Mul", "turned sin", "turned_by_sin"),
        node("Add", "unturned turned_by_sin", "y"),
    ]
    named = {name for one in [*halves, *rest] for name in one.input}
    return written(path, [*halves, *rest], *HEADS, {key: value for key, value in constants.items() if key in named})


SLICED = (node("Slice", "x zero half axis", "lo"), node("Slice", "x half whole axis", "hi"))
SPLIT = (node("Split", "x halves", "lo hi", axis=-1),)


@pytest.mark.parametrize("runtime", HERE, ids=lambda one: one.name)
def test_a_rotation_by_split_is_right_everywhere(runtime, tmp_path: Path) -> None:
    found = rows(rotation(tmp_path / "split.onnx", *SPLIT), runtime.name)[runtime.name]
    assert found.verdict in (("equal", "near") if runtime.name in LOWER else ("equal",)), found.cell
    assert found.version


@pytest.mark.skipif("ncnn" not in {one.name for one in HERE}, reason="ncnn is not installed")
def test_ncnn_takes_slices_for_a_rotation_of_its_own(tmp_path: Path) -> None:
    """Its rotation has tables for half a head, and reads beyond them."""
    found = rows(rotation(tmp_path / "sliced.onnx", *SLICED), "ncnn reference tract")
    assert found["ncnn"].verdict == "wrong"
    assert {row.verdict for name, row in found.items() if name != "ncnn"} == {"equal"}


@pytest.mark.skipif("mnn" not in {one.name for one in HERE}, reason="MNN is not installed")
def test_mnn_approximates_the_usual_gelu_and_not_ours(tmp_path: Path) -> None:
    constants = {"root": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)}
    error = [node("Div", "x root", "a"), node("Erf", "a", "b"), node("Add", "b one", "c")]
    usual = [*error, node("Mul", "x c", "d"), node("Mul", "d half", "y")]
    ours = [*error, node("Mul", "x half", "d"), node("Mul", "d c", "y")]
    shapes = {"x": [1, 9, 8]}, {"y": [1, 9, 8]}
    verdicts = [
        rows(written(tmp_path / f"{name}.onnx", nodes, *shapes, constants), "mnn")["mnn"].verdict
        for name, nodes in (("usual", usual), ("ours", ours))
    ]
    assert verdicts == ["near", "equal"]


@pytest.mark.parametrize(
    ("name", "operator"),
    [("onnxruntime_1_20", "opset 23"), ("mnn", "Attention"), ("ncnn", "Attention")],
)
def test_what_is_not_supported_is_named(name: str, operator: str, tmp_path: Path) -> None:
    if name not in {one.name for one in HERE}:
        pytest.skip(f"{name} is not installed")
    attention = [node("Attention", "x x x", "y", q_num_heads=2, kv_num_heads=2)]
    graph = written(tmp_path / "attention.onnx", attention, {"x": [1, 9, 8]}, {"y": [1, 9, 8]}, {}, opset=23)
    assert rows(graph, name)[name].cell == f"not supported: {operator}"
