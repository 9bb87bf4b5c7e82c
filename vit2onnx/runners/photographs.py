"""What a graph makes of photographs before the model begins."""

from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from PIL import Image

from vit2onnx.errors import InternalError
from vit2onnx.images import preprocess
from vit2onnx.parity.preprocessing import compare_photographs, made_photographs
from vit2onnx.spec.cases import fixed_size
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec

# How the names of nodes begin that prepare photographs.
PART = "photographs/"


def compare_graph(
    graph: Path, spec: VariantSpec, recipe: Recipe, images: Iterable[tuple[str, Image.Image]], threads: int
) -> list[dict[str, Any]]:
    """One row per photograph, of the `images` by name and of made ones: how far a graph prepares it from our way."""
    size = fixed_size(spec.interface(recipe.interface), recipe)
    if size is None:
        raise InternalError(f"{recipe.name} resizes photographs to no size of its own")
    return compare_photographs(
        chain(((name, np.asarray(image)) for name, image in images), made_photographs()),
        size,
        spec,
        lambda pixels: preprocess(Image.fromarray(pixels), *size, spec.preprocessing),
        preparing(preparation_of(graph), threads),
    )


def preparation_of(graph: Path) -> onnx.ModelProto:
    """The nodes of a graph that prepare photographs, as they are, as a model of their own; no weights are read.

    Raises `InternalError` if the graph has none, or if they take more than photographs.
    """
    model = onnx.load(graph, load_external_data=False)
    nodes = [node for node in model.graph.node if node.name.startswith(PART)]
    # A graph in half precision casts what comes out, and calls that so too.
    while nodes and nodes[-1].op_type == "Cast":
        nodes.pop()
    made = {name for node in nodes for name in node.output}
    taken = {name for node in nodes for name in node.input if name} - made
    constants = [one for one in model.graph.initializer if one.name in taken]
    inputs = [one for one in model.graph.input if one.name in taken]
    if not nodes or len(inputs) + len(constants) != len(taken):
        raise InternalError(f"{graph} does not prepare photographs by itself")
    # What the model takes, which comes last.
    output = onnx.helper.make_tensor_value_info(nodes[-1].output[0], onnx.TensorProto.FLOAT, None)
    part = onnx.helper.make_graph(nodes, "preparation", inputs, [output], constants)
    return onnx.helper.make_model(part, opset_imports=model.opset_import, ir_version=model.ir_version)


def preparing(model: onnx.ModelProto, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    """How onnxruntime prepares one photograph, uint8 [height, width, 3], as input [3, height, width] of a model."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (port,) = session.get_inputs()
    # A graph of a fixed batch is given the same photograph as often.
    batch = port.shape[0] if isinstance(port.shape[0], int) else 1

    def prepare(photograph: np.ndarray) -> np.ndarray:
        (found,) = session.run(None, {port.name: np.repeat(photograph[None], batch, axis=0)})
        prepared: np.ndarray = found[-1]
        return prepared

    return prepare
