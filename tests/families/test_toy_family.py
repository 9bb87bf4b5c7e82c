"""A new family is one folder and one YAML: from a synthetic checkpoint to its passport, and with faults of its own."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from workflow_project import edit_config, make_tiny_project, snakemake

from vit2onnx.spec.family import PARTS, SCHEMA

HERE = Path(__file__).parent
RESULTS = Path("results", "synthetic", "toy_tiny")
# The self-test, of the toy alone and with one healthy model.
PLANT = """
import json
from pathlib import Path
from tempfile import mkdtemp
import yaml
from vit2onnx.images import load_image
from vit2onnx.parity.verdict import numbers_of
from vit2onnx.self_test import planting
from vit2onnx.spec import family
from vit2onnx.spec.variant import VariantSpec, read_variants

assert "toy" in family.families() and "toy" in family.self_test_models()
planting.families = lambda: ["toy"]
planting.self_test_models = lambda: {"toy": "toy_tiny"}
spec = VariantSpec.from_mapping("toy_tiny", read_variants(Path("config/variants"))["toy_tiny"])
photographs = {"cat": load_image(Path("resources/images/chelsea.jpg"))}
limits = yaml.safe_load(Path("config/limits.yaml").read_text())["limits"]
numbers = [numbers_of(limits[name]) for name in ("float32", "preprocessing")]
print(json.dumps(planting.plant_faults({"toy_tiny": spec}, photographs, *numbers, 1, Path(mkdtemp()))))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = tmp_path_factory.mktemp("toy")
    make_tiny_project(project)
    shutil.copytree(HERE / "toy", project / "vit2onnx" / "families" / "toy")
    folder = project / "config" / "variants" / "toy"
    folder.mkdir()
    shutil.copy(HERE / "toy_tiny.yaml", folder)
    edit_config(project, lambda config: config.update(variants=["toy_tiny"]))
    # The family is what is new here, not the photographs.
    edit_config(project, lambda config: config["images"].pop("coffee"))
    edit_config(project, lambda config: config["parity"].update(sizes=[[48, 112]]))
    return project


def test_a_folder_and_a_yaml_are_enough_for_a_passport(project: Path):
    snakemake(project)
    for recipe in ("static", "dynamic"):
        passport = json.loads((project / RESULTS / f"{recipe}.passport.json").read_text())
        assert (passport["variant"], passport["family"]) == ("toy_tiny", "toy")
        assert passport["weights"]["blocks.1.mlp.fc1.weight"]["transforms"] == ["transpose"]


def test_its_faults_are_planted_by_the_self_test(project: Path):
    done = subprocess.run([sys.executable, "-c", PLANT], cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert [(row["fault"], row["passed"]) for row in result["faults"]] == [
        ("a bias off by 1e-3", True),
        ("tanh GELU", True),
    ]
    assert result["healthy"][0]["flagged"] == []


def test_parts_that_are_missing_or_not_complete_are_named_before_any_job(project: Path, tmp_path: Path):
    copy = tmp_path / "project"
    shutil.copytree(project, copy, symlinks=True, ignore=shutil.ignore_patterns("results", ".snakemake"))
    folder = copy / "vit2onnx" / "families" / "toy"
    missing = [SCHEMA, *(f"{name}.py" for name in PARTS.keys() - {"faults"})]
    for name in missing:
        (folder / name).unlink()
    faults = folder / "faults.py"
    faults.write_text(faults.read_text().replace("FAULTS", "OTHERS"))
    said = snakemake(copy, "-n", fails=True)
    for name in missing:
        assert f"there is no vit2onnx/families/toy/{name}" in said
    assert "vit2onnx/families/toy/faults.py lacks FAULTS" in said
