"""Every kind of rule has its environment: in step with the lock, and with all that its scripts import."""

import ast
import re
import sys
from pathlib import Path

import pytest
import yaml

from vit2onnx.provenance import closure, imported

ROOT = Path(__file__).parents[2]
DISTRIBUTION = {"PIL": "pillow", "yaml": "pyyaml", "google": "protobuf"}
ENVIRONMENTS = sorted((ROOT / "envs").glob("*.yaml"))


def pins(environment: Path) -> dict[str, str]:
    dependencies = yaml.safe_load(environment.read_text())["dependencies"]
    return dict(pin.split("==") for pin in dependencies[-1]["pip"])


def locked() -> dict[str, str]:
    """The versions that the lock holds for Python 3.11, which is what the environments ask for."""
    lines = re.findall(r"^([a-z0-9._-]+)==([^ ;\n]+)(?: ; (.*))?$", (ROOT / "requirements.lock").read_text(), re.M)
    return {name: version for name, version, marker in lines if ">= '3.12'" not in marker}


def imports_of(script: Path) -> set[str]:
    """Every package that a script imports, at its top or in a function, and that our modules import for it."""
    names = {name.split(".")[0] for path in (script, *closure(script)) for name in imported(path)}
    return names - set(sys.stdlib_module_names) - {"vit2onnx", "snakemake", "dinov3"}


def environment_of(script: Path) -> Path:
    rules = "".join(path.read_text() for path in (ROOT / "workflow" / "rules").glob("*.smk"))
    body = rules.partition(f"rule {script.stem}:")[2]
    return ROOT / "envs" / re.search(r'envs/(\w+\.yaml)"', body)[1]


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda path: path.stem)
def test_environment_is_in_step_with_the_lock(environment: Path) -> None:
    assert pins(environment).items() <= locked().items()


@pytest.mark.parametrize("script", sorted((ROOT / "workflow" / "scripts").glob("*.py")), ids=lambda path: path.stem)
def test_environment_has_what_the_script_imports(script: Path) -> None:
    environment = environment_of(script)
    needed = {DISTRIBUTION.get(name, name.replace("_", "-")) for name in imports_of(script)}
    assert needed <= set(pins(environment)), environment.name


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda path: path.stem)
def test_environment_holds_nothing_unused(environment: Path) -> None:
    scripts = [s for s in (ROOT / "workflow" / "scripts").glob("*.py") if environment_of(s) == environment]
    needed = {DISTRIBUTION.get(name, name.replace("_", "-")) for script in scripts for name in imports_of(script)}
    assert set(pins(environment)) == needed


def test_dependencies_point_one_way() -> None:
    def rooms(*folders: str) -> set[str]:
        files = [file for folder in folders for file in sorted((ROOT / "vit2onnx" / folder).rglob("*.py"))]
        return {
            node.module
            for file in files
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.ImportFrom) and node.module
        }

    assert not {
        name
        for name in rooms("nn")
        if name.startswith(("vit2onnx.checkpoints", "vit2onnx.families", "jax2onnx", "torch"))
    }
    assert not {name for name in rooms("parity") if name.split(".")[0] in ("torch", "jax", "equinox", "transformers")}
    importers = {
        file.relative_to(ROOT / "vit2onnx").parts[0]
        for file in (ROOT / "vit2onnx").rglob("*.py")
        if re.search(r"^\s*(from|import) jax2onnx", file.read_text(), re.M)
    }
    assert importers == {"exporting"}


def test_every_rule_follows_the_code_of_its_own_script() -> None:
    rules = "".join(path.read_text() for path in sorted((ROOT / "workflow" / "rules").glob("*.smk")))
    digested = re.findall(r'code_digest\("(\w+)"\)(?:(?!\nrule ).)*?script:\s+"\.\./scripts/(\w+)\.py"', rules, re.S)
    assert len(digested) == rules.count("script:") == rules.count("code_digest(")
    assert all(first == second for first, second in digested)
