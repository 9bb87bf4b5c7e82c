"""Graphs of models in int8, as files in memory."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from tests.precision.planting import plant
from vit2onnx.exporting.folding import fold
from vit2onnx.exporting.graph import detach, trace
from vit2onnx.images import load_image, preprocess
from vit2onnx.packing import pack
from vit2onnx.parity.metrics import token_cosines
from vit2onnx.precision.calibration import more_of
from vit2onnx.precision.int8 import to_int8
from vit2onnx.precision.ranges import Ranges, measure
from vit2onnx.precision.statement import reduction_of
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec
from vit2onnx.weights.keytable import LazyTensor
from vit2onnx.weights.model_file import open_model

Arrays = Mapping[str, np.ndarray]
Tensors = Mapping[str, LazyTensor]
PHOTOGRAPHS = Path(__file__).parents[2] / "resources"
SEEN, UNSEEN = ("images/astronaut", "images/coffee"), ("images/camera", "images/chelsea")
# What files in int8 are held to, in cosines of tokens.
LIMIT = 0.999


class HasModel(Protocol):
    """A variant with its `model.eqx`, such as `tests.conftest.Spine`."""

    @property
    def spec(self) -> VariantSpec: ...

    @property
    def model_file(self) -> Path: ...


@dataclass(frozen=True)
class Graph:
    """A traced and folded graph of a model by a recipe, and its inputs. Images have so many rows and columns of patches
    where their size is free; texts have ids below `ids`.
    """

    spine: HasModel
    recipe: Recipe
    grid: tuple[int, int] = (4, 6)
    ids: int = 40

    @cached_property
    def _traced(self) -> tuple[onnx.ModelProto, dict[str, LazyTensor]]:
        model, tensors = open_model(self.spine.model_file)
        graph = trace(model, self.spine.spec, self.recipe)
        tensors = fold(graph, tensors, self.inputs)
        return ir.to_proto(graph), tensors

    @property
    def inputs(self) -> list[str]:
        return [port.name for port in self.spine.spec.interface(self.recipe.interface).inputs]

    @property
    def tensors(self) -> dict[str, LazyTensor]:
        return self._traced[1]

    def fresh(self) -> ir.Model:
        """A copy, which may be changed."""
        return ir.from_proto(self._traced[0])

    def given(self, photographs: tuple[str, ...]) -> list[Arrays]:
        """What the graph is given of each photograph."""
        interface = self.spine.spec.interface(self.recipe.interface)
        if interface.kind == "text":
            seeds = [sum(name.encode()) for name in photographs]
            shape = interface.shape(interface.inputs[0], {"batch": 2, "length": 64})
            ids = [np.random.default_rng(seed).integers(0, self.ids, (2, shape[1])) for seed in seeds]
            return [{self.inputs[0]: one} for one in ids]
        patch, preprocessing = interface.patch_size, self.spine.spec.preprocessing
        height, width = (
            interface.fixed.get(axis) or count * patch
            for axis, count in zip(("height", "width"), self.grid, strict=True)
        )
        images = [load_image(PHOTOGRAPHS / f"{name}.jpg") for name in photographs]
        pixels = [preprocess(image, height, width, preprocessing) for image in images]
        if interface.packs:
            return [pack([one, one[:, :, : 3 * patch]], patch) for one in pixels]
        return [{"pixel_values": one[None]} for one in pixels]

    def ranges(self, tensors: Tensors, photographs: tuple[str, ...] = SEEN) -> Ranges:
        return measure(self.fresh(), tensors, more_of(self.given(photographs)))


@dataclass(frozen=True)
class File:
    """A file in memory, with what it says of its reduction."""

    content: bytes
    reduction: Mapping[str, Any]
    tensors: Tensors

    def run(self, batches: list[Arrays]) -> list[list[np.ndarray]]:
        """All outputs of each batch."""
        session = self.session()
        return [session.run(None, dict(batch)) for batch in batches]

    def session(self, optimised: Path | None = None, threads: int = 1) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        # Idle sessions that spin slow their neighbours in the same process.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if optimised:
            options.optimized_model_filepath = str(optimised)
        return ort.InferenceSession(self.content, options, providers=["CPUExecutionProvider"])

    def operators(self, folder: Path) -> list[str]:
        """The operators that onnxruntime makes of it."""
        self.session(folder / "optimised.onnx")
        return [node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node]


def file_of(
    graph: Graph,
    activations: str | None,
    tensors: Tensors | None = None,
    *,
    ranges: Ranges | None = None,
    fault: Callable[[ir.Model, dict[str, np.ndarray]], None] = lambda graph, values: None,
) -> File:
    """The file of a graph in int8, or in float32, with its own or other tensors; `fault` changes what is written."""
    made, tensors = graph.fresh(), graph.tensors if tensors is None else tensors
    if activations:
        tensors = to_int8(made, tensors, graph.inputs, ranges or graph.ranges(tensors), activations)
    onnx.checker.check_model(ir.to_proto(made), full_check=True)
    detach(made, tensors, graph.inputs)
    values = {name: tensor.read() for name, tensor in tensors.items()}
    fault(made, values)
    proto = ir.to_proto(made)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in values.items())
    metadata = {one.key: one.value for one in proto.metadata_props}
    return File(proto.SerializeToString(), reduction_of(metadata) or {}, tensors)


def planted(graph: Graph) -> dict[str, LazyTensor]:
    """The tensors of a graph with outliers that do not change what it computes."""
    return plant(graph.tensors, channels=6, factor=100.0)


def lowest_cosine(found: list[list[np.ndarray]], expected: list[list[np.ndarray]]) -> float:
    """Of all tokens [..., channels] of all outputs."""
    pairs = [
        (x, y)
        for mine, theirs in zip(found, expected, strict=True)
        for x, y in zip(mine, theirs, strict=True)
        if x.dtype.kind == "f"
    ]
    return min(float(token_cosines(*pair).min()) for pair in pairs)
