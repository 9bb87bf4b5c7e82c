"""Comparisons made by hand: a healthy one, one beyond a limit and one with values that are no numbers.

`test_made_by_hand.py` holds them against what a run really writes.
"""

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.limits import BY_PRECISION, LIMITS, OF_PAIRS, PREPARED
from vit2onnx.packing.probes import EXACT, EXCHANGED, ROUNDED
from vit2onnx.parity.comparison import Comparison, pairs_of
from vit2onnx.parity.dense_comparison import IMPLEMENTATIONS, DenseComparison, keys_of
from vit2onnx.parity.divergence import StageComparison
from vit2onnx.parity.metrics import TOKEN_ERROR
from vit2onnx.parity.packing import PackingComparison
from vit2onnx.parity.verdict import Verdict, judge_graph
from vit2onnx.reporting.evidence import Evidence
from vit2onnx.self_test.verdict import finding_of, judge_self_test
from vit2onnx.spec.subject import TRUTH

SIZES = [(48, 112), (224, 224)]
# How far the graph is from reference and Equinox model: elements, and, against the truth, its worst token in noise
# floors. In double precision likewise, in the floors of that.
APART, FLOORS = 5e-6, 1.5
DOUBLE, DOUBLE_FLOORS = 3e-15, 1.25

Rows = list[dict[str, Any]]
Plain = dict[str, Any]


def rows(
    subject: str, other: str, batch: int = 1, max_abs: float = APART, floors: float = FLOORS
) -> list[dict[str, Any]]:
    """Differences of two photographs at two sizes in two groups; the largest is in a patch of the first."""
    found = []
    for image, (height, width), group in product(("cat", "tree"), SIZES, ("cls", "patches")):
        worst = (image, height, group) == ("cat", 48, "patches")
        token, share = (9 if group == "patches" else 0), (1 if worst else 0.5)
        row = {"subject": subject, "other": other, "image": image, "height": height, "width": width, "batch": batch}
        row |= {"group": group, "count": 100, "max_abs": share * max_abs, "rms": share * max_abs / 5}
        row |= {"p99_abs": share * max_abs / 2, "mean_abs": share * max_abs / 9}
        row |= {"cosine": 1 - (2e-13 if worst else 1e-13), "token": token, "channel": 7, "scale": 1.0}
        if other == "truth":
            row |= {"floors": share * floors, "floors_token": token}
        found.append(row | ({"columns": width // 16} if group == "patches" else {}))
    return found


def rounding(subject: str, multiple: float) -> list[dict[str, Any]]:
    """What single precision does to an implementation, by photograph and size."""
    return [
        {"subject": subject, "image": image, "height": height, "width": width}
        | {"output": "last_hidden_state", "rms": multiple * 1e-7, "multiple": multiple}
        for image, (height, width) in product(("cat", "tree"), SIZES)
    ]


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


def semantics(subject: str, other: str = "truth") -> dict[str, Any]:
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


def error_map(image: str, worst: float | None) -> dict[str, Any]:
    """A map of a photograph of 48x112 whose worst patch is 1,2."""
    grid: list[list[float | None]] = [[0.3] * 7 for _ in range(3)]
    grid[1][2] = worst
    place = {"image": image, "height": 48, "width": 112, "batch": 1, "rows": 3, "columns": 7, "patch_size": 16}
    return {"subject": "onnx", "other": "truth"} | place | {"floors": grid}


@pytest.fixture
def limits() -> dict[str, dict[str, Any]]:
    """Those of all gates, as the config has them."""
    return BY_PRECISION["float32"] | BY_PRECISION["preprocessing"]


@pytest.fixture
def photographs(tmp_path: Path) -> dict[str, Path]:
    """A cat that is wide and a tree that is tall."""
    made = {"cat": (140, 60), "tree": (50, 90)}
    for name, size in made.items():
        Image.linear_gradient("L").resize(size).save(tmp_path / f"{name}.png")
    return {name: tmp_path / f"{name}.png" for name in made}


def ledger(names: list[str]) -> StageComparison:
    """Stages of which everything is one or two noise floors apart; in injected mode inputs are given."""
    implementations = ["transformers", "equinox", "onnx"]
    pairs = [(name, "truth", 1.0) for name in implementations]
    pairs += [("equinox", "transformers", 1.5), ("onnx", "equinox", 1.7), ("onnx", "transformers", 0.0)]
    # In the floors of double precision.
    pairs += [("equinox_float64", "truth", 1.1)]
    row = {"scale": 0.5, "floor": 1e-7, "cosine": 1.0, "token": 0, "channel": 0}
    return StageComparison(
        *("dinov3_tiny", "dynamic", "cat@48x112", implementations),
        stages=[
            {"mode": mode, "stage": stage, "subject": subject, "other": other, "floors": floors}
            | {"max_abs": floors * 4e-7, "rms": floors * 1e-7}
            | row
            for mode in ("accumulated", "injected")
            for stage in names
            if mode == "accumulated" or not stage.endswith(".input")
            for subject, other, floors in pairs
        ],
    )


def vit_stages(depth: int) -> list[str]:
    blocks = [f"blocks.{i}.{stage}" for i in range(depth) for stage in ("input", "attn_raw", "mlp_raw", "output")]
    return ["patch_embed", *blocks, "norm"]


def convnext_stages(*depths: int) -> list[str]:
    names = []
    for i, depth in enumerate(depths):
        names += [f"stages.{i}.downsample.{stage}" for stage in (("input", "norm") if i else ("conv",))]
        names += [f"stages.{i}.blocks.{j}.{stage}" for j in range(depth) for stage in ("input", "dwconv", "output")]
    return [*names, "norm_in", "norm"]


@pytest.fixture
def stages() -> StageComparison:
    """A ledger in which no layer diverges."""
    return ledger(vit_stages(2))


@pytest.fixture(params=[vit_stages(12), vit_stages(40), convnext_stages(3, 3, 27, 3)], ids=["S", "7B", "ConvNeXt-L"])
def deep_stages(request: pytest.FixtureRequest) -> StageComparison:
    """Ledgers of networks as they are released, in which no layer diverges."""
    return ledger(request.param)


@pytest.fixture
def diverging() -> StageComparison:
    """A ledger in which the graph's second block goes wrong, and then gives NaN when it runs on its own."""
    broken = ledger(vit_stages(2))
    for row in broken.stages:
        if row["subject"] == "onnx" and row["stage"].startswith(("blocks.1.mlp", "blocks.1.output")):
            row |= {"floors": 400.4, "max_abs": 3.1e-3, "rms": 4e-5}
        if row["subject"] == "onnx" and row["stage"] == "norm" and row["mode"] == "accumulated":
            row |= dict.fromkeys(("floors", "max_abs", "rms", "cosine"))
    return broken


@pytest.fixture
def packing() -> PackingComparison:
    """Probes of a packed graph that keeps its images apart."""
    images = ["cat@48x112", "noise@16x16"]
    same = {"max_abs": 0.0, "cosine": 1.0, "mean_cosine": 1.0, "greatest_cosine": 1.0, "floors": 0.0}
    near = same | {"max_abs": 3e-6, "floors": 1.1, "cosine": 1 - 2e-13}
    other = same | {"max_abs": 0.57, "cosine": 0.988, "mean_cosine": 0.9936, "greatest_cosine": 0.997, "floors": 3e5}
    rows = [("reference", images[:1], near), (TRUTH, images[:1], near), (EXCHANGED, images[:1], other)]
    rows += [(probe, images, same) for probe in (*EXACT, *ROUNDED)]
    return PackingComparison(
        variant="dinov3_tiny",
        export="dynamic",
        graph_sha256="0123abcd",
        images=images,
        rows=[
            {"probe": probe, "image": image, "tokens": 26, **figures, "judged": image == images[0]}
            | ({} if image == images[0] else {"floors": None})
            for probe, of, figures in rows
            for image in of
        ],
        refusals=[{"wrong": "no frame", "level": "all", "refused": True, "message": "cannot be reshaped"}],
    )


@pytest.fixture
def dense() -> DenseComparison:
    """Dense maps of a graph that shows what the truth shows; the reference rounds furthest."""
    sizes = {"smoothness": 1e-9, "smoothness_map": 5e-8, "high_frequency": 7e-9, "similarity": 6e-8, "gram": 1e-7}
    sizes |= {"gram_mean_square": 8e-16, "colours": 6e-7, "norms": 1e-7}
    cases = {"cat": (48, 112), "tree": (48, 112)}
    maps = ["patches", "before_norm", "layers.0", "norms.0", "norms.1"]
    return DenseComparison(
        variant="dinov3_tiny",
        export="dynamic",
        graph_sha256="0123abcd",
        cases=[f"{image}@{height}x{width}" for image, (height, width) in cases.items()],
        maps=maps,
        rows=[
            {"subject": subject, "image": image, "height": height, "width": width, "map": name, "patches": 21}
            | {key: (1.5 if subject == "transformers" else 1) * sizes.get(key, 0.0) for key in keys_of(name)}
            | {key: 0 for key in ("levels", "mask", "high_norms") if key in keys_of(name)}
            for image, (height, width) in cases.items()
            for name in maps
            for subject in IMPLEMENTATIONS
        ],
    )


@pytest.fixture
def tested() -> Plain:
    """A self-test that caught three faults of three, and flagged neither of two healthy models."""
    told = [name for name in LIMITS if name != "golden"]
    judged = [name for name in told if name not in OF_PAIRS]
    fault = {"fault": "w1 and w2 exchanged", "planted_in": "weights", "model": "ViT with SwiGLU", "caught": True}
    fault |= {"stage": "blocks.1.mlp_raw", "caught_by": f"onnx - truth, {TOKEN_ERROR}", "measured": 3.1e5}
    fault |= {"limit": 10.0, "tripped": ["floors", "floors_double"]}
    fault |= {"shows_in": ["single", "double"], "not_told": []}
    fault |= {"floors": 3.1e5, "floors_double": 1.7e14, "rounding_ratio": 1.1}
    fault |= {"named_stage": "blocks.1.mlp_raw", "between": "equinox and transformers", "stage_floors": 8.1e4}
    in_model = ("floors", "floors_double", "rounding_ratio", "named_stage", "between", "stage_floors")
    figures = {"max_abs": 4e-6, "floors": 1.7, "floors_double": 2.6, "stage_floors": 1.9}
    return {
        "wrong": [],
        "limits": LIMITS,
        "preprocessing_limits": PREPARED,
        "tripped": dict.fromkeys((*told, *PREPARED), 1) | {"floors": 2, "floors_double": 2},
        "nearest": dict.fromkeys(told, 0.01) | {"floors": 0.17},
        "healthy_preprocessing": {"flagged": []},
        "faults": [
            fault | {"passed": True},
            fault | {"fault": "one element of fc2", "planted_in": "graph", "measured": 44.0, "passed": True},
            fault
            | {"fault": "bicubic for bilinear", "planted_in": "preprocessing", "model": None, "stage": "pixel_values"}
            | dict.fromkeys(in_model)
            | {"caught_by": "ours - publisher, grey levels", "measured": 24.5, "limit": 1.25, "passed": True}
            | {"tripped": ["differing_share", "grey_levels"], "shows_in": []},
        ],
        "healthy": [
            {"model": "ViT with SwiGLU", "seed": seed, "flagged": [], "shares": dict.fromkeys(judged, 0.01)} | figures
            for seed in (0, 1)
        ],
    }


@pytest.fixture
def healthy() -> Comparison:
    """A comparison that passes."""
    pairs = pairs_of(["transformers"], batches=[1, 3], batch_in_double=2)
    in_double = {"max_abs": DOUBLE, "floors": DOUBLE_FLOORS}
    return Comparison(
        variant="dinov3_tiny",
        export="dynamic",
        graph_sha256="0123abcd",
        runtime={"onnxruntime": "1.0", "provider": "CPUExecutionProvider", "threads": 2, "packed_weights": True},
        references=["transformers"],
        cases=[f"{image}@{height}x{width}" for image in ("cat", "tree") for height, width in SIZES],
        pairs=[asdict(pair) for pair in pairs],
        checks=[{"name": "finite", "passed": True, "subject": "", "detail": "every output of every run"}],
        rounding=[*rounding("transformers", 1.0), *rounding("equinox", 0.7)],
        differences=[
            row
            for pair in pairs
            for row in rows(pair.subject, pair.other, pair.batch, **(in_double if pair.kind == "double" else {}))
        ],
        known_differences=[],
        error_maps=[error_map("cat", FLOORS), error_map("tree", FLOORS / 2)],
        distributions=[distribution(pair.subject, pair.other, pair.batch) for pair in pairs],
        semantics=[semantics(subject) for subject in ("transformers", "onnx", "onnx_unoptimized")],
    )


@pytest.fixture
def known_difference() -> Plain:
    """What RoPE periods of the reference's own change, all of which is explained."""
    figures = {"max_abs": 4.1e-4, "expected": 4.1e-4, "unexplained": 3e-6, "floors": 1.9, "floors_token": 4}
    return {
        "reference": "transformers",
        "cause": "its own periods",
        "image": "cat",
        "height": 48,
        "width": 112,
    } | figures


@pytest.fixture
def with_published() -> Callable[[Comparison, float], Comparison]:
    """Adds how far the Equinox model's features are from those that the publisher published."""

    def add(comparison: Comparison, max_abs: float) -> Comparison:
        row = next(row for row in comparison.differences if row["other"] == "transformers")
        published = row | {"subject": "equinox", "other": "published", "max_abs": max_abs}
        del published["scale"]
        return replace(comparison, differences=[*comparison.differences, published])

    return add


@pytest.fixture
def beyond(healthy: Comparison) -> Comparison:
    """A comparison that fails by one limit: CLS is too far from the truth, in one run only."""
    broken = replace(deepcopy(healthy), export="static")
    for row in broken.differences:
        place = (row["subject"], row["image"], row["height"], row["group"], row["batch"])
        if place == ("onnx_unoptimized", "tree", 224, "cls", 3):
            row["max_abs"] = 1e-3
            if row["other"] == "truth":
                row["floors"] = 304.0
    return broken


@pytest.fixture
def off() -> Callable[..., Comparison]:
    """Takes subjects of a comparison 304 noise floors from the truth."""

    def take(comparison: Comparison, *subjects: str) -> Comparison:
        for row in comparison.differences:
            if row["subject"] in subjects and row["other"] == "truth":
                row["floors"] = 304.0
        return comparison

    return take


@pytest.fixture
def not_finite(healthy: Comparison) -> Comparison:
    """A comparison that fails because the graph gave NaN for a photograph at one size."""
    broken = deepcopy(healthy)
    for row in broken.differences:
        if row["subject"] == "onnx" and row["image"] == "tree" and row["height"] == 48:
            row |= dict.fromkeys(("max_abs", "rms", "p99_abs", "mean_abs", "cosine"))
            row |= {"floors": None} if row["other"] == "truth" else {}
    return replace(
        broken,
        error_maps=[error_map("tree", None), error_map("cat", FLOORS)],
        checks=[{"name": "finite", "passed": False, "subject": "", "detail": "NaN or infinity in an output"}],
    )


METADATA = {
    **{"version": "1.0", "variant": "dinov3_tiny", "weights": "synthetic", "export": "dynamic"},
    **{"departure": "", "ledger_sha256": "cafe", "licence": "null"},
    "checkpoint": json.dumps({"identity": "synthetic weights, made here", "layout": "meta", "sha256": "feedbeef"}),
    "preprocessing": json.dumps(
        {"input": "float32 RGB", "interpolation": "bilinear", "antialias": True, "scale": "1/255"}
        | {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    ),
    "tokens": json.dumps(
        {"order": "CLS, registers, patches", "registers": 4, "first_patch": 5, "patch_size": 16, "grid": "rows"}
    ),
    "outputs": json.dumps({"pooler_output": "the CLS token after the final norm"}),
    "versions": json.dumps({"jax": "0.1"}),
}
LEDGER = [
    "source,target,transform,shape,dtype,sha256,target_sha256",
    "cls_token,cls_token,drop_first_axis,1x1x8,float32,aa,bb",
    "norm.bias,norm.bias,copy,8,float32,cc,cc",
    "mask_token,,ignored: used in training only,1x8,float32,dd,",
    ",rope.periods,from the configuration,16,float32,,ee",
]
RECORD = {
    "variant": "dinov3_tiny",
    "weights": "synthetic",
    "origin": {"kind": "synthetic", "seed": 0},
    "layout": "meta",
    "bytes": 86_000_000,
    "sha256": "feedbeef",
    "official_file": None,
    "identity": "synthetic weights, made here",
}
SHARES = {"publisher": 0.01, "publisher_float": 0.2, "transformers": 0.9, "transformers_pil": 0.1}


@pytest.fixture
def prepared() -> Rows:
    """Differences of a preprocessing that passes."""
    figures = {"height": 48, "width": 112, "enlarged": 1.0, "grey_levels": 1.0, "normalised": 0.017, "residual": 0.0}
    rows = product(SHARES.items(), ("cat", "tree"))
    return [{"other": other, "image": image, "differing_share": share} | figures for (other, share), image in rows]


@pytest.fixture
def judged(limits: dict[str, dict[str, Any]], prepared: Rows) -> Callable[..., Verdict]:
    """Judges a comparison, of a graph of 86 MB; all else is healthy, or as it is given."""

    def judge(
        comparison: Comparison,
        *,
        record: Plain = RECORD,
        preprocessing: Rows = prepared,
        stages: StageComparison | None = None,
        self_test: Plain | None = None,
        packing: PackingComparison | None = None,
        dense: DenseComparison | None = None,
    ) -> Verdict:
        finding = finding_of(again(self_test)) if self_test else None
        return judge_graph(comparison, limits, record, preprocessing, stages, finding, packing, dense, bytes=86_454_796)

    return judge


def again(tested: Plain) -> Plain:
    """A self-test that is judged again, because its rows were changed."""
    return tested | {"wrong": judge_self_test(tested)}


@pytest.fixture
def evidence_of(
    photographs: dict[str, Path], prepared: Rows, judged: Callable[..., Verdict]
) -> Callable[..., Evidence]:
    """Makes the evidence on a variant of comparisons; all but these is healthy, or as it is given."""

    def make(*comparisons: Comparison, **other: Any) -> Evidence:
        exports = [comparison.export for comparison in comparisons]
        by_export = ("stages", "packing", "dense")
        given = {"record": RECORD, "preprocessing": prepared, **{name: {} for name in by_export}, "self_test": None}
        given |= other
        if given["self_test"]:
            given["self_test"] = again(given["self_test"])
        common = {name: given[name] for name in ("record", "preprocessing", "self_test")}
        verdicts = [
            judged(one, **{name: given[name].get(one.export) for name in by_export}, **common) for one in comparisons
        ]
        healthy = {
            "ledger": LEDGER,
            "photographs": photographs,
            "metadata": dict.fromkeys(exports, METADATA),
            "operator_sets": {export: {"": 23} for export in exports},
        }
        return Evidence(verdicts, comparisons, **healthy | given)

    return make
