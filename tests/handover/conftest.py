"""A graph of a tiny model with its passport and sample, and ways to forge them, checksums included."""

import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests import transformers_model
from vit2onnx import verify
from vit2onnx.checkpoints.convert import convert_checkpoint
from vit2onnx.checkpoints.identity import describe
from vit2onnx.exporting.graph import export
from vit2onnx.files import read_json, sha256_of, write_arrays, write_json
from vit2onnx.handover.passport import passport_of, sample_of
from vit2onnx.onnx_file import checksum_entry, metadata, passport_beside, sample_beside
from vit2onnx.parity.finding import Finding
from vit2onnx.parity.verdict import LEGS, Verdict
from vit2onnx.runners import equinox as equinox_runner
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec
from vit2onnx.weights.model_file import open_model

STATIC = Recipe("static", 23, {"batch": 2, "height": 48, "width": 64})
NAMED = (("cat", 64), ("cat", 80), ("dog", 64))


def flip(initializer: Any) -> None:
    """Change the lowest bit of a weight's first element."""
    with initializer.file.open("r+b") as file:
        file.seek(initializer.offset)
        byte = file.read(1)[0]
        file.seek(initializer.offset)
        file.write(bytes([byte ^ 1]))


def change_json(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a JSON file and compute its checksum anew, as whoever forges it would."""
    data = read_json(path)
    change(data)
    write_json(path, data)


def with_checksum(graph: Path) -> None:
    """Let a graph that was changed have the checksum of what it holds now."""
    size = len(checksum_entry("0" * 64))
    graph.write_bytes(graph.read_bytes()[:-size])
    digest = sha256_of(graph)
    with graph.open("ab") as file:
        file.write(checksum_entry(digest))


def change_graph(graph: Path, change: Callable[[onnx.ModelProto], Any]) -> None:
    """Change a graph and compute its checksum anew."""
    model = onnx.load(graph, load_external_data=False)
    change(model)
    graph.write_bytes(model.SerializeToString())
    with_checksum(graph)


def with_hash(graph: Path) -> None:
    """Let the passport of a graph have size and hash that the graph has now."""

    def change(passport: dict[str, Any]) -> None:
        passport["file"].update(bytes=graph.stat().st_size, sha256=sha256_of(graph))
        passport["content_sha256"] = metadata(graph)["content_sha256"]

    change_json(graph.with_suffix(".passport.json"), change)


def change_sample(graph: Path, change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]) -> None:
    """Change the sample of a graph, and its size and hash in the passport."""
    sample, passport = sample_beside(graph), passport_beside(graph)
    with np.load(sample) as arrays:
        write_arrays(sample, change(dict(arrays)))
    told = {"bytes": sample.stat().st_size, "sha256": sha256_of(sample)}
    change_json(passport, lambda data: data["sample"].update(told))


@pytest.fixture(scope="session")
def made(
    tiny_spec: VariantSpec, tiny_checkpoint: Path, tiny_model_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with a static graph with external weights, and all that its passport is made from."""
    folder = tmp_path_factory.mktemp("made")
    model, ledger, graph = (folder / name for name in ("model.eqx", "ledger.csv", "static.onnx"))
    shutil.copy(tiny_model_file, model)
    convert_checkpoint(tiny_spec, tiny_checkpoint, folder / "archive.tar.lz4", ledger)
    told = describe(tiny_spec, tiny_checkpoint, origin={"kind": "synthetic", "seed": 0}, weights="synthetic")
    write_json(folder / "checkpoint.json", told)
    export(tiny_spec, STATIC, model, graph, told, ledger_sha256=sha256_of(ledger), external=True)
    rng = np.random.default_rng(0)
    images = {f"{name}@48x{width}": rng.standard_normal((3, 48, width), np.float32) for name, width in NAMED}
    reference = transformers_model.features(tiny_spec, tiny_checkpoint, images)
    equinox = equinox_runner.features(*open_model(model), images, tiny_spec.interface())
    sample = sample_of(tiny_spec.interface(), STATIC, images, reference, equinox)
    write_arrays(folder / "static.sample.npz", sample)
    write_json(folder / "static.passport.json", passport_of(**arguments(folder, tiny_spec, tiny_checkpoint)))
    return folder


def arguments(folder: Path, spec: VariantSpec, checkpoint: Path) -> dict[str, Any]:
    """Those of `passport_of`."""
    verdict = Verdict(
        tuple(Finding(leg, "as it should be", 0.0, 1.0) for leg in LEGS),
        references=["transformers"],
        limits={"floors": {"limit": 10.0}},
    )
    names = ("static.onnx", "model.eqx", "checkpoint.json", "ledger.csv", "static.sample.npz")
    files = zip(("graph", "model", "record", "ledger", "sample"), (folder / name for name in names), strict=True)
    about = {"spec": spec, "recipe": STATIC, "verdict": verdict, "checkpoint": checkpoint, "whose": "synthetic"}
    return {**about, **dict(files)}


@pytest.fixture
def proven(made: Path, tiny_spec: VariantSpec, tiny_checkpoint: Path, tmp_path: Path) -> Mapping[str, Any]:
    """The arguments of `passport_of` for a static graph, in a folder that a test may change."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return arguments(tmp_path, tiny_spec, tiny_checkpoint)


@pytest.fixture
def graph(made: Path, tmp_path: Path) -> Path:
    """A graph with its passport, in a folder that a test may change."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path / "static.onnx"


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[Path], tuple[int, str]]:
    """Runs `verify` on a graph; gives its status and all that it prints."""

    def run(graph: Path) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["verify", str(graph)])
        monkeypatch.setattr(verify.sys, "stdout", sys.stdout)
        status = verify.main()
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return run
