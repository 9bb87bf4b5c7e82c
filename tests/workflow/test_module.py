"""The workflow as a module of another, whose folder holds nothing of ours."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from workflow_project import TINY, snakemake

SNAKEFILE = """
configfile: "mine.yaml"

module vit2onnx:
    snakefile: "{project}/Snakefile"
    config: config["vit2onnx"]

use rule * from vit2onnx as proof_*

rule size:
    input: "results/synthetic/{tiny}/dynamic.onnx"
    output: "size.txt"
    shell: "wc -c < {{input}} > {{output}}"
"""
# Of the defaults of the tiny project, one recipe and one photograph are left.
CONFIG = {"exports": {"static": None}, "images": {"coffee": None}, "parity": {"sizes": [[48, 112]]}}


@pytest.fixture
def folder(tiny_project: Path, tmp_path: Path) -> Path:
    """A user's own workflow, which uses ours and its results."""
    generated = shutil.ignore_patterns("results", "logs", "benchmarks", ".snakemake", "report.html")
    project = Path(shutil.copytree(tiny_project, tmp_path / "vit2onnx", symlinks=True, ignore=generated))
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "Snakefile").write_text(SNAKEFILE.format(project=project, tiny=TINY))
    write_config(folder, CONFIG)
    return folder


def write_config(folder: Path, config: dict[str, object]) -> None:
    (folder / "mine.yaml").write_text(yaml.safe_dump({"mine": 1, "vit2onnx": config}))


def test_a_module_builds_in_the_users_folder(folder: Path) -> None:
    results = folder / "results/synthetic" / TINY
    targets = [str(results.relative_to(folder) / "dynamic.passport.json"), "size"]
    snakemake(folder, *targets, "--report", "report.html", "--report-after-run")
    assert json.loads((results / "dynamic.verdict.json").read_text())["passed"]
    assert (results / "dynamic.passport.json").is_file()
    assert int((folder / "size.txt").read_text()) == (results / "dynamic.onnx").stat().st_size
    assert not (results / "static.onnx").exists()
    comparison = json.loads((results / "parity/dynamic.json").read_text())
    assert {row["image"] for row in comparison["differences"]} == {"camera"}
    # What the user's folder is given, and nothing beside the workflow.
    made = {"Snakefile", "mine.yaml", "size.txt", "report.html", "results", "logs", "benchmarks", ".snakemake"}
    assert {path.name for path in folder.iterdir()} == made
    assert not (folder.parent / "vit2onnx" / "results").exists()
    assert "Nothing to be done" in snakemake(folder, *targets)


def test_a_typo_in_the_config_of_a_module_is_named(folder: Path) -> None:
    write_config(folder, CONFIG | {"wieghts": "official"})
    output = snakemake(folder, "--dry-run", fails=True)
    assert "config: top level: Additional properties are not allowed ('wieghts' was unexpected)" in output
    assert "you may mean weights" in output


def test_files_of_the_project_are_found_from_anywhere(folder: Path) -> None:
    targets = [f"results/official/{TINY}/LICENSE.md", "results/official/self_test.json"]
    write_config(folder, CONFIG | {"weights": "official"})
    snakemake(folder, targets[0])
    text = (folder.parent / "vit2onnx/resources/licences/DINOv3-License.md").read_bytes()
    assert (folder / targets[0]).read_bytes() == text
    assert "proof_plant_faults" in snakemake(folder, "--dry-run", targets[1])


def test_a_folder_of_its_own_needs_no_module(folder: Path) -> None:
    snakefile = str(folder.parent / "vit2onnx" / "Snakefile")
    (folder / "Snakefile").unlink()
    assert "static.onnx" in snakemake(folder, "--snakefile", snakefile, "--dry-run", "--workflow-profile", "none")
    (folder / "config").mkdir()
    (folder / "config/config.yaml").write_text(yaml.safe_dump(CONFIG))
    output = snakemake(folder, "--snakefile", snakefile, "--dry-run", "--workflow-profile", "none")
    assert "static.onnx" not in output
    assert "dynamic.onnx" in output


def test_values_of_the_command_line_keep_their_type(folder: Path) -> None:
    snakefile = str(folder.parent / "vit2onnx" / "Snakefile")
    exports = "exports={static: null, fast: {batch: 1, height: 64, width: 48, opset: 24}}"
    options = ["--snakefile", snakefile, "--dry-run", "--workflow-profile", "none", "--config", exports]
    output = snakemake(folder, *options)
    assert "fast.onnx" in output
    assert "static.onnx" not in output
