"""Where drift begins: every stage of all implementations side by side, measured and not judged."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from vit2onnx.parity.divergence import StageComparison
from vit2onnx.parity.floors import DOUBLE_TO_SINGLE, UNIT, error, rms
from vit2onnx.parity.metrics import difference, finite
from vit2onnx.spec.case import MODES
from vit2onnx.spec.subject import DOUBLE, TRUTH

# Arrays [tokens, channels] of an implementation by `{dtype}/{mode}/{stage}`, read when they are asked for.
Stages = Mapping[str, np.ndarray]

FIGURES = ("max_abs", "rms", "cosine", "token", "channel")


def stage_names(stages: Iterable[str]) -> list[str]:
    """The full names of all stages of an implementation, in the order in which they are computed."""
    start = "float32/accumulated/"
    return [key.removeprefix(start) for key in stages if key.startswith(start)]


def compare_stages(implementations: Mapping[str, Stages]) -> Iterator[dict[str, Any]]:
    """Compare all implementations with each other and with the truth, at every stage in turn, in both modes.

    The truth is the first one's double precision; others that have any are compared with it in that as well, as
    `{name}_float64`. In injected mode the input of a layer is given, and so not compared. Raises `ValueError` if one
    lacks a stage or has another shape of it.

    In a row, `scale` is the root mean square of the stage's true values, and `floor` that of the first implementation's
    own error in single precision. `floors` is the root mean square of the difference in noise floors; between two in
    double precision, in those that double precision has. A figure of something that is not finite is `None`.
    """
    first, *rest = implementations
    names = stage_names(implementations[first])
    for name in rest:
        if differing := sorted(set(stage_names(implementations[name])) ^ set(names)):
            raise ValueError(f"only one of {first} and {name} has the stages {', '.join(differing)}")
    for mode in MODES:
        for stage in names:
            if mode == "accumulated" or not stage.endswith(".input"):
                yield from _compare_stage(implementations, mode, stage)


def _compare_stage(implementations: Mapping[str, Stages], mode: str, stage: str) -> Iterator[dict[str, Any]]:
    first, *rest = implementations
    single = {name: stages[f"float32/{mode}/{stage}"] for name, stages in implementations.items()}
    key = f"float64/{mode}/{stage}"
    truth = implementations[first][key]
    double = {name: implementations[name][key] for name in rest if key in implementations[name]}
    scale = rms(truth)
    # PARITY: over all tokens, and of the reference alone, so that a model that rounds much further shows as well.
    floor = max(rms(error(single[first], truth)), UNIT * scale)

    pairs = [(name, TRUTH, values, truth) for name, values in single.items()]
    names = list(single)
    pairs += [(b, a, single[b], single[a]) for i, b in enumerate(names) for a in reversed(names[:i])]
    pairs += [(f"{name}{DOUBLE}", TRUTH, values, truth) for name, values in double.items()]
    for subject, other, a, b in pairs:
        figures = asdict(difference(a, b))
        unit = DOUBLE_TO_SINGLE * floor if subject.endswith(DOUBLE) else floor
        yield {"mode": mode, "stage": stage, "subject": subject, "other": other} | {
            **{name: figures[name] for name in FIGURES},
            **{"scale": finite(scale), "floor": finite(floor), "floors": _multiple(figures["rms"], unit)},
        }


def _multiple(value: float | None, unit: float) -> float | None:
    """A multiple of a unit; `None` if it is not finite, as where the truth is zero and the value is not."""
    if value is None or not math.isfinite(unit):
        return None
    return value / unit if unit else (None if value else 0.0)


def compare_implementations(about: Mapping[str, str], implementations: Mapping[str, Stages]) -> StageComparison:
    """The comparison of all stages, of which nothing is judged: `about` it, and all rows."""
    return StageComparison(**about, implementations=list(implementations), stages=list(compare_stages(implementations)))
