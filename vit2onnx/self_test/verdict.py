"""Pass or fail of the self-test. Standard library only."""

from collections.abc import Mapping
from typing import Any

from vit2onnx.errors import first_few
from vit2onnx.parity.finding import Finding


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


def sentence_of(result: Mapping[str, Any]) -> str:
    """What became of all faults and healthy models, after the first three things that are wrong with the checks."""
    wrong, faults, healthy = result["wrong"], result["faults"], result["healthy"]
    # Those in preprocessing are caught and not placed, for no model sees them.
    placed = [fault for fault in faults if fault["model"]]
    named = sum(fault["named_stage"] == fault["stage"] for fault in placed)
    of_stages = f", named the stage of {named} of {len(placed)} in weights, model and graph," if placed else ""
    return (
        (first_few(wrong, "; ") + ". " if wrong else "")
        + f"The checks caught {sum(fault['caught'] for fault in faults)} of {_counted(len(faults), 'planted fault')}"
        f"{of_stages} and flagged {sum(bool(model['flagged']) for model in healthy) or 'none'} of"
        f" {_counted(len(healthy), 'healthy model')}."
    )


def finding_of(result: Mapping[str, Any]) -> Finding:
    """What the self-test says of every verdict that the same checks give."""
    return Finding("self_test", "", float(len(result["wrong"])), 0.0, detail=sentence_of(result))


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
