"""Reading an ONNX file without loading it gives what the onnx package reads."""

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from vit2onnx.errors import InputError
from vit2onnx.onnx_file import initializers, metadata, operator_sets


@pytest.fixture
def model() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    arrays = {
        "matrix": rng.standard_normal((300, 7), np.float32),
        "scalar": np.array(3, np.int64),
        "empty": np.empty(0, np.int64),
    }
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    value = helper.make_tensor_value_info("matrix", TensorProto.FLOAT, [300, 7])
    model = helper.make_model(helper.make_graph([], "graph", [], [value], tensors), ir_version=10)
    helper.set_model_props(model, {"variant": "tiny", "licence": "null"})
    return model


def test_weights_are_found_where_they_stand(model: onnx.ModelProto, tmp_path: Path):
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    found = initializers(path)
    assert list(found) == ["matrix", "scalar", "empty"]
    for tensor in model.graph.initializer:
        assert found[tensor.name].shape == tuple(tensor.dims)
        assert found[tensor.name].sha256() == hashlib.sha256(tensor.raw_data).hexdigest()


def test_external_weights_are_found_in_their_file(model: onnx.ModelProto, tmp_path: Path):
    path = tmp_path / "model.onnx"
    digest = hashlib.sha256(model.graph.initializer[0].raw_data).hexdigest()
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=100)
    found = initializers(path)["matrix"]
    assert (found.file, found.nbytes, found.sha256()) == (tmp_path / "weights.bin", 300 * 7 * 4, digest)
    with found.file.open("r+b") as file:
        file.truncate(found.offset + found.nbytes - 1)
    with pytest.raises(InputError, match=r"weights\.bin ends within matrix"):
        found.sha256()
    found.file.unlink()
    with pytest.raises(InputError, match=r"weights\.bin is missing, which holds weights"):
        found.sha256()


def test_sizes_that_are_packed_are_read_too(tmp_path: Path):
    # As protobuf's version 3 writes them: field 1 as bytes with a length.
    tensor = bytes([0x0A, 3, 0xAC, 0x02, 7]) + bytes([0x42, 1]) + b"w"
    graph = bytes([0x2A, len(tensor)]) + tensor
    path = tmp_path / "model.onnx"
    path.write_bytes(bytes([0x3A, len(graph)]) + graph)
    assert initializers(path)["w"].shape == (300, 7)


def test_metadata_is_read(model: onnx.ModelProto, tmp_path: Path):
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    assert metadata(path) == {"variant": "tiny", "licence": "null"}


def test_operator_sets_are_read(model: onnx.ModelProto, tmp_path: Path):
    path = tmp_path / "model.onnx"
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(*one) for one in (("", 23), ("com.microsoft", 300)))
    onnx.save(model, path)
    assert operator_sets(path) == {"": 23, "com.microsoft": 300}


@pytest.mark.parametrize("size", [1, 100, 5000, 8400])
def test_a_truncated_file_is_an_error(model: onnx.ModelProto, tmp_path: Path, size: int):
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString()[:size])
    with pytest.raises(InputError, match=r"model\.onnx is no complete ONNX file"):
        initializers(path)


@pytest.mark.parametrize("content", [b"<html>not found</html>", b"\x0f" * 30])
def test_another_file_is_an_error(tmp_path: Path, content: bytes):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"model\.onnx is no complete ONNX file"):
        initializers(path)


def test_a_missing_file_is_an_error(tmp_path: Path):
    with pytest.raises(InputError, match="there is no such file"):
        initializers(tmp_path / "model.onnx")
