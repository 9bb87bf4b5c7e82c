"""Recognise the layout of a checkpoint."""

from collections.abc import Iterable

from vit2onnx.errors import InputError
from vit2onnx.spec.family import part
from vit2onnx.spec.variant import VariantSpec
from vit2onnx.weights.keytable import KeyTable


def tables_of(spec: VariantSpec) -> dict[str, KeyTable]:
    """The tables of a variant by the layout's name."""
    return {table.layout: table for table in part(spec.family, "layouts").tables(spec.architecture)}


def detect(name: str, spec: VariantSpec, keys: Iterable[str]) -> KeyTable:
    """The layout of a variant that fits most of the keys, and least besides.

    Raises `InputError`, naming `name`, if none fits even one key in three.
    """
    keys = list(keys)
    tables = tables_of(spec)

    def fit(table: KeyTable) -> tuple[int, int]:
        pattern = table.source_pattern()
        sources = {source for entry in table.entries for source in entry.sources}
        return sum(bool(pattern.fullmatch(key)) for key in keys), -len(sources)

    best = max(tables.values(), key=fit)
    if 3 * fit(best)[0] < max(len(keys), 1):
        raise InputError(
            f"{name} holds no {spec.family} checkpoint in a known layout ({', '.join(tables)}): its {len(keys)} tensors"
            f" are named like {', '.join(keys[:3]) or 'nothing'}; give the file as its publisher offers it."
        )
    return best
