"""SigLIP2's checkpoints: every layout and form of file gives the same archive, and synthetic ones hide no fault."""

import re
import tracemalloc
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import Siglip2Config, Siglip2Model, SiglipConfig, SiglipModel

from tests.conftest import RELEASED
from tests.families.siglip2 import published
from vit2onnx.checkpoints.convert import convert_checkpoint
from vit2onnx.checkpoints.detect import fitted, tables_of
from vit2onnx.checkpoints.reading import Opened, open_checkpoint
from vit2onnx.checkpoints.synthetic import synthetic_tensors, synthetic_value, write_synthetic
from vit2onnx.errors import InputError
from vit2onnx.families.siglip2.architecture import Architecture
from vit2onnx.nn.model import run, run_stages
from vit2onnx.spec.family import architecture_schema
from vit2onnx.spec.schema import faults_of
from vit2onnx.spec.variant import VariantSpec
from vit2onnx.weights.archive import archive_skeleton, read_archive
from vit2onnx.weights.keytable import assign
from vit2onnx.weights.leaves import array_shapes
from vit2onnx.weights.model_file import load_model, map_model, write_model

Tensors = Mapping[str, np.ndarray]

# No two dimensions are alike, so that a transpose shows in a shape.
VISION = {"embed_dim": 24, "depth": 2, "num_heads": 3, "ffn_hidden": 40, "patch_size": 4, "position_grid": 5}
TEXT = {"text_dim": 20, "text_depth": 3, "text_heads": 2, "text_hidden": 28, "text_length": 7, "vocab_size": 50}
COMMON = {"norm_eps": 1e-6, "activation": "gelu_tanh", "projection_dim": 24}
ARCHITECTURES = {
    "fixed": Architecture(**COMMON, **VISION, **TEXT, image_size=22),
    "naflex": Architecture(**COMMON, **VISION, **TEXT),
    "vision": Architecture(**COMMON, **VISION, image_size=22),
    "naflex vision": Architecture(**COMMON, **VISION),
    "text": Architecture(**COMMON, **TEXT),
}
SIGLIP2 = {name: spec for name, spec in RELEASED.items() if spec.family == "siglip2"}


@cache
def spec_of(kind: str, **changes: int) -> VariantSpec:
    base = SIGLIP2["siglip2_base_patch16_224"]
    return replace(base, name="tiny", architecture=replace(ARCHITECTURES[kind], **changes))


def tensors_of(kind: str, layout: str) -> dict[str, np.ndarray]:
    return {key: value.copy() for key, value in synthetic_tensors(spec_of(kind), seed=0, layout=layout)}


def archive_of(kind: str, path: Path) -> bytes:
    archive = path.parent / "archive" / "archive.tar.lz4"
    convert_checkpoint(spec_of(kind), path, archive, archive.with_name("ledger.csv"))
    return archive.read_bytes()


def test_there_are_all_seventeen_releases():
    assert SIGLIP2.keys() == published.RELEASES.keys()


@pytest.mark.parametrize("name", published.RELEASES)
def test_releases_are_as_published(name: str):
    spec, (tensors, parameters) = SIGLIP2[name], published.RELEASES[name]
    arch, shapes = spec.architecture, array_shapes(archive_skeleton(spec))
    assert spec.parameters == parameters == sum(int(np.prod(shape)) for shape in shapes.values())
    assert len(published.huggingface(arch)) == tensors
    assert spec.release.huggingface == f"google/{name.replace('_', '-')}"
    size, patch, end = re.fullmatch(r"siglip2_(\w+)_patch(\d+)_(\w+)", name).groups()
    size = {"base": "b", "large": "l", "so400m": "so400m", "giant_opt": "g-opt"}[size]
    assert spec.release.file == f"siglip2_{size}{patch}_{end}.npz"
    assert (arch.patch_size, arch.is_naflex) == (int(patch), end == "naflex")
    assert arch.position_grid == (16 if arch.is_naflex else int(end) // arch.patch_size)
    assert (spec.preprocessing.interpolation, spec.preprocessing.mean) == ("bilinear", (0.5, 0.5, 0.5))
    assert (spec.licence.id, spec.release.timm) == ("Apache-2.0", None)


@pytest.mark.parametrize("name", ["siglip2_giant_opt_patch16_256", "siglip2_so400m_patch16_naflex"])
def test_tables_know_files_of_full_width_and_depth(name: str):
    spec = SIGLIP2[name]
    for layout, shapes in published_shapes(spec.architecture).items():
        assert sources_of(spec, layout) == shapes


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_every_tensor_has_its_place(kind: str):
    spec = spec_of(kind)
    expected = published_shapes(spec.architecture)
    assert [table.layout for table in tables_of(spec).values()] == list(expected)
    for layout, shapes in expected.items():
        assert sources_of(spec, layout) == shapes
        assert {key: value.shape for key, value in tensors_of(kind, layout).items()} == shapes


def published_shapes(arch: Architecture) -> dict[str, dict[str, tuple[int, ...]]]:
    return {"huggingface": published.huggingface(arch), "big_vision": published.big_vision(arch)}


def sources_of(spec: VariantSpec, layout: str) -> dict[str, tuple[int, ...]]:
    """What a table asks for, if every leaf is filled once and every source but the fused ones is used once."""
    leaves = array_shapes(archive_skeleton(spec))
    assignments = assign(tables_of(spec)[layout], leaves)
    shapes = [
        pair
        for assignment in assignments
        for pair in zip(assignment.sources, assignment.transform.shapes(assignment.shape), strict=True)
    ]
    times = Counter(key for key, _ in shapes)
    assert {key for key, count in times.items() if count > 1} == {key for key in times if "in_proj" in key}
    return dict(shapes)


def test_huggingface_names_are_those_of_transformers():
    for kind, build in (("fixed", SiglipModel), ("naflex", Siglip2Model)):
        arch = ARCHITECTURES[kind]
        with torch.device("meta"):
            model = build(transformers_config(arch))
        found = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        assert found == published.huggingface(arch)
        towers = {"vision_model": {**VISION, "image_size": arch.image_size}, "text_model": TEXT}
        for name, fields in towers.items():
            found = {key: tuple(value.shape) for key, value in getattr(model, name).state_dict().items()}
            assert found == published.huggingface(Architecture(**COMMON, **fields))


def transformers_config(arch: Architecture) -> SiglipConfig | Siglip2Config:
    vision = {
        "hidden_size": arch.embed_dim,
        "num_hidden_layers": arch.depth,
        "num_attention_heads": arch.num_heads,
        "intermediate_size": arch.ffn_hidden,
        "patch_size": arch.patch_size,
        **({"image_size": arch.image_size} if arch.image_size else {"num_patches": arch.position_grid**2}),
    }
    text = {
        "hidden_size": arch.text_dim,
        "num_hidden_layers": arch.text_depth,
        "num_attention_heads": arch.text_heads,
        "intermediate_size": arch.text_hidden,
        "max_position_embeddings": arch.text_length,
        "vocab_size": arch.vocab_size,
        "projection_size": arch.projection_dim,
        **{"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0},
    }
    return (SiglipConfig if arch.image_size else Siglip2Config)(vision_config=vision, text_config=text)


def flax_of(tensors: Tensors, heads: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Hugging Face's tensors of a whole model as flax holds them, written apart from the tables.

    By what the axes mean: a dense layer of flax is `x @ kernel`, attention is `einsum("td,dhc->thc")` and back.
    """
    names = (
        (r"vision_model\.embeddings\.patch_embedding", "params/img/embedding"),
        (r"vision_model\.embeddings\.position_embedding\.weight", "params/img/pos_embedding"),
        (r"vision_model\.encoder\.layers\.(\d+)\.", r"params/img/Transformer/encoderblock_\1/"),
        (r"vision_model\.post_layernorm", "params/img/Transformer/encoder_norm"),
        (r"vision_model\.head\.", "params/img/MAPHead_0/"),
        (r"text_model\.embeddings\.token_embedding\.weight", "params/txt/Embed_0/embedding"),
        (r"text_model\.embeddings\.position_embedding\.weight", "params/txt/pos_embedding"),
        (r"text_model\.encoder\.layers\.(\d+)\.", r"params/txt/Encoder_0/encoderblock_\1/"),
        (r"text_model\.final_layer_norm", "params/txt/Encoder_0/encoder_norm"),
        (r"text_model\.head\.", "params/txt/head/"),
        (r"^logit_scale$", "params/t"),
        (r"^logit_bias$", "params/b"),
        (r"/layer_norm1", "/LayerNorm_0"),
        (r"/layer_norm2", "/LayerNorm_1"),
        (r"/layernorm", "/LayerNorm_0"),
        (r"/mlp\.fc1", "/MlpBlock_0/Dense_0"),
        (r"/mlp\.fc2", "/MlpBlock_0/Dense_1"),
        (r"/(self_attn|attention)\.", "/MultiHeadDotProductAttention_0/"),
        *((rf"/{name[0]}_proj", f"/{name}") for name in ("query", "key", "value")),
        (r"/out_proj", "/out"),
    )
    split = {
        key.replace("in_proj_", f"{name}_proj."): piece
        for key, value in tensors.items()
        if "in_proj" in key
        for name, piece in zip("qkv", np.split(value, 3), strict=True)
    }
    found = {}
    for key, value in (split | {key: value for key, value in tensors.items() if "in_proj" not in key}).items():
        name = key
        for pattern, replacement in names:
            name = re.sub(pattern, replacement, name)
        count = heads["img" if "/img/" in name else "txt"]
        is_attention = "MultiHead" in name
        if "pos_embedding" in name:
            side = int(len(value) ** 0.5)
            value = value.reshape(side, side, -1) if heads.get("naflex") and "/img/" in name else value[None]
        elif name.endswith(".bias"):
            name = name.replace(".bias", "/bias")
            value = value.reshape(count, -1) if is_attention and "/out/" not in name else value
        elif name.endswith(".weight") or name.endswith("head/weight"):
            is_norm = value.ndim == 1
            name = name.replace(".weight", "/scale" if is_norm else "/kernel")
            if value.ndim == 4:
                value = np.moveaxis(value, (0, 1), (3, 2))
            elif "/out/" in name:
                value = value.T.reshape(count, -1, value.shape[0])
            elif is_attention:
                value = value.T.reshape(value.shape[1], count, -1)
            elif not is_norm:
                value = value.T
        found[name.replace("head/weight", "head/kernel")] = np.ascontiguousarray(value)
    return found


@pytest.fixture(scope="module", params=["fixed", "naflex"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, bytes]:
    """A whole model as Hugging Face offers it, and its archive."""
    path = tmp_path_factory.mktemp(request.param) / "model.safetensors"
    write_synthetic(spec_of(request.param), path, seed=0, layout="huggingface")
    return request.param, path, archive_of(request.param, path)


def with_position_ids(tensors: Tensors, folder: Path) -> Path:
    """As older files have them: of texts, and of images of one size."""
    counts = {"text_model": 7, **({} if tensors[PATCHES].ndim == 2 else {"vision_model": 25})}
    ids = {f"{tower}.embeddings.position_ids": np.arange(count)[None] for tower, count in counts.items()}
    save_file({**tensors, **ids}, folder / "model.safetensors")
    return folder / "model.safetensors"


def as_torch(tensors: Tensors, folder: Path) -> Path:
    torch.save({name: torch.from_numpy(value) for name, value in tensors.items()}, folder / "pytorch_model.bin")
    return folder / "pytorch_model.bin"


PATCHES = "vision_model.embeddings.patch_embedding.weight"


def flat(tensors: Tensors) -> dict[str, np.ndarray]:
    return flax_of(tensors, {"img": 3, "txt": 2, "naflex": tensors[PATCHES].ndim == 2})


def as_npz(tensors: Tensors, folder: Path) -> Path:
    np.savez(folder / "model.npz", **flat(tensors))
    return folder / "model.npz"


def stacked(tensors: Tensors, folder: Path) -> Path:
    """As flax holds layers that it scans over: as one, with an axis for the depth."""
    found: dict[str, np.ndarray] = {}
    layers: dict[str, dict[int, np.ndarray]] = {}
    for name, value in flat(tensors).items():
        if match := re.search(r"encoderblock_(\d+)", name):
            layers.setdefault(name.replace(match[0], "encoderblock"), {})[int(match[1])] = value
        else:
            found[name] = value
    found |= {name: np.stack([values[i] for i in range(len(values))]) for name, values in layers.items()}
    np.savez(folder / "model.npz", **found)
    return folder / "model.npz"


def in_columns(tensors: Tensors, folder: Path) -> Path:
    np.savez(folder / "model.npz", **{name: np.asfortranarray(value) for name, value in flat(tensors).items()})
    return folder / "model.npz"


FORMS: Mapping[str, Callable[[Tensors, Path], Path]] = {
    "position ids": with_position_ids,
    "torch": as_torch,
    "npz": as_npz,
    "npz, stacked": stacked,
    "npz, column by column": in_columns,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_same_weights_gives_the_same_archive(form: str, whole, tmp_path: Path):
    kind, path, archive = whole
    assert archive_of(kind, FORMS[form](load_file(path), tmp_path)) == archive


def test_synthetic_files_of_the_publisher_are_those_that_numpy_writes(whole, tmp_path: Path):
    kind, path, archive = whole
    for name in "ab":
        write_synthetic(spec_of(kind), tmp_path / f"{name}.npz", seed=0, layout="big_vision")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz", allow_pickle=False) as found:
        expected = flat(load_file(path))
        assert sorted(found.files) == sorted(expected)
        for name, value in expected.items():
            assert found[name].dtype == np.float32
            np.testing.assert_array_equal(found[name], value, strict=True)
    assert archive_of(kind, tmp_path / "a.npz") == archive


@pytest.mark.parametrize("kind", ["vision", "naflex vision", "text"])
def test_a_tower_alone_has_a_layout_of_each_publisher(kind: str, tmp_path: Path):
    for layout, suffix in (("huggingface", "safetensors"), ("big_vision", "npz")):
        write_synthetic(spec_of(kind), tmp_path / f"{layout}.{suffix}", seed=0, layout=layout)
    assert archive_of(kind, tmp_path / "huggingface.safetensors") == archive_of(kind, tmp_path / "big_vision.npz")


def test_every_fault_of_a_file_is_named(tmp_path: Path):
    tensors = tensors_of("fixed", "huggingface")
    del tensors["logit_bias"]
    tensors["vision_model.head.probe"] = np.zeros((1, 24), np.float32)
    tensors["text_model.head.extra"] = np.zeros(3, np.float32)
    tensors["text_model.embeddings.position_ids"] = np.zeros((1, 7), np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    opened = Opened(tmp_path / "model.safetensors", open_checkpoint(tmp_path / "model.safetensors"))
    with pytest.raises(InputError) as caught:
        fitted(spec_of("fixed"), opened)
    assert sorted(caught.value.__notes__) == [
        "tensor logit_bias 1 is missing",
        "tensor text_model.embeddings.position_ids is float32 instead of one of int64",
        "tensor text_model.head.extra 3 is not known",
        "tensor vision_model.head.probe is 1x24 instead of 1x1x24",
    ]


def test_the_ledger_names_what_each_tensor_fills(whole, tmp_path: Path):
    kind, path, _ = whole
    archive_of(kind, with_position_ids(load_file(path), tmp_path))
    ledger = (tmp_path / "archive" / "ledger.csv").read_text()
    for name in "qkv":
        assert f"vision_model.head.attention.in_proj_bias,vision.head.attn.{name}.bias,take_{name},72,float32" in ledger
    assert "text_model.embeddings.position_ids,,ignored: counts the positions,1x7,int64," in ledger


@pytest.mark.parametrize("kind", ["fixed", "naflex"])
def test_the_model_computes_what_transformers_computes(kind: str, tmp_path: Path):
    """So no two tensors of one shape are exchanged."""
    spec, path = spec_of(kind), tmp_path / "model.safetensors"
    write_synthetic(spec, path, seed=0, layout="huggingface")
    archive_of(kind, path)
    archive = tmp_path / "archive" / "archive.tar.lz4"
    write_model(tmp_path / "model.eqx", spec, map_model(spec, read_archive(archive, spec)))
    model = load_model(tmp_path / "model.eqx")
    arch = spec.architecture
    reference = (SiglipModel if kind == "fixed" else Siglip2Model)(transformers_config(arch)).eval()
    reference.load_state_dict({name: torch.from_numpy(value) for name, value in load_file(path).items()})
    draw = np.random.default_rng(0)
    inputs = {"input_ids": draw.integers(0, arch.vocab_size, (3, arch.text_length))}
    if kind == "fixed":
        inputs["pixel_values"] = draw.standard_normal((2, 3, 22, 22), np.float32)
    else:
        inputs["pixel_values"] = draw.standard_normal((2, 12, 48), np.float32)
        inputs["pixel_attention_mask"] = (np.arange(12) < np.array([[12], [10]])).astype(np.int32)
        inputs["spatial_shapes"] = np.array([[3, 4], [5, 2]])
    with torch.inference_mode():
        expected = reference(**{name: torch.from_numpy(value) for name, value in inputs.items()})
    with jax.default_matmul_precision("highest"):
        found = jax.jit(lambda given: run(model, given, "pair"))(inputs)
    # Measured 2.7e-7 and 1.5e-5.
    for name, limit in (("image_embeds", 3e-6), ("text_embeds", 3e-6), ("logits_per_image", 2e-4)):
        np.testing.assert_allclose(found[name], getattr(expected, name).numpy(), rtol=0, atol=limit)


@pytest.mark.parametrize("kind", ["fixed", "naflex"])
def test_no_synthetic_tensor_is_trivial_or_like_another(kind: str):
    drawn = [(name, value.ravel()) for name, value in tensors_of(kind, "big_vision").items() if value.size > 1]
    for index, (name, one) in enumerate(drawn):
        assert np.isfinite(one).all() and len(np.unique(one)) > 0.99 * one.size, name
        for _, other in drawn[:index]:
            size = min(len(one), len(other))
            assert not np.isclose(one[:size], other[:size], atol=0).any(), name


def test_synthetic_logits_are_scaled_as_those_of_the_releases():
    found = tensors_of("fixed", "huggingface")
    assert 4.3 < found["logit_scale"][0] < 5.1 and -2.5 < found["logit_bias"][0] < -1.5


def test_activations_stay_near_one_through_many_blocks():
    spec = spec_of("vision", depth=40, embed_dim=48, projection_dim=48, num_heads=4)
    skeleton = archive_skeleton(spec)
    leaves = [jnp.asarray(synthetic_value("siglip2", name, shape, 0)) for name, shape in array_shapes(skeleton).items()]
    model = jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(skeleton), leaves)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 3, 22, 22)).astype(np.float32)
    _, stages = run_stages(model, {"pixel_values": jnp.asarray(images)}, "vision")
    sizes = {name: float(jnp.sqrt(jnp.mean(jnp.square(value)))) for name, value in stages.items()}
    # Measured 0.46 to 2.3.
    assert all(0.2 < size < 4 for name, size in sizes.items() if name.endswith((".output", "_embed", "pooled"))), sizes


def test_memory_holds_one_tensor_of_a_synthetic_file(tmp_path: Path):
    """The table of tokens, of which the largest release has a gigabyte."""
    spec = spec_of("text", vocab_size=50_000)
    size = 50_000 * 20 * 4
    for layout, suffix in (("huggingface", "safetensors"), ("big_vision", "npz")):
        write_synthetic(spec, tmp_path / f"model.{suffix}", seed=0, layout=layout)
        tracemalloc.start()
        write_synthetic(spec, tmp_path / f"model.{suffix}", seed=0, layout=layout)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1.3 * size, (layout, peak / size)


def test_the_schema_takes_every_release_and_tower_and_no_half_of_one():
    schema = architecture_schema("siglip2")
    for arch in [*ARCHITECTURES.values(), *(spec.architecture for spec in SIGLIP2.values())]:
        assert not faults_of(vars(arch), schema)
    assert faults_of({**COMMON, "depth": 2}, schema)
    assert faults_of({**COMMON, **VISION, "registers": 4}, schema)
