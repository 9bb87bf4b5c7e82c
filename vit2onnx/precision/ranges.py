"""How large the values of a graph become on photographs, measured in double precision."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from vit2onnx.errors import InputError
from vit2onnx.files import read_arrays, write_arrays
from vit2onnx.runners.onnx_double import run_nodes
from vit2onnx.weights.keytable import LazyTensor

# What a file of ranges holds, each followed by the name of the value.
LARGEST, CHANNELS = "largest", "channels"


@dataclass(frozen=True)
class Channels:
    """What the last axis of a value was seen to hold: lowest, highest and mean square of each channel, float64."""

    lowest: np.ndarray
    highest: np.ndarray
    squares: np.ndarray

    @property
    def largest(self) -> np.ndarray:
        """The largest absolute value of each channel."""
        return np.maximum(np.abs(self.lowest), np.abs(self.highest))

    def limits(self, factors: np.ndarray | float = 1.0) -> tuple[float, float]:
        """The lowest and the highest element if each channel is divided by its factor; 0 is between them."""
        return min(0.0, float((self.lowest / factors).min())), max(0.0, float((self.highest / factors).max()))


@dataclass(frozen=True)
class Ranges:
    """What was seen of the values of a graph, by name, over all inputs.

    `largest` has the largest absolute value of every float value that a node gives; `channels` has the channels of
    every value that a MatMul takes beside a parameter.
    """

    largest: Mapping[str, float]
    channels: Mapping[str, Channels]

    def write(self, path: Path) -> None:
        """Write an `.npz`; the same ranges give the same bytes."""
        write_arrays(path, dict(self._arrays()))

    @classmethod
    def read(cls, path: Path) -> "Ranges":
        """Read what `write` wrote. Raises `InputError` if the file is damaged or of another kind."""
        largest: dict[str, float] = {}
        channels: dict[str, Channels] = {}
        for key, array in read_arrays(path).items():
            kind, _, name = key.partition("/")
            if kind == LARGEST and array.shape == ():
                largest[name] = float(array)
            elif kind == CHANNELS and array.ndim == 2 and len(array) == 3:
                channels[name] = Channels(*array)
            else:
                raise InputError(f"{path} holds {key}, which is no range; measure the ranges again.")
        return cls(largest, channels)

    def _arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        for name, value in sorted(self.largest.items()):
            yield f"{LARGEST}/{name}", np.array(value)
        for name, of in sorted(self.channels.items()):
            yield f"{CHANNELS}/{name}", np.stack([of.lowest, of.highest, of.squares])


def measure(graph: ir.Model, tensors: Mapping[str, LazyTensor], batches: Iterable[Mapping[str, np.ndarray]]) -> Ranges:
    """Run a graph, whose parameters are inputs, on batches in double precision, and note the ranges of its values.

    `batches` have the inputs by name; they may be of different sizes where the graph is free. One parameter is in
    memory at a time. Raises `InputError` if a value is not finite.
    """
    wanted = {value.name for value in _taken_beside_parameters(graph, tensors)}
    largest: dict[str, float] = {}
    channels: dict[str, _Channels] = {}

    def observe(name: str, value: np.ndarray) -> None:
        if not isinstance(value, np.ndarray) or value.dtype.kind != "f" or not value.size:
            return
        most = float(np.abs(value).max())
        if not np.isfinite(most):
            raise InputError(f"{name} is not finite on these inputs; check the checkpoint and the photographs.")
        largest[name] = max(most, largest.get(name, 0.0))
        if name in wanted:
            channels.setdefault(name, _Channels(value.shape[-1])).add(value.reshape(-1, value.shape[-1]))

    run_nodes(ir.to_proto(graph), {name: one.read for name, one in tensors.items()}, batches, observe)
    return Ranges(largest, {name: found.result for name, found in channels.items()})


class _Channels:
    """Channels while rows of them come."""

    def __init__(self, count: int):
        self.lowest, self.highest = np.full(count, np.inf), np.full(count, -np.inf)
        self.sums, self.rows = np.zeros(count), 0

    def add(self, rows: np.ndarray) -> None:
        self.lowest = np.minimum(self.lowest, rows.min(axis=0))
        self.highest = np.maximum(self.highest, rows.max(axis=0))
        self.sums += np.square(rows).sum(axis=0)
        self.rows += len(rows)

    @property
    def result(self) -> Channels:
        return Channels(self.lowest, self.highest, self.sums / self.rows)


def _taken_beside_parameters(graph: ir.Model, tensors: Mapping[str, LazyTensor]) -> Iterator[ir.Value]:
    for node in graph.graph:
        if node.op_type == "MatMul" and node.inputs[1].name in tensors:
            yield node.inputs[0]
