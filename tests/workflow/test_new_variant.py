"""A new variant of a known family is one YAML file and nothing else."""

import re
import shutil
from pathlib import Path

import pytest
import yaml
from workflow_project import TINY, edit_config, snakemake, variant_file

# The publisher's hub names a ViT-L with SwiGLU that was never released; the others are made up.
NEW = {
    "dinov3_vitl16plus_pretrain_lvd1689m": (
        "dinov3_vith16plus_pretrain_lvd1689m",
        {"embed_dim": 1024, "depth": 24, "num_heads": 16, "ffn_hidden": 4096},
        {"file": "dinov3_vitl16plus_pretrain_lvd1689m-46503df0.pth"},
    ),
    "dinov3_convnext_femto_pretrain_lvd1689m": (
        "dinov3_convnext_tiny_pretrain_lvd1689m",
        {"embed_dims": [48, 96, 192, 384], "depths": [2, 2, 6, 2]},
        {"file": "dinov3_convnext_femto_pretrain_lvd1689m-0123abcd.pth"},
    ),
    "dinov2_vitt14_pretrain": (
        "dinov2_vits14_pretrain",
        {"embed_dim": 192, "num_heads": 3, "ffn_hidden": 768},
        {"file": "dinov2_vitt14_pretrain.pth", "sha256": 64 * "a"},
    ),
}


@pytest.fixture
def project(tiny_project: Path, tmp_path: Path) -> Path:
    """A project in which nothing has run yet."""
    generated = shutil.ignore_patterns("results", "logs", "benchmarks", ".snakemake", "report.html")
    return Path(shutil.copytree(tiny_project, tmp_path / "project", symlinks=True, ignore=generated))


@pytest.mark.parametrize("name", NEW)
def test_a_new_variant_is_one_file(project: Path, name: str) -> None:
    like, architecture, release = NEW[name]
    path = variant_file(project, like)
    variant = yaml.safe_load(path.read_text())
    variant["architecture"] |= architecture
    variant["release"] |= {**release, "huggingface": f"facebook/{name}", "timm": "new"}
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    path.with_name(f"{name}.yaml").write_text(yaml.safe_dump(variant))
    # On the command line, so that not even the config is edited.
    output = snakemake(project, "--dry-run", "--workflow-profile", "none", "--config", f"variants=['{name}']")
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", output, re.M))
    for rule in ("fetch_checkpoint", "convert_checkpoint", "map_weights", "run_reference", "run_equinox"):
        assert jobs[rule] == "1", rule
    for rule in ("export_onnx", "compare_outputs", "judge_graph"):
        assert jobs[rule] == "2", rule
    assert f"results/synthetic/{name}/dynamic.onnx" in output
    changed = {path for path in before if path.read_bytes() != before[path]}
    assert not changed


def test_a_new_variant_runs_beside_the_others(project: Path) -> None:
    name = "dinov3_another"
    path = variant_file(project, TINY)
    shutil.copy(path, path.with_name(f"{name}.yaml"))
    edit_config(project, lambda config: config["variants"].append(name))
    output = snakemake(project, "--dry-run", "--workflow-profile", "none")
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", output, re.M))
    assert (jobs["fetch_checkpoint"], jobs["export_onnx"], jobs["summarise_parity"]) == ("2", "4", "1")


def test_a_variant_of_an_unknown_family_is_named_before_anything_runs(project: Path) -> None:
    name = "dinov4_tiny"
    path = project / "config" / "variants" / "dinov4_vit" / f"{name}.yaml"
    path.parent.mkdir()
    shutil.copy(variant_file(project, TINY), path)
    output = snakemake(project, "--dry-run", "--workflow-profile", "none", fails=True)
    assert (
        f"config/variants/dinov4_vit/{name}.yaml: There is no family 'dinov4_vit' in vit2onnx/families, only"
        " dinov2, dinov3_convnext, dinov3_vit, siglip2."
    ) in output
