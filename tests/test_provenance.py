"""Digests change with the code they stand for, and with nothing else."""

import importlib.metadata
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vit2onnx import provenance
from vit2onnx.provenance import code_digest, versions


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """A copy of the package that a test may change."""
    copy = shutil.copytree(provenance.PACKAGE, tmp_path / "vit2onnx")
    monkeypatch.setattr(provenance, "PACKAGE", copy)
    return copy


def test_a_digest_follows_the_code_of_its_rooms(package):
    rooms = ("archive", "models")
    before = code_digest(*rooms)
    assert re.fullmatch("[0-9a-f]{16}", before)
    for unrelated in ("mapping.py", "checkpoints/reading.py"):
        with (package / unrelated).open("a") as file:
            file.write("# changed\n")
    (package / "models" / "__pycache__").mkdir(exist_ok=True)
    (package / "models" / "__pycache__" / "rope.pyc").write_bytes(b"compiled")
    assert code_digest(*rooms) == before
    digests = {before}
    for related in ("archive.py", "models/rope.py", "models/template.html"):
        with (package / related).open("a") as file:
            file.write("# changed\n")
        digests.add(code_digest(*rooms))
    (package / "models" / "rope.py").rename(package / "models" / "rotation.py")
    digests.add(code_digest(*rooms))
    assert len(digests) == 5


def test_rooms_differ():
    assert len({code_digest("archive"), code_digest("models"), code_digest("archive", "models")}) == 3


def test_an_unknown_room_is_named():
    with pytest.raises(ValueError, match="the package has no room 'kitchen'"):
        code_digest("archive", "kitchen")


def test_versions_are_those_installed_and_what_is_not_there_is_left_out():
    found = versions(["jax", "no-such-package", "numpy"])
    assert found == {name: importlib.metadata.version(name) for name in ("jax", "numpy")}


def test_the_snakefile_can_import_it_without_third_parties():
    code = "import sys, vit2onnx.provenance; print(sorted(sys.modules.keys() & {'jax', 'numpy', 'torch', 'yaml'}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=provenance.PACKAGE.parent, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
