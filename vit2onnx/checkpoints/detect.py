"""Recognise the layout of a checkpoint, and check that every tensor has its place in it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from shlex import quote

from vit2onnx.checkpoints.backbone import patterns_for
from vit2onnx.checkpoints.reading import Opened
from vit2onnx.errors import InputError
from vit2onnx.spec.family import part
from vit2onnx.spec.variant import VariantSpec
from vit2onnx.weights.archive import archive_skeleton
from vit2onnx.weights.keytable import Assignment, Ignored, KeyTable, assign, check
from vit2onnx.weights.leaves import array_shapes


@dataclass(frozen=True)
class Fit:
    """How a checkpoint fills the archive: by which table, each target from which sources, and sources to ignore."""

    table: KeyTable
    assignments: list[Assignment]
    ignored: Mapping[str, Ignored]


def tables_of(spec: VariantSpec) -> dict[str, KeyTable]:
    """The tables of a variant by the layout's name."""
    return {table.layout: table for table in part(spec.family, "layouts").tables(spec.architecture)}


def detect(name: str, spec: VariantSpec, keys: Iterable[str]) -> KeyTable:
    """The layout of a variant that knows most of the keys, and among such layouts the one with the fewest others.

    Raises `InputError`, naming `name`, if none fits even one key in three.
    """
    keys = list(keys)
    tables = tables_of(spec)
    if spec.own:
        if spec.own.layout not in tables:
            raise InputError(
                f"{name} is in {spec.own.layout} layout, which cannot hold what the variant file says; correct"
                " its architecture."
            )
        return tables[spec.own.layout]

    def fit(table: KeyTable) -> tuple[int, int]:
        pattern = table.source_pattern()
        sources = {source for entry in table.entries for source in entry.sources}
        return sum(bool(pattern.fullmatch(key)) for key in keys), -len(sources)

    best = max(tables.values(), key=fit)
    if 3 * fit(best)[0] < max(len(keys), 1):
        raise InputError(
            f"{name} holds no {spec.family} checkpoint in a known layout ({', '.join(tables)}): its {len(keys)} tensors"
            f" are named like {', '.join(keys[:3]) or 'nothing'}; give the file as its publisher offers it, or run"
            " make run CHECKPOINT=… if it is your own."
        )
    return best


def fitted(spec: VariantSpec, opened: Opened) -> Fit:
    """How a checkpoint fills a variant. Raises `InputError` that lists all missing, unknown or misshapen tensors."""
    name = spec.own.path if spec.own else str(opened.path)
    table = detect(name, spec, opened.tensors)
    assignments = assign(table, array_shapes(archive_skeleton(spec)))
    if spec.own:
        _check_rest(name, spec.name, table, opened)
    what = f"{name} is no complete {spec.name} in {table.layout} layout"
    return Fit(table, assignments, check(what, table, assignments, opened.tensors))


def _check_rest(path: str, name: str, table: KeyTable, opened: Opened) -> None:
    """Raise `InputError` for tensors of an own checkpoint that its layout lacks and the user does not ignore."""
    known = table.source_pattern()
    kept = [opened.name(key) for key in opened.tensors if known.fullmatch(key)]
    over = [*(opened.name(key) for key in opened.tensors if not known.fullmatch(key)), *opened.beside]
    eaten = [name for name, key in opened.inside.items() if known.fullmatch(key)]
    if eaten:
        pattern = opened.left_out[eaten[0]][0]
        raise InputError(
            f"{path}: the pattern {pattern} to ignore leaves out tensors of the backbone, such as {eaten[0]}; write one"
            " that does not fit them."
        )
    if over:
        patterns = patterns_for(over, kept)
        text = ", ".join(f'"{pattern}"' for pattern in patterns)
        raise InputError(
            f"{path} holds {len(over)} tensors besides the backbone, such as {', '.join(over[:3])}, which the ONNX file"
            f" would not have. If that is right, leave them out with IGNORE={quote(' '.join(patterns))} (make),"
            f" with --ignore and these patterns (describe), or in the config: own: {{{name}: {{path: …, ignore:"
            f" [{text}]}}}}."
        )
