"""What became of faults that were planted on purpose, and of healthy models: whether the checks can be relied on."""

from collections.abc import Mapping
from typing import Any

from vit2onnx.parity.comparison import largest
from vit2onnx.reporting.page import ENVIRONMENT, counted, number
from vit2onnx.self_test.verdict import sentence_of

PLANTED_IN = {"weights": "weights", "model": "Equinox model", "graph": "ONNX graph", "preprocessing": "preprocessing"}


def self_test_section(result: Mapping[str, Any]) -> dict[str, Any]:
    """A self-test as pages show it; `result` is what stands in `self_test.json`."""
    faults, healthy = result["faults"], result["healthy"]
    caught = sum(fault["caught"] for fault in faults)
    # Those in preprocessing are caught and not placed, for no model sees them.
    placed = [fault for fault in faults if fault["model"]]
    named = sum(fault["named_stage"] == fault["stage"] for fault in placed)
    flagged = sum(bool(model["flagged"]) for model in healthy)
    limits = {**result["limits"], **result["preprocessing_limits"]}
    return {
        "passed": not result["wrong"],
        "caught": f"{caught} of {len(faults)}",
        "named": f"{named} of {len(placed)}",
        "sentence": sentence_of(result),
        "flagged": f"{flagged or 'none'} of {counted(len(healthy), 'healthy model')}",
        # What is wrong comes first.
        "faults": sorted(map(_row, faults), key=lambda fault: fault["passed"]),
        "tripped": [
            {"name": name, "limit": limits[name], "count": count, "nearest": result["nearest"].get(name)}
            for name, count in result["tripped"].items()
        ],
        "healthy": healthy,
        "worst": {name: largest(healthy, name) for name in ("floors", "floors_double", "stage_floors")},
        "flagged_preprocessing": result["healthy_preprocessing"]["flagged"],
    }


def _row(fault: Mapping[str, Any]) -> dict[str, Any]:
    measured, limit = fault["measured"], fault["limit"]
    return {
        **fault,
        "planted_in": PLANTED_IN.get(fault["planted_in"], fault["planted_in"]),
        "by": ", ".join(fault["tripped"]) or fault["caught_by"] or "",
        # A check that is passed or not has no limit but zero.
        "times": number(None if measured is None else measured / limit) if limit else "",
    }


def self_test_page(result: Mapping[str, Any]) -> str:
    """The self-test as a self-contained HTML page; the same input gives the same bytes."""
    template = ENVIRONMENT.get_template("self_test_page.html.j2")
    return template.render(title="Self-test", self_test=self_test_section(result))
