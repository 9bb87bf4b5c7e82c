"""The models' leaves against the checkpoint's own tensors, and the interchange file in the class that it is for."""

import functools
from dataclasses import replace
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest
import torch
from jax2onnx.plugins.examples.eqx.dino import VisionTransformer

from vit2onnx.archive import array_shapes, equimo_skeleton, leaf_names, load_model, open_archive, write_model
from vit2onnx.checkpoints.convert import convert_checkpoint
from vit2onnx.checkpoints.synthetic import write_synthetic
from vit2onnx.errors import InputError
from vit2onnx.keytable import LazyTensor, assign
from vit2onnx.mapping import (
    JAX2ONNX_EXAMPLE_TABLE,
    MODEL_TABLES,
    jax2onnx_example_skeleton,
    map_archive,
    map_model,
)
from vit2onnx.models import Features, build
from vit2onnx.variants import VariantSpec
from workflow.scripts.map_jax2onnx_example import map_jax2onnx_example

KEY = slice(48, 96)


@pytest.fixture(scope="module")
def state(tiny_checkpoint) -> dict[str, np.ndarray]:
    """The tensors as published."""
    return {name: tensor.numpy() for name, tensor in torch.load(tiny_checkpoint, weights_only=True).items()}


@pytest.fixture(scope="module")
def example_spec(tiny_spec) -> VariantSpec:
    """A tiny variant whose feed-forward layers have four times the width, as in jax2onnx's example class."""
    architecture = replace(tiny_spec.architecture, ffn_hidden=4 * tiny_spec.architecture.embed_dim)
    return replace(tiny_spec, architecture=architecture)


@pytest.fixture(scope="module")
def example_folder(example_spec, tmp_path_factory) -> Path:
    """Archive, our model and the example class's model of the same weights."""
    folder = tmp_path_factory.mktemp("example")
    archive = folder / "archive.tar.lz4"
    write_synthetic(example_spec, folder / "checkpoint.pth", seed=0, layout="meta")
    convert_checkpoint(example_spec, folder / "checkpoint.pth", archive, folder / "ledger.csv")
    with open_archive(archive, example_spec) as tensors:
        write_model(folder / "model.eqx", example_spec, map_model(example_spec, tensors))
    map_jax2onnx_example(example_spec, archive, folder / "jax2onnx_example.eqx")
    return folder


def test_every_leaf_of_the_model_is_the_published_tensor(tiny_model, state):
    """Matrices are transposed, for the export model multiplies from the right; nothing else is rearranged."""
    expected = {
        "patch_embed.weight": state["patch_embed.proj.weight"],
        "patch_embed.bias": state["patch_embed.proj.bias"],
        "cls_token": state["cls_token"],
        "register_tokens": state["storage_tokens"],
        "rope_periods": state["rope_embed.periods"],
        "norm.weight": state["norm.weight"],
        "norm.bias": state["norm.bias"],
    }
    for i in (0, 1):
        block = f"blocks.{i}."
        for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
            expected[f"{block}{name}.weight"] = np.transpose(state[f"{block}{name}.weight"])
        same = ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "ls1.gamma", "ls2.gamma")
        for name in (*same, "attn.proj.bias", "mlp.fc1.bias", "mlp.fc2.bias"):
            expected[block + name] = state[block + name]
        masked = state[f"{block}attn.qkv.bias"].copy()
        masked[KEY] = 0
        expected[f"{block}attn.qkv.bias"] = masked
    found = dict(zip(leaf_names(tiny_model), jax.tree_util.tree_leaves(tiny_model), strict=True))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape == value.shape, name
        assert np.asarray(found[name]).tobytes() == np.ascontiguousarray(value).tobytes(), name


@pytest.mark.parametrize("table", ["model", "jax2onnx"])
def test_tables_use_the_whole_archive_but_the_mask_token(real_spec, table):
    arch = real_spec.architecture
    table, skeleton = {
        "model": (MODEL_TABLES[real_spec.family], build(real_spec.family, arch)),
        "jax2onnx": (JAX2ONNX_EXAMPLE_TABLE, jax2onnx_example_skeleton(arch)),
    }[table]
    leaves = array_shapes(skeleton)
    assignments = assign(table, leaves)
    assert [assignment.target for assignment in assignments] == list(leaves)
    used = {key for assignment in assignments for key in assignment.sources}
    assert set(array_shapes(equimo_skeleton(arch))) - used == {"mask_token"}
    assert table.ignored == {"mask_token": "replaces patches in training only"}


def test_an_archive_that_lacks_a_leaf_is_refused_before_any_is_read(tiny_spec):
    def read() -> np.ndarray:
        raise AssertionError("read")

    shapes = array_shapes(equimo_skeleton(tiny_spec.architecture))
    archive = {name: LazyTensor(shape, "float32", read) for name, shape in shapes.items()}
    del archive["norm.bias"]
    archive["norm.weight"] = LazyTensor((96,), "float32", read)
    with pytest.raises(InputError, match=r"norm\.weight is 96 instead of 48; tensor norm\.bias 48 is missing"):
        list(map_model(tiny_spec, archive))


def test_one_leaf_is_made_at_a_time(tiny_spec, tiny_archive):
    """The order is the skeleton's, and no tensor is read before its leaf is asked for."""
    reads: list[str] = []

    def counted(name: str, tensor: LazyTensor) -> LazyTensor:
        def read() -> np.ndarray:
            reads.append(name)
            return tensor.read()

        return replace(tensor, read=read)

    with open_archive(tiny_archive, tiny_spec) as tensors:
        archive = {name: counted(name, tensor) for name, tensor in tensors.items()}
        skeleton = build(tiny_spec.family, tiny_spec.architecture)
        names = []
        for count, (name, value) in enumerate(map_archive(MODEL_TABLES["dinov3_vit"], skeleton, archive), start=1):
            names.append(name)
            assert len(reads) == count
            assert value.flags.c_contiguous
    assert names == leaf_names(skeleton)


def test_the_example_class_of_jax2onnx_loads_the_file_and_gives_our_features(example_spec, example_folder):
    arch = example_spec.architecture
    make = functools.partial(
        VisionTransformer,
        img_size=224,
        patch_size=arch.patch_size,
        embed_dim=arch.embed_dim,
        depth=arch.depth,
        num_heads=arch.num_heads,
        num_storage_tokens=arch.num_registers,
        key=jax.random.PRNGKey(1),
    )
    # The shapes alone, because the random weights that they stand for are slow to draw.
    theirs = eqx.tree_deserialise_leaves(example_folder / "jax2onnx_example.eqx", eqx.filter_eval_shape(make))
    ours = load_model(example_folder / "model.eqx")
    pixel_values = np.random.default_rng(0).standard_normal((2, 3, 224, 224), np.float32)
    with jax.default_matmul_precision("highest"):
        # Its weights as constants, because the class hands its periods to numpy.
        found = np.asarray(jax.jit(lambda x: theirs(x))(pixel_values))
        features: Features = eqx.filter_jit(ours)(pixel_values)
    tokens = np.asarray(features.last_hidden_state)
    # The class leaves the registers out.
    expected = np.concatenate([tokens[:, :1], tokens[:, 5:]], axis=1)
    assert found.shape == expected.shape == (2, 1 + 14 * 14, 48)
    # Measured: 9.5e-7.
    assert np.abs(found - expected).max() <= 1e-5


def test_a_variant_that_the_example_class_cannot_hold_is_refused(tiny_spec, tiny_archive, tmp_path):
    """Its feed-forward layers are always four times as wide as its tokens."""
    with pytest.raises(InputError, match=r"tensor blocks\.0\.blocks\.0\.mlp\.fc1\.weight is 96x48 instead of 192x48"):
        map_jax2onnx_example(tiny_spec, tiny_archive, tmp_path / "results" / "jax2onnx_example.eqx")
    assert list((tmp_path / "results").iterdir()) == []
