"""What the parity page shows of photographs, of a file's own words and of the checkpoint, as plain data."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vit2onnx.parity.comparison import Comparison, Row, place_of
from vit2onnx.parity.metrics import severity, worst
from vit2onnx.reporting.evidence import by_area
from vit2onnx.reporting.pictures import thumbnail


def photograph_section(comparisons: Sequence[Comparison], files: Mapping[str, Path]) -> list[dict[str, Any]]:
    """Every photograph with its worst token in noise floors, in any run of any graph; the worst photograph first."""
    rows: dict[str, list[tuple[str, Row]]] = {}
    for comparison in comparisons:
        for row in comparison.rows_of("graph"):
            rows.setdefault(row["image"], []).append((comparison.export, row))
    photographs = []
    for image, own in rows.items():
        export, row = max(own, key=lambda one: severity(one[1]["floors"]))
        sizes = by_area((row["height"], row["width"]) for _, row in own)
        photographs.append(
            {
                "name": image,
                "thumbnail": thumbnail(files[image]) if image in files else None,
                "sizes": ", ".join(f"{height}x{width}" for height, width in sizes),
                "floors": worst([row["floors"]]),
                "place": f"{export}.onnx, {place_of(row, 'floors').removeprefix(image).strip()}",
                "max_abs": worst(row["max_abs"] for _, row in own),
            }
        )
    return sorted(photographs, key=lambda one: (-severity(one["floors"]), one["name"]))


def own_words_section(metadata: Mapping[str, str], operator_sets: Mapping[str, int]) -> list[tuple[str, str, bool]]:
    """What an ONNX file says of itself, from its metadata: what of, in which words, and whether to look twice."""
    structured = ("checkpoint", "licence", "outputs", "versions")
    checkpoint, licence, outputs, versions = (json.loads(metadata[name]) for name in structured)
    # Of images, of patches, and of texts, if the graph takes these.
    prepared, tokens, text = (json.loads(metadata.get(name, "null")) for name in ("preprocessing", "tokens", "text"))
    none = "this is no release" if metadata["weights"] == "own" else "none"
    lines = {
        "variant": f"{metadata['variant']}, recipe {metadata['export']}, made by vit2onnx {metadata['version']}",
        "weights": f"{metadata['weights']}: {checkpoint['identity']}",
        "checkpoint": f"{checkpoint['layout']} layout, SHA-256 {checkpoint['sha256']}",
        "licence": f"{licence['id']}, {licence['url']}, as {licence['file']}" if licence else "none: random numbers",
        **({"preprocessing": _steps(prepared)} if prepared else {}),
        **({"tokens": _tokens(tokens)} if tokens else {}),
        **({"text": "; ".join(f"{name}: {value}" for name, value in text.items())} if text else {}),
        **{f"output {name}": meaning for name, meaning in outputs.items()},
        "departure from the releases": metadata["departure"] or none,
        "operators": ", ".join(f"{domain or 'ONNX'} opset {version}" for domain, version in operator_sets.items()),
        "made with": _listed(f"{name} {version}" for name, version in versions.items()),
        "ledger": f"SHA-256 {metadata['ledger_sha256']}",
    }
    return [(name, text, name.startswith("departure") and text != none) for name, text in lines.items()]


def _steps(prepared: Mapping[str, Any]) -> str:
    steps = [prepared["input"], f"{prepared['interpolation']}, {'' if prepared['antialias'] else 'not '}antialiased"]
    if share := prepared.get("crop_pct"):
        steps.append(f"keeping its aspect ratio, as large as covers the input divided by {share:g}; the middle of it")
    steps += [f"times {prepared['scale']}", f"mean {_listed(prepared['mean'])}", f"std {_listed(prepared['std'])}"]
    return "; ".join(steps)


def _tokens(tokens: Mapping[str, Any]) -> str:
    start = f", patches from token {tokens['first_patch']} on" if "first_patch" in tokens else ""
    values = f", as {tokens['values']}" if "values" in tokens else ""
    return (
        f"{tokens['order']}; {tokens['registers']} registers{start}, "
        f"{tokens['patch_size']} x {tokens['patch_size']} pixels each{values}; grid: {tokens['grid']}"
    )


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(map(str, values))


def ledger_section(lines: Iterable[str]) -> dict[str, Any]:
    """How many tensors the checkpoint has, and which of them have no place in the model, or the model none in it."""
    rows = list(csv.DictReader(lines))
    # By tensor, because one may be split among targets.
    placed = {row["source"]: row["transform"] for row in rows if row["source"] and row["target"]}
    copied = [source for source, transform in placed.items() if transform == "copy"]
    ignored = {row["source"]: row["transform"].removeprefix("ignored: ") for row in rows if not row["target"]}
    restored = {row["target"]: row["transform"] for row in rows if not row["source"]}
    # What is left out and made anew under the same name.
    replaced = {source: target for source in ignored for target in restored if f".{source}".endswith(f".{target}")}
    return {
        "tensors": len({row["source"] for row in rows if row["source"]}),
        "copied": len(copied),
        "changed": len(placed) - len(copied),
        "ignored": [(name, why) for name, why in ignored.items() if name not in replaced],
        "restored": [(name, how) for name, how in restored.items() if name not in replaced.values()],
        "replaced": [
            (source, ignored[source], restored[target].removeprefix("restored: "))
            for source, target in replaced.items()
        ],
    }
