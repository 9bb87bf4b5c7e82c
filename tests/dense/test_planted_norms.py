"""A token of high norm that weights make is found in its block, at its patch, and nowhere else."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vit2onnx import spine
from vit2onnx.checkpoints.fetch import fetch_synthetic
from vit2onnx.dense.description import Settings, describe
from vit2onnx.inputs import inputs_of
from vit2onnx.runners import equinox
from vit2onnx.self_test.chain import shrink
from vit2onnx.spec.case import Case
from vit2onnx.spec.variant import VariantSpec, read_variants
from vit2onnx.weights.keytable import LazyTensor
from vit2onnx.weights.model_file import open_model

ROOT = Path(__file__).parents[2]
NAME = "dinov3_vits16_pretrain_lvd1689m"
PHOTOGRAPHS = {"coffee": ROOT / "resources" / "images" / "coffee.jpg"}
DEPTH, BLOCK, CASE = 6, 3, "coffee@96x128"
# The fourth row and fifth column of 6x8 patches, behind CLS and four registers.
PATCH, TOKEN = (3, 4), 5 + 3 * 8 + 4


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    spec = shrink(VariantSpec.from_mapping(NAME, read_variants(ROOT / "config" / "variants")[NAME]))
    spec = replace(spec, architecture=replace(spec.architecture, depth=DEPTH))
    folder = tmp_path_factory.mktemp("planted")
    fetch_synthetic(spec, folder / "checkpoint.pth", seed=0, layout="meta")
    spine.convert(spec, folder / "checkpoint.pth", folder)
    inputs = inputs_of(spec, spec.interface(), [Case.parse(CASE)], PHOTOGRAPHS, {})
    return spec.interface(), *open_model(folder / "model.eqx"), inputs


def planted(tensors, mlp_in: np.ndarray) -> dict[str, LazyTensor]:
    """Weights in which a hidden unit of a block fires at one patch, and makes its token long."""
    prefix = f"blocks.{BLOCK}.mlp"
    values = {name: tensors[f"{prefix}.{name}"].read().copy() for name in ("fc1.weight", "fc1.bias", "fc2.weight")}
    # The direction in which the patch is furthest from all other tokens.
    others = np.delete(mlp_in, TOKEN, axis=0)
    spread = np.cov(others.T) + 1e-3 * np.eye(mlp_in.shape[1])
    direction = np.linalg.solve(spread, mlp_in[TOKEN] - others.mean(axis=0))
    scores = mlp_in @ direction
    second = np.delete(scores, TOKEN).max()
    assert scores[TOKEN] > second
    # Ten beyond the threshold for the patch, and ten below it for the next: an activation of ten, and of nothing.
    scale = 20 / (scores[TOKEN] - second)
    values["fc1.weight"][:, 0] = scale * direction
    values["fc1.bias"][0] = -scale * (scores[TOKEN] + second) / 2
    values["fc2.weight"][0] = 1000 * np.random.default_rng(0).normal(size=mlp_in.shape[1])
    changed = {f"{prefix}.{name}": value.astype(np.float32) for name, value in values.items()}
    return {**tensors, **{name: LazyTensor(x.shape, "float32", lambda x=x: x) for name, x in changed.items()}}


def test_a_high_norm_is_placed_in_its_block(model) -> None:
    interface, skeleton, tensors, inputs = model
    stages = dict(equinox.stages(skeleton, tensors, interface.inputs_of(inputs, CASE), {}, interface))
    weights = planted(tensors, stages[f"float64/accumulated/blocks.{BLOCK}.mlp_in"])
    counts = {}
    for name, used in (("plain", tensors), ("planted", weights)):
        found = dict(equinox.dense_features(skeleton, used, inputs, interface))
        truth = {key.replace("float32", "float64"): value for key, value in found.items()}
        about = {"variant": NAME, "weights": "synthetic", "interface": "images", "patch_size": 16, "registers": 4}
        figures = describe(about, truth, found, [CASE], Settings()).figures
        counts[name] = [(row["high"], row["where"]) for row in figures["norms"]]
        last = figures["photographs"][0]["high_norms"]
        assert last == counts[name][-1][0]
    assert counts["plain"] == [(0, [])] * DEPTH
    assert counts["planted"] == [(0, [])] * BLOCK + [(1, [list(PATCH)])] * (DEPTH - BLOCK)


def test_no_norm_is_high_after_the_final_norm(model) -> None:
    interface, skeleton, tensors, inputs = model
    stages = dict(equinox.stages(skeleton, tensors, interface.inputs_of(inputs, CASE), {}, interface))
    weights = planted(tensors, stages[f"float64/accumulated/blocks.{BLOCK}.mlp_in"])
    found = dict(equinox.dense_features(skeleton, weights, inputs, interface))
    after, before = (np.linalg.norm(found[f"float32/{CASE}/{what}"], axis=-1) for what in ("patches", "before_norm"))
    assert before[PATCH] > 4 * np.median(before)
    assert after[PATCH] < 2 * np.median(after)
