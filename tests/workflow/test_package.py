"""The target `package` asks for the graphs of a package and their passports, and the default target does not."""

import re
from pathlib import Path

from workflow_project import ROOT, snakemake

VIT, SIGLIP = "dinov3_vits16_pretrain_lvd1689m", "siglip2_base_patch16_224"


def planned(folder: Path, *arguments: str, fails: bool = False) -> str:
    common = ["--dry-run", "--workflow-profile", "none", "--directory", str(folder)]
    return snakemake(ROOT, *arguments[:1], *common, *arguments[1:], fails=fails)


def test_packages_need_passports_of_their_graphs_alone(tmp_path: Path) -> None:
    output = planned(tmp_path, "package", "--config", f"variants=[{VIT}, {SIGLIP}]")
    found = re.findall(r"(\w+): writing the passport of (\w+)\.onnx", output)
    assert sorted(found) == [(VIT, "dynamic"), (SIGLIP, "model"), (SIGLIP, "text_model"), (SIGLIP, "vision_model")]
    assert re.search(r"^package_model +2$", output, re.M)
    assert "copying the licence" not in output
    assert "static.onnx" not in output
    assert not list(tmp_path.glob("results/*"))


def test_a_package_says_beforehand_what_it_lacks(tmp_path: Path) -> None:
    output = planned(tmp_path, "package")
    (said,) = re.findall(r"The package of \w+ lacks (.*)", output)
    assert said.startswith("model_fp16.onnx (interface: images, precision: float16), model_quantized.onnx (")
    assert "lacks" not in planned(tmp_path, "all")


def test_sizes_for_which_there_is_no_preprocessing_are_refused_beforehand(tmp_path: Path) -> None:
    sizes = "exports={static: {height: 140}, dynamic: null}"
    output = planned(tmp_path, "package", "--config", "variants=dinov2_vits14_pretrain", sizes, fails=True)
    assert "preprocessor_config.json cannot say how photographs are cut to 140x224" in output


def test_the_default_target_packages_nothing(tmp_path: Path) -> None:
    output = planned(tmp_path, "all")
    assert "packaging" not in output
    assert "writing the passport of static.onnx" in output


def test_a_config_without_a_graph_for_a_package_is_told(tmp_path: Path) -> None:
    exports = "exports={static: null, dynamic: null, packed: {interface: packed, opset: 23}}"
    output = planned(tmp_path, "package", "--config", exports, fails=True)
    assert "No recipe of the config gives a graph for the package" in output
    assert "{interface: images, batch: dynamic, height: dynamic, width: dynamic, opset: 23}" in output


def test_large_weights_of_a_small_precision_are_in_a_file_of_their_own(tmp_path: Path) -> None:
    small = "exports={static: null, dynamic: {precision: float16}}"
    output = planned(tmp_path, "package", "--config", "external_weights_above_mb=40", small)
    assert f"{VIT}: exporting the weights of dynamic.onnx" in output
    assert "exporting the weights" not in planned(tmp_path, "package", "--config", small)


def test_official_weights_take_their_licence_along(tmp_path: Path) -> None:
    output = planned(tmp_path, "package", "--config", "weights=official")
    assert f"{VIT}: copying the licence of its weights" in output
