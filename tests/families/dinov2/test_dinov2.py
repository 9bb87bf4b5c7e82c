"""DINOv2: positions against PyTorch, the model against both references, and what is published of the releases."""

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import equimo.io
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from tests import transformers_model
from tests.conftest import RELEASED, Spine
from tests.families.dinov2 import published
from tests.rounding import MODEL_LIMIT, floors
from vit2onnx.errors import InputError
from vit2onnx.families.dinov2 import references
from vit2onnx.images import load_image, preprocess
from vit2onnx.nn.positions import CUBIC, resized
from vit2onnx.parity.outputs import compare_golden
from vit2onnx.parity.preprocessing import compare_preprocessing
from vit2onnx.runners import equinox as equinox_runner
from vit2onnx.runners import torch as torch_runner
from vit2onnx.runners.onnx_constants import COMPUTED
from vit2onnx.runners.onnx_double import run_in_double
from vit2onnx.runners.session import session_of
from vit2onnx.self_test.chain import shrink
from vit2onnx.spec.case import GOLDEN
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec
from vit2onnx.weights.archive import read_archive
from vit2onnx.weights.model_file import open_model

HERE = Path(__file__).parent
PLAIN, REGISTERED, GIANT = "dinov2_vits14_pretrain", "dinov2_vits14_reg4_pretrain", "dinov2_vitg14_reg4_pretrain"
VARIANTS = [PLAIN, REGISTERED, GIANT]
# One patch, wide, tall, no multiple of the patch.
SIZES = [(14, 14), (28, 98), (98, 28), (70, 101)]
# Of one patch, smaller and larger than the table in one or both, and of the table's own size on one axis.
GRIDS = [(1, 1), (2, 50), (46, 7), (16, 16), (37, 24), (24, 37), (50, 61)]
DYNAMIC = Recipe("dynamic", 23, dict.fromkeys(("batch", "height", "width")))
STATIC = Recipe("static", 23, {"batch": 1, "height": 70, "width": 98})
AS_WRITTEN = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL


@pytest.fixture(scope="module")
def images() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {str(size): rng.standard_normal((3, *size), np.float32) for size in SIZES}


@pytest.fixture(params=VARIANTS)
def spine(spines: Callable[[str], Spine], request: pytest.FixtureRequest) -> Spine:
    return spines(request.param)


def table_of(seed: int, channels: int = 3) -> np.ndarray:
    """A table [37, 37, channels] of unit scale, rougher than any release's."""
    return np.random.default_rng(seed).standard_normal((37, 37, channels))


def by_torch(spec: VariantSpec, table: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """PyTorch's resizing of a table in its own precision, [rows, columns, channels]."""
    rows = torch.from_numpy(np.concatenate([np.zeros_like(table[:1, 0]), table.reshape(37 * 37, -1)]))[None]
    return references.resized(rows, grid, spec.architecture)[0, 1:].reshape(*grid, -1).numpy()


def ours(spec: VariantSpec, table: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    arch = spec.architecture
    antialias, tenths = arch.position_antialias, round(10 * arch.position_offset)
    run = jax.jit(lambda x: resized(x, *grid, antialias=antialias, tenths=tenths, a=CUBIC[antialias]))
    return np.asarray(run(jnp.asarray(table)))


@pytest.mark.parametrize("name", [PLAIN, REGISTERED])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_the_table_is_resized_as_pytorch_does(name: str, grid: tuple[int, int]):
    spec, table = RELEASED[name], table_of(0)
    truth = by_torch(spec, table, grid)
    with jax.enable_x64(True):
        # Measured 6e-14.
        np.testing.assert_allclose(ours(spec, table, grid), truth, rtol=0, atol=1e-12)
    single = table.astype(np.float32)
    truth = by_torch(spec, single.astype(np.float64), grid)
    errors = [np.sqrt(np.mean((x - truth) ** 2)) for x in (ours(spec, single, grid), by_torch(spec, single, grid))]
    # Nearer than PyTorch, or as near as single precision has it.
    assert errors[0] <= max(errors[1], 2e-7)


@pytest.mark.parametrize("name", [PLAIN, REGISTERED])
def test_a_table_of_the_right_size_is_left_as_it_is(name: str):
    table = table_of(1).astype(np.float32)
    np.testing.assert_array_equal(ours(RELEASED[name], table, (37, 37)), table)


def test_features_are_the_references(spine: Spine, images: Mapping[str, np.ndarray]):
    found = equinox_runner.features(*open_model(spine.model_file), images, spine.spec.interface())
    other = transformers_model.features(spine.spec, spine.checkpoints["meta"], images)
    for case in images:
        truth = other[f"float64/{case}"]
        # Measured 4e-15.
        np.testing.assert_allclose(found[f"float64/{case}"], truth, rtol=0, atol=1e-12)
        assert floors(found[f"float32/{case}"], truth, other[f"float32/{case}"]) <= MODEL_LIMIT


def test_transformers_own_resizing_is_a_known_difference(spines, images: Mapping[str, np.ndarray]):
    spine = spines(PLAIN)
    native = list(images)
    found = equinox_runner.features(*open_model(spine.model_file), images, spine.spec.interface(), native)
    other = transformers_model.features(spine.spec, spine.checkpoints["meta"], images, native)
    for case in images:
        effect = found[f"native/{case}"] - found[f"float64/{case}"]
        # It moves the features by far more than rounding, and by as much as we expect.
        assert np.abs(effect).max() > 0.01
        unexplained = other[f"native/{case}"] - other[f"float64/{case}"] - effect
        assert np.abs(unexplained).max() < 1e-5
    registered = spines(REGISTERED)
    found = equinox_runner.features(*open_model(registered.model_file), images, registered.spec.interface(), native)
    assert not any(key.startswith("native/") for key in found)


@pytest.mark.parametrize("recipe", [DYNAMIC, STATIC], ids=lambda recipe: recipe.name)
def test_graphs_are_the_model(spine: Spine, recipe: Recipe, images: Mapping[str, np.ndarray]):
    graph = spine.export(recipe)
    inputs = {case: x for case, x in images.items() if recipe is DYNAMIC}
    if recipe is DYNAMIC:
        # Of the table's own size, on both sides or one, and larger.
        sizes = spine.spec.architecture.telling_sizes
        inputs |= {str(size): np.random.default_rng(2).standard_normal((3, *size), np.float32) for size in sizes}
    inputs |= {"(70, 98)": np.random.default_rng(1).standard_normal((3, 70, 98), np.float32)}
    exact = run_in_double(graph, [{"pixel_values": x[None]} for x in inputs.values()])
    truth = equinox_runner.features(*open_model(spine.model_file), inputs, spine.spec.interface())
    session = session_of(graph, AS_WRITTEN, 1)
    for (case, x), outputs in zip(inputs.items(), exact, strict=True):
        double = truth[f"float64/{case}"]
        np.testing.assert_allclose(outputs["last_hidden_state"][0], double, rtol=0, atol=1e-12)
        (found, pooled) = session.run(None, {"pixel_values": x[None]})
        assert floors(found[0], double, truth[f"float32/{case}"]) <= MODEL_LIMIT
        np.testing.assert_array_equal(pooled, found[:, 0])


def test_a_batch_is_its_images(spines, images: Mapping[str, np.ndarray]):
    session = session_of(spines(PLAIN).export(DYNAMIC), AS_WRITTEN, 1)
    image = images["(28, 98)"]
    batch = np.stack([image, image[::-1], image[:, ::-1]])
    together = session.run(None, {"pixel_values": batch})[0]
    for place, x in enumerate(batch):
        # Other kernels may be taken for another size: measured 1e-6.
        np.testing.assert_allclose(session.run(None, {"pixel_values": x[None]})[0][0], together[place], atol=1e-5)


def test_the_table_stays_a_weight_and_its_matrices_are_constants(spine: Spine):
    model = onnx.load(spine.export(STATIC))
    held = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    assert held["positions.table"] == [8, 8, spine.spec.architecture.embed_dim]
    embedding = [node.op_type for node in model.graph.node if node.name.startswith("embed/")]
    # Two matrices and the addition; nothing is left of how the matrices were made.
    assert embedding.count("MatMul") == 2 and "Range" not in embedding and "Mod" not in embedding
    (computed,) = (entry.value for entry in model.metadata_props if entry.key == COMPUTED)
    assert "positions.table" not in computed and len(computed) < 10_000


@pytest.mark.parametrize("recipe, most", [(DYNAMIC, 330), (STATIC, 255)], ids=["dynamic", "static"])
def test_graphs_of_twelve_blocks_are_small(spines, recipe: Recipe, most: int):
    for name in (PLAIN, REGISTERED):
        nodes = [node.name for node in onnx.load(spines(name).export(recipe)).graph.node]
        # Two blocks here, twelve in a ViT-S, whose graphs have 322 and 251 nodes.
        assert len(nodes) + 10 * sum(name.startswith("blocks.1/") for name in nodes) <= most


def test_the_position_of_cls_is_part_of_the_token(spines):
    spine = spines(REGISTERED)
    leaves = dict(read_archive(spine.archive, spine.spec))
    state = torch.load(spine.checkpoints["meta"], weights_only=True)
    assert not leaves["global_pos_embed.weight"][0].any()
    expected = (state["cls_token"] + state["pos_embed"][:, :1])[0].numpy()
    np.testing.assert_array_equal(leaves["cls_token"], expected)
    assert np.abs(expected - state["cls_token"][0].numpy()).max() > 0.1


@pytest.mark.parametrize("name, size", [(PLAIN, (112, 112)), (REGISTERED, (84, 140)), (GIANT, (84, 140))])
def test_equimos_own_loader_gives_our_features(spines, tmp_path: Path, name: str, size: tuple[int, int]):
    """Equimo resizes as the releases with registers do; a table of the others it has at their own size only."""
    spine = spines(name)
    # Equimo unpacks beside the archive.
    archive = Path(shutil.copy(spine.archive, tmp_path))
    model = eqx.filter_jit(equimo.io.load_model)("vit", path=archive)
    x = np.random.default_rng(0).standard_normal((3, *size), np.float32)
    found = eqx.filter_jit(model.forward_features)(x, key=jax.random.PRNGKey(0), inference=True)
    order = ("x_norm_cls_token", "x_norm_reg_tokens", "x_norm_patchtokens")
    width = spine.spec.architecture.embed_dim
    theirs = np.concatenate([np.asarray(found[group]).reshape(-1, width) for group in order])
    truth = equinox_runner.features(*open_model(spine.model_file), {"x": x}, spine.spec.interface())
    assert floors(theirs, truth["float64/x"], truth["float32/x"]) <= MODEL_LIMIT


@pytest.mark.parametrize("name", published.RELEASES)
def test_releases_are_as_published(name: str):
    spec = RELEASED[name]
    arch, release = spec.architecture, spec.release
    parameters, digits = published.RELEASES[name]
    size, registers = re.fullmatch(r"dinov2_vit(\w)14(_reg4)?_pretrain", name).groups()
    word = {"s": "small", "b": "base", "l": "large", "g": "giant"}[size]
    assert (spec.parameters, release.sha256[:8], len(release.sha256)) == (parameters, digits, 64)
    assert release.is_file(release.sha256) and not release.is_file(digits + 56 * "0")
    assert len(published.meta(arch)) == published.TENSORS[arch.depth][bool(registers)]
    assert published.meta(arch)["pos_embed"] == (1, 1370, arch.embed_dim)
    assert (arch.patch_size, arch.norm_eps, arch.head_dim, arch.position_grid) == (14, 1e-6, 64, 37)
    assert (arch.num_registers, arch.position_antialias, arch.position_offset) == (
        (4, True, 0.0) if registers else (0, False, 0.1)
    )
    assert arch.departure == ""
    assert release.file == f"{name}.pth"
    assert release.url == f"https://dl.fbaipublicfiles.com/dinov2/dinov2_vit{size}14/"
    assert release.huggingface == f"facebook/dinov2-{'with-registers-' if registers else ''}{word}"
    assert release.timm == f"vit_{word}_patch14_{'reg4_' if registers else ''}dinov2.lvd142m"
    assert (spec.licence.id, spec.preprocessing.interpolation) == ("Apache-2.0", "bicubic")
    assert spec.interface().size("tokens", {"height": 518, "width": 518}) == 1370 + arch.num_registers


def test_a_table_resized_in_another_way_is_a_departure():
    plain, registered = RELEASED[PLAIN].architecture, RELEASED[REGISTERED].architecture
    for arch in (
        replace(plain, position_offset=0.0),
        replace(plain, position_offset=0.0, position_antialias=True),
        replace(registered, position_offset=0.1, position_antialias=False),
    ):
        assert "NOT as in the releases" in arch.departure


@pytest.mark.parametrize("name, antialias, offset", [(PLAIN, True, 0.0), (REGISTERED, False, 0.1), (PLAIN, False, 0.0)])
def test_every_way_of_resizing_has_its_reference(tmp_path: Path, name: str, antialias: bool, offset: float):
    """Training of one's own may have any, and transformers has one by registers."""
    spec = shrink(RELEASED[name])
    spec = replace(spec, architecture=replace(spec.architecture, position_antialias=antialias, position_offset=offset))
    spine = Spine(spec, tmp_path)
    x = {"x": np.random.default_rng(0).standard_normal((3, 70, 98), np.float32)}
    ours = equinox_runner.features(*open_model(spine.model_file), x, spec.interface(), ["x"])
    theirs = transformers_model.features(spec, spine.checkpoints["meta"], x, ["x"])
    np.testing.assert_allclose(ours["float64/x"], theirs["float64/x"], rtol=0, atol=1e-12)
    assert ("native/x" in ours) == ("native/x" in theirs) == ((antialias, offset) != (name == REGISTERED, 0.0))
    if "native/x" in ours:
        assert np.abs(ours["native/x"] - theirs["native/x"]).max() < 1e-5


def test_the_sum_of_token_and_position_is_rounded_once(spines):
    """As in every run in single precision; the parts in double precision would be another model."""
    spine = spines(PLAIN)
    state = torch.load(spine.checkpoints["meta"], weights_only=True)
    token, position = state["cls_token"][0], state["pos_embed"][0, :1]
    assert (token.double() + position.double() != (token + position).double()).any()
    load = torch_runner.reference_of(spine.spec, "transformers", spine.checkpoints["meta"])
    torch.testing.assert_close(load.state["embeddings.cls_token"]()[0], token + position, rtol=0, atol=0)
    assert not load.state["embeddings.position_embeddings"]()[0, 0].any()


def test_published_features_are_compared_token_by_token():
    spec = RELEASED["dinov2_vitb14_reg4_pretrain"]
    features = np.zeros((5 + 256, 768), np.float32)
    rows = list(compare_golden("onnx", {GOLDEN: {"last_hidden_state": features}}, spec, 1))
    assert [(row["group"], row["max_abs"]) for row in rows] == [
        ("cls", pytest.approx(1.4563)),
        ("registers", pytest.approx(1.4736)),
        ("registers", pytest.approx(1.5943)),
    ]
    assert spec.golden.preprocessing == spec.preprocessing


@pytest.mark.parametrize(
    "photograph, size, whole",
    [
        # As published: the shorter side is 256, the longer rounded down.
        ((480, 640), (224, 224), (256, 341)),
        ((640, 480), (224, 224), (341, 256)),
        ((512, 512), (224, 224), (256, 256)),
        ((300, 451), (518, 518), (592, 889)),
        # Where a factor in floating point would lose a pixel.
        ((206, 412), (224, 224), (256, 512)),
        # A size that is not square is covered.
        ((300, 451), (160, 288), (218, 329)),
        ((512, 512), (48, 112), (128, 128)),
    ],
)
def test_a_photograph_keeps_its_aspect_ratio(photograph, size, whole):
    assert RELEASED[PLAIN].preprocessing.size_of_whole(photograph, size) == whole
    assert replace(RELEASED[PLAIN].preprocessing, crop_pct=None).size_of_whole(photograph, size) == size


def test_the_middle_of_a_photograph_is_taken():
    """Against PyTorch's own resizing, which is another code than Pillow's."""
    spec, image = RELEASED[PLAIN], load_image(HERE.parents[2] / "resources" / "images" / "coffee.jpg")
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    found = preprocess(image, 224, 224, spec.preprocessing)
    height, width = spec.preprocessing.size_of_whole(image.size[::-1], (224, 224))
    small = torch.nn.functional.interpolate(pixels, (height, width), mode="bicubic", antialias=True)[0]
    top, left = round((height - 224) / 2), round((width - 224) / 2)
    middle = small[:, top : top + 224, left : left + 224].numpy().astype(np.float64)
    mean, std = (np.reshape(values, (3, 1, 1)) for values in (spec.preprocessing.mean, spec.preprocessing.std))
    levels = np.abs((found * std + mean) * 255 - middle)
    # Both round to grey levels; measured 0.6 % of the values, one level apart.
    assert levels.max() < 1.01 and np.mean(levels > 0.05) < 0.02


def test_the_publishers_way_to_a_size_is_ours():
    """On photographs some of which a factor in floating point would miss by a pixel."""
    rng = np.random.default_rng(0)
    photographs = [
        (f"{height}x{width}", Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)))
        for height, width in [(206, 412), (249, 498), (474, 237), (257, 300), (600, 451)]
    ]
    for row in compare_preprocessing(photographs, [(224, 224), (112, 70)], RELEASED[PLAIN], references, preprocess):
        assert row["differing_share"] == 0, row


def test_a_swiglu_has_its_own_activation():
    arch = shrink(RELEASED["dinov2_vitg14_pretrain"]).architecture
    assert arch.act == replace(arch, activation="silu").act == "silu"
    with pytest.raises(InputError, match=r"architecture\.activation must be silu with ffn: swiglu, not gelu; leave"):
        replace(arch, activation="gelu")
