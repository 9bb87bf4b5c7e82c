"""What the page shows of a packed graph: whether the images of a call are kept apart."""

from typing import Any

from vit2onnx.packing.probes import EXACT, EXCHANGED, ROUNDED
from vit2onnx.parity.packing import PackingComparison, figures_of
from vit2onnx.spec.subject import TRUTH

# What other checks of packed models ask for.
USUAL_COSINE = 0.99
# The probes in the order of the table, with their names for readers.
PROBES = {
    "reference": "against the original",
    TRUTH: "against double precision",
    **{name: name for name in (*ROUNDED, *EXACT)},
    EXCHANGED: f"{EXCHANGED} (a fault made on purpose)",
}


def packing_section(comparison: PackingComparison) -> dict[str, Any]:
    """Probes, one row each, every image of every probe, and the fault that the usual check lets through."""
    exchanged = comparison.of(EXCHANGED)
    means = [row["mean_cosine"] for row in exchanged if row["mean_cosine"] is not None]
    refused = {
        row["wrong"]: all(x["refused"] for x in comparison.refusals if x["wrong"] == row["wrong"])
        for row in comparison.refusals
    }
    return {
        "probes": [_probe(comparison, probe, title) for probe, title in PROBES.items()],
        "rows": comparison.rows,
        "images": len(comparison.images),
        "exchanged": max(means, default=None),
        "let_through": sum(mean >= USUAL_COSINE for mean in means),
        "non_square": len(exchanged),
        "usual": USUAL_COSINE,
        "refused": refused,
        "levels": len({row["level"] for row in comparison.refusals}),
    }


def _probe(comparison: PackingComparison, probe: str, title: str) -> dict[str, Any]:
    rows = comparison.of(probe)
    return {"title": title, "images": len(rows), "is_fault": probe == EXCHANGED} | figures_of(rows)
