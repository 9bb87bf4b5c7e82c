"""What an `.npz` file may look like from inside: read to the bit, or refused in one clear sentence."""

import io
import struct
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from vit2onnx.checkpoints.heads import read_heads
from vit2onnx.checkpoints.reading import open_checkpoint
from vit2onnx.errors import InputError

MATRIX = np.arange(6, dtype=np.float32).reshape(2, 3) / 7
ARRAYS = {
    "params/img/matrix": MATRIX,
    "column by column": np.asfortranarray(np.arange(60, dtype=np.float32).reshape(3, 4, 5)),
    "transposed": MATRIX.T,
    "one axis": np.asfortranarray(np.arange(5, dtype=np.float32)),
    "axes of one": np.asfortranarray(np.arange(5, dtype=np.float32).reshape(1, 5, 1)),
    "empty": np.asfortranarray(np.ones((0, 3), np.float32)),
    "scalar": np.float32(0.5),
    "doubled": np.linspace(-3, 3, 5),
    "halved": np.linspace(-3, 3, 5).astype(np.float16),
    "counts": np.arange(3),
    "bits": np.array([True, False]),
    "bytes": np.arange(4, dtype=np.uint8),
    "a.dot": MATRIX + 1,
}


def npz_bytes(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def refusal(path: Path, content: bytes) -> str:
    with pytest.raises(InputError) as caught:
        open_checkpoint(written(path, content))
    sentence = str(caught.value)
    assert sentence.startswith(str(path)) and sentence.endswith(".") and "\n" not in sentence and len(sentence) < 500
    return sentence


def with_header(header: bytes, data: bytes = b"", version: bytes = b"\x01\x00", name: str = "a") -> bytes:
    """An `.npz` with one array, whose header is given."""
    size = struct.pack("<H" if version[0] == 1 else "<I", len(header))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{name}.npy", b"\x93NUMPY" + version + size + header + data)
    return file.getvalue()


def header_of(descr: str = "<f4", fortran: object = False, shape: str = "(2,)") -> bytes:
    return f"{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n".encode()


def test_arrays_are_read_as_numpy_reads_them(tmp_path):
    path = written(tmp_path / "model.npz", npz_bytes(**ARRAYS))
    found = open_checkpoint(path)
    assert list(found) == list(ARRAYS)
    content = path.read_bytes()
    for name, expected in ARRAYS.items():
        value = found[name].read()
        assert value.shape == found[name].shape and value.flags.c_contiguous
        np.testing.assert_array_equal(value, expected, strict=True)
        # What lies in C order can be pointed to.
        assert (found[name].offset is None) == (name in ("column by column", "transposed"))
        if found[name].offset is not None:
            assert content[found[name].offset :].startswith(np.ascontiguousarray(expected).tobytes())


def test_bfloat16_is_what_jax_saves_it_as(tmp_path):
    """Two bytes that numpy does not know."""
    rounded = np.linspace(-3, 3, 5).astype(ml_dtypes.bfloat16)
    found = open_checkpoint(written(tmp_path / "model.npz", npz_bytes(a=rounded)))["a"]
    assert found.dtype == "bfloat16"
    np.testing.assert_array_equal(found.read().astype(np.float32), rounded.astype(np.float32))


@pytest.mark.parametrize("version", [b"\x01\x00", b"\x02\x00", b"\x03\x00"])
def test_every_version_of_the_format_is_read(tmp_path, version):
    content = with_header(header_of(), MATRIX[0, :2].tobytes(), version)
    np.testing.assert_array_equal(open_checkpoint(written(tmp_path / "a.npz", content))["a"].read(), MATRIX[0, :2])


@pytest.mark.parametrize("order", ["C", "F"])
def test_layers_that_are_stacked_are_each_read_by_itself(tmp_path, order):
    layers = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    names = {"params/t/encoderblock/a/kernel": layers, "encoderblock/b": layers[:, 0], "notencoderblock/a": layers}
    arrays = {name: np.array(value, order=order) for name, value in names.items()}
    found = open_checkpoint(written(tmp_path / "model.npz", npz_bytes(**arrays)))
    expected = {
        **{f"params/t/encoderblock_{i}/a/kernel": layers[i] for i in range(3)},
        **{f"encoderblock_{i}/b": layers[i, 0] for i in range(3)},
        "notencoderblock/a": layers,
    }
    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name].read(), value, strict=True)


def test_other_files_in_the_zip_are_left_out(tmp_path):
    path = written(tmp_path / "model.npz", npz_bytes(a=MATRIX))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("notes.txt", "hello")
    assert list(open_checkpoint(path)) == ["a"]


def test_an_array_of_something_else_is_named_when_it_is_read(tmp_path):
    fields = np.zeros(2, [("x", "f4"), ("y", "f4")])
    odd = {"objects": np.array([{}, None]), "words": np.array(["a"]), "complex": np.ones(2, complex), "fields": fields}
    found = open_checkpoint(written(tmp_path / "model.npz", npz_bytes(plain=MATRIX, **odd)))
    np.testing.assert_array_equal(found["plain"].read(), MATRIX)
    kinds = {
        "objects": "an array of Python objects",
        "words": "an array of numpy's type U1",
        "complex": "an array of numpy's type c16",
        "fields": "an array of no plain numbers",
    }
    for name, kind in kinds.items():
        # No key table takes such a dtype.
        assert found[name].dtype == kind
        with pytest.raises(InputError, match=f"holds a tensor that is {kind}; give plain weights instead"):
            found[name].read()


def without_content() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.npy", b"")
    return file.getvalue()


def compressed() -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, a=MATRIX)
    return file.getvalue()


REFUSED: dict[str, tuple[bytes, str]] = {
    "compressed": (compressed(), "is compressed"),
    "big-endian": (npz_bytes(a=MATRIX.astype(">f4")), "was written on a big-endian machine"),
    "no array": (npz_bytes(a=MATRIX).replace(b"\x93NUMPY", b"\x93NUMPX"), "a is no array of numpy"),
    "another version": (with_header(header_of(), bytes(8), b"\x04\x00"), "a is no array of numpy"),
    "an expression": (with_header(b"{'descr': __import__('os')}\n"), "holds a tensor"),
    "no mapping": (with_header(b"__import__('os').system('touch T')\n"), "the header of a is none of numpy's"),
    "a negative size": (with_header(header_of(shape="(-1,)")), "holds a tensor"),
    "too short": (with_header(header_of(), bytes(7)), "array a has not the size that its shape gives"),
    "too long": (with_header(header_of(), bytes(9)), "array a has not the size that its shape gives"),
    "more digits than a number has": (with_header(header_of(shape=f"({'9' * 5000},)")), "a size of 5000 digits"),
    "a product without end": (with_header(header_of(shape=f"({'9' * 18},)" )), "has not the size"),
    "a header without end": (with_header(b"{" + b" " * 20_000 + b"}\n"), "should be 20003 bytes long"),
    "a header beyond its record": (
        with_header(header_of()).replace(struct.pack("<H", len(header_of())), struct.pack("<H", 9_000)),
        "should be 9000 bytes long",
    ),
    "layers without end": (
        with_header(header_of(shape=f"({10**9}, 0)"), name="encoderblock/a"),
        "array encoderblock/a has 1000000000 layers",
    ),
    "many layers of many arrays": (
        npz_bytes(**{f"encoderblock/{i}": np.ones((60_000, 0), np.float32) for i in range(2)}),
        "has more than 100000 arrays",
    ),
    "a layer twice": (
        npz_bytes(**{"encoderblock/a": np.ones((2, 3)), "encoderblock_1/a": np.ones(3)}),
        "array encoderblock_1/a is there twice",
    ),
    "an empty record": (without_content(), "a is no array of numpy"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_numpy_has_not_written_is_refused(kind, tmp_path):
    content, sentence = REFUSED[kind]
    path = written(tmp_path / "model.npz", content)
    with pytest.raises(InputError, match=sentence) as caught:
        [tensor.read() for tensor in open_checkpoint(path).values()]
    told = str(caught.value)
    assert told.startswith(str(path)) and told.endswith(".") and "\n" not in told and len(told) < 400


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path):
    content = npz_bytes(**{f"layer/{i}": np.random.default_rng(i).standard_normal((10, 10)) for i in range(3)})
    for length in [*range(4, 40), *range(40, len(content) - 1, 97), len(content) - 1]:
        assert "damaged or" in refusal(tmp_path / f"{length}.npz", content[:length])


def test_opening_reads_no_values(tmp_path):
    path = written(tmp_path / "model.npz", npz_bytes(**{f"layer/{i}": np.ones((500, 500)) for i in range(4)}))
    heads = read_heads(path)
    with path.open("r+b") as file:
        file.seek(heads["layer/2"].offset)
        file.write(np.full(3, -2.5).tobytes())
    assert open_checkpoint(path)["layer/2"].read()[0, :3].tolist() == [-2.5] * 3
