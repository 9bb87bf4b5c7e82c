"""What was measured as tables, for spreadsheets: the same rows as in JSON. Standard library only."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from typing import Any


def csv_of(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as comma-separated values, with all columns that any of them has; what is `None` is empty."""
    rows = list(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def flat_semantics(semantics: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """One row per question that was asked of a pair: neighbours, matches, principal components, the worst token."""
    for row in semantics:
        pair = {name: row[name] for name in ("subject", "other", "batch", "finite")}
        questions = [{"question": "neighbours", **figures} for figures in row["neighbours"]]
        questions += [{"question": "subspaces", **angle} for angle in row["subspaces"]]
        questions += [{"question": name, **row[name]} for name in ("matches", "worst_token") if row[name]]
        # A pair without answers is told, too.
        yield from (pair | question for question in questions or [{"question": ""}])
