"""The layouts in which checkpoints are published: one key table per family and layout."""

from collections.abc import Callable, Iterable
from typing import Any

from vit2onnx.errors import InputError
from vit2onnx.families.dinov3_convnext import layouts as dinov3_convnext
from vit2onnx.families.dinov3_vit import layouts as dinov3_vit
from vit2onnx.spec.variant import VariantSpec
from vit2onnx.weights.keytable import KeyTable

TABLES: dict[str, Callable[[Any], tuple[KeyTable, ...]]] = {
    "dinov3_vit": dinov3_vit.tables,
    "dinov3_convnext": dinov3_convnext.tables,
}


def tables_of(spec: VariantSpec) -> dict[str, KeyTable]:
    """The tables of a variant by the layout's name."""
    return {table.layout: table for table in TABLES[spec.family](spec.architecture)}


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
