"""Which part of a model a value belongs to: its block, and what it is there; and the bounds of each part."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from vit2onnx.precision.kinds import bodies_of, taken_by

# What values of a block are. `residual` is also all that is before the first block and behind the last.
RESIDUAL, NORM, QKV, LOGITS, ATTENTION, HIDDEN, OUTPUT = PARTS = (
    "residual",
    "norm",
    "qkv",
    "logits",
    "attention",
    "hidden",
    "output",
)
BLOCK = re.compile(r"(?:\w+/)?(?:stages\.\d+/)?(?:blocks\.\d+|downsample)(?=/)")
# By the module that a parameter belongs to.
MODULES = {
    QKV: re.compile(r"/attn/[qkv]/"),
    HIDDEN: re.compile(r"/(?:fc1|w1|w2|pwconv1|dwconv)/"),
    OUTPUT: re.compile(r"/(?:proj|fc2|w3|pwconv2|ls1|ls2)/"),
}
# What a node makes of several values is the first of these that is among them.
STRONGEST = (HIDDEN, ATTENTION, LOGITS, QKV)


@dataclass(frozen=True)
class Place:
    """The place of a value: the path of its block, or of what is there beside blocks, and one of `PARTS`."""

    block: str
    part: str


def places_of(graph: ir.Graph) -> dict[str, Place]:
    """The place of every value that a node gives, by name, in order; also of values in loops, and of logits inside."""
    found: dict[str, Place] = {}
    _walk(graph, found)
    return found


def summary(
    bounds: Mapping[str, float], places: Mapping[str, Place], largest: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """A row for each part of each block, in order: the largest bound, where it is, and the largest that was seen.

    A bound that is infinite is nothing, as is what was not seen.
    """
    rows: dict[Place, dict[str, Any]] = {}
    for name, place in places.items():
        if (bound := bounds.get(name)) is None:
            continue
        seen = (largest or {}).get(name)
        row = rows.setdefault(place, {"block": place.block, "part": place.part, "bound": -1.0, "at": "", "seen": None})
        if bound > row["bound"]:
            row |= {"bound": bound, "at": name}
        if seen is not None:
            row["seen"] = max(seen, row["seen"] or 0.0)
    return [row | {"bound": row["bound"] if row["bound"] < float("inf") else None} for row in rows.values()]


def _walk(graph: ir.Graph, found: dict[str, Place]) -> None:
    for node in graph:
        for body in bodies_of(node):
            _walk(body, found)
        place = Place(_block_of(node.name or ""), _part_of(node, found))
        found.update(dict.fromkeys((value.name for value in node.outputs), place))
        if node.op_type == "Attention":
            found[f"{node.name}/logits"] = Place(place.block, LOGITS)
        if node.op_type == "Softmax":
            found.update(dict.fromkeys(_before_softmax(node), Place(place.block, LOGITS)))


def _block_of(name: str) -> str:
    block = BLOCK.match(name)
    return block[0] if block else name.rpartition("/")[0]


def _part_of(node: ir.Node, found: Mapping[str, Place]) -> str:
    if node.op_type == "LayerNormalization":
        return NORM
    if node.op_type in ("Attention", "Softmax"):
        return ATTENTION
    for part, module in MODULES.items():
        if module.search(node.name or ""):
            return part
    taken = [found[value.name].part for value in taken_by(node) if value.name in found]
    strongest = next((part for part in STRONGEST if part in taken), None)
    if strongest is not None:
        return strongest
    # The values of a norm may be moved, and are normed still; what a block adds is no longer its output.
    return taken[0] if len(taken) == 1 and taken[0] in (NORM, OUTPUT) and node.op_type in MOVES else RESIDUAL


def _before_softmax(node: ir.Node) -> Iterator[str]:
    """The values from the product of queries and keys on."""
    value = node.inputs[0]
    while (before := value.producer()) is not None:
        yield value.name
        if before.op_type == "MatMul":
            return
        value = before.inputs[1 if before.op_type == "Where" else 0]


MOVES = {"Transpose", "Reshape", "Identity", "Cast", "Slice", "Gather", "Squeeze", "Unsqueeze"}
