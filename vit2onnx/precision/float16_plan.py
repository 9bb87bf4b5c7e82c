"""Decide which values of a graph float16 may hold.

What the bound for all inputs clears is in float16. What it does not clear counts as seen on photographs, with room for
others. The rest stays in float32. If the model is then not accurate enough, more of it stays there: the fewest of its
parts that suffice, by trial.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import onnx_ir as ir

from vit2onnx.errors import InputError
from vit2onnx.precision.bound_arrays import LARGEST_FLOAT16
from vit2onnx.precision.kinds import kinds_of
from vit2onnx.precision.nodes import attribute
from vit2onnx.precision.parts import Place

# Values may become so many times as large as those that were seen.
ROOM = 8.0
AS_PLANNED = "as planned"


@dataclass(frozen=True)
class Float16Plan:
    """What stays in float32, as data.

    `float32` has the reason for each value, by name. `measured` has what only measurements clear: bound and
    measurement. `cleared` counts the values that the bound clears. `parts` are those that stay in float32 for accuracy;
    `trials` has the accuracy of all that was tried, and `accuracy` is that of the plan.
    """

    float32: Mapping[str, str]
    measured: Mapping[str, tuple[float, float]]
    cleared: int
    parts: Sequence[str] = ()
    trials: Mapping[str, float] = field(default_factory=dict)
    accuracy: float | None = None

    def as_json(self) -> dict[str, Any]:
        """The plan as data; a bound that is infinite is nothing."""
        return {
            "limit": LARGEST_FLOAT16,
            "room": ROOM,
            "cleared": self.cleared,
            "measured": {name: [_finite(bound), seen] for name, (bound, seen) in sorted(self.measured.items())},
            "float32": dict(sorted(self.float32.items())),
            "parts": list(self.parts),
            "trials": dict(self.trials),
            "accuracy": self.accuracy,
        }


def plan_float16(bounds: Mapping[str, float], largest: Mapping[str, float]) -> Float16Plan:
    """What the bounds of values, and the `largest` that were seen of them, allow.

    What is inside a node, such as `{node}/logits`, was not seen.
    """
    float32, measured = {}, {}
    for name, bound in bounds.items():
        # Also what is no number.
        if bound <= LARGEST_FLOAT16:
            continue
        seen = largest.get(name, math.nan)
        if seen * ROOM < LARGEST_FLOAT16:
            measured[name] = (bound, seen)
        else:
            float32[name] = f"bound {bound:.2g}, {'not measured' if math.isnan(seen) else f'measured {seen:.2g}'}"
    return Float16Plan(float32, measured, len(bounds) - len(float32) - len(measured))


def with_logits(model: ir.Model, inputs: Collection[str], largest: Mapping[str, float]) -> dict[str, float]:
    """The values that were seen, and for the logits inside `Attention` what these cannot exceed by them.

    Not for those in loops, whose sizes the graph does not tell.
    """
    kinds, found = kinds_of(model, inputs), dict(largest)
    for node in model.graph:
        if node.op_type == "Attention" and all(value.name in largest for value in node.inputs[:2]):
            query, key = node.inputs[:2]
            sizes = kinds[query.name].sizes
            if sizes and sizes[-1]:
                root = math.sqrt(sizes[-1] / attribute(node, "q_num_heads"))
                found[f"{node.name}/logits"] = largest[query.name] * largest[key.name] * root
    return found


def refined(
    plan: Float16Plan, places: Mapping[str, Place], accuracy: Callable[[Collection[str]], float], least: float
) -> Float16Plan:
    """A plan by which the model is accurate enough: `accuracy` of the names of values in float32 is at least `least`.

    Besides what the plan keeps in float32, that is nothing if it suffices; else the first blocks, as few as suffice, or
    all values of one part of blocks, whichever are fewer values; else the first blocks and the best of the parts.
    Raises `InputError` if nothing suffices.
    """
    trials: dict[str, float] = {}

    def reaches(label: str, values: Collection[str]) -> bool:
        if label not in trials:
            trials[label] = accuracy(sorted({*plan.float32, *values}))
        return trials[label] >= least

    if reaches(AS_PLANNED, ()):
        return replace(plan, trials=trials, accuracy=trials[AS_PLANNED])
    blocks = list(dict.fromkeys(place.block for place in places.values()))
    parts = list(dict.fromkeys(place.part for place in places.values()))

    candidates = []
    for part in parts:
        if reaches(part, values := _values_in(places, [], [part])):
            candidates.append((part, [part], values))
    best = max(parts, key=lambda part: trials[part])
    for label, chosen in (("first {} blocks", []), (f"{best} and first {{}} blocks", [best])):
        count = fewest(
            len(blocks),
            lambda n: reaches(label.format(n), _values_in(places, blocks[:n], chosen)),  # noqa: B023
        )
        if count is not None:
            kept = blocks[:count]
            candidates.append((label.format(count), [*chosen, *kept], _values_in(places, kept, chosen)))
        if candidates:
            break
    if not candidates:
        raise InputError(
            f"float16 is not accurate enough for this model: {max(trials.values()):.6f} instead of {least}, with all"
            " blocks in float32; export it in float32."
        )
    label, kept, values = min(candidates, key=lambda candidate: len(candidate[2]))
    return replace(plan, float32={**values, **plan.float32}, parts=kept, trials=trials, accuracy=trials[label])


def fewest(most: int, suffices: Callable[[int], bool]) -> int | None:
    """The least number up to `most` that suffices, by bisection, if more never suffice less; else nothing."""
    if not suffices(most):
        return None
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(middle) else (middle, high)
    return high


def _values_in(places: Mapping[str, Place], blocks: Collection[str], parts: Collection[str]) -> dict[str, str]:
    """The values in blocks, and in parts of all blocks, each with the reason to keep it in float32."""
    found = {}
    for name, place in places.items():
        if place.block in blocks:
            found[name] = f"for accuracy: {place.block}"
        elif place.part in parts:
            found[name] = f"for accuracy: {place.part}"
    return found


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
