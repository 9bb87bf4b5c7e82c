"""Every released architecture at full width, one or two blocks deep: from checkpoint to verdict by the config."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests import transformers_model
from vit2onnx.checkpoints.convert import convert_checkpoint
from vit2onnx.checkpoints.fetch import fetch_synthetic
from vit2onnx.exporting.graph import trace, write
from vit2onnx.exporting.metadata import metadata_of
from vit2onnx.parity.comparison import by_kind, compare_outputs
from vit2onnx.parity.verdict import judge
from vit2onnx.runners import equinox as equinox_runner
from vit2onnx.spec.case import Case
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec, read_variants
from vit2onnx.weights.archive import read_archive
from vit2onnx.weights.model_file import map_model, open_model, write_model

ROOT = Path(__file__).parents[2]
RELEASES = read_variants(ROOT / "config" / "variants")
CONFIG = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
LIMITS = {name: limit["limit"] for name, limit in CONFIG["parity"]["limits"].items()}
EXPORTS = (
    Recipe("static", 23, {"batch": 1, "height": 160, "width": 224}),
    Recipe("dynamic", 23, {"batch": None, "height": None, "width": None}),
)
CASES = [Case("noise", 160, 224), Case("noise", 150, 97)]


def shallow(name: str) -> VariantSpec:
    spec = VariantSpec.from_mapping(name, RELEASES[name])
    arch = spec.architecture
    if spec.family == "dinov3_convnext":
        return replace(spec, architecture=replace(arch, depths=(1, 1, 1, 1)))
    # One block of 7B has 0.8 GB. The norm of local crops is no part of equinox_runner.
    return replace(spec, architecture=replace(arch, depth=1 if arch.embed_dim == 4096 else 2, local_cls_norm=False))


# Some differ in depth only, or in the values of their weights.
DISTINCT = {(spec := shallow(name)).architecture: spec for name in RELEASES}.values()


@pytest.mark.parametrize("spec", DISTINCT, ids=lambda spec: spec.name)
def test_release_is_at_parity_at_full_width(spec: VariantSpec, tmp_path: Path):
    checkpoint, archive, ledger, model = (tmp_path / name for name in ("c.pth", "a.tar.lz4", "ledger.csv", "model.eqx"))
    record = fetch_synthetic(spec, checkpoint, seed=0, layout="meta")
    convert_checkpoint(spec, checkpoint, archive, ledger)
    write_model(model, spec, map_model(spec, read_archive(archive, spec)))
    archive.unlink()
    rng = np.random.default_rng(0)
    images = {str(case): rng.standard_normal((3, case.height, case.width), np.float32) for case in CASES}
    reference = by_kind(transformers_model.features(spec, checkpoint, images, native=[str(CASES[0])]))
    checkpoint.unlink()
    equinox = by_kind(equinox_runner.features(*open_model(model), images, native=[str(CASES[0])]))
    pixel_values = {Case.parse(case): image for case, image in images.items()}
    for export in EXPORTS:
        graph = tmp_path / f"{export.name}.onnx"
        skeleton, tensors = open_model(model)
        metadata = metadata_of(spec, export, record, "")
        traced, interface = trace(skeleton, spec, export), spec.interface()
        write(traced, graph, interface, export, metadata, tensors, weights=model, external=True)
        found = compare_outputs(
            spec, export, graph, pixel_values, {"transformers": reference}, equinox, batch_sizes=(2,), threads=2
        )
        verdict = judge(found, LIMITS)
        assert verdict.passed, verdict.faults
        if spec.family == "dinov3_vit":
            assert any("own RoPE periods" in finding.measure for finding in verdict.findings)
    model.unlink()
