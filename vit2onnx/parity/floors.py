"""The unit in which rounding is judged: what single precision does to a correct implementation."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

# PARITY: a floor is at least one unit in the last place of the scale, of the token or of all tokens. Otherwise a value
# that happens to be exact would have no floor, and any difference from it would be infinitely many floors.
UNIT = 2.0**-23
# PARITY: how many times as far one implementation may round as another at a token and still make the token's floor.
MOST_APART = 5
# Unit roundoff of double precision, as a share of that of single; and by the precision of a graph.
DOUBLE_TO_SINGLE = 2.0**-29
ROUNDOFF = {"float32": 1.0, "float16": 2.0**13, "int8": 2.0**16}


@dataclass(frozen=True)
class InFloors:
    """The error of the worst token in noise floors (`None` if it is not finite), and the index of that token."""

    floors: float | None
    floors_token: int


def noise_floors(truth: np.ndarray, errors: Iterable[np.ndarray]) -> np.ndarray:
    """The noise floor of every token [tokens]: the largest root mean square of the errors, there or over all tokens.

    `truth` [tokens, channels] is in double precision; each of `errors` is what single precision does to one
    implementation, which is the difference from its own double precision. Each counts as one unit in the last place
    at least, of the truth's own root mean square, of the token or of all. The largest may be at most `MOST_APART` times
    the smallest, so that no implementation can make a floor alone.
    """
    unit = _of_tokens(truth * UNIT)
    own = [np.maximum(_of_tokens(values), unit) for values in errors] or [unit]
    most, least = np.max(own, axis=0), np.min(own, axis=0)
    floors: np.ndarray = np.where(np.isfinite(most), np.minimum(most, MOST_APART * least), most)
    return floors


def _of_tokens(errors: np.ndarray) -> np.ndarray:
    """The root mean square of every token, or of all tokens where that is more."""
    return np.maximum(token_rms(errors), rms(errors))


def in_floors(a: np.ndarray, b: np.ndarray, floors: np.ndarray) -> InFloors:
    """The worst of tokens [tokens, channels]: its root mean square difference as a multiple of its noise floor."""
    multiples = token_floors(a, b, floors)
    worst = int(np.argmax(np.where(np.isfinite(multiples), multiples, np.inf)))
    found = float(multiples[worst])
    return InFloors(found if math.isfinite(found) else None, worst)


def token_floors(a: np.ndarray, b: np.ndarray, floors: np.ndarray) -> np.ndarray:
    """The root mean square difference of every token [tokens], as a multiple of the token's noise floor."""
    of_tokens = token_rms(error(a, b))
    with np.errstate(divide="ignore", invalid="ignore"):
        # Where the truth is zero there is no unit, and any error is beyond all multiples.
        multiples: np.ndarray = np.where(of_tokens == 0, 0.0, of_tokens / floors)
    # An infinite floor would make every error zero floors, and a negative one less than that.
    return np.where(np.isfinite(floors) & (floors >= 0), multiples, np.nan)


def error(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How far one array is from another, in double precision."""
    with np.errstate(invalid="ignore"):
        return a.astype(np.float64) - b


def token_rms(values: np.ndarray) -> np.ndarray:
    """The root mean square of every token [tokens, channels]."""
    with np.errstate(invalid="ignore", over="ignore"):
        found: np.ndarray = np.sqrt(np.mean(np.square(values, dtype=np.float64), axis=1))
    return found


def rms(values: np.ndarray) -> float:
    """The root mean square of all elements."""
    with np.errstate(invalid="ignore", over="ignore"):
        return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))
