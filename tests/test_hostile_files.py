"""Readers of files that strangers may have made: each returns, or raises `InputError`, whatever it is given."""

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lz4.frame
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vit2onnx.checkpoints.sources import find_link
from vit2onnx.errors import InputError
from vit2onnx.files import read_arrays, write_arrays
from vit2onnx.images import load_image
from vit2onnx.verify import read_passport
from vit2onnx.weights.archive import read_archive
from vit2onnx.weights.model_file import open_model

FUZZ = settings(derandomize=True, max_examples=100, deadline=None, database=None)


def picture(kind: str) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((40, 30), 90).convert("RGB").save(file, kind)
    return file.getvalue()


PICTURES = [picture(kind) for kind in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "AVIF", "GIF", "EPS")]


@st.composite
def altered(draw: st.DrawFn, content: bytes) -> bytes:
    """A file of which some bytes are others, that ends too early, or that goes on."""
    # Near the beginning more often, where it says what it is.
    places = st.one_of(st.integers(0, min(300, len(content)) - 1), st.integers(0, len(content) - 1))
    found = bytearray(content)
    for place in draw(st.lists(places, max_size=4)):
        found[place] = draw(st.one_of(st.sampled_from([0, 1, 127, 128, 255]), st.integers(0, 255)))
    end = draw(st.one_of(st.just(len(found)), places))
    more = draw(st.one_of(st.just(b""), st.binary(max_size=20), st.just(bytes(3000))))
    return bytes(found[:end]) + more


def outcome(reader: Callable[..., Any], *given: Any, **named: Any) -> str:
    """What an `InputError` says; nothing if there is none, and any other exception as it is."""
    try:
        reader(*given, **named)
    except InputError as error:
        return str(error)
    return ""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file for all examples."""
    return tmp_path_factory.mktemp("fuzz") / "file"


@pytest.mark.filterwarnings("ignore")
@FUZZ
@given(st.one_of(st.sampled_from(PICTURES).flatmap(altered), st.binary(max_size=100)))
def test_any_photograph(place: Path, content: bytes):
    place.write_bytes(content)
    assert f"{outcome(load_image, place)} ".isprintable()


ARRAYS = {"a": np.arange(7, dtype=np.float32), "b/c@2x3": np.ones((2, 3)).T, "text": np.array("a text")}


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("arrays") / "arrays.npz"
    write_arrays(path, ARRAYS)
    return path.read_bytes()


@FUZZ
@given(st.data())
def test_any_arrays(place: Path, arrays: bytes, data: st.DataObject):
    place.write_bytes(data.draw(altered(arrays)))
    outcome(read_arrays, place)
    # Inside of an archive that is whole, too.
    with zipfile.ZipFile(io.BytesIO(arrays)) as archive:
        entry = archive.read("a.npy")
    with zipfile.ZipFile(place, "w", data.draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))) as archive:
        archive.writestr("a.npy", data.draw(altered(entry)))
    outcome(read_arrays, place)


@FUZZ
@given(st.data())
def test_any_archive(place: Path, tiny_spec, tiny_archive: Path, data: st.DataObject):
    content = tiny_archive.read_bytes()
    if data.draw(st.booleans()):
        content = lz4.frame.compress(data.draw(altered(lz4.frame.decompress(content))), compression_level=-9)
    else:
        content = data.draw(altered(content))
    place.write_bytes(content)
    outcome(lambda: list(read_archive(place, tiny_spec)))


@FUZZ
@given(st.data())
def test_any_model_file(place: Path, tiny_model_file: Path, data: st.DataObject):
    place.write_bytes(data.draw(altered(tiny_model_file.read_bytes())))
    outcome(open_model, place)


LINK = "https://dinov3.llamameta.net/x/dinov3_tiny-01234567.pth?Policy=a_b~&amp;Signature=c-d__&Key-Pair-Id=K"
MAIL = [
    LINK,
    "<a href='",
    "'>",
    "&",
    "&amp;",
    "&#x41;",
    "&#99999999999;",
    "=\n",
    "=3D",
    "%",
    "%zz",
    "https://",
    "://",
    "[",
]
MAIL += [
    "]",
    "http://[",
    "http://[::1",
    "https://x?url=https%3A%2F%2F",
    "\x00",
    "é",
    "<",
    ">",
    "\n",
    " ",
    "\r\n",
    "@",
    "#",
]


@FUZZ
@given(
    st.one_of(st.lists(st.sampled_from(MAIL), max_size=12).map("".join), st.text(max_size=60)), st.binary(max_size=9)
)
def test_any_links(place: Path, tiny_spec, text: str, more: bytes):
    place.write_bytes(text.encode(errors="surrogatepass") + more)
    outcome(find_link, tiny_spec, links_file=place, environ={"VIT2ONNX_LINKS": text})


@FUZZ
@given(
    st.one_of(st.binary(max_size=60), st.sampled_from([b"[" * 10_000, b'{"passport": 1', b"1" * 9999, b"null", b"[]"]))
)
def test_any_passport(place: Path, content: bytes):
    place.with_name("file.passport.json").write_bytes(content)
    outcome(read_passport, place.with_name("file.onnx"))


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "sparse"])
def test_what_never_ends_is_refused_at_once(tmp_path: Path, tiny_spec, kind: str):
    path = tmp_path / "file"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.touch()
        os.truncate(path, 10**12)
    for reader in (read_arrays, open_model, load_image, lambda path: list(read_archive(path, tiny_spec))):
        assert outcome(reader, path).isprintable() and outcome(reader, path), reader
