"""Checkpoints made to do harm: nothing in them runs, none takes much memory or time, none ends in another error."""

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.checkpoints.test_numpy_file import header_of, npz_bytes, with_header
from tests.checkpoints.test_reading import legacy_bytes, safetensors_bytes, torch_bytes
from vit2onnx.checkpoints.heads import read_heads
from vit2onnx.errors import InputError

STATE = {"layer.0.weight": torch.ones(2, 3), "layer.0.bias": torch.ones(2)}
FORMS = {
    "pth": torch_bytes(STATE),
    "legacy": legacy_bytes(STATE),
    "safetensors": safetensors_bytes(STATE),
    "npz": npz_bytes(**{name.replace("layer", "encoderblock/"): value.numpy() for name, value in STATE.items()}),
}
SEEN = settings(
    derandomize=True, max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def read_or_refuse(path: Path) -> None:
    """The tensors of a file lie in it, or it is refused."""
    heads, told = {}, str(path)
    try:
        heads = read_heads(path)
    except InputError as error:
        told = str(error)
    assert told.startswith(str(path))
    assert all(head.offset <= path.stat().st_size for head in heads.values())


@SEEN
@given(data=st.data(), form=st.sampled_from(sorted(FORMS)))
def test_an_altered_file_is_read_or_refused(data: st.DataObject, form: str, tmp_path: Path):
    content = bytearray(FORMS[form])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(1, len(content)))
    path = tmp_path / "file"
    path.write_bytes(bytes(content[:end]) if data.draw(st.booleans()) else bytes(content))
    read_or_refuse(path)


@SEEN
@given(pickled=st.binary(max_size=200))
def test_any_pickle_in_a_zip_is_read_or_refused(pickled: bytes, tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(with_pickle(b"\x80\x02" + pickled + b"."))
    read_or_refuse(path)


@SEEN
@given(header=st.binary(max_size=200) | st.builds(header_of, st.text(), st.booleans(), st.text()))
def test_any_header_of_numpy_is_read_or_refused(header: bytes, tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(with_header(header, bytes(16), name="encoderblock/a"))
    read_or_refuse(path)


@SEEN
@given(head=st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_any_header_of_safetensors_is_read_or_refused(head: object, tmp_path: Path):
    text = json.dumps({"a": head, "b": {"dtype": "F32", "shape": head, "data_offsets": head}}).encode()
    path = tmp_path / "file"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(16))
    read_or_refuse(path)


def with_pickle(pickled: bytes, **more: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, content in more.items():
            archive.writestr(f"archive/{name}", content, zipfile.ZIP_DEFLATED)
    return file.getvalue()


def doubled(empty: object, join: Callable[[object], object]) -> bytes:
    """A short pickle of something that is twice as large at each of forty levels."""
    for _ in range(40):
        empty = join(empty)
    return pickle.dumps({"a": empty}, 2)


HEAD = b"\x80\x04"
HOSTILE: dict[str, bytes] = {
    "many mappings": with_pickle(b"\x80\x02" + b"}" * (3 << 20) + b"."),
    "a place far away in memory": with_pickle(b"\x80\x02}r\xff\xff\xff\x7f."),
    "bytes without end": with_pickle(HEAD + b"\x8e" + struct.pack("<Q", 1 << 40) + b"."),
    "a text without end": with_pickle(HEAD + b"X" + struct.pack("<I", 0xFFFFFFF0) + b"."),
    "a number without end": with_pickle(HEAD + b"\x8b" + struct.pack("<i", 0x7FFFFFF0) + b"."),
    "a frame without end": with_pickle(HEAD + b"\x95" + struct.pack("<Q", 1 << 45) + b"}."),
    "mappings in mappings": with_pickle(doubled({}, lambda x: {"a": x, "b": x})),
    "lists in lists": with_pickle(doubled([], lambda x: [x, x])),
    "deep lists": with_pickle(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."),
    "an inflated record": with_pickle(pickle.dumps({}, 2), byteorder=bytes(64 << 20)),
    "a long header": struct.pack("<Q", 1 << 40) + b"{}" + bytes(100),
    "a deep header": struct.pack("<Q", 2_000_000) + b'{"a":' + b"[" * 1_999_995,
    "a large shape": safetensors_bytes({"a": torch.ones(1)}).replace(b"[1]", b"[9]"),
    "a large shape in an .npz": with_header(header_of(shape="(1000000000000,)")),
    "many layers in an .npz": with_header(header_of(shape="(1000000000, 0)"), name="encoderblock/a"),
    "many arrays in an .npz": npz_bytes(**{f"encoderblock/{i}": np.ones((99_000, 0), "f4") for i in range(3)}),
    "many names": (lambda text: struct.pack("<Q", len(text)) + text)(
        json.dumps({f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(110_000)}).encode()
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_file_that_asks_for_much_gets_little(kind: str, tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(HOSTILE[kind])
    heads, told = {}, str(path)
    # From here on the kernel counts the peak anew.
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    try:
        heads = read_heads(path)
    except InputError as error:
        told = str(error)
    assert memory("VmHWM") - before < 300e6
    assert heads == {} and told.startswith(str(path)) and len(told) < 500


def memory(kind: str) -> int:
    """The memory of this process in bytes: what it has, or its peak."""
    return 1024 * int(Path("/proc/self/status").read_text().partition(f"{kind}:")[2].split()[0])


@pytest.mark.parametrize("start", [b"", b"PK\x03\x04", b"\x80\x02", struct.pack("<Q", 40) + b'{"a":{'])
def test_a_file_of_a_terabyte_of_nothing_is_refused_at_once(start: bytes, tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(start)
    os.truncate(path, 1 << 40)
    with pytest.raises(InputError):
        read_heads(path)


def test_what_is_no_file_is_not_opened(tmp_path: Path):
    os.mkfifo(tmp_path / "fifo.pth")
    (tmp_path / "zero.pth").symlink_to("/dev/zero")
    for name in ("fifo.pth", "zero.pth"):
        with pytest.raises(InputError, match="is no file"):
            read_heads(tmp_path / name)
