"""A tiny variant of the real architecture and the files that the spine makes of it, made once for all tests.

Tests that change a file copy it first.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from vit2onnx.archive import load_model, open_archive, write_model
from vit2onnx.checkpoints.convert import convert_checkpoint
from vit2onnx.checkpoints.layouts import LAYOUTS
from vit2onnx.checkpoints.sources import SUFFIX_OF_LAYOUT
from vit2onnx.checkpoints.synthetic import write_synthetic
from vit2onnx.mapping import map_model
from vit2onnx.models import Model
from vit2onnx.variants import VariantSpec, read_variants

REAL = "dinov3_vits16_pretrain_lvd1689m"
VARIANTS = Path(__file__).parents[1] / "config" / "variants"
SEED = 0


@pytest.fixture(scope="session")
def real_spec() -> VariantSpec:
    """The spec of a released variant."""
    return VariantSpec.from_mapping(REAL, read_variants(VARIANTS)[REAL])


@pytest.fixture(scope="session")
def tiny_spec(real_spec: VariantSpec) -> VariantSpec:
    """The released variant but for its size: two blocks, three heads of 16 channels."""
    architecture = replace(real_spec.architecture, embed_dim=48, depth=2, num_heads=3, ffn_hidden=96)
    return replace(real_spec, name="dinov3_tiny", parameters=75_408, architecture=architecture)


@pytest.fixture(scope="session")
def tiny_checkpoints(tiny_spec: VariantSpec, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """A synthetic checkpoint of the same weights in every layout."""
    folder = tmp_path_factory.mktemp("checkpoints")
    paths = {}
    for table in LAYOUTS[tiny_spec.family]:
        path = folder / f"{table.layout}{SUFFIX_OF_LAYOUT[table.layout]}"
        write_synthetic(tiny_spec, path, seed=SEED, layout=table.layout)
        paths[table.layout] = path
    return paths


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_checkpoints: Mapping[str, Path]) -> Path:
    """The synthetic checkpoint as the publisher would offer it."""
    return tiny_checkpoints["meta"]


@pytest.fixture(scope="session")
def tiny_archive(tiny_spec: VariantSpec, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of the synthetic checkpoint; `ledger.csv` lies beside it."""
    archive = tmp_path_factory.mktemp("archive") / "archive.tar.lz4"
    convert_checkpoint(tiny_spec, tiny_checkpoint, archive, archive.with_name("ledger.csv"))
    return archive


@pytest.fixture(scope="session")
def tiny_model_file(tiny_spec: VariantSpec, tiny_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The inference model of the synthetic checkpoint."""
    path = tmp_path_factory.mktemp("model") / "model.eqx"
    with open_archive(tiny_archive, tiny_spec) as tensors:
        write_model(path, tiny_spec, map_model(tiny_spec, tensors))
    return path


@pytest.fixture(scope="session")
def tiny_model(tiny_model_file: Path) -> Model:
    """The inference model, loaded."""
    return load_model(tiny_model_file)
