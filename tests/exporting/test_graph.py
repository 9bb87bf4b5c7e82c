"""The exported graph: traced without weights, of native operators, and the Equinox model's equal at every size.

Sizes are unlike each other and unlike anything that was traced: a graph that has a size baked in, or rows and
columns swapped, equals the model on square images of one size only.
"""

import functools
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator

from tests.rounding import MODEL_LIMIT, floors
from vit2onnx.checkpoints.fetch import describe
from vit2onnx.errors import InputError, InternalError
from vit2onnx.exporting.graph import check_interface, detach, trace, write
from vit2onnx.exporting.metadata import metadata_of
from vit2onnx.onnx_file import initializers
from vit2onnx.runners import equinox as equinox_runner
from vit2onnx.runners.onnx_constants import computed_constants
from vit2onnx.spec.interface import Interface
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec
from vit2onnx.weights.keytable import LazyTensor
from vit2onnx.weights.leaves import leaf_names
from vit2onnx.weights.model_file import open_model, skeleton_of

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("static", 23, {"batch": 1, "height": 224, "width": 224}),
        Recipe("dynamic", 23, {"batch": None, "height": None, "width": None}),
        Recipe("free_batch", 23, {"batch": None, "height": 32, "width": 48}),
        Recipe("free_size", 23, {"batch": 2, "height": None, "width": None}),
        Recipe("free_height", 23, {"batch": 1, "height": None, "width": 48}),
        Recipe("opset24", 24, {"batch": None, "height": None, "width": None}),
    )
}
# (height, width): the training size, wide, tall, one patch, not quite two, and no multiple of the patch.
SIZES = [(224, 224), (160, 288), (112, 48), (48, 112), (16, 16), (31, 16), (250, 170)]
SHAPES = {
    "static": [(1, 224, 224)],
    "dynamic": [(batch, *size) for size in SIZES for batch in (1, 3)],
    "free_batch": [(1, 32, 48), (3, 32, 48)],
    "free_size": [(2, *size) for size in SIZES],
    "free_height": [(1, height, 48) for height in (112, 16)],
    "opset24": [(3, 48, 112), (1, 250, 170)],
}
every_recipe = pytest.mark.parametrize("recipe", RECIPES)
Export = Callable[[Recipe, Path], Path]


def noise(batch: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((3, 3, height, width), np.float32)[:batch]


def dimensions(value: onnx.ValueInfoProto) -> list[str | int]:
    return [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]


@pytest.fixture(scope="module")
def interface(tiny_spec: VariantSpec) -> Interface:
    return tiny_spec.interface()


@pytest.fixture(scope="module")
def metadata(tiny_spec: VariantSpec, tiny_checkpoint: Path) -> dict[str, str]:
    record = describe(tiny_spec, tiny_checkpoint, origin={"kind": "synthetic", "seed": 0}, weights="synthetic")
    return metadata_of(tiny_spec, RECIPES["dynamic"], record, "0123abcd")


@pytest.fixture(scope="module")
def export(tiny_spec: VariantSpec, interface: Interface, tiny_model_file: Path, metadata: Mapping[str, str]) -> Export:
    """Export the tiny model by a recipe, as the workflow does."""

    def run(recipe: Recipe, path: Path) -> Path:
        skeleton, tensors = open_model(tiny_model_file)
        graph = trace(skeleton, tiny_spec, recipe)
        write(graph, path, interface, recipe, metadata, tensors, weights=tiny_model_file, external=False)
        return path

    return run


@pytest.fixture(scope="module")
def paths(export: Export, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The file of every recipe."""
    folder = tmp_path_factory.mktemp("graphs")
    return {name: export(recipe, folder / f"{name}.onnx") for name, recipe in RECIPES.items()}


@pytest.fixture(scope="module")
def graphs(paths: Mapping[str, Path]) -> dict[str, onnx.ModelProto]:
    return {name: onnx.load(path) for name, path in paths.items()}


@pytest.fixture(scope="module")
def expected(tiny_spec: VariantSpec, tiny_model_file: Path) -> Callable[[int, int, int], tuple[np.ndarray, np.ndarray]]:
    """The Equinox model's `last_hidden_state` of `noise` in double and in single precision, once for every size."""

    @functools.cache
    def features(height: int, width: int) -> Mapping[str, np.ndarray]:
        images = dict(zip("012", noise(3, height, width), strict=True))
        return equinox_runner.features(*open_model(tiny_model_file), images, tiny_spec.interface())

    def run(batch: int, *size: int) -> tuple[np.ndarray, np.ndarray]:
        found = features(*size)
        double, single = (np.stack([found[f"{p}/{i}"] for i in range(batch)]) for p in ("float64", "float32"))
        return double, single

    return run


@pytest.fixture
def traced(tiny_spec: VariantSpec) -> ir.Model:
    """The static graph without weights, for a test to spoil."""
    return trace(skeleton_of(tiny_spec.family, tiny_spec.architecture), tiny_spec, RECIPES["static"])


def test_tracing_needs_no_weights(tiny_spec: VariantSpec):
    skeleton = skeleton_of(tiny_spec.family, tiny_spec.architecture)
    assert {type(leaf) for leaf in jax.tree_util.tree_leaves(skeleton)} == {jax.ShapeDtypeStruct}
    graph = trace(skeleton, tiny_spec, RECIPES["dynamic"])
    inputs = {value.name: tuple(value.shape) for value in graph.graph.inputs}
    shapes = dict(zip(leaf_names(skeleton), (leaf.shape for leaf in jax.tree_util.tree_leaves(skeleton)), strict=True))
    assert list(inputs) == ["pixel_values", *shapes]
    assert {name: inputs[name] for name in shapes} == shapes
    # What the graph holds by itself are sizes and scalars of the formulas.
    assert max(value.const_value.size for value in graph.graph.initializers.values()) <= 6


def test_weights_are_read_once_and_when_the_file_is_written(
    traced: ir.Model, interface: Interface, tiny_model_file: Path, metadata: Mapping[str, str], tmp_path: Path
):
    reads: Counter[str] = Counter()

    def counting(name: str, tensor: LazyTensor) -> LazyTensor:
        def read() -> np.ndarray:
            reads[name] += 1
            return tensor.read()

        return replace(tensor, read=read)

    _, tensors = open_model(tiny_model_file)
    counted = {name: counting(name, tensor) for name, tensor in tensors.items()}
    path = tmp_path / "static.onnx"
    write(traced, path, interface, RECIPES["static"], metadata, counted, weights=tiny_model_file, external=False)
    assert reads == dict.fromkeys(tensors, 1)
    # Of the periods, only tables are written.
    assert set(initializers(path)) >= tensors.keys() - {"rope_periods"}


@every_recipe
def test_edge_is_the_recipes(graphs: Mapping[str, onnx.ModelProto], recipe: str):
    graph = graphs[recipe].graph
    batch, height, width = RECIPES[recipe].sizes.values()
    (pixel_values,) = graph.input
    assert pixel_values.name == "pixel_values"
    assert dimensions(pixel_values) == [batch or "batch", 3, height or "height", width or "width"]
    assert [value.name for value in graph.output] == ["last_hidden_state", "pooler_output"]
    tokens = "tokens" if None in (height, width) else 5 + (height // 16) * (width // 16)
    assert [dimensions(value) for value in graph.output] == [
        [batch or "batch", tokens, 48],
        [batch or "batch", 48],
    ]
    types = {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
    assert types == {onnx.TensorProto.FLOAT}
    assert {value.name: value.doc_string for value in graph.output} == {
        "last_hidden_state": "all tokens after the final norm: CLS, registers, patches row by row",
        "pooler_output": "the CLS token after the final norm",
    }


@every_recipe
def test_operators_are_native(graphs: Mapping[str, onnx.ModelProto], recipe: str):
    model = graphs[recipe]
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", RECIPES[recipe].opset)]
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    found = Counter(node.op_type for node in model.graph.node)
    blocks = 2
    per_block = {"Attention": 1, "RotaryEmbedding": 2, "Gelu": 1, "MatMul": 6, "LayerNormalization": 2}
    # And the norm after the last block.
    expected = {name: blocks * count for name, count in per_block.items()} | {"LayerNormalization": 2 * blocks + 1}
    assert {name: found[name] for name in expected} == expected
    assert found["Conv"] == 1
    # What the operators above stand for, and where jax2onnx takes refuge.
    assert not found.keys() & {"Einsum", "Gemm", "Split", "Softmax", "Erf", "Sqrt", "ReduceMean", "If", "Loop", "Scan"}


@every_recipe
def test_initializers_are_the_models_leaves(
    paths: Mapping[str, Path], graphs: Mapping[str, onnx.ModelProto], tiny_model_file: Path, recipe: str
):
    _, tensors = open_model(tiny_model_file)
    held = {tensor.name: tensor for tensor in graphs[recipe].graph.initializer}
    computed = computed_constants(paths[recipe])
    if recipe in ("static", "free_batch"):
        # Only tables are left of them.
        del tensors["rope_periods"]
    for name, tensor in tensors.items():
        assert held[name].data_type == onnx.TensorProto.FLOAT
        assert tuple(held[name].dims) == tensor.shape
        assert onnx.numpy_helper.to_array(held[name]).tobytes() == tensor.read().tobytes(), name
    # All others are sizes and scalars.
    assert all(np.prod(held[name].dims) <= 6 for name in held.keys() - tensors.keys() - computed.keys())
    assert "blocks.0.attn.q.weight" in held


@every_recipe
def test_file_passes_the_full_check(paths: Mapping[str, Path], recipe: str):
    onnx.checker.check_model(str(paths[recipe]), full_check=True)


@every_recipe
def test_nothing_is_computed_that_the_image_does_not_change(graphs: Mapping[str, onnx.ModelProto], recipe: str):
    graph = graphs[recipe].graph
    of_image = {"pixel_values"}
    alone = []
    for node in graph.node:
        if of_image & set(node.input):
            of_image |= set(node.output)
        else:
            alone.append(node)
    # Of tokens that are weights, once for each of two images.
    assert [node.op_type for node in alone] == (["Expand"] * 2 if recipe == "free_size" else [])
    computed = {entry.key: entry.value for entry in graphs[recipe].metadata_props}.get("computed", "")
    assert ("float[4] rope_periods" in computed) == (recipe in ("static", "free_batch", "free_height"))


@every_recipe
def test_nodes_are_named_by_the_part_of_the_model(graphs: Mapping[str, onnx.ModelProto], recipe: str):
    graph = graphs[recipe].graph
    names = [node.name for node in graph.node]
    assert len(set(names)) == len(names)
    outputs = {value.name for value in graph.output}
    assert all(node.output == [node.name] for node in graph.node if node.output[0] not in outputs)
    operators = {
        "norm1": ["LayerNormalization"],
        "attn/q": ["MatMul", "Add"],
        "attn": ["RotaryEmbedding", "RotaryEmbedding", "Attention"],
        "attn/k": ["MatMul"],
        "attn/v": ["MatMul", "Add"],
        "attn/proj": ["MatMul", "Add"],
        "ls1": ["Mul"],
        "": ["Add", "Add"],
        "norm2": ["LayerNormalization"],
        "mlp/fc1": ["MatMul", "Add"],
        "mlp": ["Gelu"],
        "mlp/fc2": ["MatMul", "Add"],
        "ls2": ["Mul"],
    }
    for block in ("blocks.0", "blocks.1"):
        found: dict[str, list[str]] = {}
        for node in graph.node:
            path, _, operator = node.name.rpartition("/")
            if path == block or path.startswith(f"{block}/"):
                assert operator in (node.op_type, f"{node.op_type}_1")
                found.setdefault(path[len(block) + 1 :], []).append(node.op_type)
        assert found == operators
    assert {name.partition("/")[0] for name in names} == {
        "patch_embed",
        "embed",
        "blocks.0",
        "blocks.1",
        "norm",
        "head",
    }
    assert not [node.name for node in graph.node if node.metadata_props]


@every_recipe
def test_readers_can_follow_every_size(graphs: Mapping[str, onnx.ModelProto], recipe: str):
    """Patches are counted by a Reshape, not by arithmetic on height and width; inner sizes are numbers or left out."""
    graph = graphs[recipe].graph
    shapes = {t.name: onnx.numpy_helper.to_array(t).tolist() for t in graph.initializer if t.dims == [3]}
    flattened = [node for node in graph.node if node.op_type == "Reshape" and shapes.get(node.input[1]) == [0, -1, 48]]
    assert len(flattened) == 1
    sizes = {name for node in graph.node if node.op_type in ("Shape", "Squeeze") for name in node.output}
    takers = {node.op_type for node in graph.node if sizes & set(node.input)}
    assert takers <= {"Concat", "Squeeze", "Range", "Cast"}
    assert all(isinstance(size, int) and size for value in graph.value_info for size in dimensions(value))


def test_metadata_says_what_the_file_is(
    graphs: Mapping[str, onnx.ModelProto], tiny_spec: VariantSpec, metadata: Mapping[str, str]
):
    model = graphs["dynamic"]
    found = {entry.key: entry.value for entry in model.metadata_props}
    assert found == metadata | {"content_sha256": found["content_sha256"]}
    assert (model.producer_name, model.graph.name) == ("vit2onnx", "dinov3_tiny")
    assert (found["variant"], found["family"], found["weights"]) == ("dinov3_tiny", "dinov3_vit", "synthetic")
    structured = ("checkpoint", "licence", "preprocessing", "tokens", "outputs", "versions")
    parsed = {key: json.loads(found[key]) for key in structured}
    assert parsed["checkpoint"]["layout"] == "meta"
    assert len(parsed["checkpoint"]["sha256"]) == 64
    assert parsed["preprocessing"]["mean"] == list(tiny_spec.preprocessing.mean)
    assert parsed["preprocessing"]["std"] == list(tiny_spec.preprocessing.std)
    assert (parsed["tokens"]["registers"], parsed["tokens"]["first_patch"]) == (4, 5)
    assert parsed["outputs"].keys() == {"last_hidden_state", "pooler_output"}
    assert parsed["versions"].keys() >= {"jax", "jax2onnx", "onnx"}
    assert found["ledger_sha256"] == "0123abcd"
    # Synthetic weights have none.
    assert parsed["licence"] is None


def test_metadata_of_official_weights_names_their_licence(tiny_spec: VariantSpec, tiny_checkpoint: Path):
    record = describe(tiny_spec, tiny_checkpoint, origin={"kind": "synthetic", "seed": 0}, weights="synthetic")
    found = metadata_of(tiny_spec, RECIPES["dynamic"], record | {"weights": "official"}, "")
    assert json.loads(found["licence"])["id"] == tiny_spec.licence.id


@pytest.mark.parametrize("recipe", ["static", "dynamic"])
def test_the_same_weights_give_the_same_bytes(paths: Mapping[str, Path], export: Export, tmp_path: Path, recipe: str):
    again = export(RECIPES[recipe], tmp_path / "again.onnx")
    assert again.read_bytes() == paths[recipe].read_bytes()


@every_recipe
@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_ALL"])
def test_graph_equals_the_model_at_every_shape(paths: Mapping[str, Path], expected, recipe: str, level: str):
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(paths[recipe]), options, providers=["CPUExecutionProvider"])
    for shape in SHAPES[recipe]:
        tokens, pooled = session.run(["last_hidden_state", "pooler_output"], {"pixel_values": noise(*shape)})
        # Measured 0.76 to 1.2 over all recipes, shapes and optimisation levels.
        assert floors(tokens, *expected(*shape)) <= MODEL_LIMIT, shape
        np.testing.assert_array_equal(pooled, tokens[:, 0], err_msg=str(shape))


@pytest.mark.parametrize(
    ("recipe", "shape"), [("static", (1, 224, 224)), ("dynamic", (1, 48, 112)), ("dynamic", (3, 50, 37))]
)
def test_another_runtime_gives_the_same(paths: Mapping[str, Path], expected, recipe: str, shape: tuple[int, int, int]):
    # ONNX's own reference implementation, which follows the text of the standard operator by operator.
    tokens, pooled = ReferenceEvaluator(str(paths[recipe])).run(None, {"pixel_values": noise(*shape)})
    # Measured 1.1.
    assert floors(tokens, *expected(*shape)) <= MODEL_LIMIT
    np.testing.assert_array_equal(pooled, tokens[:, 0])


@pytest.mark.parametrize("size", ["height", "width"])
def test_a_recipe_smaller_than_a_patch_is_an_error(tiny_spec: VariantSpec, size: str):
    recipe = replace(RECIPES["static"], name="stamp", sizes=RECIPES["static"].sizes | {size: 15})
    told = rf"^exports\.stamp\.{size} is 15, but {tiny_spec.name} takes at least 16; correct it or write 'dynamic'\.$"
    with pytest.raises(InputError, match=told):
        trace(skeleton_of(tiny_spec.family, tiny_spec.architecture), tiny_spec, recipe)


def test_an_image_smaller_than_a_patch_is_refused_by_the_graph(paths: Mapping[str, Path]):
    session = ort.InferenceSession(str(paths["dynamic"]), providers=["CPUExecutionProvider"])
    with pytest.raises(Exception, match=r"Conv|ShapeInfer|shape"):
        session.run(None, {"pixel_values": noise(1, 15, 48)})


def unreadable(name: str, tensor: LazyTensor) -> LazyTensor:
    def read() -> np.ndarray:
        raise OSError(f"{name} cannot be read")

    return replace(tensor, read=read)


@pytest.mark.parametrize("existing", [None, b"an earlier file"])
def test_a_write_that_fails_leaves_what_was_there(
    traced: ir.Model,
    interface: Interface,
    tiny_model_file: Path,
    metadata: Mapping[str, str],
    tmp_path: Path,
    existing: bytes | None,
):
    path = tmp_path / "static.onnx"
    if existing:
        path.write_bytes(existing)
    _, tensors = open_model(tiny_model_file)
    broken = tensors | {"norm.bias": unreadable("norm.bias", tensors["norm.bias"])}
    with pytest.raises(OSError, match=r"norm\.bias cannot be read"):
        write(traced, path, interface, RECIPES["static"], metadata, broken, weights=tiny_model_file, external=False)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == ({path.name: existing} if existing else {})


def test_a_graph_that_fails_the_check_leaves_no_file(
    traced: ir.Model, interface: Interface, tiny_model_file: Path, metadata: Mapping[str, str], tmp_path: Path
):
    _, tensors = open_model(tiny_model_file)
    traced.graph.node(0).attributes["strides"] = ir.AttrString("strides", "sixteen")
    path = tmp_path / "static.onnx"
    with pytest.raises(onnx.checker.ValidationError):
        write(traced, path, interface, RECIPES["static"], metadata, tensors, weights=tiny_model_file, external=False)
    assert not list(tmp_path.iterdir())


def test_a_weight_of_another_shape_is_refused(traced: ir.Model, tiny_model_file: Path):
    _, tensors = open_model(tiny_model_file)
    with pytest.raises(InternalError, match=r"norm\.bias"):
        detach(traced, tensors | {"norm.bias": replace(tensors["norm.bias"], shape=(47,))}, ["pixel_values"])
    with pytest.raises(InternalError, match=r"norm\.bias"):
        detach(traced, {name: tensor for name, tensor in tensors.items() if name != "norm.bias"}, ["pixel_values"])


def rename_input(graph: ir.Model) -> None:
    graph.graph.inputs[0].name = "images"


def rename_output(graph: ir.Model) -> None:
    graph.graph.outputs[1].name = "pooled"


def drop_output(graph: ir.Model) -> None:
    graph.graph.outputs.pop()


def change_type(graph: ir.Model) -> None:
    graph.graph.outputs[0].type = ir.TensorType(ir.DataType.DOUBLE)


def free_batch(graph: ir.Model) -> None:
    graph.graph.inputs[0].shape[0] = "batch"


@pytest.mark.parametrize("spoil", [rename_input, rename_output, drop_output, change_type, free_batch])
def test_an_edge_that_is_not_the_recipes_is_found(traced: ir.Model, interface: Interface, tiny_model_file: Path, spoil):
    _, tensors = open_model(tiny_model_file)
    detach(traced, tensors, ["pixel_values"])
    check_interface(traced, interface, RECIPES["static"])
    spoil(traced)
    with pytest.raises(InternalError, match=r"graph inputs are|graph outputs are| is "):
        check_interface(traced, interface, RECIPES["static"])
