"""Comparisons made by hand: a healthy one, one beyond a limit and one with values that are no numbers."""

import json
from collections.abc import Callable
from copy import deepcopy
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

CONFIG = Path(__file__).parents[2] / "config" / "config.yaml"
SIZES = [(48, 112), (224, 224)]
# Distances of everything from float64 and of the graph from the reference; the limit of the latter is 1e-5.
OWN, OURS, APART = 4e-6, 2e-6, 5e-6

Comparison = dict[str, Any]


def rows(subject: str, other: str, max_abs: float, batch: int = 1) -> list[dict[str, Any]]:
    """Differences of two photographs at two sizes in two groups; the largest is in a patch of the first."""
    found = []
    for image, (height, width), group in product(("cat", "tree"), SIZES, ("cls", "patches")):
        worst = (image, height, group) == ("cat", 48, "patches")
        row = {"subject": subject, "other": other, "image": image, "height": height, "width": width, "batch": batch}
        size = max_abs * (1 if worst else 0.5)
        row |= {"group": group, "count": 100, "max_abs": size, "rms": size, "p99_abs": 0.0, "mean_abs": 0.0}
        row |= {"cosine": 1 - (2e-13 if worst else 1e-13), "token": 9 if group == "patches" else 0}
        row |= {"channel": 7, "scale": 1.0}
        found.append(row | ({"row": 1, "column": 2} if group == "patches" else {}))
    return found


def distribution(subject: str, other: str, batch: int = 1) -> dict[str, Any]:
    quantiles = {"p50": 1e-6, "p90": 2e-6, "p99": 3e-6, "p999": 4e-6, "max": 5e-6, "median_image": 4.5e-6}
    return {
        "subject": subject,
        "other": other,
        "batch": batch,
        "images": 2,
        "count": 800,
        "worst_image": "cat",
    } | quantiles


def semantics(subject: str, other: str) -> dict[str, Any]:
    """What people do with features: a few ties are swapped."""
    figures = {"queries": 2048, "gallery": 1536, "k": 10, "top_1": 0.9995, "top_k": 0.9999, "swapped": 0.001}
    figures |= {"margin": 5e-8, "change": 1e-7, "gap": 1e-3, "closest": 2e-8}
    place = {"image": "cat", "height": 48, "width": 112, "token": 9}
    return {
        **{"subject": subject, "other": other, "batch": 1, "finite": True},
        "neighbours": [{"what": what} | figures for what in ("cls", "patches_mean", "regions", "patches")],
        "matches": {
            **{"pairs_of_images": 6, "queries": 6144, "agreement": 0.999, "margin": 3e-8},
            **{"mutual": 168, "mutual_agreement": 1.0},
        },
        "subspaces": [{"components": k, "degrees": 1e-5, "gap": 0.034} for k in (3, 16)],
        "worst_token": {"degrees": 3e-5, "distance": 1e-13} | place,
    }


@pytest.fixture
def limits() -> dict[str, dict[str, Any]]:
    return yaml.safe_load(CONFIG.read_text())["parity"]["limits"]


@pytest.fixture
def healthy() -> Comparison:
    """A comparison that passes."""
    runs = [(run, batch) for run in ("onnx", "onnx_unoptimized") for batch in (1, 3)]
    return {
        "variant": "dinov3_tiny",
        "export": "dynamic",
        "graph_sha256": "0123abcd",
        "references": ["transformers"],
        "runtime": {"onnxruntime": "1.0", "provider": "CPUExecutionProvider", "threads": 2},
        "checks": [{"name": "finite", "passed": True, "detail": "every output of every run"}],
        "differences": [
            *rows("equinox_float64", "truth", 1e-15),
            *rows("equinox", "truth", OURS),
            *rows("equinox", "transformers", APART),
            *rows("transformers", "truth", OWN),
            *(row for run, batch in runs for row in rows(run, "truth", OURS, batch)),
            *(row for run, batch in runs for row in rows(run, "transformers", APART, batch)),
        ],
        "known_differences": [],
        "distributions": [
            distribution("transformers", "truth"),
            distribution("equinox", "truth"),
            *(distribution(run, "transformers", batch) for run, batch in runs),
        ],
        "semantics": [
            semantics("transformers", "truth"),
            *(semantics(run, "transformers") for run in ("onnx", "onnx_unoptimized")),
        ],
    }


@pytest.fixture
def beyond(healthy: Comparison) -> Comparison:
    """A comparison that fails by one limit: an element of CLS is too far from the reference's, in one run only."""
    broken = deepcopy(healthy) | {"export": "static"}
    for row in broken["differences"]:
        place = (row["subject"], row["other"], row["image"], row["height"], row["group"], row["batch"])
        if place == ("onnx_unoptimized", "transformers", "tree", 224, "cls", 3):
            row["max_abs"] = 1e-3
    return broken


@pytest.fixture
def not_finite(healthy: Comparison) -> Comparison:
    """A comparison that fails because the graph gave NaN for a photograph at one size."""
    broken = deepcopy(healthy)
    for row in broken["differences"]:
        if row["subject"] == "onnx" and row["image"] == "tree" and row["height"] == 48:
            row |= dict.fromkeys(("max_abs", "rms", "p99_abs", "mean_abs", "cosine"))
    broken["checks"] = [{"name": "finite", "passed": False, "detail": "NaN or infinity in an output"}]
    return broken


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., dict[Path, Path]]:
    """Writes comparisons, each with a graph of 86 MB of which the disk holds nothing."""

    def write(*comparisons: Comparison) -> dict[Path, Path]:
        graphs = {}
        for comparison in comparisons:
            path = tmp_path / f"{comparison['export']}.json"
            path.write_text(json.dumps(comparison))
            graphs[path] = path.with_suffix(".onnx")
            with graphs[path].open("wb") as file:
                file.truncate(86_454_796)
        return graphs

    return write
