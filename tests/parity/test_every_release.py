"""Every released architecture at full width, one or two blocks deep: from checkpoint to verdict by the config."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests import transformers_model
from tests.conftest import OF_IMAGES
from tests.limits import judge
from vit2onnx.checkpoints.fetch import fetch_synthetic
from vit2onnx.exporting.graph import export
from vit2onnx.parity.outputs import compare_outputs
from vit2onnx.runners import equinox as equinox_runner
from vit2onnx.runners.onnx import run_graph
from vit2onnx.spec.case import Case
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec
from vit2onnx.spine import convert
from vit2onnx.weights.model_file import open_model

RECIPES = (
    Recipe("static", 23, {"batch": 1, "height": 150, "width": 97}),
    Recipe("dynamic", 23, {"batch": None, "height": None, "width": None}),
)
# One size, neither square nor a multiple of the patch; others are for small models to show.
CASE = Case("noise", 150, 97)


def shallow(name: str) -> VariantSpec:
    spec = OF_IMAGES[name]
    arch = spec.architecture
    if spec.family == "dinov3_convnext":
        return replace(spec, architecture=replace(arch, depths=(1, 1, 1, 1)))
    # One block of 7B has 0.8 GB.
    shallow = replace(arch, depth=1 if arch.embed_dim == 4096 else 2)
    if spec.family == "dinov3_vit":
        # The norm of local crops is no part of the model.
        shallow = replace(shallow, local_cls_norm=False)
    return replace(spec, architecture=shallow)


# Some differ in depth only, or in the values of their weights.
DISTINCT = {(spec := shallow(name)).architecture: spec for name in OF_IMAGES}.values()


@pytest.mark.parametrize("spec", DISTINCT, ids=lambda spec: spec.name)
def test_release_is_at_parity_at_full_width(spec: VariantSpec, tmp_path: Path):
    checkpoint = tmp_path / "c.pth"
    record = fetch_synthetic(spec, checkpoint, seed=0, layout="meta")
    model = convert(spec, checkpoint, tmp_path)
    images = {str(CASE): np.random.default_rng(0).standard_normal((3, CASE.height, CASE.width), np.float32)}
    reference = transformers_model.features(spec, checkpoint, images, native=images)
    checkpoint.unlink()
    equinox = equinox_runner.features(*open_model(model), images, spec.interface(), native=images)
    for recipe in RECIPES:
        graph = export(spec, recipe, model, tmp_path / f"{recipe.name}.onnx", record, external=True)
        outputs = dict(run_graph(graph, spec.interface(), recipe, images, [2], threads=2))
        found = compare_outputs(spec, recipe, images, {"transformers": reference}, equinox, outputs, [2])
        verdict = judge(found)
        assert verdict.passed, verdict.faults
        if spec.family == "dinov3_vit":
            assert any("own RoPE periods" in finding.measure for finding in verdict.findings)
        if spec.family == "dinov2" and not spec.architecture.num_registers:
            assert any("own resizing of the position table" in finding.measure for finding in verdict.findings)
    model.unlink()
