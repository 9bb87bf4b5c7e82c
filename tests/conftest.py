"""Tiny variants of the real architectures and the files that the spine makes of them, made once for all tests.

Tests that change a file copy it first. `tiny` is the smallest. A test that asks for `small` runs for one release of
each architecture that is left when all are made small; what is told of each release is tested for all of them.
"""

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path

import jax
import pytest
import torch

from vit2onnx.checkpoints.convert import convert_checkpoint
from vit2onnx.checkpoints.detect import tables_of
from vit2onnx.checkpoints.identity import describe
from vit2onnx.checkpoints.synthetic import write_synthetic
from vit2onnx.exporting.graph import export
from vit2onnx.nn.model import Model
from vit2onnx.self_test.chain import shrink
from vit2onnx.spec.family import PUBLISHER, layout_of, part
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec, read_variants
from vit2onnx.weights.archive import read_archive
from vit2onnx.weights.model_file import load_model, map_model, write_model

# What XLA has compiled for one test is not compiled again for another, in another worker, or in a job of a workflow.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    COMPILED = tempfile.mkdtemp(prefix="vit2onnx_compiled_")
    atexit.register(shutil.rmtree, COMPILED, ignore_errors=True)
    os.environ |= {"JAX_COMPILATION_CACHE_DIR": COMPILED, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    jax.config.update("jax_compilation_cache_dir", COMPILED)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)

# Models are so small that more threads only wait for each other.
torch.set_num_threads(1)

REAL = "dinov3_vits16_pretrain_lvd1689m"
VARIANTS = Path(__file__).parents[1] / "config" / "variants"
RELEASED = {name: VariantSpec.from_mapping(name, mapping) for name, mapping in read_variants(VARIANTS).items()}
# Those that turn images into tokens; the others are tested with their families.
OF_IMAGES = {name: spec for name, spec in RELEASED.items() if "images" in spec.interfaces}
# One release of each architecture that is left when all are made small: the last by name, which is the smallest.
DISTINCT = sorted({(spec.family, shrink(spec).architecture): name for name, spec in OF_IMAGES.items()}.values())
SEED = 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have whole runs of the workflow first, so that no worker is still at one when the others are done."""
    items.sort(key=lambda item: "workflow" not in item.path.parts)


def short(name: str) -> str:
    """As in `vits16_lvd1689m`."""
    return name.removeprefix("dinov3_").replace("_pretrain", "")


def of_family(family: str) -> list[str]:
    """Those of the distinct releases that are of a family."""
    return [name for name in DISTINCT if RELEASED[name].family == family]


class Spine:
    """A variant and what the spine makes of synthetic weights of it, each file when it is first asked for."""

    def __init__(self, spec: VariantSpec, folder: Path):
        self.spec, self.folder = spec, folder

    @cached_property
    def checkpoints(self) -> Mapping[str, Path]:
        """A checkpoint in every layout, all of the same weights but for timm's that has no bias in attention."""
        paths, suffixes = {}, part(self.spec.family, "architecture").LAYOUTS
        for layout in tables_of(self.spec):
            paths[layout] = self.folder / f"{layout}{suffixes[layout]}"
            write_synthetic(self.spec, paths[layout], seed=SEED, layout=layout)
        return paths

    @cached_property
    def checkpoint(self) -> Path:
        """The checkpoint in the publisher's layout."""
        return self.checkpoints[layout_of(self.spec.family, PUBLISHER)]

    @cached_property
    def archive(self) -> Path:
        """The archive of the publisher's layout; `ledger.csv` lies beside it."""
        path = self.folder / "archive" / "archive.tar.lz4"
        convert_checkpoint(self.spec, self.checkpoint, path, path.with_name("ledger.csv"))
        return path

    @cached_property
    def model_file(self) -> Path:
        """The inference model."""
        path = self.folder / "model.eqx"
        write_model(path, self.spec, map_model(self.spec, read_archive(self.archive, self.spec)))
        return path

    def export(self, recipe: Recipe, *, external: bool = False) -> Path:
        """The graph of a recipe, beside the inference model; written once, if several tests ask."""
        # Recipes of one name differ between tests.
        known = recipe.name, recipe.opset, *recipe.sizes.values(), "external" if external else "embedded"
        path = self.folder / f"{'_'.join(map(str, known))}.onnx"
        if not path.exists():
            record = describe(self.spec, self.checkpoint, origin={"kind": "synthetic"}, weights="synthetic")
            export(self.spec, recipe, self.model_file, path, record, external=external)
        return path

    @cached_property
    def model(self) -> Model:
        """The inference model, loaded."""
        return load_model(self.model_file)


@pytest.fixture(scope="session")
def released() -> Mapping[str, VariantSpec]:
    """The specs of all released variants that turn images into tokens."""
    return OF_IMAGES


@pytest.fixture(scope="session")
def spines(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Spine]:
    """The spine of any released variant made small, by its name."""
    return cache(lambda name: Spine(shrink(RELEASED[name]), tmp_path_factory.mktemp(name)))


@pytest.fixture(params=DISTINCT, ids=short)
def small(spines: Callable[[str], Spine], request: pytest.FixtureRequest) -> Spine:
    """Every architecture of the released variants, made small."""
    return spines(request.param)


@pytest.fixture(params=of_family("dinov3_vit"), ids=short)
def small_vit(spines: Callable[[str], Spine], request: pytest.FixtureRequest) -> Spine:
    """Every architecture of the released vision transformers, made small."""
    return spines(request.param)


@pytest.fixture(params=of_family("dinov3_convnext"), ids=short)
def small_convnext(spines: Callable[[str], Spine], request: pytest.FixtureRequest) -> Spine:
    """Every architecture of the released ConvNeXts, made small."""
    return spines(request.param)


@pytest.fixture(scope="session")
def real_spec(released: Mapping[str, VariantSpec]) -> VariantSpec:
    """The spec of a released variant."""
    return released[REAL]


@pytest.fixture(scope="session")
def tiny_spec(real_spec: VariantSpec) -> VariantSpec:
    """The released variant but for its size: two blocks, three heads of 16 channels."""
    architecture = replace(real_spec.architecture, embed_dim=48, depth=2, num_heads=3, ffn_hidden=96)
    return replace(real_spec, name="dinov3_tiny", parameters=75_408, architecture=architecture)


@pytest.fixture(scope="session")
def tiny(tiny_spec: VariantSpec, tmp_path_factory: pytest.TempPathFactory) -> Spine:
    """The spine of the tiny variant."""
    return Spine(tiny_spec, tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_checkpoints(tiny: Spine) -> Mapping[str, Path]:
    """A synthetic checkpoint in every layout, all of the same weights but for timm's that has no bias in attention."""
    return tiny.checkpoints


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny: Spine) -> Path:
    """The synthetic checkpoint as the publisher would offer it."""
    return tiny.checkpoints["meta"]


@pytest.fixture(scope="session")
def tiny_archive(tiny: Spine) -> Path:
    """The archive of the synthetic checkpoint; `ledger.csv` lies beside it."""
    return tiny.archive


@pytest.fixture(scope="session")
def tiny_model_file(tiny: Spine) -> Path:
    """The inference model of the synthetic checkpoint."""
    return tiny.model_file


@pytest.fixture(scope="session")
def tiny_model(tiny: Spine) -> Model:
    """The inference model, loaded."""
    return tiny.model
