"""How far what a runtime computes is from what the baseline computes, and what that means in words."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vit2onnx.errors import InternalError, printable
from vit2onnx.parity.metrics import token_cosines
from vit2onnx.runtimes.programs.protocol import RUNNING
from vit2onnx.runtimes.running import Run

Arrays = Mapping[str, np.ndarray]
# PARITY: rounding in single precision moves features of ViT-S by 3e-6 to 5e-6 between runtimes. What is larger than
# this share of the largest value, or of 1 if that is less, is no rounding of single precision.
EQUAL = 1e-5
# PARITY: bfloat16, float16 and TF32 keep each row's cosine above this. A fault of a runtime does not.
NEAR = 0.999
# The verdicts, the best first.
EQUAL_TO, NEAR_TO, WRONG, REFUSED, FAILED, ABSENT = "equal", "near", "wrong", "refused", "failed", "absent"
# How long a message in a cell may be.
LONGEST = 90


@dataclass(frozen=True)
class Difference:
    """The largest difference of outputs, also as a share of what counts as large, and the lowest cosine of a row.

    `fault` says what makes them incomparable: a shape, or numbers that are not finite.
    """

    largest: float = 0.0
    share: float = 0.0
    cosine: float = 1.0
    fault: str = ""


@dataclass(frozen=True)
class Row:
    """A graph in a runtime, as the table has it."""

    graph: str
    runtime: str
    verdict: str
    cell: str
    version: str = ""
    largest: float | None = None
    cosine: float | None = None
    operator: str = ""
    placement: str = ""
    seconds_to_open: float | None = None
    seconds_to_run: float | None = None


def row_of(graph: str, runtime: str, run: Run, wanted: Sequence[Arrays], inputs: Sequence[Arrays]) -> Row:
    """What became of a graph in a runtime; `wanted` are the baseline's outputs for these sets of inputs."""
    facts = run.facts
    common: dict[str, Any] = {
        "graph": graph,
        "runtime": runtime,
        "version": str(facts.get("version", "")),
        "operator": facts.get("operator") or "",
        "placement": in_words(facts.get("placement") or {}),
        **_seconds(facts),
    }
    if run.absent:
        return Row(verdict=ABSENT, cell=run.absent, **common)
    if not run.is_done or len(run.outputs) != len(wanted):
        verdict = FAILED if run.opens else REFUSED
        return Row(verdict=verdict, cell=_refusal(run, len(wanted)), **common)
    found = difference(run.outputs, wanted, inputs)
    if found.fault:
        return Row(verdict=WRONG, cell=f"wrong: {found.fault}", **common)
    verdict = EQUAL_TO if found.share <= EQUAL else NEAR_TO if found.cosine >= NEAR else WRONG
    cell = f"{'wrong: ' if verdict == WRONG else ''}{found.largest:.1e}"
    return Row(verdict=verdict, cell=cell, largest=found.largest, cosine=found.cosine, **common)


def difference(found: Sequence[Arrays], wanted: Sequence[Arrays], inputs: Sequence[Arrays]) -> Difference:
    """The difference of all outputs for all sets of inputs. Rows of padding are left out.

    Raises `InternalError` if there is nothing to compare.
    """
    worst = Difference()
    compared = 0
    for made, expected, given in zip(found, wanted, inputs, strict=True):
        for name, values in expected.items():
            if name not in made:
                return Difference(fault=f"no {name}")
            one = _difference(name, made[name], values, given.get("pixel_attention_mask"))
            if one.fault:
                return one
            compared += values.size
            worst = Difference(
                max(worst.largest, one.largest), max(worst.share, one.share), min(worst.cosine, one.cosine)
            )
    if not compared:
        raise InternalError("no output was compared, although a runtime has run")
    return worst


def _difference(name: str, found: np.ndarray, wanted: np.ndarray, mask: np.ndarray | None) -> Difference:
    if found.shape != wanted.shape:
        return Difference(fault=f"{name} is {list(found.shape)} instead of {list(wanted.shape)}")
    ours, theirs = (array.astype(np.float64) for array in (wanted, found))
    # Rows behind the mask mean nothing.
    if mask is not None and ours.shape[:2] == mask.shape and ours.ndim == 3:
        ours, theirs = ours[mask == 1], theirs[mask == 1]
    if not np.isfinite(theirs).all():
        return Difference(fault=f"{name} is not finite")
    largest = float(np.abs(theirs - ours).max(initial=0.0))
    cosine = float(token_cosines(ours, theirs).min(initial=1.0))
    return Difference(largest, largest / max(1.0, float(np.abs(ours).max(initial=0.0))), cosine)


def _refusal(run: Run, sets: int) -> str:
    """Why a graph did not run to its end."""
    operator, step = run.facts.get("operator"), run.step
    opened = "opens, then " if run.opens else ""
    if operator and not (run.opens and run.outputs):
        return f"{'opens; ' if opened else ''}not supported: {operator}"
    if run.outputs:
        opened = f"runs {len(run.outputs)} of {sets} sizes, then "
    if message := str(run.facts.get("message", "")):
        return f"{opened}{_first_line(message)}"
    during = f" while {step}" if step != RUNNING else ""
    return f"{opened}{run.ended or 'ended without outputs'}{during}"


def _first_line(message: str) -> str:
    """What matters of a message: without its kind and without paths, and short."""
    said = message.removeprefix("RefusedError: ").partition("Stack backtrace")[0]
    said = re.sub(r"Exception from \S+:|[\w.+-]*(/[\w.+-]+)+/", "", said)
    text = printable(" ".join(said.split()))
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"


def in_words(placement: Mapping[str, Mapping[str, int]]) -> str:
    """How many nodes are where; and which, of those that are not where most are."""
    totals = {where: sum(counts.values()) for where, counts in placement.items()}
    ordered = sorted(totals, key=lambda where: -totals[where])
    words = [
        f"{totals[where]} {where.removesuffix('ExecutionProvider')}"
        + (f" ({', '.join(sorted(placement[where]))})" if where != ordered[0] else "")
        for where in ordered
    ]
    return "; ".join(words)


def _seconds(facts: Mapping[str, Any]) -> dict[str, float | None]:
    """How long a graph took to open, and to run on the last set of inputs, of which the first calls are the slowest."""
    inner = facts.get("seconds_in_host") or {}
    run = inner.get("run") or facts.get("seconds_to_run") or [None]
    opened = inner.get("open", facts.get("seconds_to_open"))
    return {"seconds_to_open": _finite(opened), "seconds_to_run": _finite(run[-1])}


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
