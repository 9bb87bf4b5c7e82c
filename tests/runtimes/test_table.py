"""The table has a line for each graph in each runtime, as CSV, as Markdown and as a page."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from vit2onnx.errors import InputError
from vit2onnx.runtimes.__main__ import main
from vit2onnx.runtimes.comparing import Row
from vit2onnx.runtimes.page import runtimes_page
from vit2onnx.runtimes.programs.protocol import DONE
from vit2onnx.runtimes.register import BASELINE, Runtime, chosen
from vit2onnx.runtimes.running import Run
from vit2onnx.runtimes.table import as_csv, as_markdown, graphs_in, rows_of


def fake(does: dict[str, float]):
    """A way to run graphs in which runtimes multiply by what is said of them, and others refuse."""

    def run(runtime: Runtime, graph: Path, sets: Sequence, outputs: Sequence[str]) -> Run:
        if runtime.name not in does:
            return Run({"step": "opening", "operator": "Mul|", "version": "3"}, log="no Mul", ended="status 1")
        made = [{"y": does[runtime.name] * one["x"]} for one in sets]
        return Run({"step": DONE, "seconds_to_open": 0.5, "seconds_to_run": [2, 1], "version": "1"}, made)

    return run


def rows(doubling: Path, does: dict[str, float], names: str) -> list[Row]:
    return list(rows_of("model/doubling", doubling, chosen(names), fake(does), lambda *kept: None))


def test_each_runtime_is_compared_with_the_baseline(doubling: Path) -> None:
    found = rows(doubling, {"onnxruntime": 2, "tract": 2, "opencv": -2}, "tract,opencv,mnn")
    assert [(row.runtime, row.verdict) for row in found] == [
        ("onnxruntime", "equal"),
        ("tract", "equal"),
        ("opencv", "wrong"),
        ("mnn", "refused"),
    ]
    assert found[1].seconds_to_run == 1


def test_nothing_is_compared_with_a_baseline_that_does_not_run(doubling: Path) -> None:
    (found,) = rows(doubling, {"tract": 2}, "tract")
    assert (found.runtime, found.verdict, found.cell) == (BASELINE.name, "refused", "not supported: Mul|")


def test_logs_are_kept(doubling: Path) -> None:
    kept: list[tuple[str, str, str]] = []
    list(rows_of("model/doubling", doubling, chosen("mnn"), fake({"onnxruntime": 2}), lambda *one: kept.append(one)))
    assert kept == [("model/doubling", "onnxruntime", ""), ("model/doubling", "mnn", "no Mul")]


def test_the_table_is_written_in_three_ways(doubling: Path) -> None:
    found = rows(doubling, {"onnxruntime": 2, "tract": 2}, "tract,mnn")
    found.append(Row("model/doubling", "onnxruntime_1_20", "absent", "not installed"))
    lines = list(csv.DictReader(as_csv(found).splitlines()))
    assert [line["runtime"] for line in lines] == ["onnxruntime", "tract", "mnn", "onnxruntime_1_20"]
    assert lines[1]["largest"] == "0.0" and lines[1]["cell"] == "0.0e+00"
    # What was nowhere has no column.
    head, _, *body = as_markdown(found).splitlines()
    assert head == "| graph | tract | MNN |"
    assert body == ["| `model/doubling` | 0.0e+00 | not supported: Mul\\| |"]
    page = runtimes_page(found)
    assert "not supported: Mul|" in page and page.count('<td class="bad">') == 1
    assert not re.search(r"\b(src|href)=", page)


def test_text_of_strangers_is_no_markup() -> None:
    page = runtimes_page([Row("a/<b>", "tract", "failed", "opens, then <script>", operator="<i>")])
    assert "<script>\n" in page and "then <script>" not in page and "<i>" not in page and "<b>" not in page


def test_graphs_are_found_in_folders(tmp_path: Path) -> None:
    for path in ("a/x.onnx", "a/y.onnx", "b/x.onnx", "b/stages/z.onnx", "b/x.npz", "b/x.stages.injected.onnx"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    assert list(graphs_in([tmp_path])) == ["a/x", "a/y", "b/x"]
    assert list(graphs_in([tmp_path / "b", tmp_path / "a" / "y.onnx"])) == ["b/x", "a/y"]
    with pytest.raises(InputError, match="none: there is no ONNX file"):
        graphs_in([tmp_path / "none"])


def test_the_command_writes_a_table(doubling: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the two runtimes that are always here."""
    output = tmp_path / "out"
    assert main([str(doubling), "--runtimes", "reference", "-o", str(output), "--threads", "1"]) == 0
    found = list(csv.DictReader((output / "runtimes.csv").read_text().splitlines()))
    assert [(row["runtime"], row["verdict"], row["placement"]) for row in found] == [
        ("onnxruntime", "equal", "1 CPU"),
        ("reference", "equal", ""),
    ]
    assert {path.name for path in output.iterdir()} == {"runtimes.csv", "runtimes.md", "runtimes.html", "logs"}
    assert "model/doubling" in capsys.readouterr().out


def test_a_wrong_command_ends_with_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 1 and "There is no graph" in capsys.readouterr().err
    assert main([str(tmp_path), "--runtimes", "tract"]) == 1 and "no ONNX file" in capsys.readouterr().err
