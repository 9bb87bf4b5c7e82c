"""SigLIP2 against transformers, tower by tower and both together, with weights that hide no fault.

Attention is sharp, biases and tables are large, norms are no identities. Grids of NaFlex have one row, one column, more
of either than the table, and padding. Transformers runs its own whole model here; that its steps give the same is a
test of its own.
"""

import re
import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.rounding import LAYER_LIMIT, floors
from vit2onnx.families.reference import Reference
from vit2onnx.families.siglip2 import references
from vit2onnx.families.siglip2.architecture import Architecture
from vit2onnx.families.siglip2.faults import shrink
from vit2onnx.families.siglip2.model import Model
from vit2onnx.nn.model import run, run_stages
from vit2onnx.nn.naflex import resized_positions, resized_positions_p
from vit2onnx.spec.texts import EOS
from vit2onnx.spec.variant import Preprocessing, VariantSpec
from vit2onnx.weights.keytable import LazyTensor
from vit2onnx.weights.leaves import leaf_names

Arrays = dict[str, np.ndarray]

BASE = shrink(
    Architecture(
        norm_eps=1e-6,
        activation="gelu_tanh",
        projection_dim=768,
        embed_dim=768,
        depth=12,
        num_heads=12,
        ffn_hidden=3072,
        patch_size=16,
        image_size=224,
        position_grid=14,
        text_dim=768,
        text_depth=12,
        text_heads=12,
        text_hidden=3072,
        text_length=64,
        vocab_size=256000,
    )
)
ARCHITECTURES = {
    "fixed": BASE,
    # Pixels beyond the last whole patch are dropped, and texts are of another width.
    "uneven": replace(BASE, patch_size=14, image_size=5 * 14 + 6, text_dim=48),
    "naflex": replace(BASE, image_size=0, position_grid=16),
    "vision alone": replace(BASE, text_depth=0, text_dim=0),
    "naflex alone": replace(BASE, image_size=0, position_grid=16, text_depth=0, text_dim=0),
    "text alone": replace(BASE, depth=0, embed_dim=0, image_size=0),
}
# Of one row, of one column, wider than the table, of its size, of one patch, and smaller both ways.
GRIDS = ((1, 256), (256, 1), (8, 31), (16, 16), (1, 1), (12, 20))
# Larger than the table both ways or one.
LARGE_GRIDS = ((24, 40), (64, 16), (3, 300))
TOLERANCE = 1e-12


def value(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The value of a tensor of transformers, the same for the same name and shape."""
    noise = np.random.default_rng([7, zlib.crc32(name.encode())]).standard_normal(shape, np.float32)
    if name.startswith("logit_"):
        return 0.1 * noise + np.float32(4.8 if name == "logit_scale" else -2)
    if name.endswith(("norm.weight", "norm1.weight", "norm2.weight")):
        return 1 + 0.2 * noise
    if name.endswith("probe"):
        return noise
    if name.endswith(("bias", "token_embedding.weight", "position_embedding.weight")):
        return 0.3 * noise
    sharp = 2 if re.search(r"\.(q_proj|k_proj)\.|in_proj", name) else 1
    return sharp * noise / np.float32(np.sqrt(np.prod(shape[1:])))


def weights(arch: Architecture) -> Arrays:
    """All tensors of transformers' model."""
    shapes = references.transformers_model(arch).state_dict()
    return {name: value(name, tuple(tensor.shape)) for name, tensor in shapes.items()}


def lazy(arrays: Mapping[str, np.ndarray]) -> dict[str, LazyTensor]:
    return {name: LazyTensor(x.shape, x.dtype.name, lambda x=x: x) for name, x in arrays.items()}


def reference(arch: Architecture, tensors: Mapping[str, np.ndarray]) -> Reference:
    half = (0.5, 0.5, 0.5)
    preprocessing = Preprocessing("bilinear", half, half)
    spec = VariantSpec("tiny", "siglip2", 0, arch, preprocessing, released=None, licence=None, golden=None)
    return references.transformers(spec, "file", lazy(tensors), None)


def filled(found: Reference, dtype: torch.dtype) -> torch.nn.Module:
    found.module.load_state_dict({name: read() for name, read in found.state.items()}, assign=True)
    return found.module.to(dtype)


def in_torch(inputs: Arrays, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    tensors = {name: torch.from_numpy(x) for name, x in inputs.items()}
    return {name: x.to(dtype) if x.is_floating_point() else x for name, x in tensors.items()}


def theirs(arch: Architecture, inputs: Arrays, interface: str, dtype: torch.dtype) -> Arrays:
    """The outputs of transformers' model, run as a whole."""
    model = filled(reference(arch, weights(arch)), dtype)
    called = model if interface == "pair" else references.towers_of(model)[interface][0]
    with torch.inference_mode():
        found = called(**in_torch(inputs, dtype))
    return {name: x.numpy() for name, x in found.items() if isinstance(x, torch.Tensor)}


def ours(arch: Architecture, dtype: str) -> Model:
    """Our model with the weights of transformers', mapped here by another table than the project's."""
    tensors, found = weights(arch), {}
    skeleton = eqx.filter_eval_shape(Model, arch)
    for name, leaf in zip(leaf_names(skeleton), jax.tree_util.tree_leaves(skeleton), strict=True):
        theirs, part = their_name(name), None
        if not (arch.depth and arch.text_depth):
            theirs = re.sub(r"^(vision|text)_model\.", "", theirs)
        if in_head := re.search(r"head\.attention\.([qkv])\.(weight|bias)$", theirs):
            part = "qkv".index(in_head[1])
            theirs = theirs[: in_head.start()] + f"head.attention.in_proj_{in_head[2]}"
        x = tensors[theirs] if part is None else np.split(tensors[theirs], 3)[part]
        is_table = theirs.endswith(("token_embedding.weight", "position_embedding.weight"))
        x = x.T if x.ndim == 2 and not is_table else x
        found[name] = jnp.asarray(x.reshape(leaf.shape), dtype)
    return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(skeleton), found.values())


def their_name(name: str) -> str:
    """What transformers calls a parameter of ours; queries, keys and values of the head are parts of one."""
    for pattern, replacement in (
        (r"^(vision|text)\.", r"\1_model."),
        (r"patch_embed\.", "embeddings.patch_embedding."),
        (r"token_embedding$", "embeddings.token_embedding.weight"),
        (r"positions$", "embeddings.position_embedding.weight"),
        (r"blocks\.(\d+)\.norm", r"encoder.layers.\1.layer_norm"),
        (r"blocks\.(\d+)\.attn\.proj", r"encoder.layers.\1.self_attn.out_proj"),
        (r"blocks\.(\d+)\.attn\.([qkv])", r"encoder.layers.\1.self_attn.\2_proj"),
        (r"blocks\.", "encoder.layers."),
        (r"head\.attn\.proj", "head.attention.out_proj"),
        (r"head\.attn", "head.attention"),
        (r"head\.norm", "head.layernorm"),
        (r"^vision_model\.norm", "vision_model.post_layernorm"),
        (r"^text_model\.norm", "text_model.final_layer_norm"),
    ):
        name = re.sub(pattern, replacement, name)
    return name


def run_ours(arch: Architecture, inputs: Arrays, interface: str, dtype: str) -> Arrays:
    with jax.enable_x64(dtype == "float64"):
        typed = {name: jnp.asarray(x.astype(dtype) if x.dtype.kind == "f" else x) for name, x in inputs.items()}
        found = eqx.filter_jit(run)(ours(arch, dtype), typed, interface)
        return {name: np.asarray(x) for name, x in found.items()}


def stage_names(arch: Architecture, inputs: Arrays, interface: str) -> list[str]:
    """The full names of our stages, in order."""
    found: list[str] = []
    model, given = eqx.filter_eval_shape(Model, arch), {name: jnp.asarray(x) for name, x in inputs.items()}
    eqx.filter_eval_shape(lambda model, given: found.extend(run_stages(model, given, interface)[1]), model, given)
    return found


def images(arch: Architecture, count: int) -> Arrays:
    size = (count, 3, arch.image_size, arch.image_size)
    return {"pixel_values": np.random.default_rng(0).standard_normal(size, np.float32)}


def patches(grids: tuple[tuple[int, int], ...], budget: int, padding: float = 0.0) -> Arrays:
    """Images of these grids as patches, filled up to a number of them."""
    rng = np.random.default_rng(1)
    pixels = np.full((len(grids), budget, 3 * 16 * 16), padding, np.float32)
    mask = np.zeros((len(grids), budget), np.int32)
    for index, (rows, columns) in enumerate(grids):
        pixels[index, : rows * columns] = rng.standard_normal((rows * columns, pixels.shape[2]), np.float32)
        mask[index, : rows * columns] = 1
    return {"pixel_values": pixels, "pixel_attention_mask": mask, "spatial_shapes": np.array(grids, np.int64)}


def texts(count: int, length: int) -> Arrays:
    """Texts of different lengths, ended and filled up; the first has no padding."""
    rng = np.random.default_rng(2)
    ids = np.zeros((count, length), np.int64)
    for index, last in enumerate([length - 1, *rng.integers(0, length, count - 1)]):
        ids[index, :last], ids[index, last] = rng.integers(4, 512, last), EOS
    return {"input_ids": ids}


def meaningful(name: str, x: np.ndarray, inputs: Arrays) -> np.ndarray:
    """The rows of an output that mean something: those before the padding of images."""
    mask = inputs.get("pixel_attention_mask")
    return x if mask is None or name != "last_hidden_state" else x[mask > 0]


CASES = [
    ("fixed", "vision", images(BASE, 3)),
    ("uneven", "vision", images(ARCHITECTURES["uneven"], 2)),
    ("vision alone", "vision", images(BASE, 2)),
    ("naflex", "vision", patches(GRIDS, 256)),
    ("naflex", "vision", patches(LARGE_GRIDS, 1024)),
    ("naflex alone", "vision", patches(GRIDS, 300)),
    ("fixed", "text", texts(6, 64)),
    ("fixed", "text", texts(12, 17)),
    ("text alone", "text", texts(60, 1)),
    ("uneven", "text", texts(6, 64)),
    ("fixed", "pair", {**texts(5, 64), **images(BASE, 3)}),
    ("uneven", "pair", {**texts(1, 64), **images(ARCHITECTURES["uneven"], 7)}),
    ("naflex", "pair", {**texts(7, 64), **patches(GRIDS[:1], 256)}),
]


@pytest.mark.parametrize(
    "name, interface, inputs", CASES, ids=[f"{case[0]}-{case[1]}-{i}" for i, case in enumerate(CASES)]
)
def test_features_are_transformers(name: str, interface: str, inputs: Arrays):
    arch = ARCHITECTURES[name]
    truth = theirs(arch, inputs, interface, torch.float64)
    single = theirs(arch, inputs, interface, torch.float32)
    for dtype in ("float64", "float32"):
        found = run_ours(arch, inputs, interface, dtype)
        assert found
        for output, x in found.items():
            assert x.dtype == dtype
            x, true, other = (meaningful(output, each, inputs) for each in (x, truth[output], single[output]))
            if dtype == "float64":
                # Measured 6e-14, and 1.1e-13 for logits, whose scale is 20.
                np.testing.assert_allclose(x, true, rtol=0, atol=TOLERANCE)
            else:
                # Measured 2.0.
                assert floors(x, true, other) <= LAYER_LIMIT


@pytest.mark.parametrize("name", ["fixed", "naflex", "text alone", "vision alone"])
def test_parameters_have_the_names_of_all_graphs(name: str):
    """Also where there is one tower, so that graphs of one and of both can share a file of weights."""
    arch = ARCHITECTURES[name]
    names = set(leaf_names(eqx.filter_eval_shape(Model, arch)))
    assert ("logit_scale" in names) == ("logit_bias" in names) == bool(arch.depth and arch.text_depth)
    if arch.depth:
        assert {"vision.positions", "vision.head.probe", "vision.blocks.1.attn.proj.bias"} <= names
    if arch.text_depth:
        assert {"text.token_embedding", "text.positions", "text.head.weight", "text.norm.bias"} <= names
    prefixes = ("vision.", "text.", "logit_")
    assert all(name.startswith(prefixes) for name in names)


def test_stages_are_named_by_tower_in_order():
    inputs = {**texts(1, 64), **images(BASE, 1)}
    block = ["input", "attn_in", "q", "k", "attn_raw", "post_attn", "mlp_in", "mlp_raw", "output"]
    blocks = [f"blocks.{index}.{stage}" for index in (0, 1) for stage in block]
    assert stage_names(BASE, inputs, "pair") == [
        *(f"vision.{stage}" for stage in ("patch_embed", *blocks, "norm", "head_attn", "pooled")),
        *(f"text.{stage}" for stage in ("token_embed", *blocks, "norm", "pooled")),
        *("image_embeds", "text_embeds", "logits_per_text", "logits_per_image"),
    ]


@pytest.mark.parametrize(
    "name, interface, inputs",
    [
        ("fixed", "vision", images(BASE, 1)),
        ("naflex", "vision", patches(GRIDS[2:3], 256)),
        ("fixed", "text", texts(1, 64)),
        ("naflex alone", "vision", patches(GRIDS[:1], 256)),
        ("fixed", "pair", {**images(BASE, 2), **texts(3, 64)}),
    ],
)
def test_the_references_steps_are_its_whole_model(name: str, interface: str, inputs: Arrays):
    """And their stages and ports are ours, by name and order."""
    arch = ARCHITECTURES[name]
    whole = theirs(arch, inputs, interface, torch.float32)
    found = reference(arch, weights(arch))
    filled(found, torch.float32)
    values: dict[str, Any] = in_torch(inputs, torch.float32)
    last, ports, taps = next(iter(values.values())), {}, []
    with torch.inference_mode():
        for step in found.steps(values):
            last = step.run(*([values[given] for given in step.takes] or [last]))
            values[step.name] = last
            taps += step.taps
            if step.port:
                ports[step.port] = last.numpy()
    assert ports.keys() == whole.keys() - {"logits_per_image"}
    for port, x in ports.items():
        np.testing.assert_array_equal(x, whole[port])
    assert taps == stage_names(arch, inputs, interface)


def test_no_buffer_of_a_reference_is_empty():
    """Transformers runs without values for its positions, and gives nonsense."""
    for arch in ARCHITECTURES.values():
        assert not any(buffer.is_meta for buffer in reference(arch, weights(arch)).module.buffers())


def in_flax(arch: Architecture) -> Arrays:
    """The weights of transformers' model as the publisher's files hold them."""
    found = {}
    for name, x in weights(arch).items():
        tower, _, rest = name.partition("_model.")
        heads = arch.num_heads if tower == "vision" else arch.text_heads
        part = {"vision": "img", "text": "txt"}.get(tower, "")
        encoder = f"params/{part}/{'Transformer' if part == 'img' else 'Encoder_0'}"
        leaf = "bias" if name.endswith("bias") else "kernel"
        if name.startswith("logit_"):
            found["params/t" if name == "logit_scale" else "params/b"] = x
        elif "in_proj" in name:
            for which, one in zip(("query", "key", "value"), np.split(x, 3), strict=True):
                split = one.reshape(heads, -1) if leaf == "bias" else one.T.reshape(one.shape[1], heads, -1)
                found[f"params/img/MAPHead_0/MultiHeadDotProductAttention_0/{which}/{leaf}"] = split
        elif "position_embedding" in name:
            grid = (arch.position_grid,) * 2 if part == "img" and arch.is_naflex else (1, len(x))
            found[f"params/{part}/pos_embedding"] = x.reshape(*grid, -1)
        elif "token_embedding" in name:
            found["params/txt/Embed_0/embedding"] = x
        elif "patch_embedding" in name:
            found[f"params/img/embedding/{leaf}"] = x.transpose(2, 3, 1, 0) if x.ndim == 4 else x.T
        elif "norm" in name:
            leaf = "bias" if leaf == "bias" else "scale"
            module = {"post_layernorm": "encoder_norm", "final_layer_norm": "encoder_norm"}.get(rest.split(".")[0])
            where = f"{encoder}/{module}" if module else "params/img/MAPHead_0/LayerNorm_0"
            if layer := re.search(r"layers\.(\d+)\.layer_norm([12])", rest):
                where = f"{encoder}/encoderblock_{layer[1]}/LayerNorm_{int(layer[2]) - 1}"
            found[f"{where}/{leaf}"] = x
        elif rest.endswith("probe"):
            found["params/img/MAPHead_0/probe"] = x
        else:
            layer = re.search(r"layers\.(\d+)\.", rest)
            where = f"{encoder}/encoderblock_{layer[1]}" if layer else "params/img/MAPHead_0"
            which = {"q": "query", "k": "key", "v": "value", "out": "out", "fc1": "Dense_0", "fc2": "Dense_1"}
            module = which.get(rest.split(".")[-2].removesuffix("_proj"))
            x = x.T if leaf == "kernel" else x
            if module is None:
                where, module = "params/txt", "head"
            elif module.startswith("Dense"):
                module = f"MlpBlock_0/{module}"
            else:
                if module == "out":
                    x = x.reshape(heads, -1, x.shape[1]) if leaf == "kernel" else x
                else:
                    x = x.reshape(*x.shape[:-1], heads, -1)
                module = f"MultiHeadDotProductAttention_0/{module}"
            found[f"{where}/{module}/{leaf}"] = x
    return found


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_all_layouts_fill_the_reference_alike(name: str):
    arch = ARCHITECTURES[name]
    wanted = weights(arch)
    ids = {"position_ids": np.arange(64)[None], "text_model.embeddings.position_ids": np.arange(64)[None]}
    layouts = [wanted, {**wanted, **ids}]
    if arch.depth and arch.text_depth:
        layouts.append(in_flax(arch))
    else:
        # As older files of one tower have it.
        tower = "vision_model" if arch.depth else "text_model"
        layouts.append({f"{tower}.{key}": x for key, x in wanted.items()})
    for tensors in layouts:
        found = reference(arch, tensors).state
        assert found.keys() == wanted.keys()
        for key, read in found.items():
            np.testing.assert_array_equal(read().numpy(), wanted[key], err_msg=key)


def table_of(channels: int = 5) -> np.ndarray:
    return np.random.default_rng(3).standard_normal((16, 16, channels), np.float32)


def our_positions(table: np.ndarray, grids: tuple[tuple[int, int], ...], budget: int) -> np.ndarray:
    shapes = jnp.asarray(np.array(grids, np.int64))
    return np.asarray(resized_positions(jnp.asarray(table), shapes, jnp.zeros((len(grids), budget, 3), table.dtype)))


def their_positions(table: np.ndarray, grids: tuple[tuple[int, int], ...], budget: int) -> np.ndarray:
    return references.resized(torch.from_numpy(table), torch.tensor(grids), budget).numpy()


# Besides those above: both neighbours of the table's size, and one of two columns.
RESIZED = (*GRIDS, (15, 17), (17, 15), (3, 7), (2, 128), (128, 2), (16, 1), (1, 16))


def test_tables_are_resized_as_pytorch_does():
    table = table_of()
    for grids, budget in ((RESIZED, 256), (LARGE_GRIDS, 1024)):
        truth = their_positions(table.astype(np.float64), grids, budget)
        with jax.enable_x64(True):
            # Measured 7e-15.
            np.testing.assert_allclose(our_positions(table.astype(np.float64), grids, budget), truth, atol=1e-13)
        found, other = our_positions(table, grids, budget), their_positions(table, grids, budget)
        errors = [[np.sqrt(np.mean((x - y) ** 2)) for x, y in zip(each, truth, strict=True)] for each in (found, other)]
        for error, their_error in zip(*errors, strict=True):
            # Nearer than PyTorch, or as near as single precision has it.
            assert error <= max(their_error, 1e-7)


def test_a_table_of_the_right_size_is_left_as_it_is():
    found = our_positions(table_of(), ((16, 16),), 300)
    np.testing.assert_array_equal(found[0, :256], table_of().reshape(256, -1))
    np.testing.assert_array_equal(found[0, 256:], np.broadcast_to(table_of()[0, 0], (44, 5)))


def test_positions_are_transformers_own():
    """To the bit in single precision, but for grids of one column, which PyTorch gets wrong."""
    model = references.transformers_model(ARCHITECTURES["naflex"])
    resize = model.vision_model.embeddings.resize_positional_embeddings
    grids = tuple(grid for grid in RESIZED if grid[1] > 1)
    found = resize(torch.from_numpy(table_of()), torch.tensor(grids), 256)
    np.testing.assert_array_equal(their_positions(table_of(), grids, 256), found)


def test_pytorch_gets_grids_of_one_column_wrong():
    """If this fails, PyTorch has been corrected, and `references.resized` can be what transformers has."""
    column = torch.arange(4.0).reshape(1, 1, 4, 1)
    resize = {"mode": "bilinear", "antialias": True}
    found = functional.interpolate(column, (8, 1), **resize).flatten()
    right = functional.interpolate(column.mT, (1, 8), **resize).flatten()
    assert found.tolist() == [0.0] * 8
    assert right.tolist() == [0.0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0]


def test_resizing_is_one_operation():
    shapes = [
        jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in (((16, 16, 5), "f4"), ((2, 2), "i4"), ((2, 9, 3), "f4"))
    ]
    (equation,) = jax.make_jaxpr(resized_positions)(*shapes).eqns
    assert equation.primitive is resized_positions_p
    assert (equation.outvars[0].aval.shape, equation.outvars[0].aval.dtype) == ((2, 9, 5), "float32")


def test_what_stands_behind_the_mask_does_not_count():
    """To the bit."""
    arch = ARCHITECTURES["naflex"]
    found, other = (run_ours(arch, patches(GRIDS, 256, padding), "vision", "float32") for padding in (0.0, 1e3))
    for name in found:
        inputs = patches(GRIDS, 256)
        np.testing.assert_array_equal(meaningful(name, found[name], inputs), meaningful(name, other[name], inputs))


def test_an_image_is_the_same_alone_and_with_more_padding():
    """Not to the bit here, because XLA adds in another order; in onnxruntime it is."""
    arch = ARCHITECTURES["naflex"]
    found = run_ours(arch, patches(GRIDS, 256), "vision", "float64")
    more = run_ours(arch, patches(GRIDS, 400), "vision", "float64")
    alone = run_ours(arch, patches(GRIDS[:1], 256), "vision", "float64")
    np.testing.assert_allclose(more["pooler_output"], found["pooler_output"], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(alone["pooler_output"], found["pooler_output"][:1], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(alone["last_hidden_state"], found["last_hidden_state"][:1], rtol=0, atol=TOLERANCE)


def test_padding_of_a_text_counts():
    """As in training: a text that is padded to its own length has another embedding."""
    ids = texts(1, 9)["input_ids"]
    padded = np.pad(ids, ((0, 0), (0, 64 - 9)))
    found = [run_ours(BASE, {"input_ids": x}, "text", "float32")["pooler_output"] for x in (ids, padded)]
    assert np.abs(found[0] - found[1]).max() > 0.1
