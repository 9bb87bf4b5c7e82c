"""Digests change with the code they stand for, and with nothing else."""

import importlib.metadata
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vit2onnx import provenance
from vit2onnx.provenance import closure, code_digest, versions


def forget() -> None:
    """Within a process the package does not change, so what was read of it is kept."""
    for function in (code_digest, provenance.imported, provenance.modules_of):
        function.cache_clear()


@pytest.fixture
def package(tmp_path, monkeypatch) -> Iterator[Path]:
    """A copy of the package that a test may change."""
    copy = shutil.copytree(provenance.PACKAGE, tmp_path / "vit2onnx")
    monkeypatch.setattr(provenance, "PACKAGE", copy)
    monkeypatch.setattr(provenance, "FAMILIES", copy / "families")
    forget()
    yield copy
    forget()


def digests_after(package: Path, changed: str, *families: str) -> set[str]:
    """The scripts whose digest for some families is another after a change of a file."""
    scripts = [path.stem for path in provenance.SCRIPTS.glob("*.py")]
    before = {script: code_digest(script, *families) for script in scripts}
    with (package / changed).open("a") as file:
        file.write("# changed\n")
    forget()
    return {script for script in scripts if code_digest(script, *families) != before[script]}


def test_a_digest_is_sixteen_digits():
    assert re.fullmatch("[0-9a-f]{16}", code_digest("export_onnx"))


@pytest.mark.parametrize(
    ("changed", "reruns", "does_not"),
    [
        # Texts that go into ONNX files.
        ("onnx_file.py", "export_onnx", "convert_checkpoint"),
        ("errors.py", "judge_self_test", None),
        ("weights/model_file.py", "map_weights", "convert_checkpoint"),
        # Imported by a part of the family.
        ("nn/rope.py", "run_equinox", "compare_outputs"),
        ("families/preparation.py", "compare_preprocessing", "run_equinox"),
        # No module, but read by one.
        ("reporting/templates/parity.html.j2", "render_parity", "compare_outputs"),
        ("families/dinov3_vit/layouts.py", "write_passport", "summarise_parity"),
    ],
)
def test_a_change_reruns_what_imports_it_and_nothing_else(package, changed: str, reruns: str, does_not: str | None):
    scripts = digests_after(package, changed, "dinov3_vit")
    assert reruns in scripts
    assert does_not not in scripts


@pytest.mark.parametrize("family", ["dinov3_vit", "dinov3_convnext"])
def test_a_change_of_a_familys_model_reruns_its_own_variants_only(package, family: str):
    changed = "families/dinov3_vit/model.py"
    scripts = digests_after(package, changed, family)
    assert scripts >= {"export_onnx", "run_equinox"} if family == "dinov3_vit" else not scripts
    # What is run for all families at once reruns with each.
    assert "plant_faults" in digests_after(package, changed, "dinov3_convnext", "dinov3_vit")


def test_compiled_files_do_not_count(package):
    (package / "nn" / "__pycache__").mkdir(exist_ok=True)
    (package / "nn" / "__pycache__" / "rope.pyc").write_bytes(b"compiled")
    assert digests_after(package, "nn/__pycache__/rope.pyc", "dinov3_vit") == set()


def test_an_import_in_a_function_counts(tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text("def run():\n    from vit2onnx.parity import tables\n")
    assert {path.name for path in closure(script)} == {"__init__.py", "tables.py"}


def test_a_part_that_is_asked_for_counts_for_the_families_that_are_named(tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text('from vit2onnx.spec.family import part\nprint(part("any", "interface"))\n')
    asked = {family: closure(script, [family]) - closure(script) for family in ("dinov3_vit", "dinov3_convnext")}
    for family, found in asked.items():
        own = {path for path in found if path.parent.parent == provenance.FAMILIES}
        assert own >= {provenance.FAMILIES / family / f"{name}.py" for name in ("interface", "architecture")}
        assert {path.parent.name for path in own} == {family}
    assert closure(script, asked) == closure(script).union(*asked.values())


def test_versions_are_those_installed_and_what_is_not_there_is_left_out():
    found = versions(["jax", "no-such-package", "numpy"])
    assert found == {name: importlib.metadata.version(name) for name in ("jax", "numpy")}


def test_the_snakefile_can_import_it_without_third_parties():
    code = "import sys, vit2onnx.provenance; print(sorted(sys.modules.keys() & {'jax', 'numpy', 'torch', 'yaml'}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=provenance.PACKAGE.parent, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
