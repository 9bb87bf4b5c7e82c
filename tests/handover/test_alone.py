"""`verify.py` is handed over as one file, and does the same there."""

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from vit2onnx.handover.alone import packing_alone, verify_alone
from vit2onnx.onnx_file import initializers

SOURCE = verify_alone()


def run(graph: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run the file in the graph's folder, where nothing of vit2onnx can be imported."""
    graph.with_name("verify.py").write_text(SOURCE)
    command = [sys.executable, "-I", *flags, "verify.py", graph.name]
    return subprocess.run(command, cwd=graph.parent, capture_output=True, text=True)


@pytest.fixture
def handed_over(graph: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph in a folder that holds nothing but what goes along with it."""
    folder = tmp_path_factory.mktemp("elsewhere")
    for name in ("static.onnx", "static.passport.json", "static.sample.npz", "model.eqx"):
        (folder / name).write_bytes(graph.with_name(name).read_bytes())
    return folder / graph.name


@pytest.mark.parametrize("flags", [(), ("-O",)])
def test_it_verifies_in_a_folder_of_its_own(handed_over: Path, flags: tuple[str, ...]):
    done = run(handed_over, *flags)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("static.onnx:\n") and done.stdout.endswith("is verified against its passport\n")
    assert "worst token" in done.stdout


def test_it_finds_a_flipped_bit(handed_over: Path):
    weight = initializers(handed_over)["norm.bias"]
    content = bytearray(weight.file.read_bytes())
    content[weight.offset] ^= 1
    weight.file.write_bytes(content)
    done = run(handed_over, "-O")
    assert done.returncode == 1
    assert "not the recorded weights: norm.bias" in done.stdout


def test_it_imports_numpy_and_onnxruntime_only():
    nodes = list(ast.walk(ast.parse(SOURCE)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    others = {name.partition(".")[0] for name in names} - sys.stdlib_module_names
    assert others == {"numpy", "onnxruntime"}


def test_no_name_is_defined_twice():
    defined: Counter[str] = Counter()
    for node in ast.parse(SOURCE).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            defined[node.name] += 1
        elif isinstance(node, ast.Assign):
            names = (name for target in node.targets for name in ast.walk(target))
            defined.update(name.id for name in names if isinstance(name, ast.Name))
    assert {name for name, count in defined.items() if count > 1} == set()


def test_it_is_of_python_39(tmp_path: Path):
    ast.parse(SOURCE, feature_version=(3, 9))
    path = tmp_path / "verify.py"
    # mypy knows since when the standard library has a name or an argument, from 3.10 on. Not what is imported, because
    # its stubs are newer.
    flags = ["--config-file=", "--python-version=3.10", "--follow-imports=skip", "--ignore-missing-imports"]
    command = [sys.executable, "-m", "mypy", *flags, f"--cache-dir={tmp_path / 'cache'}", str(path)]

    def faults(source: str) -> str:
        path.write_text(source)
        return subprocess.run(command, capture_output=True, text=True).stdout

    assert faults(SOURCE).startswith("Success")
    assert '"file_digest"' in faults(f"{SOURCE}\nhashlib.file_digest\n")
    # What came with 3.10 and could be used here.
    newer = {"strict", "slots", "kw_only", "pairwise", "bit_count", "hardlink_to"}
    nodes = list(ast.walk(ast.parse(SOURCE)))
    used = {node.arg for node in nodes if isinstance(node, ast.keyword)}
    used |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    assert not newer & used


def test_images_are_packed_where_there_is_nothing_but_numpy(tmp_path: Path):
    (tmp_path / "packing.py").write_text(packing_alone())
    names = {node.module or "" for node in ast.walk(ast.parse(packing_alone())) if isinstance(node, ast.ImportFrom)}
    assert not any(name.startswith("vit2onnx") for name in names)
    program = (
        "import numpy; from packing import pack, InputError\n"
        "print(pack([numpy.zeros((3, 33, 48), 'f')], 16)['grid_thw'].tolist())\n"
        "try: pack([], 16)\nexcept InputError as error: print(error)"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": ""}, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["[[1, 2, 3]]", "There are no images to pack; give one at least."], done.stderr
