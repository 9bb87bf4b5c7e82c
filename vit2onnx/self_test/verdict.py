"""Pass or fail of the self-test. Standard library only."""

from collections.abc import Mapping, Sequence
from typing import Any


def judge_self_test(result: Mapping[str, Any]) -> list[str]:
    """What is wrong with the checks: faults that pass or are misplaced, and healthy models that are flagged."""
    sentences = []
    if not result["faults"] or not result["healthy"]:
        sentences.append("nothing was tested")
    for row in result["faults"]:
        what = f"{row['fault']} ({row['planted_in']}{', ' + row['model'] if row['model'] else ''})"
        if not row["caught"]:
            sentences.append(f"{what} passes")
        elif row["not_told"]:
            precision = " and ".join(row["not_told"])
            caught_by = ", ".join(row["tripped"])
            sentences.append(f"{what} does not show in outputs in {precision} precision; only {caught_by} caught it")
        elif not row["passed"]:
            where = f"at {row['named_stage']}, {row['between']}," if row["named_stage"] else "nowhere"
            sentences.append(f"{what} is placed {where} instead of at {row['stage']}")
    for row in result["healthy"]:
        if row["flagged"]:
            sentences.append(f"healthy {row['model']}, seed {row['seed']}, is flagged: {row['flagged'][0]}")
    if flagged := result["healthy_preprocessing"]["flagged"]:
        sentences.append(f"the preprocessing is flagged without a fault: {flagged[0]}")
    sentences += [f"no fault is beyond {name}" for name, count in result["tripped"].items() if not count]
    return sentences


def in_short(faults: Sequence[str]) -> str:
    """The first three, and how many there are besides."""
    more = [f"and {len(faults) - 3} more"] if len(faults) > 3 else []
    return "; ".join([*faults[:3], *more])
