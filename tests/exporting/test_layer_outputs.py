"""Tokens of earlier layers as further outputs: the right layer, with or without the final norm, in every precision."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import onnx
import pytest
import torch
import yaml

from tests.conftest import RELEASED, Spine
from tests.limits import BY_PRECISION
from tests.precision.int8_files import UNSEEN, Graph, file_of, lowest_cosine, planted
from vit2onnx.checkpoints.identity import describe
from vit2onnx.errors import InputError
from vit2onnx.exporting.graph import export
from vit2onnx.exporting.ranges import plan_of_graph, ranges_of_graph
from vit2onnx.exporting.stages import write_stages
from vit2onnx.nn.model import run_stages
from vit2onnx.onnx_file import described
from vit2onnx.parity.comparison import Comparison
from vit2onnx.parity.outputs import compare_outputs
from vit2onnx.parity.verdict import judge
from vit2onnx.precision.reduction import Basis
from vit2onnx.reporting.figures import heat_table
from vit2onnx.runners import equinox as equinox_runner
from vit2onnx.runners import torch as torch_runner
from vit2onnx.runners.onnx import run_graph
from vit2onnx.runners.onnx_dense import dense_features
from vit2onnx.runners.session import session_of
from vit2onnx.spec.case import Case
from vit2onnx.spec.interface import Interface, Port, key_of
from vit2onnx.spec.recipe import Recipe
from vit2onnx.weights.model_file import open_model

LIMITS = {name: limit["limit"] for name, limit in BY_PRECISION["float32"].items()}
NAFLEX, SQUARE = "siglip2_base_patch16_naflex", "siglip2_base_patch16_224"
VIT, CONVNEXT = "dinov3_vits16_pretrain_lvd1689m", "dinov3_convnext_tiny_pretrain_lvd1689m"
Arrays = Mapping[str, np.ndarray]


def every_output(spine: Spine, interface: str = "images", **how: Any) -> Recipe:
    """A recipe for all outputs that there are, of free sizes."""
    of_model = spine.spec.interface(interface)
    names = tuple(port.name for port in of_model.further)
    name = "_".join(["layers", interface, *map(str, how.values())])
    return Recipe(name, how.pop("opset", 23), dict.fromkeys(of_model.minimum), interface, outputs=names, **how)


def given_to(interface: Interface, case: Case, seed: int = 0) -> Arrays:
    """Noise as the inputs of one case, without batch."""
    rng, sizes = np.random.default_rng(seed), interface.sizes(case)
    pixels = interface.inputs[0]
    found = {pixels.name: rng.standard_normal(interface.shape(pixels, sizes)[1:]).astype(np.float32)}
    if interface.takes_patches:
        grid = sizes["grid_height"], sizes["grid_width"]
        found["pixel_attention_mask"] = (np.arange(sizes["patches"]) < grid[0] * grid[1]).astype(np.int32)
        found["spatial_shapes"] = np.array(grid)
    return found


def case_for(interface: Interface) -> Case:
    """One that is not square, if that may be."""
    patch = interface.patch_size
    return Case("noise", interface.fixed.get("height", 2 * patch), interface.fixed.get("width", 3 * patch))


def run(graph: Path, inputs: Arrays) -> dict[str, np.ndarray]:
    """All outputs for one case, without batch."""
    session = session_of(graph, threads=1)
    names = [port.name for port in session.get_outputs()]
    outputs = session.run(names, {name: value[None] for name, value in inputs.items()})
    return {name: value[0] for name, value in zip(names, outputs, strict=True)}


def expected(spine: Spine, interface: Interface, inputs: Arrays) -> dict[str, np.ndarray]:
    """The outputs of layers from the stages of the model, normed here."""
    _, stages = run_stages(
        spine.model, {name: jnp.asarray(value[None]) for name, value in inputs.items()}, interface.name
    )
    (tower,) = spine.model.towers(interface.name).values()
    found = {}
    for port in (port for port in interface.outputs if port.layer):
        stage = np.asarray(stages[port.layer], np.float64)
        tokens = stage.reshape(-1, stage.shape[-1])
        if port.normed:
            centred = tokens - tokens.mean(axis=-1, keepdims=True)
            scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + tower.norm.eps)
            tokens = scaled * np.asarray(tower.norm.weight) + np.asarray(tower.norm.bias)
        found[port.name] = tokens
    return found


def check_values(spine: Spine, recipe: Recipe, graph: Path) -> None:
    interface = spine.spec.interface_of(recipe)
    inputs = given_to(interface, case_for(interface))
    found, wanted = run(graph, inputs), expected(spine, interface, inputs)
    assert list(found) == ["last_hidden_state", "pooler_output", *recipe.outputs]
    assert list(wanted) == list(recipe.outputs)
    for name, value in wanted.items():
        # Measured 3e-6 at most.
        np.testing.assert_allclose(found[name], value, rtol=0, atol=2e-5, err_msg=name)
    told = described(graph)["outputs"]
    assert {port.name: port.meaning for port in interface.outputs} == told


def test_outputs_are_the_stages_of_the_model(small: Spine):
    recipe = every_output(small)
    check_values(small, recipe, small.export(recipe))


@pytest.mark.parametrize("name", [NAFLEX, SQUARE])
def test_outputs_of_siglip2s_images_are_the_stages_of_its_tower(spines: Callable[[str], Spine], name: str):
    spine = spines(name)
    recipe = every_output(spine, "vision", operators="portable", opset=17)
    check_values(spine, recipe, spine.export(recipe))


@pytest.mark.parametrize(("name", "norm"), [(VIT, "norm"), ("dinov2_vits14_pretrain", "layernorm")])
def test_blocks_are_counted_as_transformers_counts_hidden_states(spines, name: str, norm: str):
    spine = spines(name)
    recipe = every_output(spine)
    inputs = given_to(spine.spec.interface(), case_for(spine.spec.interface()))
    model = torch_runner.filled_model(torch_runner.reference_of(spine.spec, "transformers", spine.checkpoint))
    with torch.inference_mode():
        # The first is what enters the first block.
        _, *blocks = model(torch.from_numpy(inputs["pixel_values"])[None], output_hidden_states=True).hidden_states
        normed = [model.get_submodule(norm)(block) for block in blocks]
    found = run(spine.export(recipe), inputs)
    for index in range(spine.spec.architecture.depth):
        np.testing.assert_allclose(found[f"block_{index}"], blocks[index][0], rtol=0, atol=2e-5)
        np.testing.assert_allclose(found[f"block_{index}_norm"], normed[index][0], rtol=0, atol=2e-5)


def test_every_layer_is_offered_with_and_without_the_norm_where_it_fits():
    def names(name: str, interface: str) -> list[str]:
        return [port.name for port in RELEASED[name].interface(interface).further]

    blocks = [f"block_{index}{end}" for index in range(12) for end in ("", "_norm")]
    assert names(VIT, "images") == names(VIT, "photographs") == names(SQUARE, "vision") == blocks
    # The channels of a stage are those of the next one's half.
    assert names(CONVNEXT, "images") == ["stage_0", "stage_1", "stage_2", "stage_3", "stage_3_norm"]
    assert names(VIT, "packed") == names(SQUARE, "text") == names(SQUARE, "pair") == []


def test_outputs_are_checked_before_anything_is_exported(tiny: Spine, tmp_path: Path):
    recipe = replace(every_output(tiny), outputs=("block_2",))
    with pytest.raises(InputError, match="has no block_2, only block_0 to block_1, each also with _norm at the end"):
        export(tiny.spec, recipe, tiny.model_file, tmp_path / "layers.onnx", {"weights": "synthetic"})


@pytest.fixture(scope="module")
def compared(spines: Callable[[str], Spine]) -> Callable[..., Comparison]:
    """Compare a graph that gives some outputs, after `change` of what onnxruntime gave, with implementations that were
    run for more outputs.
    """
    kept: dict[Any, Any] = {}

    def of_implementations(name: str, interface: str) -> tuple[dict[str, np.ndarray], Arrays, Arrays]:
        spine = spines(name)
        more = spine.spec.interface_of(every_output(spine, interface))
        case = case_for(more)
        cases = [Case("first", case.height, case.width), Case("second", case.height, case.width)]
        arrays = [given_to(more, one, seed) for seed, one in enumerate(cases)]
        inputs = {
            key_of(str(one), port, more.inputs): own[port.name]
            for one, own in zip(cases, arrays, strict=True)
            for port in more.inputs
        }
        reference = torch_runner.reference_of(spine.spec, "transformers", spine.checkpoint)
        ours = equinox_runner.features(*open_model(spine.model_file), inputs, more, native=list(map(str, cases[:1])))
        return inputs, torch_runner.features(reference, inputs, more, native=list(map(str, cases[:1]))), ours

    def compare(
        name: str,
        interface: str,
        outputs: tuple[str, ...],
        change: Callable[[dict[str, np.ndarray]], None] = lambda found: None,
        without: str = "",
    ) -> Comparison:
        spine = spines(name)
        recipe = replace(every_output(spine, interface), name=f"some_{len(outputs)}", outputs=outputs)
        if (name, interface) not in kept:
            kept[name, interface] = of_implementations(name, interface)
        inputs, theirs, ours = kept[name, interface]
        if (name, outputs) not in kept:
            of_graph = spine.spec.interface_of(recipe)
            kept[name, outputs] = dict(run_graph(spine.export(recipe), of_graph, recipe, inputs, [2], threads=1))
        found = dict(kept[name, outputs])
        change(found)
        cases = [key for key in inputs if "/" not in key]
        theirs = {key: value for key, value in theirs.items() if not without or not key.endswith(without)}
        return compare_outputs(spine.spec, recipe, cases, {"transformers": theirs}, ours, found, [2])

    return compare


@pytest.mark.parametrize(
    ("name", "interface", "outputs"),
    [
        (VIT, "images", ("block_1_norm", "block_0")),
        (CONVNEXT, "images", ("stage_1", "stage_3_norm")),
        (NAFLEX, "vision", ("block_0_norm", "block_1")),
    ],
)
def test_every_row_is_compared_with_reference_and_truth(compared, name: str, interface: str, outputs: tuple[str, ...]):
    found = compared(name, interface, outputs)
    verdict = judge(found, LIMITS)
    assert verdict and all(finding.passed for finding in verdict), [str(one) for one in verdict if not one.passed]
    spec = RELEASED[name]
    others = {port.name for port in spec.interface(interface).further} - {*outputs}
    for subject, other in (
        ("onnx", "truth"),
        ("onnx", "transformers"),
        ("onnx_float64", "truth"),
        ("equinox", "truth"),
    ):
        groups = {row["group"] for row in found.rows(subject, other)}
        # Those of other recipes are not this graph's.
        assert groups >= {*outputs} and not groups & others
    assert {row["output"] for row in found.rounding} >= {*outputs}
    assert not {row["output"] for row in found.rounding} & others
    page = str(heat_table(found, BY_PRECISION["float32"]))
    assert all(f">{name}<" in page for name in ("CLS" if interface == "images" else "patches", *outputs))
    # What is said of neighbours is of the outputs that the model has by itself.
    neighbours = {row["what"] for row in found.semantics[0]["neighbours"]}
    assert neighbours <= {"cls", "pooled", "patches_mean", "regions", "patches"}


def swap_rows(value: np.ndarray) -> np.ndarray:
    return value[:, [1, 0, *range(2, value.shape[1])]]


def change_of(output: str, new: Callable[[dict[str, np.ndarray], str], np.ndarray]) -> Callable[..., None]:
    """How an output becomes another in every run."""

    def change(found: dict[str, np.ndarray]) -> None:
        for key in [key for key in found if key.endswith(f"/{output}")]:
            found[key] = new(found, key)

    return change


FAULTS = {
    "another block": ("block_0", lambda found, key: found[key.replace("block_0", "block_1")]),
    "no norm": ("block_0_norm", lambda found, key: found[key.removesuffix("_norm")]),
    "norm where there is none": ("block_0", lambda found, key: found[f"{key}_norm"]),
    "two rows swapped": ("block_1", lambda found, key: swap_rows(found[key])),
    "two images swapped": ("block_0", lambda found, key: found[key][::-1]),
    "one element": ("block_1_norm", lambda found, key: found[key] + 1e-3 * (np.arange(found[key].shape[-1]) == 5)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_output_of_a_layer_is_caught(compared, fault: str):
    output, new = FAULTS[fault]
    outputs = "block_0", "block_0_norm", "block_1", "block_1_norm"

    def of_precision(found: dict[str, np.ndarray], key: str) -> np.ndarray:
        return new(found, key).astype(found[key].dtype)

    found = compared(VIT, "images", outputs, change_of(output, of_precision))
    faults = [finding for finding in judge(found, LIMITS) if not finding.passed and finding.subject == "onnx"]
    assert {finding.leg for finding in faults} >= {"truth"}
    assert any(f"{output} " in finding.place for finding in faults)


def test_an_output_that_the_graph_or_an_implementation_lacks_is_named(compared):
    outputs = "block_0", "block_0_norm", "block_1", "block_1_norm"

    def drop(found: dict[str, np.ndarray]) -> None:
        for key in [key for key in found if key.endswith("/block_1")]:
            del found[key]

    def told(found: Comparison) -> str:
        return " ".join(check["detail"] for check in found.checks if not check["passed"])

    assert "block_1 is missing" in told(compared(VIT, "images", outputs, drop))
    assert "transformers (float32) of first@32x48, block_1: missing" in told(
        compared(VIT, "images", outputs, without="/block_1")
    )


@pytest.mark.parametrize("name", [VIT, CONVNEXT])
def test_stages_and_dense_maps_are_those_of_the_graph_without_further_outputs(spines, tmp_path: Path, name: str):
    spine = spines(name)
    recipes = {"plain": replace(every_output(spine), outputs=()), "layers": every_output(spine)}
    skeleton, tensors = open_model(spine.model_file)
    weights = tmp_path / "model.eqx"
    weights.write_bytes(spine.model_file.read_bytes())
    inputs = given_to(spine.spec.interface(), case_for(spine.spec.interface()))
    ports, values, maps = {}, {}, {}
    for kind, recipe in recipes.items():
        graph = spine.export(replace(recipe, name=kind))
        paths = {which: tmp_path / f"{kind}.{which}.onnx" for which in ("accumulated", "injected")}
        write_stages(skeleton, spine.spec, recipe, tensors, exported=graph, weights=weights, **paths)
        for path in paths.values():
            session = session_of(path, threads=1)
            edge = [port.name for port in (*session.get_inputs(), *session.get_outputs())]
            assert ports.setdefault(path.name.split(".", 1)[1], edge) == edge
        values[kind] = run(paths["accumulated"], inputs)
        case, interface = str(case_for(spine.spec.interface())), spine.spec.interface_of(recipe)
        given = {case: inputs["pixel_values"]}
        maps[kind] = dict(dense_features(graph, paths["accumulated"], interface, recipe, given, [0], 1))
    for one in (values, maps):
        assert list(one["plain"]) == list(one["layers"])
        for key, value in one["plain"].items():
            if key != "graph_sha256":
                np.testing.assert_array_equal(one["layers"][key], value, err_msg=key)


HOW = {
    "int8": {"precision": "int8", "activations": "dynamic"},
    "int8 portable": {"precision": "int8", "activations": "static", "operators": "portable", "opset": 17},
    "float16": {"precision": "float16"},
}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(("name", "interface"), [(VIT, "images"), (SQUARE, "vision")])
def test_a_small_precision_keeps_outputs_at_every_block(spines, tmp_path: Path, name: str, interface: str, how: str):
    spine = spines(name)
    of_model = spine.spec.interface(interface)
    case = case_for(of_model)
    inputs = given_to(of_model, case)
    record = describe(spine.spec, spine.checkpoint, origin={"kind": "synthetic"}, weights="synthetic")
    files, found = {}, {}
    for kind in ("plain", "layers"):
        recipe = every_output(spine, interface, **HOW[how])
        recipe = recipe if kind == "layers" else replace(recipe, outputs=())
        given = {str(case): inputs["pixel_values"]}
        ranges = ranges_of_graph(spine.spec, recipe, spine.model_file, given)
        is_half = recipe.precision == "float16"
        plan = plan_of_graph(spine.spec, recipe, spine.model_file, given, ranges, 0.999) if is_half else {}
        basis = Basis(ranges, plan.get("float32", {}))
        files[kind] = tmp_path / f"{kind}.onnx"
        export(spine.spec, recipe, spine.model_file, files[kind], record, basis=basis)
        found[kind] = run(files[kind], inputs)
    wanted = expected(spine, spine.spec.interface_of(every_output(spine, interface)), inputs)
    assert wanted.keys() == found["layers"].keys() - found["plain"].keys()
    for output, value in wanted.items():
        products = (found["layers"][output] * value).sum(axis=-1)
        lengths = np.linalg.norm(found["layers"][output], axis=-1) * np.linalg.norm(value, axis=-1)
        # Measured 1 - 1.2e-4 at worst; those of neighbouring blocks are below 0.95.
        assert (products / lengths).min() > 0.999, output
        assert found["layers"][output].dtype == np.float32
    # More outputs change none of the weights, and nothing of what there was before.
    for output, value in found["plain"].items():
        np.testing.assert_allclose(found["layers"][output], value, rtol=0, atol=2e-6)
    plain, layers = (described(files[kind])["reduction"] for kind in ("plain", "layers"))
    assert plain["weights"] == layers["weights"]


@pytest.mark.parametrize("activations", ["dynamic", "static"])
@pytest.mark.parametrize(("name", "interface"), [(VIT, "images"), (SQUARE, "vision")])
def test_outliers_are_evened_out_although_every_block_is_an_output(spines, name: str, interface: str, activations: str):
    spine = spines(name)
    recipe = every_output(spine, interface)
    layers, plain = Graph(spine, recipe), Graph(spine, replace(recipe, outputs=()))
    batches = layers.given(UNSEEN)
    exact = file_of(layers, None).run(batches)
    found = file_of(layers, activations, planted(layers))
    assert len(found.session().get_outputs()) == 2 + len(recipe.outputs)
    # Measured 1 - 3e-4 at worst.
    assert lowest_cosine(found.run(batches), exact) > 0.999
    # The weights are those that the graph without these outputs has.
    assert found.reduction["weights"] == file_of(plain, activations, planted(plain)).reduction["weights"]


def test_the_schema_knows_the_names():
    root = Path(__file__).parents[2]
    schema = yaml.safe_load((root / "workflow" / "schemas" / "config.schema.yaml").read_text())
    outputs = schema["properties"]["exports"]["additionalProperties"]["properties"]["outputs"]
    for spec in RELEASED.values():
        ports: list[Port] = [port for name in spec.interfaces for port in spec.interface(name).further]
        assert all(re.search(outputs["items"]["pattern"], port.name) for port in ports)


def test_no_graph_has_nodes_for_outputs_that_it_does_not_give(tiny: Spine):
    recipe = replace(every_output(tiny), name="one", outputs=("block_0_norm",))
    nodes = onnx.load(tiny.export(recipe)).graph.node
    norms = [node for node in nodes if node.op_type == "LayerNormalization"]
    assert len(norms) == 2 * tiny.spec.architecture.depth + 2
    assert [node.name for node in norms if node.output[0] == "block_0_norm"] == ["norm/LayerNormalization_1"]
