"""What the page shows of a graph in float16: how far its values are from the largest number of that precision."""

from collections.abc import Mapping
from typing import Any

Plain = Mapping[str, Any]


def certificate_section(plan: Plain) -> dict[str, Any]:
    """A row for each block with the bound on each of its parts, and what was seen there; what stays in float32, why."""
    parts = list(dict.fromkeys(row["part"] for row in plan["blocks"]))
    blocks: dict[str, dict[str, Plain]] = {}
    for row in plan["blocks"]:
        blocks.setdefault(row["block"], {})[row["part"]] = row
    return {
        "parts": parts,
        "rows": [{"block": name, "cells": [of.get(part) for part in parts]} for name, of in blocks.items()],
        "limit": plan["limit"],
        "room": plan["room"],
        "cleared": plan["cleared"],
        "measured": plan["measured"],
        "float32": plan["float32"],
        "for_accuracy": plan["parts"],
        "as_planned": plan["trials"]["as planned"],
        "accuracy": plan["accuracy"],
    }
