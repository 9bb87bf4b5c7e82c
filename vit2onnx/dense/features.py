"""Dense features of images, gathered while a runner goes through the layers of a model.

An array is called `{case}/{what}`. Of the last layer there are `patches` [rows, columns, embed_dim] after the final
norm and `before_norm` before it, and `pooled` [channels] for the whole image. Each layer has `norms.{number}` [rows,
columns], the Euclidean norm of every patch. Further layers that are asked for have `layers.{number}` and, if the final
norm fits their channels, `layers.{number}.norm`, as `get_intermediate_layers` of the publishers gives them.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from vit2onnx.errors import InternalError
from vit2onnx.spec.case import Case
from vit2onnx.spec.interface import Group, Interface, Port

Array = np.ndarray


def patches_of(tokens: Array, interface: Interface, case: str, *, dropped: int = 0) -> Array:
    """The patches [rows, columns, channels] among the tokens [tokens, channels] of a case.

    `dropped` is the number of tokens before the patches that the model lacks. Raises `InternalError` if the tokens
    behind these are not one for each patch, so a wrong number of them cannot shift the map.
    """
    port, group = _patches(interface)
    sizes = interface.sizes(Case.parse(case))
    rows, columns = sizes["grid_height"], sizes["grid_width"]
    start = group.start - dropped
    found = tokens[: interface.rows(port, case)][start:]
    if len(found) != rows * columns:
        raise InternalError(f"{case} has {len(found)} tokens behind the first {start}, and {rows} x {columns} patches")
    return found.reshape(rows, columns, -1)


def registers_of(interface: Interface) -> int:
    """How many register tokens are before the patches."""
    return sum((group.stop or 0) - group.start for group in _patches(interface)[0].groups if group.name == "registers")


def _patches(interface: Interface) -> tuple[Port, Group]:
    if interface.patches is None:
        raise InternalError(f"the interface {interface.name} has no patches")
    return interface.patches


class Gathering:
    """Gathers the dense features of cases of an `interface`; `layers` are the numbers of further layers.

    `dropped` is as in `patches_of`. A runner calls `see` for every stage, `norm` where it has the final norm, and
    `finish` with what the model gives. `arrays` then has everything.
    """

    def __init__(self, interface: Interface, layers: Collection[int] = (), *, dropped: int = 0):
        self.interface, self.layers, self.dropped = interface, layers, dropped
        self.arrays: dict[str, Array] = {}
        self._numbers = {stage: number for number, stage in enumerate(interface.layers)}
        # By case: the values of a runner that are to be normed, each with the number of its layer and its channels.
        self._kept: dict[str, list[tuple[int, int, Any]]] = {}

    def see(self, case: str, stage: str, value: Any, array: Callable[[Any], Array]) -> None:
        """Take a stage, if it is a layer; `array` makes of it [tokens, channels] or [rows, columns, channels]."""
        number = self._numbers.get(stage)
        if number is None:
            return
        grid = self._map(case, array(value))
        self._keep(case, f"norms.{number}", np.linalg.norm(grid.astype(np.float64), axis=-1).astype(grid.dtype))
        if number == len(self._numbers) - 1:
            self._keep(case, "before_norm", grid)
        if number in self.layers:
            self._keep(case, f"layers.{number}", grid)
            self._kept.setdefault(case, []).append((number, grid.shape[-1], value))

    def norm(self, case: str, apply: Callable[[Any], Array]) -> None:
        """Norm those layers of a case that have the channels of the last; `apply` gives an array as in `see`."""
        wanted = self.arrays[f"{case}/before_norm"].shape[-1]
        for number, channels, value in self._kept.pop(case, []):
            if channels == wanted:
                self._keep(case, f"layers.{number}.norm", self._map(case, apply(value)))

    def finish(self, case: str, outputs: Mapping[str, Array]) -> None:
        """Take what the model gives for a case, by port and without batch."""
        self._keep(case, "patches", self._map(case, outputs[_patches(self.interface)[0].name]))
        port, row = self.interface.pooled
        self._keep(case, "pooled", outputs[port.name] if row is None else outputs[port.name][row])

    def _map(self, case: str, value: Array) -> Array:
        return value if value.ndim == 3 else patches_of(value, self.interface, case, dropped=self.dropped)

    def _keep(self, case: str, what: str, value: Array) -> None:
        # A copy, because a view would keep all tokens of its layer in memory.
        self.arrays[f"{case}/{what}"] = value.copy()
