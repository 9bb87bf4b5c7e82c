"""An official checkpoint is found when its job runs, whatever its format and wherever it has gone."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from workflow_project import TINY, snakemake

from tests.checkpoints.own_models import model_of
from vit2onnx.checkpoints.synthetic import write_synthetic
from vit2onnx.spec.variant import VariantSpec, read_variants

LEDGER = f"results/official/{TINY}/ledger.csv"


@pytest.fixture
def project(tiny_project: Path, tmp_path: Path) -> Path:
    """A project in which nothing has run yet."""
    generated = shutil.ignore_patterns("results", "logs", "benchmarks", ".snakemake", "report.html")
    return Path(shutil.copytree(tiny_project, tmp_path / "project", symlinks=True, ignore=generated))


def write_checkpoint(project: Path, name: str, layout: str) -> Path:
    """A file in `checkpoints/` as a user may have put it there."""
    spec = VariantSpec.from_mapping(TINY, read_variants(project / "config" / "variants")[TINY])
    path = project / "checkpoints" / name
    path.parent.mkdir()
    write_synthetic(spec, path, seed=0, layout=layout)
    return path


def convert(project: Path, name: str, layout: str, *settings: str) -> Path:
    """Convert a checkpoint in `checkpoints/`, whose path this returns."""
    source = write_checkpoint(project, name, layout)
    snakemake(project, LEDGER, "--config", "weights=official", *settings)
    fetched = (project / LEDGER).with_name("checkpoint")
    assert fetched.readlink() == source
    record = json.loads(fetched.with_name("checkpoint.json").read_text())
    assert (record["layout"], record["origin"]) == (layout, {"kind": "file", "name": name})
    return source


def test_a_checkpoint_in_safetensors_is_converted(project: Path) -> None:
    # It could be somebody's own model, as nothing tells that it is the release.
    convert(project, f"{TINY}.safetensors", "huggingface", "official={check_hash: false}")


def test_an_own_checkpoint_is_recognised_and_converted_again_when_it_changes(project: Path, tmp_path: Path) -> None:
    folder = tmp_path / "my runs" / "fine-tune"
    ledger = "results/own/mine/ledger.csv"
    model = model_of("vit")
    model.save_pretrained(folder)
    own = json.dumps({"weights": "own", "own": {"mine": str(folder)}})
    (project / "own.json").write_text(own)
    arguments = (ledger, "--configfile", "own.json")
    snakemake(project, *arguments)
    record = json.loads((project / ledger).with_name("checkpoint.json").read_text())
    assert (record["weights"], record["layout"], record["own"]["config"]) == ("own", "huggingface", "")
    assert str(tmp_path) not in json.dumps(record)
    assert "Nothing to be done" in snakemake(project, *arguments)
    before = (project / ledger).read_text()
    with torch.no_grad():
        model.norm.bias.add_(1)
    model.save_pretrained(folder)
    # An older file at the same path is another one, too, as after `cp -p` or a link that leads elsewhere.
    os.utime(folder / "model.safetensors", (1e9, 1e9))
    snakemake(project, *arguments)
    assert (project / ledger).read_text() != before
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"rope_theta": 100.0', '"rope_theta": 50.0'))
    assert "Nothing to be done" not in snakemake(project, *arguments, "--dry-run")


def test_a_checkpoint_in_pth_is_converted_and_fetched_again_when_it_was_moved_away(project: Path) -> None:
    source = convert(project, f"{TINY}.pth", "meta")
    cache = project / "torch" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    moved = source.rename(cache / source.name)
    fetched = (project / LEDGER).with_name("checkpoint")
    assert fetched.is_symlink() and not fetched.exists()
    # What is there needs no checkpoint.
    assert "Nothing to be done" in snakemake(project, LEDGER, "--config", "weights=official")
    (project / LEDGER).unlink()
    snakemake(project, LEDGER, "--config", "weights=official", TORCH_HOME=str(project / "torch"))
    assert fetched.readlink() == moved
