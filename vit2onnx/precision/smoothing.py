"""Move outliers of channels from what a Linear takes into its weights, where int8 has a scale for each column.

A channel that is much larger than the others leaves these few of the 256 steps of int8. Dividing channel c of a value
by f[c] and multiplying row c of the next weight by f[c] changes no result; f evens out both. Source: SmoothQuant
(arXiv:2211.10438) with its alpha of 0.5: f[c]^2 = largest(x[c]) / largest(w[c]), but of weights whose columns are
brought to one size. If a checkpoint has a channel enlarged by p and its row of the weight divided by p, f[c] is p times
as large and the rest the same; if it has a column enlarged, nothing changes. So a quantised file does not depend on how
a checkpoint shares products among their factors.

Where the division can be folded into parameters further up, it costs nothing.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import onnx_ir as ir

from vit2onnx.precision.nodes import attribute, constant_of
from vit2onnx.precision.ranges import Channels

# A channel that is never or hardly used counts as this share of the largest.
LEAST = 1e-6
# Operators that leave the last axis as it is, if their `axis` or axes are not the last.
OF_ROWS = {"Expand", "Gather", "Identity", "Slice", "Squeeze", "Unsqueeze"}
SWAPPED = (0, 2, 1, 3)


class Heads(IntEnum):
    """Where the channels of tokens are: on the last axis [batch, tokens, heads * head_dim], or split."""

    TOGETHER = 0
    # [batch, heads, tokens, head_dim].
    BEFORE_TOKENS = 1
    # [batch, tokens, heads, head_dim].
    AFTER_TOKENS = 2


def divisible(
    value: ir.Value, takers: Collection[ir.Node], channels: int, parameters: Collection[str]
) -> tuple[str, ...] | None:
    """The parameters whose last axis has to be divided so that the channels of `value` are; nothing if there are none.

    `takers` are the nodes that may see the change. None if any other node, or the user of the graph, would see it.
    """
    try:
        return tuple(_divided(value, set(takers), Heads.TOGETHER, channels, parameters))
    except _IndivisibleError:
        return None


class _IndivisibleError(Exception):
    """A value that cannot be divided by dividing parameters."""


def _divided(
    value: ir.Value | None, takers: set[ir.Node], heads: Heads, channels: int, parameters: Collection[str]
) -> Iterator[str]:
    if value is None or value.is_graph_output() or set(value.consumers()) - takers:
        raise _IndivisibleError
    node = value.producer()
    if node is None:
        if value.name not in parameters or heads or value.shape is None or value.shape[-1] != channels:
            raise _IndivisibleError
        yield value.name
        return
    for one, state in _before(node, heads, channels, parameters):
        # In the body of a loop, another node than this one takes the value.
        taker = _only_taker(one) if node.op_type == "ConcatFromSequence" else node
        yield from _divided(one, {taker}, state, channels, parameters)


def _before(
    node: ir.Node, heads: Heads, channels: int, parameters: Collection[str]
) -> list[tuple[ir.Value | None, Heads]]:
    """What has to be divided so that all that a node gives is."""
    operator, inputs = node.op_type, node.inputs
    if operator == "Transpose" and heads and _swaps(node):
        return [(inputs[0], Heads(3 - heads))]
    if operator == "MatMul":
        is_linear = inputs[1] is not None and inputs[1].name in parameters
        # Attention in plain operators is a product of weights and values.
        if heads == (Heads.TOGETHER if is_linear else Heads.BEFORE_TOKENS):
            return [(inputs[1], heads)]
    if operator == "Reshape":
        to = _numbers(inputs[1])
        if heads == Heads.AFTER_TOKENS and len(to) == 4 and to[2] * to[3] == channels:
            return [(inputs[0], Heads.TOGETHER)]
        if heads == Heads.TOGETHER and to[-1:] == (channels,):
            merges = inputs[0] is not None and _swaps(inputs[0].producer())
            return [(inputs[0], Heads.AFTER_TOKENS if merges else Heads.TOGETHER)]
    if heads:
        raise _IndivisibleError
    if operator == "LayerNormalization":
        return [(one, heads) for one in inputs[1:]]
    if operator == "Add":
        return [(one, heads) for one in inputs]
    if operator == "Mul":
        return [(_factor(node, channels, parameters), heads)]
    if operator == "Attention" and attribute(node, "q_num_heads", 0) == attribute(node, "kv_num_heads"):
        return [(inputs[2], heads)]
    if operator in OF_ROWS and _axes(node) <= {0, 1}:
        return [(inputs[0], heads)]
    if operator == "ConcatFromSequence":
        return [(_made_in_loop(inputs[0], node), heads)]
    raise _IndivisibleError


def _only_taker(value: ir.Value | None) -> ir.Node:
    takers = [] if value is None else list(value.consumers())
    if len(takers) != 1:
        raise _IndivisibleError
    return takers[0]


def _swaps(node: ir.Node | None) -> bool:
    return node is not None and node.op_type == "Transpose" and tuple(attribute(node, "perm", ())) == SWAPPED


def _factor(node: ir.Node, channels: int, parameters: Collection[str]) -> ir.Value:
    """The factor of a product that can be divided; the other then stays as it is."""
    for value in node.inputs:
        if value is not None and divisible(value, [node], channels, parameters) is not None:
            return value
    raise _IndivisibleError


def _axes(node: ir.Node) -> set[int]:
    """The axes that an operator of rows changes. All values that such operators take here have channels behind."""
    if node.op_type in ("Expand", "Identity"):
        return set()
    if node.op_type == "Gather":
        return {attribute(node, "axis", 0)}
    return set(_numbers(node.inputs[3 if node.op_type == "Slice" else 1]) or [-1])


def _numbers(value: ir.Value | None) -> tuple[int, ...]:
    """The elements of a constant of whole numbers; none if it is no constant."""
    found = constant_of(value)
    return () if found is None else tuple(found.reshape(-1).tolist())


def _made_in_loop(value: ir.Value | None, taker: ir.Node) -> ir.Value:
    """What a loop adds to its one sequence at every turn."""
    loop = None if value is None else value.producer()
    if value is None or loop is None or loop.op_type != "Loop" or set(value.consumers()) != {taker}:
        raise _IndivisibleError
    added = attribute(loop, "body").outputs[-1].producer()
    if len(loop.outputs) != 1 or added is None or added.op_type != "SequenceInsert":
        raise _IndivisibleError
    made: ir.Value = added.inputs[1]
    return made


@dataclass(frozen=True)
class Product:
    """What is known of a value and of all weights [in, out] that take it, float64.

    The columns of weights are divided by the root mean square of what they give, because each has a scale of its own.
    `largest_weight` [in] has the largest absolute element of each row of such columns, `squares_of_weight` [in] the
    mean of its squares.
    """

    value: Channels
    largest_weight: np.ndarray
    squares_of_weight: np.ndarray

    @classmethod
    def of(cls, value: Channels, weights: Iterable[np.ndarray]) -> "Product":
        """Look at one weight after the other."""
        largest, squares, columns = np.zeros(len(value.lowest)), np.zeros(len(value.lowest)), 0
        for weight in weights:
            wide = weight.astype(np.float64)
            given = np.sqrt(value.squares @ np.square(wide))
            wide = wide[:, given > 0] / given[given > 0]
            largest = np.maximum(largest, np.abs(wide).max(axis=1, initial=0))
            squares += np.square(wide).sum(axis=1)
            columns += wide.shape[1]
        return cls(value, largest, squares / max(columns, 1))

    @property
    def factors(self) -> np.ndarray:
        """What to divide the channels by: float64, but rounded to single precision."""
        value, weight = (np.maximum(x, LEAST * x.max() or 1.0) for x in (self.value.largest, self.largest_weight))
        return np.sqrt(value / weight).astype(np.float32).astype(np.float64)

    def noise(self, factors: np.ndarray | float = 1.0) -> float:
        """The expected error of the products by 8 bits of the value, whose channels are divided, as a share of them.

        It is the root of the mean over all columns, as if the channels did not depend on each other.
        """
        lowest, highest = self.value.limits(factors)
        step = (highest - lowest) / 255
        return float(np.sqrt(step**2 / 12 * (self.squares_of_weight * np.square(factors)).sum()))
