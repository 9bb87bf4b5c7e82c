"""Equimo's image towers of SigLIP2, as a third implementation of all that comes before the head.

Equimo cannot hold the whole model. It has no head that pools by attention, so the embedding is missing, no text tower,
no temperature and no NaFlex. Its `forward_features` takes the first patch for a CLS token, so its blocks and its norm
are called here instead. For SO400M/14 at 384 pixels it takes images of 378, all that whole patches cover.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from equimo.layers import attention
from equimo.models import vit

from tests.conftest import RELEASED
from tests.rounding import MODEL_LIMIT, floors
from vit2onnx import spine
from vit2onnx.checkpoints.fetch import fetch_synthetic
from vit2onnx.families.siglip2.architecture import Architecture
from vit2onnx.runners import equinox as equinox_runner
from vit2onnx.self_test.chain import shrink
from vit2onnx.weights.keytable import LazyTensor
from vit2onnx.weights.model_file import open_model

FIXED = {
    name: spec.architecture
    for name, spec in RELEASED.items()
    if spec.family == "siglip2" and not spec.architecture.is_naflex
}
# Of every size of a patch, and one whose images are no multiple of it.
SMALL = ["base_patch16_224", "base_patch32_256", "so400m_patch14_224", "so400m_patch14_384"]
SIZES = {"base_": "b", "large_": "l", "so400m_": "so400m", "giant_opt_": "giantopt"}


def equimo_name(name: str) -> str:
    """What Equimo calls a variant."""
    found = re.fullmatch(r"siglip2_(\w+_)patch(\d+)_(\d+)", name)
    size, patch, pixels = SIZES[found[1]], found[2], found[3]
    return f"siglip2_vit{size}{patch}_{378 if (patch, pixels) == ('14', '384') else pixels}"


def pixels_of(arch: Architecture) -> int:
    """The side of the part of an image that whole patches cover."""
    return arch.position_grid * arch.patch_size


def skeleton(name: str, **changes: Any) -> vit.VisionTransformer:
    """Equimo's model by its own config, with some of it changed, without memory for its weights."""
    return eqx.filter_eval_shape(lambda: getattr(vit, equimo_name(name))(**changes))


def arrays_of(model: vit.VisionTransformer) -> dict[str, Any]:
    """The arrays of Equimo's model by their paths, as in `blocks[0].blocks[1].attn.qkv.weight`."""
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(model, lambda x: hasattr(x, "shape")))
    return {jax.tree_util.keystr(path).removeprefix("."): leaf for path, leaf in leaves}


def in_equimo(tensors: Mapping[str, LazyTensor], name: str) -> np.ndarray:
    """The value of an array of Equimo's model, from ours."""

    def ours(path: str) -> np.ndarray:
        x = tensors[f"vision.{path}"].read()
        # Linear maps are stored as [in, out] here, and as [out, in] there.
        return x.T if x.ndim == 2 else x

    if name == "global_pos_embed.weight":
        table = ours("positions")
        return table.reshape(-1, table.shape[-1])
    for pattern, replacement in (
        (r"^patch_embed\.proj", "patch_embed"),
        (r"^blocks\[0\]\.blocks\[(\d+)\]", r"blocks.\1"),
        (r"\.prenorm\.", ".norm1."),
        (r"^(blocks\.\d+)\.norm\.", r"\1.norm2."),
    ):
        name = re.sub(pattern, replacement, name)
    if ".qkv." in name:
        return np.concatenate([ours(name.replace(".qkv.", f".{part}.")) for part in "qkv"])
    return ours(name)


def filled(model: vit.VisionTransformer, tensors: Mapping[str, LazyTensor], dtype: str) -> vit.VisionTransformer:
    """Equimo's model with our weights; every one of its arrays has one of ours."""
    shapes, rest = eqx.partition(model, lambda x: hasattr(x, "shape"))
    found = [
        jnp.asarray(in_equimo(tensors, name).reshape(leaf.shape), dtype) for name, leaf in arrays_of(model).items()
    ]
    return eqx.combine(jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(shapes), found), rest)


def run_equimo(model: vit.VisionTransformer, image: np.ndarray) -> np.ndarray:
    """All patches after the final norm."""

    # Defined anew, so that nothing is taken from what was compiled before.
    @eqx.filter_jit
    def run(model: vit.VisionTransformer, image: jax.Array) -> jax.Array:
        return jax.vmap(model.norm)(model.features(image, key=jax.random.PRNGKey(0), inference=True))

    return np.asarray(run(model, jnp.asarray(image, model.norm.weight.dtype)))


class Double:
    """`jax.numpy`, but with double precision where a module asks for single."""

    float32 = jnp.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(jnp, name)


@pytest.fixture
def in_double(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """JAX in double precision, and Equimo's softmax too, which is always computed in single, if that is called."""
    with jax.enable_x64(True):
        yield lambda: monkeypatch.setattr(attention, "jnp", Double())


@pytest.fixture(scope="module", params=SMALL)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A variant, and the model file of it made small."""
    name = f"siglip2_{request.param}"
    spec, folder = shrink(RELEASED[name]), tmp_path_factory.mktemp(name)
    fetch_synthetic(spec, folder / "checkpoint", seed=0, layout="huggingface")
    return name, spine.convert(spec, folder / "checkpoint", folder)


def small_equimo(name: str) -> vit.VisionTransformer:
    """Equimo's model of a variant made small."""
    arch = shrink(RELEASED[name]).architecture
    return skeleton(
        name,
        img_size=pixels_of(arch),
        dim=arch.embed_dim,
        depths=[arch.depth],
        num_heads=[arch.num_heads],
        mlp_ratio=arch.ffn_hidden / arch.embed_dim,
    )


def features_of(name: str, model_file: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """An image for Equimo, and all patches that our model gives for it, by precision."""
    spec = shrink(RELEASED[name])
    size, covered = spec.architecture.image_size, pixels_of(spec.architecture)
    image = np.random.default_rng(0).standard_normal((3, size, size), np.float32)
    case = f"noise@{size}x{size}"
    found = equinox_runner.features(*open_model(model_file), {case: image}, interface=spec.interface("vision"))
    return image[:, :covered, :covered], {dtype: found[f"{dtype}/{case}"] for dtype in ("float32", "float64")}


def test_equimo_gives_our_features(made: tuple[str, Path]):
    image, ours = features_of(*made)
    theirs = run_equimo(filled(small_equimo(made[0]), open_model(made[1])[1], "float32"), image)
    assert theirs.shape == ours["float64"].shape
    # Measured 0.95 to 0.99.
    assert floors(theirs, ours["float64"], ours["float32"]) <= MODEL_LIMIT


def test_equimo_agrees_in_double_precision(made: tuple[str, Path], in_double: Callable[[], None]):
    image, ours = features_of(*made)
    model = filled(small_equimo(made[0]), open_model(made[1])[1], "float64")
    as_it_is = run_equimo(model, image)
    in_double()
    theirs = run_equimo(model, image)
    assert theirs.dtype == np.float64
    # Measured 1.3e-15, and with Equimo's own softmax 1.9e-7.
    np.testing.assert_allclose(theirs, ours["float64"], rtol=0, atol=1e-12)
    assert 1e-12 < np.abs(as_it_is - ours["float64"]).max() < 1e-6


def test_every_weight_but_the_heads_has_its_place_in_equimo(made: tuple[str, Path]):
    _, tensors = open_model(made[1])
    used: set[str] = set()

    class Watched(dict):
        def __getitem__(self, key: str) -> LazyTensor:
            used.add(key)
            return tensors[key]

    for name in arrays_of(small_equimo(made[0])):
        in_equimo(Watched(), name)
    left = {name for name in tensors if name.startswith("vision.")} - used
    assert left == {name for name in tensors if name.startswith("vision.head.")} and left


@pytest.mark.parametrize("name", FIXED)
def test_equimos_own_config_is_the_variants(name: str):
    arch, model = FIXED[name], skeleton(name)
    (chunk,) = model.blocks
    block = chunk.blocks[0]
    found = {
        "embed_dim": model.dim,
        "depth": len(chunk.blocks),
        "num_heads": block.attn.num_heads,
        "ffn_hidden": block.mlp.fc1.out_features,
        "patch_size": model.patch_embed.patch_size,
        "position_grid": model.embed_size,
        "pixels": model.patch_embed.img_size,
        "norm_eps": {one.eps for one in (model.norm, block.prenorm, block.norm)},
        "gelu_tanh": block.mlp.act_layer is jax.nn.gelu,
        "prefix": model.num_prefix_tokens,
    }
    assert found == {
        "embed_dim": arch.embed_dim,
        "depth": arch.depth,
        "num_heads": arch.num_heads,
        "ffn_hidden": arch.ffn_hidden,
        "patch_size": (arch.patch_size, arch.patch_size),
        "position_grid": arch.position_grid,
        "pixels": (pixels_of(arch), pixels_of(arch)),
        "norm_eps": {arch.norm_eps},
        "gelu_tanh": arch.activation == "gelu_tanh",
        "prefix": 0,
    }
    count = sum(leaf.size for leaf in arrays_of(model).values())
    assert count == arch.vision_parameters - arch._head_parameters


def test_equimo_has_all_fixed_variants_and_no_others():
    assert len(FIXED) == 15
    assert {equimo_name(name) for name in FIXED} == {name for name in vit.__all__ if name.startswith("siglip2_")}
