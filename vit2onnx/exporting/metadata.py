"""What an ONNX file says about itself."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import vit2onnx
from vit2onnx.onnx_file import LICENCE_FILE, passport_beside
from vit2onnx.provenance import versions
from vit2onnx.spec.interface import Port
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import Preprocessing, VariantSpec


def metadata_of(spec: VariantSpec, recipe: Recipe, checkpoint: Mapping[str, Any], ledger_sha256: str) -> dict[str, str]:
    """The file's metadata: plain text where one value is enough, JSON otherwise.

    `checkpoint` is the content of `checkpoint.json`.
    """
    made_with = versions(["jax", "equinox", "jax2onnx", "onnx", "onnx-ir"])
    of_weights = statements_on_weights(spec, checkpoint, ledger_sha256)
    return statements_of(spec, recipe) | of_weights | {"versions": json.dumps(made_with)}


def statements_on_weights(spec: VariantSpec, checkpoint: Mapping[str, Any], ledger_sha256: str) -> dict[str, str]:
    """The part of the metadata that follows from the checkpoint."""
    licence = {"id": spec.licence.id, "url": spec.licence.url, "file": LICENCE_FILE} if spec.licence else None
    keys = ("origin", "layout", "sha256", "official_file", "identity", "told")
    return {
        "weights": checkpoint["weights"],
        "ledger_sha256": ledger_sha256,
        "checkpoint": json.dumps({key: checkpoint[key] for key in keys if key in checkpoint}),
        # Random numbers are nobody's work.
        "licence": json.dumps(licence if checkpoint["weights"] != "synthetic" else None),
    }


def statements_of(spec: VariantSpec, recipe: Recipe) -> dict[str, str]:
    """The part of the metadata that follows from variant and recipe."""
    interface = spec.interface_of(recipe)
    image = next((port for port in interface.inputs if port.name == "pixel_values"), None)
    structured = {"preprocessing": _preprocessing(image, spec.preprocessing)} if image else {}
    if interface.prepares:
        # What the graph does itself, so that nobody does it once more.
        structured["preparation"] = _preprocessing(interface.inputs[0], spec.preprocessing)
    structured |= {**interface.facts, "outputs": {port.name: port.meaning for port in interface.outputs}}
    plain = {
        "version": vit2onnx.__version__,
        "variant": spec.name,
        "family": spec.family,
        "export": recipe.name,
        "precision": recipe.precision,
        "operators": recipe.operators,
        "departure": spec.departure,
        "passport": passport_beside(Path(f"{recipe.name}.onnx")).name,
    }
    return plain | {key: json.dumps(value) for key, value in structured.items()}


def _preprocessing(image: Port, prepared: Preprocessing) -> dict[str, Any]:
    """How a photograph becomes an input."""
    return {
        "input": f"{image.dtype} RGB, [{', '.join(map(str, image.axes))}]",
        "interpolation": prepared.interpolation,
        "antialias": True,
        **({"crop_pct": prepared.crop_pct} if prepared.crop_pct else {}),
        "scale": "1/255",
        "mean": prepared.mean,
        "std": prepared.std,
    }
