"""Decide which values of a graph half precision may hold.

What the bound for all inputs clears is in half precision. What it does not clear counts as seen on photographs, with
room for others. The rest stays in single precision: it is `wide`. If the model is then not accurate enough, more of it
stays there: the fewest of its parts that suffice, by trial.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import onnx_ir as ir

from vit2onnx.errors import InputError
from vit2onnx.precision.bounds import LARGEST_HALF
from vit2onnx.precision.kinds import kinds_of
from vit2onnx.precision.parts import Part

# Values may become so many times as large as those that were seen.
ROOM = 8.0


@dataclass(frozen=True)
class Plan:
    """What stays in single precision, as data.

    `wide` has the reason for each value, by name. `measured` has what only measurements clear: bound and measurement.
    `cleared` counts the values that the bound clears. `parts` are those that stay in single precision for accuracy, of
    which `values` are the values; `trials` has the accuracy of all that was tried.
    """

    wide: Mapping[str, str]
    measured: Mapping[str, tuple[float, float]]
    cleared: int
    parts: Sequence[str] = ()
    values: Collection[str] = ()
    trials: Mapping[str, float] = field(default_factory=dict)

    @property
    def all_wide(self) -> list[str]:
        """The names of all values that half precision may not hold, in order."""
        return sorted({*self.wide, *self.values})

    def as_json(self) -> dict[str, Any]:
        """The plan as data; a bound that is infinite is nothing."""
        return {
            "limit": LARGEST_HALF,
            "room": ROOM,
            "cleared": self.cleared,
            "measured": {name: [_finite(bound), seen] for name, (bound, seen) in sorted(self.measured.items())},
            "wide": dict(sorted(self.wide.items())),
            "parts": list(self.parts),
            "trials": dict(self.trials),
        }


def plan(bounds: Mapping[str, float], largest: Mapping[str, float]) -> Plan:
    """What the bounds of values, and the `largest` that were seen of them, allow.

    What is inside a node, such as `{node}/logits`, was not seen.
    """
    wide, measured = {}, {}
    for name, bound in bounds.items():
        # Also what is no number.
        if bound <= LARGEST_HALF:
            continue
        seen = largest.get(name, math.nan)
        if seen * ROOM < LARGEST_HALF:
            measured[name] = (bound, seen)
        else:
            wide[name] = f"bound {bound:.2g}, {'not measured' if math.isnan(seen) else f'measured {seen:.2g}'}"
    return Plan(wide, measured, len(bounds) - len(wide) - len(measured))


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
                root = math.sqrt(sizes[-1] / node.attributes["q_num_heads"].value)
                found[f"{node.name}/logits"] = largest[query.name] * largest[key.name] * root
    return found


def refined(found: Plan, parts: Mapping[str, Part], accuracy: Callable[[Collection[str]], float], least: float) -> Plan:
    """A plan by which the model is accurate enough: `accuracy` of the names of wide values is at least `least`.

    Besides what the plan keeps in single precision, that is nothing if it suffices; else the first blocks, as few as
    suffice, or all values of one kind, whichever are fewer values; else the first blocks and the best of the kinds.
    Raises `InputError` if nothing suffices.
    """
    trials: dict[str, float] = {}

    def reaches(label: str, values: Collection[str]) -> bool:
        if label not in trials:
            trials[label] = accuracy(sorted({*found.wide, *values}))
        return trials[label] >= least

    if reaches("as planned", ()):
        return replace(found, trials=trials)
    blocks = list(dict.fromkeys(part.block for part in parts.values()))
    kinds = list(dict.fromkeys(part.kind for part in parts.values()))

    def of_kinds(*chosen: str) -> list[str]:
        return [name for name, part in parts.items() if part.kind in chosen]

    def of_first(count: int, *chosen: str) -> list[str]:
        first = set(blocks[:count])
        return [name for name, part in parts.items() if part.block in first or part.kind in chosen]

    candidates = [([kind], of_kinds(kind)) for kind in kinds if reaches(kind, of_kinds(kind))]
    best = max(kinds, key=lambda kind: trials[kind])
    for label, chosen in (("", ()), (f"{best} and ", (best,))):
        count = fewest(len(blocks), lambda n: reaches(f"{label}first {n} blocks", of_first(n, *chosen)))  # noqa: B023
        if count is not None:
            candidates.append(([*chosen, *blocks[:count]], of_first(count, *chosen)))
        if candidates:
            break
    if not candidates:
        raise InputError(
            f"Half precision is not accurate enough for this model: {max(trials.values()):.6f} instead of {least}, with"
            " all blocks in single precision; export it in float32."
        )
    chosen_parts, values = min(candidates, key=lambda candidate: len(candidate[1]))
    return replace(found, parts=chosen_parts, values=tuple(values), trials=trials)


def fewest(most: int, suffices: Callable[[int], bool]) -> int | None:
    """The least number up to `most` that suffices, by bisection, if more never suffice less; else nothing."""
    if not suffices(most):
        return None
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(middle) else (middle, high)
    return high


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
