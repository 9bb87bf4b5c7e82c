"""A graph that doubles its input, of any batch and with two channels."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper


def written(path: Path, nodes: list, inputs: dict, outputs: dict, constants: dict, opset: int = 17) -> Path:
    """An ONNX file; `inputs` and `outputs` have shapes of float32."""

    def values(shapes: dict) -> list:
        return [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in shapes.items()]

    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "graph", values(inputs), values(outputs), tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


@pytest.fixture
def doubling(tmp_path: Path) -> Path:
    """`y` is twice `x` [batch, 2]."""
    node = helper.make_node("Mul", ["x", "two"], ["y"], name="doubled")
    shape = {"x": ["batch", 2]}, {"y": ["batch", 2]}
    return written(tmp_path / "model" / "doubling.onnx", [node], *shape, {"two": np.float32(2)})
