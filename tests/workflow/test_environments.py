"""Every kind of rule has its environment: in step with the lock, and with all that its scripts import."""

import ast
import re
import sys
from pathlib import Path

import pytest
import yaml

from vit2onnx.provenance import closure, imported
from vit2onnx.spec.family import families

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
    """Every package that a script imports, at its top or in a function, and that our modules import for it, those
    included that are parts of families.
    """
    modules = (script, *closure(script, families()))
    names = {name.split(".")[0] for path in modules for name in imported(path)[0]}
    return names - set(sys.stdlib_module_names) - {"vit2onnx", "snakemake", "dinov2", "dinov3"}


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


# From the ground up: a room imports rooms of its own row and of those above it in this list, and no others.
ROOMS = (
    {"errors", "checksums", "arrays", "files", "job", "machine", "provenance", "spec"},
    {"images", "patches", "photographs", "packing", "texts", "onnx_file", "dense"},
    {"nn", "weights"},
    {"families"},
    {"checkpoints", "exporting", "runners", "parity", "precision", "inputs"},
    {
        "handover",
        "self_test",
        "reporting",
        "verify",
        "check_inputs",
        "spine",
        "describe",
        "features",
        "align",
        "runtimes",
    },
)
PACKAGE = ROOT / "vit2onnx"
MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


def room_of(module: Path) -> str:
    """A folder of the package, or a module that is in none."""
    return module.relative_to(PACKAGE).with_suffix("").parts[0]


def importers(*packages: str) -> set[Path]:
    """Those of our modules that import one of some packages, at their top or in a function."""
    return {
        module
        for module in MODULES
        if any(f"{name}.".startswith(f"{package}.") for name in imported(module)[0] for package in packages)
    }


def test_dependencies_point_one_way() -> None:
    height = {room: number for number, row in enumerate(ROOMS) for room in row}
    assert {room_of(module) for module in MODULES} == height.keys()
    upwards = [
        f"{module.relative_to(PACKAGE)} imports {room}"
        for module in MODULES
        for room in height
        if height[room] > height[room_of(module)] and module in importers(f"vit2onnx.{room}")
    ]
    assert not upwards


def test_heavy_packages_stay_in_their_rooms() -> None:
    used = {package: {room_of(module) for module in importers(package)} for package in ("jax", "torch", "transformers")}
    assert "parity" not in used["jax"] | used["torch"] | used["transformers"]
    assert "nn" not in used["torch"] | used["transformers"]
    assert "parity" not in {room_of(module) for module in importers("equinox")}
    # But for what maps weights to the class that it ships as an example.
    examples = {module for module in MODULES if module.name == "jax2onnx_example.py"}
    assert {room_of(module) for module in importers("jax2onnx") - examples} == {"exporting"}


def test_families_do_not_know_each_other() -> None:
    for family in families():
        others = importers(f"vit2onnx.families.{family}")
        assert {module.parent for module in others} <= {PACKAGE / "families" / family}


def code_alone(module: Path) -> str:
    """A module without comments and docstrings."""
    tree = ast.parse(module.read_text())
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        if documented and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def test_engines_know_no_family_by_name() -> None:
    engines = [module for module in MODULES if room_of(module) != "families"]
    templates = [path for path in PACKAGE.rglob("templates/*") if path.is_file()]
    texts = {module: code_alone(module) for module in engines} | {path: path.read_text() for path in templates}
    found = [
        f"{path.relative_to(PACKAGE)}: {line.strip()}"
        for path, text in texts.items()
        for line in text.splitlines()
        if re.search(r"dinov\d|convnext|isinstance\([^)]*Architecture", line, re.I)
    ]
    assert not found


def test_every_rule_follows_the_code_of_its_own_script() -> None:
    rules = "".join(path.read_text() for path in sorted((ROOT / "workflow" / "rules").glob("*.smk")))
    followed = r'code=(\w+)\("(\w+)"(.*?)\),'
    found = re.findall(rf'{followed}(?:(?!\nrule ).)*?script:\s+"\.\./scripts/(\w+)\.py"', rules, re.S)
    assert len(found) == rules.count("script:") == rules.count("code=")
    for function, script, families_too, own in found:
        assert script == own
        # With the parts of families that it asks for: of its variant's family, or of all.
        path = ROOT / "workflow" / "scripts" / f"{script}.py"
        if function != "code_of" and "*families()" not in families_too:
            assert function == "code_digest" and not families_too
            assert "VariantSpec" not in path.read_text()
