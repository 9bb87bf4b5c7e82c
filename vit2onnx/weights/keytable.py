"""Key tables: which tensor goes where, as data, and the one engine that applies them.

A table says for every target where it comes from and by which transform. Applying it is strict: each target is
filled exactly once, each source is used exactly once or stands on the table's ignore list with a reason, shapes and
dtypes are checked before anything is read, and all faults are reported together.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import ml_dtypes  # noqa: F401  teaches numpy the name bfloat16
import numpy as np

from vit2onnx.errors import InputError, InternalError, first_few

Shape = tuple[int, ...]
# Losslessly widened to float32, which is what every artefact holds.
ACCEPTED_DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is read only when asked for; `dtype` is numpy's name for it.

    `offset` is where its bytes begin in its file, if they stand there as they are.
    """

    shape: Shape
    dtype: str
    read: Callable[[], np.ndarray]
    offset: int | None = None

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    @classmethod
    def in_file(cls, path: Path, offset: int, shape: Shape, dtype: str) -> "LazyTensor":
        """A tensor whose bytes stand in a file in C order."""

        def read() -> np.ndarray:
            # Not a memory map, because its pages count as this process's memory while it exists.
            return np.fromfile(path, dtype, count=int(np.prod(shape)), offset=offset).reshape(shape)

        return cls(shape, dtype, read, offset)


@dataclass(frozen=True)
class Transform:
    """How the sources of one target become its value, and back.

    `shapes` gives the source shapes for a target shape; `apply` makes the target of a given shape from the
    sources; `invert` makes the sources from the target, which is how synthetic files of every layout are written.
    Sources that other lines give come last, and `invert` leaves them out. If some of a source is not used,
    `fill_unused` puts noise there, of the shape of the last source. A transform that takes one `part` of its source
    says which, and of how many; it inverts to that part.
    """

    name: str
    shapes: Callable[[Shape], tuple[Shape, ...]]
    apply: Callable[[list[np.ndarray], Shape], np.ndarray]
    invert: Callable[[np.ndarray], list[np.ndarray]]
    fill_unused: Callable[[list[np.ndarray], np.ndarray], None] | None = None
    part: tuple[int, int] | None = None


def reshaping(name: str, source_shape: Callable[[Shape], Shape]) -> Transform:
    """A transform that changes nothing but the shape."""
    return Transform(
        name,
        shapes=lambda target: (source_shape(target),),
        apply=lambda sources, target: sources[0].reshape(target),
        invert=lambda value: [value.reshape(source_shape(value.shape))],
    )


def part_of(name: str, index: int, count: int = 3) -> Transform:
    """A transform that takes one of the equal parts of a fused tensor."""

    def take(sources: list[np.ndarray], target: Shape) -> np.ndarray:
        return sources[0][index * target[0] : (index + 1) * target[0]]

    def shapes(target: Shape) -> tuple[Shape, ...]:
        return ((count * target[0], *target[1:]),)

    return Transform(name, shapes, take, lambda value: [value], part=(index, count))


def chained(first: Transform, second: Transform) -> Transform:
    """A transform that applies two, one after the other."""

    def between(target: Shape) -> Shape:
        (shape,) = second.shapes(target)
        return shape

    return Transform(
        f"{first.name}, {second.name}",
        shapes=lambda target: first.shapes(between(target)),
        apply=lambda sources, target: second.apply([first.apply(sources, between(target))], target),
        invert=lambda value: first.invert(second.invert(value)[0]),
        part=first.part,
    )


COPY = reshaping("copy", lambda target: target)
DROP_FIRST_AXIS = reshaping("drop_first_axis", lambda target: (1, *target))
ADD_FIRST_AXIS = reshaping("add_first_axis", lambda target: target[1:])
ADD_PIXEL_AXES = reshaping("add_pixel_axes", lambda target: target[:-2])
DROP_PIXEL_AXES = reshaping("drop_pixel_axes", lambda target: (*target, 1, 1))


def transpose(matrix: np.ndarray) -> np.ndarray:
    """The transpose of a matrix, contiguous."""
    result = np.empty(matrix.shape[::-1], matrix.dtype)
    # As many rows at a time as fill a cache line of the result, because numpy by itself takes several times as long.
    for i in range(0, matrix.shape[0], 16):
        result[:, i : i + 16] = matrix[i : i + 16].T
    return result


TRANSPOSE = Transform(
    "transpose",
    shapes=lambda target: (target[::-1],),
    apply=lambda sources, target: transpose(sources[0]),
    invert=lambda value: [transpose(value)],
)
FUSE_QKV = Transform(
    "fuse_qkv",
    shapes=lambda target: ((target[0] // 3, *target[1:]),) * 3,
    apply=lambda sources, target: np.concatenate(sources),
    invert=lambda value: np.split(value, 3),
)
FUSE_QV = Transform(
    "fuse_qv_with_zero_key",
    shapes=lambda target: ((target[0] // 3,),) * 2,
    apply=lambda sources, target: np.concatenate([sources[0], np.zeros_like(sources[0]), sources[1]]),
    invert=lambda value: np.split(value, 3)[::2],
)


def restoring(what: str, value: Callable[[Shape], np.ndarray]) -> Transform:
    """A transform without sources: the target's value follows from its shape, and the ledger says how."""
    return Transform(f"restored: {what}", lambda target: (), lambda sources, target: value(target), lambda value: [])


@dataclass(frozen=True)
class Entry:
    """One line of a table. In the names `{i}` and `{j}` stand for numbers and `{path}` for anything."""

    target: str
    sources: tuple[str, ...]
    transform: Transform = COPY


@dataclass(frozen=True)
class Ignored:
    """A source that is not needed, and why. If it is the same tensor once more, `same_as` names the other.

    One that is `required` tells a model from others, and must be there. `dtypes` are those that it may have; one that
    cannot be a weight is left out of synthetic files. One that `counts` must have the values 0, 1, 2 and so on.
    """

    reason: str
    shape: Shape
    same_as: str | None = None
    required: bool = False
    dtypes: tuple[str, ...] = ACCEPTED_DTYPES
    counts: bool = False

    @property
    def is_weight(self) -> bool:
        """Whether it may have a dtype of weights."""
        return not set(self.dtypes).isdisjoint(ACCEPTED_DTYPES)


@dataclass(frozen=True)
class KeyTable:
    """All lines for one family and layout, and by name the sources that a file may hold but that are not needed."""

    layout: str
    entries: tuple[Entry, ...]
    ignored: Mapping[str, Ignored] = field(default_factory=dict)

    def source_pattern(self) -> re.Pattern[str]:
        """Matches every key that this layout can hold."""
        keys = [source for entry in self.entries for source in entry.sources] + list(self.ignored)
        return re.compile("|".join(re.sub(r"\(\?P<\w+>(.*?)\)", r"(?:\1)", _pattern(key)) for key in keys))


@dataclass(frozen=True)
class Assignment:
    """One target with the sources that fill it."""

    target: str
    shape: Shape
    transform: Transform
    sources: tuple[str, ...]


def _pattern(name: str) -> str:
    pattern = re.escape(name)
    for placeholder, meaning in (("i", r"\d+"), ("j", r"\d+"), ("path", r".+")):
        pattern = pattern.replace(re.escape(f"{{{placeholder}}}"), f"(?P<{placeholder}>{meaning})", 1)
    return pattern


def assign(
    table: KeyTable,
    targets: Mapping[str, Shape],
) -> list[Assignment]:
    """Find the line of every target, in the targets' order.

    Raises `InternalError` where the table itself is at fault: no line for a target, or more than one.
    """
    lines = [(entry, re.compile(_pattern(entry.target))) for entry in table.entries]
    assignments = []
    for target, shape in targets.items():
        found = [(entry, match) for entry, pattern in lines if (match := pattern.fullmatch(target))]
        if len(found) != 1:
            raise InternalError(f"{len(found)} lines of the {table.layout} table match {target} instead of one")
        entry, match = found[0]
        sources = tuple(source.format(**match.groupdict()) for source in entry.sources)
        assignments.append(Assignment(target, shape, entry.transform, sources))
    return assignments


def check(
    name: str,
    table: KeyTable,
    assignments: list[Assignment],
    sources: Mapping[str, LazyTensor],
) -> dict[str, Ignored]:
    """Check names, shapes and dtypes of all sources and return those to ignore.

    `name` says in messages what the sources are. Raises `InputError` with every fault of theirs, and `InternalError`
    where the table itself is at fault.
    """
    faults = []
    used: set[tuple[str, str]] = set()
    expected: list[tuple[str, Shape]] = []
    for assignment in assignments:
        shapes = assignment.transform.shapes(assignment.shape)
        for key, shape in zip(assignment.sources, shapes, strict=True):
            if (key, assignment.transform.name) in used:
                raise InternalError(f"{key} is used twice by {assignment.transform.name} instead of once")
            used.add((key, assignment.transform.name))
            expected.append((key, shape))
    ignored = {key: entry for key, entry in table.ignored.items() if key in sources}
    expected += [(key, entry.shape) for key, entry in table.ignored.items() if entry.required or key in sources]
    for key, shape in expected:
        accepted = table.ignored[key].dtypes if key in table.ignored else ACCEPTED_DTYPES
        if key not in sources:
            faults.append(f"tensor {key} {_format(shape)} is missing")
        elif sources[key].dtype not in accepted:
            faults.append(f"tensor {key} is {sources[key].dtype} instead of one of {', '.join(accepted)}")
        elif sources[key].shape != shape:
            faults.append(f"tensor {key} is {_format(sources[key].shape)} instead of {_format(shape)}")
    unknown = sorted(sources.keys() - {key for key, _ in used} - ignored.keys())
    faults += [f"tensor {key} {_format(sources[key].shape)} is not known" for key in unknown]
    raise_faults(name, faults)
    return ignored


def raise_faults(name: str, faults: list[str]) -> None:
    """Raise one `InputError` for all faults, the first few in its sentence and all of them in its notes."""
    if not faults:
        return
    # Once, though two lines may take the same tensor.
    faults = list(dict.fromkeys(faults))
    error = InputError(f"{name}: {first_few(faults, '; ')}{' (see the log)' if len(faults) > 3 else ''}.")
    for fault in faults:
        error.add_note(fault)
    raise error


def value_of(assignment: Assignment, sources: list[np.ndarray]) -> np.ndarray:
    """The target's value in float32, contiguous."""
    widened = [source.astype(np.float32, copy=False) for source in sources]
    return np.ascontiguousarray(assignment.transform.apply(widened, assignment.shape))


def _format(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "scalar"
