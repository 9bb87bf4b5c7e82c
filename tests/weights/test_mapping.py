"""The models' leaves against the checkpoint's own tensors, and the interchange file in the class that it is for."""

import contextlib
import functools
import tracemalloc
import weakref
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest
import torch
from jax2onnx.plugins.examples.eqx.dino import VisionTransformer

from tests.families.dinov2 import published as dinov2
from tests.rounding import MODEL_LIMIT, floors
from vit2onnx.checkpoints.convert import convert_checkpoint
from vit2onnx.checkpoints.synthetic import write_synthetic
from vit2onnx.errors import InputError, InternalError
from vit2onnx.families.dinov3_vit import jax2onnx_example
from vit2onnx.families.dinov3_vit.layouts import TRAINING_ONLY
from vit2onnx.runners import equinox as equinox_runner
from vit2onnx.spec.family import has_part
from vit2onnx.spec.variant import VariantSpec
from vit2onnx.weights.archive import archive_skeleton, read_archive
from vit2onnx.weights.keytable import assign
from vit2onnx.weights.leaves import array_shapes, leaf_names
from vit2onnx.weights.model_file import map_model, model_table, open_model, skeleton_of, write_model
from workflow.scripts.map_jax2onnx_example import map_jax2onnx_example


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
    write_model(folder / "model.eqx", example_spec, map_model(example_spec, read_archive(archive, example_spec)))
    map_jax2onnx_example(example_spec, archive, folder / "jax2onnx_example.eqx")
    return folder


def published_leaves(spec: VariantSpec, checkpoint: Path) -> dict[str, np.ndarray]:
    """Every leaf of the model by hand, from the publisher's file.

    Matrices are transposed, for the export model multiplies from the right, and queries, keys and values are three
    layers; nothing else is rearranged.
    """
    state = {name: tensor.numpy() for name, tensor in torch.load(checkpoint, weights_only=True).items()}
    leaves = {f"norm.{leaf}": state[f"norm.{leaf}"] for leaf in ("weight", "bias")}

    def linear(target: str, source: str) -> None:
        leaves[f"{target}.weight"] = np.transpose(state[f"{source}.weight"])
        leaves[f"{target}.bias"] = state[f"{source}.bias"]

    def same(target: str, source: str, *names: str) -> None:
        leaves.update({f"{target}.{name}": state[f"{source}.{name}"] for name in names or ("weight", "bias")})

    arch = spec.architecture
    if spec.family == "dinov2":
        return dinov2.leaves(arch, state)
    if spec.family == "dinov3_convnext":
        for i, depth in enumerate(arch.depths):
            conv, norm = ("0", "1") if i == 0 else ("1", "0")
            same(f"stages.{i}.downsample.conv", f"downsample_layers.{i}.{conv}")
            same(f"stages.{i}.downsample.norm", f"downsample_layers.{i}.{norm}")
            for j in range(depth):
                target, source = f"stages.{i}.blocks.{j}", f"stages.{i}.{j}"
                same(f"{target}.dwconv", f"{source}.dwconv")
                same(f"{target}.norm", f"{source}.norm")
                linear(f"{target}.pwconv1", f"{source}.pwconv1")
                linear(f"{target}.pwconv2", f"{source}.pwconv2")
                leaves[f"{target}.gamma"] = state[f"{source}.gamma"]
        return leaves
    same("patch_embed", "patch_embed.proj")
    leaves["cls_token"], leaves["register_tokens"] = state["cls_token"], state["storage_tokens"]
    leaves["rope_periods"] = state["rope_embed.periods"]
    for i in range(arch.depth):
        block = f"blocks.{i}"
        for name in ("norm1", "norm2"):
            same(f"{block}.{name}", f"{block}.{name}")
        for name in ("ls1", "ls2"):
            same(f"{block}.{name}", f"{block}.{name}", "gamma")
        for name in (
            "attn.proj",
            *(("mlp.w1", "mlp.w2", "mlp.w3") if arch.ffn == "swiglu" else ("mlp.fc1", "mlp.fc2")),
        ):
            linear(f"{block}.{name}", f"{block}.{name}")
        for i, letter in enumerate("qkv"):
            part = slice(i * arch.embed_dim, (i + 1) * arch.embed_dim)
            leaves[f"{block}.attn.{letter}.weight"] = np.transpose(state[f"{block}.attn.qkv.weight"][part])
            # That of the keys is masked.
            if arch.qkv_bias and letter != "k":
                leaves[f"{block}.attn.{letter}.bias"] = state[f"{block}.attn.qkv.bias"][part]
    return leaves


def test_every_leaf_of_the_model_is_the_published_tensor(small):
    expected = published_leaves(small.spec, small.checkpoints["meta"])
    _, found = open_model(small.model_file)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape == value.shape, name
        assert found[name].read().tobytes() == np.ascontiguousarray(value).tobytes(), name


def test_the_model_uses_the_whole_archive_but_what_is_for_training(released):
    for spec in released.values():
        leaves = array_shapes(skeleton_of(spec.family, spec.architecture))
        assignments = assign(model_table(spec), leaves)
        assert [assignment.target for assignment in assignments] == list(leaves)
        used = Counter(key for assignment in assignments for key in assignment.sources)
        # All of queries, keys and values; of their biases DINOv3 has not the keys'.
        of_bias = 3 if spec.family == "dinov2" else 2
        for key, times in used.items():
            parts = {"qkv.weight": 3, "qkv.bias": of_bias, "w12.weight": 2, "w12.bias": 2}
            assert times == parts.get(".".join(key.split(".")[-2:]), 1), key
        unused = set(array_shapes(archive_skeleton(spec))) - set(used)
        arch = spec.architecture
        training = set() if spec.family == "dinov3_convnext" else {"mask_token"}
        if getattr(arch, "local_cls_norm", False):
            training |= {"local_cls_norm.weight", "local_cls_norm.bias"}
        assert unused == training
        assert training <= {entry.target for entry in TRAINING_ONLY}


def test_the_example_class_uses_the_whole_archive_but_the_mask_token(real_spec):
    leaves = array_shapes(jax2onnx_example.skeleton(real_spec.architecture))
    assignments = assign(jax2onnx_example.table(real_spec.architecture), leaves)
    assert [assignment.target for assignment in assignments] == list(leaves)
    used = {key for assignment in assignments for key in assignment.sources}
    assert set(array_shapes(archive_skeleton(real_spec))) - used == {"mask_token"}


def zeros(spec: VariantSpec) -> dict[str, np.ndarray]:
    """An archive of zeros."""
    return {name: np.zeros(shape, np.float32) for name, shape in array_shapes(archive_skeleton(spec)).items()}


@pytest.mark.parametrize(
    "change, fault",
    [
        ({"norm.weight": np.zeros(96, np.float32)}, r"norm\.weight is \(96,\) instead of \(48,\)"),
        ({"norm.scale": np.zeros(48, np.float32)}, r"norm\.scale, which no leaf needs"),
        ({"norm.bias": None}, r"lacks \['norm\.bias'\]"),
    ],
    ids=["shape", "unknown", "missing"],
)
def test_an_archive_that_does_not_fit_the_model_is_a_fault_of_ours(tiny_spec, change, fault):
    """Because the archive's own reader has compared it with the architecture."""
    archive = {name: array for name, array in (zeros(tiny_spec) | change).items() if array is not None}
    with pytest.raises(InternalError, match=fault):
        list(map_model(tiny_spec, archive.items()))


def test_a_bias_of_keys_is_not_dropped_unseen(tiny_spec):
    archive = zeros(tiny_spec)
    archive["blocks.0.blocks.1.attn.qkv.bias"][48 + 7] = -1e-30
    with pytest.raises(InputError, match="The keys of this checkpoint have a bias"):
        list(map_model(tiny_spec, archive.items()))


def test_one_leaf_is_made_at_a_time(tiny_spec):
    """Nothing is taken from the archive before a leaf is asked for, nor kept once its leaf is given."""
    made: list[weakref.ref[np.ndarray]] = []
    most = 0

    def archive() -> Iterator[tuple[str, np.ndarray]]:
        nonlocal most
        for name, shape in array_shapes(archive_skeleton(tiny_spec)).items():
            most = max(most, sum(reference() is not None for reference in made))
            value = np.zeros(shape, np.float32)
            made.append(weakref.ref(value))
            yield name, value
            del value

    mapped = map_model(tiny_spec, archive())
    assert not made
    names = []
    for name, value in mapped:
        names.append(name)
        assert value.flags.c_contiguous
        del value
    assert most <= 1
    # In the archive's order, and all of them.
    assert sorted(names) == sorted(leaf_names(skeleton_of(tiny_spec.family, tiny_spec.architecture)))


def test_memory_does_not_grow_with_depth(tiny_spec, tmp_path):
    peaks = []
    for depth in (8, 24):
        spec = replace(tiny_spec, architecture=replace(tiny_spec.architecture, embed_dim=192, depth=depth))
        archive = tmp_path / "archive.tar.lz4"
        write_synthetic(spec, tmp_path / "checkpoint.pth", seed=0, layout="meta")
        convert_checkpoint(spec, tmp_path / "checkpoint.pth", archive, tmp_path / "ledger.csv")
        tracemalloc.start()
        write_model(tmp_path / "model.eqx", spec, map_model(spec, read_archive(archive, spec)))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # Sixteen blocks have 12 MB of weights. Measured: 0.2 to 1.5 MB more, as one thread is more or less ahead.
    assert peaks[1] - peaks[0] < 3e6


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
    pixel_values = np.random.default_rng(0).standard_normal((2, 3, 224, 224), np.float32)
    with jax.default_matmul_precision("highest"):
        # Its weights as constants, because the class hands its periods to numpy.
        found = np.asarray(jax.jit(lambda x: theirs(x))(pixel_values))
    images, interface = dict(zip("01", pixel_values, strict=True)), example_spec.interface()
    ours = equinox_runner.features(*open_model(example_folder / "model.eqx"), images, interface)
    # The class leaves the registers out.
    single, double = (
        np.delete([ours[f"{precision}/{i}"] for i in range(2)], range(1, 5), axis=1)
        for precision in ("float32", "float64")
    )
    assert found.shape == (2, 1 + 14 * 14, 48)
    # Measured 1.0.
    assert floors(found, double, single) <= MODEL_LIMIT


def test_a_variant_that_the_example_class_cannot_hold_is_refused(small, tmp_path):
    """Its feed-forward layers are always four times as wide as its tokens, and never SwiGLU."""
    why = "GELU, registers, a bias in attention and an MLP four times as wide as its tokens; this variant is not"
    if small.spec.family != "dinov3_vit":
        why = f"jax2onnx ships no example class for {small.spec.family}"
    with pytest.raises(InputError, match=why):
        map_jax2onnx_example(small.spec, small.archive, tmp_path / "results" / "jax2onnx_example.eqx")
    assert not (tmp_path / "results").exists()


def test_the_example_class_holds_the_releases_with_an_mlp(released):
    held = set()
    for name, spec in released.items():
        if has_part(spec.family, "jax2onnx_example"):
            with contextlib.suppress(InputError):
                jax2onnx_example.skeleton(spec.architecture)
                held.add(name)
    assert held == {
        "dinov3_vits16_pretrain_lvd1689m",
        "dinov3_vitb16_pretrain_lvd1689m",
        "dinov3_vitl16_pretrain_lvd1689m",
        "dinov3_vitl16_pretrain_sat493m",
    }
