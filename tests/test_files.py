"""Files appear complete or not at all."""

import hashlib
import os
import socket
import struct
import zipfile
from copy import copy
from pathlib import Path

import numpy as np
import pytest

from vit2onnx.errors import InputError
from vit2onnx.files import (
    atomic,
    check_regular,
    open_arrays,
    read_arrays,
    read_json,
    sha256_of,
    write_arrays,
    write_json,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "folder" / "file.txt"
    with atomic(path) as new:
        assert new.parent == path.parent
        new.write_text("half")
        assert not path.exists()
        new.write_text("whole")
    assert path.read_text() == "whole"
    assert names(path.parent) == ["file.txt"]


@pytest.mark.parametrize("before", [None, "old"])
def test_a_broken_write_changes_nothing(tmp_path, before):
    path = tmp_path / "file.txt"
    if before:
        path.write_text(before)

    def write() -> None:
        with atomic(path) as new:
            new.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert names(tmp_path) == (["file.txt"] if before else [])
    assert not before or path.read_text() == before


def test_a_failure_before_the_first_byte_is_not_masked(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic(tmp_path / "file.txt"):
        _ = 1 / 0


def test_the_hash_is_that_of_the_whole_file(tmp_path):
    content = np.random.default_rng(0).bytes(3_000_001)
    (tmp_path / "file").write_bytes(content)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_arrays_come_back_with_their_names_dtypes_and_bits(tmp_path):
    arrays = {
        "float32/astronaut@224x224": np.array([[1, -0.0, np.nan]], np.float32),
        "float64/camera@48x112": np.arange(6.0).reshape(2, 3).T,
        "count": np.array(3),
    }
    write_arrays(tmp_path / "arrays.npz", arrays)
    found = read_arrays(tmp_path / "arrays.npz")
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


@pytest.mark.parametrize("length", [0, 3, 100, 400, -1])
def test_truncated_arrays_are_refused(tmp_path, length):
    path = tmp_path / "arrays.npz"
    write_arrays(path, {"a": np.arange(30), "b": np.ones(20)})
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(InputError, match=r"arrays\.npz is damaged \(.+\); delete it and run again to rebuild it\.$"):
        read_arrays(path)


def test_a_flipped_bit_in_an_array_is_found(tmp_path):
    path = tmp_path / "arrays.npz"
    write_arrays(path, {"a": np.arange(30)})
    content = bytearray(path.read_bytes())
    content[content.index(np.arange(30).tobytes()) + 40] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="is damaged"):
        read_arrays(path)


def test_the_same_arrays_give_the_same_bytes(tmp_path):
    for name in ("one.npz", "two.npz"):
        write_arrays(tmp_path / name, {"a": np.arange(3), "b": np.ones(2)})
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    assert names(tmp_path) == ["one.npz", "two.npz"]


def test_arrays_are_written_when_they_come_and_read_when_they_are_asked_for(tmp_path):
    path = tmp_path / "arrays.npz"
    given = ((name, np.full(30, i)) for i, name in enumerate("abc"))
    write_arrays(path, given)
    content = path.read_bytes()
    write_arrays(path, {name: np.full(30, i) for i, name in enumerate("abc")})
    assert path.read_bytes() == content
    # One that is damaged is no matter as long as no one asks for it.
    path.write_bytes(content.replace(np.full(30, 1).tobytes(), np.full(30, 7).tobytes()))
    with open_arrays(path) as arrays:
        assert list(arrays) == ["a", "b", "c"]
        np.testing.assert_array_equal(arrays["c"], np.full(30, 2))
        assert "b" in arrays and "d" not in arrays
        with pytest.raises(InputError, match=r"arrays\.npz is damaged \(Bad CRC-32 for file 'b\.npy'\); delete"):
            arrays["b"]
    with open_arrays(path) as arrays, pytest.raises(InputError, match=r"arrays\.npz lacks d; delete it and run again"):
        arrays["d"]
    path.write_bytes(b"no archive")
    with pytest.raises(InputError, match="is damaged"), open_arrays(path):
        pass


def npy(shape: str, dtype: str = "<f4", version: bytes = b"\x01\x00") -> bytes:
    """The head of an array that says of itself what it likes."""
    head = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(head)) + head


@pytest.mark.parametrize(
    ("content", "compression"),
    [
        (npy("(1,)") + bytes(4), zipfile.ZIP_DEFLATED),
        (npy("(250000000,)") + bytes(10**6), zipfile.ZIP_DEFLATED),
        (npy("(250000000,)") + bytes(4), zipfile.ZIP_STORED),
        (npy("(9999999999999999999999,)"), zipfile.ZIP_STORED),
        (npy("(-1,)"), zipfile.ZIP_STORED),
        (npy("(-1, -4)") + bytes(16), zipfile.ZIP_STORED),
        (npy("(1.0,)") + bytes(4), zipfile.ZIP_STORED),
        (npy("(2,)", "|O") + bytes(16), zipfile.ZIP_STORED),
        (npy("(2,)", "|V0"), zipfile.ZIP_STORED),
        (npy("(" + "[" * 200 + ")"), zipfile.ZIP_STORED),
        (npy("(1,)", version=b"\x09\x00") + bytes(4), zipfile.ZIP_STORED),
        (b"", zipfile.ZIP_STORED),
    ],
    ids=lambda value: value[60:90].decode(errors="replace").strip() if isinstance(value, bytes) else "",
)
def test_an_array_that_declares_more_than_it_has_is_refused(tmp_path, content, compression):
    path = tmp_path / "arrays.npz"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("a.npy", content)
    with pytest.raises(InputError, match="is damaged"):
        read_arrays(path)


def test_entries_that_share_their_bytes_are_refused(tmp_path):
    """A directory of a zip can name one array any number of times."""
    path = tmp_path / "arrays.npz"
    write_arrays(path, {"a": np.zeros(10**5)})
    with zipfile.ZipFile(path, "a") as archive:
        for index in range(100):
            entry = copy(archive.infolist()[0])
            entry.filename = f"{index}.npy"
            archive.filelist.append(entry)
        archive._didModify = True
    with pytest.raises(InputError, match="is damaged"):
        read_arrays(path)


def flipped(content: bytes, place: int, bit: int) -> bytes:
    changed = bytearray(content)
    changed[place] ^= 1 << bit
    return bytes(changed)


def test_any_flipped_bit_of_arrays_is_named_or_changes_nothing(tmp_path):
    """Zip holds a CRC-32 of every array; what else it says, such as a time, is of no matter."""
    path = tmp_path / "features.npz"
    arrays = {"float32/cat@48x64": np.arange(60, dtype=np.float32).reshape(5, 12), "seen": np.array("words")}
    write_arrays(path, arrays)
    content = path.read_bytes()
    named = 0
    for place in range(len(content)):
        path.write_bytes(flipped(content, place, place % 8))
        try:
            found = read_arrays(path)
        except InputError as error:
            if not str(error).startswith(f"{path} is damaged (") or "delete it and run again" not in str(error):
                raise
            named += 1
        else:
            for name, array in arrays.items():
                np.testing.assert_array_equal(found[name], array)
    assert 0.7 * len(content) < named < len(content)


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b"3", b"[" * 100_000, b'{"a": NaN, "checksum": ""}', b"\xff"])
def test_what_is_no_record_is_named(tmp_path, text: bytes):
    path = tmp_path / "record.json"
    path.write_bytes(text)
    with pytest.raises(InputError, match=r"record\.json is damaged, or was not written by this version of vit2onnx"):
        read_json(path)


def test_a_record_comes_back_and_any_edit_is_named(tmp_path):
    path = tmp_path / "record.json"
    data = {"a": [1, 2.5, None, "\u00e9"], "b": {"c": True}, "rows": [{"x": 1e-300}]}
    write_json(path, data)
    assert read_json(path) == data
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(flipped(content, place, 0))
        try:
            same = read_json(path) == data
        except InputError:
            continue
        # Such as a space that became another one.
        assert same
    path.unlink()
    with pytest.raises(InputError, match=r"record\.json is missing; delete it and run again"):
        read_json(path)


def test_what_cannot_all_be_written_leaves_nothing(tmp_path):
    def broken():
        yield "a", np.arange(3)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_arrays(tmp_path / "arrays.npz", broken())
    assert names(tmp_path) == []


def test_objects_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="allow_pickle"):
        write_arrays(tmp_path / "arrays.npz", {"a": np.array([object()])})
    assert names(tmp_path) == []


def test_a_regular_file_is_taken_through_links(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to("file")
    check_regular(tmp_path / "file")
    check_regular(tmp_path / "link")


@pytest.mark.parametrize("link", [False, True], ids=["itself", "link"])
@pytest.mark.parametrize(
    ("kind", "said"), [("fifo", "named pipe"), ("socket", "socket"), ("folder", "folder"), ("/dev/zero", "device")]
)
def test_what_is_no_regular_file_is_refused_by_its_kind(tmp_path, monkeypatch, kind, said, link):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / kind
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        if kind == "socket":
            listener.bind(kind)
        if link:
            (tmp_path / "link").symlink_to(path)
            path = tmp_path / "link"
        with pytest.raises(InputError, match=said):
            check_regular(path)


@pytest.mark.parametrize("name", ["missing", "n" * 300, "a\0b", "loop", "file/inside"])
def test_what_cannot_be_opened_is_refused(tmp_path, name):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be opened"):
        check_regular(tmp_path / name)
