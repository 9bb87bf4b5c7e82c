"""Free memory is what machine and container both have."""

from pathlib import Path

import psutil
import pytest

from vit2onnx import machine
from vit2onnx.errors import InputError


@pytest.mark.parametrize(("text", "limited"), [("400000000\n", True), ("max\n", False)])
def test_a_container_has_no_more_than_it_is_allowed(tmp_path: Path, monkeypatch, text: str, limited: bool):
    (tmp_path / "memory.max").write_text(text)
    monkeypatch.setattr(machine, "LIMITS", (str(tmp_path / "memory.max"), str(tmp_path / "absent")))
    available = psutil.virtual_memory().available
    assert machine.free_memory() == 400_000_000 if limited else machine.free_memory() > available / 2


def test_what_changes_numbers_does_not_reach_a_job():
    left = {
        **{"JAX_PLATFORMS": "cuda", "JAX_ENABLE_X64": "1", "JAX_DEFAULT_MATMUL_PRECISION": "bfloat16"},
        **{"JAX_DISABLE_JIT": "1", "XLA_FLAGS": "--none", "ONEDNN_DEFAULT_FPMATH_MODE": "BF16"},
        **{"MPLBACKEND": "module://none", "PYTHONOPTIMIZE": "2", "PYTHONWARNINGS": "error", "PYTHONINSPECT": "1"},
    }
    users = {
        **{"JAX_COMPILATION_CACHE_DIR": "c", "HF_HOME": "h", "HF_HUB_OFFLINE": "1", "TORCH_HOME": "t", "HOME": "/none"},
        **{
            "PYTHONPATH": "p",
            "PYTHONHOME": "q",
            "CUDA_VISIBLE_DEVICES": "0",
            "OMP_NUM_THREADS": "0",
            "TMPDIR": "/none",
        },
    }
    environment = left | users
    machine.settle(environment)
    assert environment == users | {"JAX_PLATFORMS": "cpu", "PYTHONUTF8": "1"}


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch):
    machine.check_folder(tmp_path)
    # As it is for all users but root, whom the tests may run as.
    monkeypatch.setattr(machine.os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(InputError, match="cannot be written, and results"):
        machine.check_folder(tmp_path)
