"""Free memory is what machine and container both have."""

from pathlib import Path

import psutil
import pytest

from vit2onnx import machine


@pytest.mark.parametrize(("text", "limited"), [("400000000\n", True), ("max\n", False)])
def test_a_container_has_no_more_than_it_is_allowed(tmp_path: Path, monkeypatch, text: str, limited: bool):
    (tmp_path / "memory.max").write_text(text)
    monkeypatch.setattr(machine, "LIMITS", (str(tmp_path / "memory.max"), str(tmp_path / "absent")))
    available = psutil.virtual_memory().available
    assert machine.free_memory() == 400_000_000 if limited else machine.free_memory() > available / 2
