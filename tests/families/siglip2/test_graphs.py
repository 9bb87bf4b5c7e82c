"""SigLIP2's exported graphs of images, of texts and of both, fixed and NaFlex: from their ports to the page on them.

The models are small. Graphs run as users run them: in onnxruntime with its default optimisations, on one thread. Grids
of NaFlex have one row, one column, more of either than the table of positions, and fewer patches than there is room
for.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
import pytest
from safetensors.numpy import load_file

from tests.conftest import Spine
from tests.handover.conftest import change_sample
from tests.limits import BY_PRECISION, OF_PAIRS, judge
from tests.rounding import LAYER_LIMIT, floors
from vit2onnx import spine as chain
from vit2onnx.check_inputs import check_inputs
from vit2onnx.checkpoints.identity import describe
from vit2onnx.errors import InputError
from vit2onnx.exporting.graph import export
from vit2onnx.exporting.stages import write_stages
from vit2onnx.files import sha256_of, write_arrays, write_json
from vit2onnx.handover.passport import passport_of, sample_of, weights_of
from vit2onnx.images import load_image, preprocess
from vit2onnx.inputs import inputs_of
from vit2onnx.nn.model import layers_of
from vit2onnx.onnx_file import initializers, metadata, operator_sets, passport_beside, sample_beside
from vit2onnx.parity.comparison import Comparison
from vit2onnx.parity.preprocessing import compare_preprocessing
from vit2onnx.parity.semantics import compare_semantics, view
from vit2onnx.parity.verdict import judge_graph
from vit2onnx.reporting.evidence import Evidence
from vit2onnx.reporting.parity_page import inputs_in_words, page_content, parity_page
from vit2onnx.reporting.summary import summarise, summary_page
from vit2onnx.runners import equinox as equinox_runner
from vit2onnx.runners import torch as torch_runner
from vit2onnx.runners.onnx import ports_of
from vit2onnx.runners.onnx_constants import computed_constants
from vit2onnx.runners.onnx_stages import run_stage_graphs
from vit2onnx.runners.session import session_of
from vit2onnx.spec.case import MODES, Case
from vit2onnx.spec.family import part
from vit2onnx.spec.recipe import Recipe
from vit2onnx.verify import verify
from vit2onnx.weights.model_file import open_model

Arrays = dict[str, np.ndarray]
Grids = tuple[tuple[int, int], ...]

KINDS = {"fixed": "siglip2_base_patch16_224", "naflex": "siglip2_base_patch16_naflex"}
# As the config has them.
RECIPES = {
    "vision_model": Recipe("vision_model", 23, {"batch": None}, "vision"),
    "text_model": Recipe("text_model", 23, {"batch": None}, "text"),
    "model": Recipe("model", 23, {"images": None, "texts": None}, "pair"),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
every_graph = pytest.mark.parametrize("kind, name", [(kind, name) for kind in KINDS for name in RECIPES])

FOLDER = Path(__file__).parents[3] / "resources" / "images"
PHOTOGRAPHS = {"chelsea": FOLDER / "chelsea.jpg"}
# Of ids that the small vocabulary has: short, empty, with one place left, full, and cut.
TEXTS = {f"of_{count}": np.random.default_rng(count).integers(4, 512, count).tolist() for count in (5, 0, 62, 63, 80)}
PAIR = "pairs@3x5"
# Of NaFlex: one row, one column, antialiased one way, more than the table both ways, and less than there is room for.
SIZES = {"fixed": [(5, 5)], "naflex": [(1, 256), (256, 1), (8, 31), (17, 18), (13, 19)]}
LIMITS = BY_PRECISION["float32"] | BY_PRECISION["preprocessing"]

# Of one row, one column and one patch, of the table's size, and of less than there is room for; then of more rows,
# columns or both than the table.
SMALL: Grids = ((1, 256), (200, 1), (1, 1), (16, 16), (13, 19), (3, 5))
LARGE: Grids = ((24, 40), (60, 17), (3, 300), (1, 17))


class Run(NamedTuple):
    """What the reference and the Equinox model make of inputs, and how far these and the graph are apart."""

    inputs: Arrays
    reference: Arrays
    equinox: Arrays
    comparison: Comparison


Runs = Callable[[str, str], Run]
Sessions = Callable[[str, str], ort.InferenceSession]


@pytest.fixture(scope="module")
def session(spines: Callable[[str], Spine]) -> Sessions:
    """A graph in onnxruntime."""
    return cache(lambda kind, name: session_of(spines(KINDS[kind]).export(RECIPES[name]), threads=1))


@pytest.fixture(scope="module")
def run(spines: Callable[[str], Spine]) -> Runs:
    """Everything that is compared of a graph, once."""

    @cache
    def make(kind: str, name: str) -> Run:
        spine, recipe = spines(KINDS[kind]), RECIPES[name]
        spec, interface = spine.spec, spine.spec.interface(recipe.interface)
        cases = {
            "vision_model": [
                Case(image, 16 * rows, 16 * columns) for image in PHOTOGRAPHS for rows, columns in SIZES[kind]
            ],
            "text_model": [Case(text, 1, 64) for text in TEXTS],
            "model": [Case.parse(PAIR)],
        }[name]
        inputs = inputs_of(spec, interface, cases, PHOTOGRAPHS, TEXTS)
        reference = torch_runner.reference_of(spec, "transformers", spine.checkpoint)
        theirs = torch_runner.features(reference, inputs, interface=interface)
        ours = equinox_runner.features(*open_model(spine.model_file), inputs, interface=interface)
        graph, references = spine.export(recipe), {"transformers": theirs}
        return Run(inputs, theirs, ours, chain.compare(spec, recipe, graph, inputs, references, ours, [1, 3], 1))

    return make


def ids(count: int) -> np.ndarray:
    """Texts that end at different places; the first is full."""
    found = np.zeros((count, 64), np.int64)
    for index, row in enumerate(found):
        last = 63 - 17 * index
        row[:last], row[last] = np.random.default_rng(index).integers(4, 512, last), 1
    return found


def patches(grids: Grids, budget: int, junk: float = 0.0) -> Arrays:
    """Images as patches, the same for the same grid; what fills up is as large as `junk`."""
    pixels = np.full((len(grids), budget, 768), junk, np.float32)
    pixels[:, :, ::2] *= -1
    mask = np.zeros((len(grids), budget), np.int32)
    for index, (rows, columns) in enumerate(grids):
        own = np.random.default_rng([rows, columns]).uniform(-1, 1, (rows * columns, 768))
        pixels[index, : len(own)], mask[index, : len(own)] = own, 1
    return {"pixel_values": pixels, "pixel_attention_mask": mask, "spatial_shapes": np.array(grids, np.int64)}


def fitting(kind: str, name: str) -> Arrays:
    """Inputs of a graph: two images, three texts."""
    images = patches(((3, 4), (2, 5)), 12)
    if kind == "fixed":
        images = {"pixel_values": np.random.default_rng(0).uniform(-1, 1, (2, 3, 80, 80)).astype(np.float32)}
    return (images if name != "text_model" else {}) | ({"input_ids": ids(3)} if name != "vision_model" else {})


def outputs_of(session: ort.InferenceSession, inputs: Arrays) -> Arrays:
    names = [port.name for port in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


# Written by hand, in the names of onnx-community's files. Small models have 64 channels, and images of 5 x 5 patches.
IMAGES = {
    "fixed": {"pixel_values": "float32 {} 3 80 80"},
    "naflex": {
        "pixel_values": "float32 {} patches 768",
        "pixel_attention_mask": "int32 {} patches",
        "spatial_shapes": "int64 {} 2",
    },
}
IDS = {"input_ids": "int64 {} 64"}
TOWER = {"last_hidden_state": "float32 batch {} 64", "pooler_output": "float32 batch 64"}
JOINT = {
    "logits_per_image": "float32 images texts",
    "logits_per_text": "float32 texts images",
    "text_embeds": "float32 texts 64",
    "image_embeds": "float32 images 64",
}


def ports(kind: str, name: str) -> dict[str, str]:
    def of(ports: dict[str, str], axis: str) -> dict[str, str]:
        return {port: text.format(axis) for port, text in ports.items()}

    if name == "model":
        return of(IDS, "texts") | of(IMAGES[kind], "images") | JOINT
    if name == "text_model":
        return of(IDS, "batch") | of(TOWER, "64")
    return of(IMAGES[kind], "batch") | of(TOWER, "25" if kind == "fixed" else "patches")


@every_graph
def test_ports_are_those_of_onnx_communitys_files(session: Sessions, kind: str, name: str):
    found = ports_of(session(kind, name))
    told = {port: " ".join(map(str, (dtype, *shape))) for port, (dtype, shape) in found.items()}
    assert list(told.items()) == list(ports(kind, name).items())


@every_graph
def test_outputs_are_those_of_transformers_and_of_the_equinox_model(run: Runs, kind: str, name: str):
    """By the limits of the config, with and without optimisations, and in double precision."""
    verdict = judge(run(kind, name).comparison)
    assert verdict.passed, verdict.faults
    # Measured 1.6 noise floors at most and 2.2 of double precision; 2.2e-7 of an embedding and 3.0e-5 of a logit.
    judged = {finding.limit_name for finding in verdict.findings}
    assert judged & OF_PAIRS == (OF_PAIRS if name == "model" else set())


def digest(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


@every_graph
def test_weights_are_the_checkpoints_bit_for_bit(spines: Callable[[str], Spine], kind: str, name: str):
    """Matrices are transposed; queries, keys and values of the head are parts of one tensor. Nothing else changes."""
    spine, graph = spines(KINDS[kind]), spines(KINDS[kind]).export(RECIPES[name])
    wanted: dict[str, tuple[str, str]] = {}
    tower = {"vision_model": "vision_model.", "text_model": "text_model.", "model": ""}[name]
    tensors = {key: x for key, x in load_file(spine.checkpoints["huggingface"]).items() if key.startswith(tower)}
    for key, x in tensors.items():
        for piece in np.split(x, 3) if "in_proj" in key else [x]:
            wanted |= {digest(piece.T): (key, "transposed"), digest(piece): (key, "as it is")}
    held, computed = initializers(graph), computed_constants(graph)
    found = {path: wanted[one.sha256()] for path, one in held.items() if re.match(r"(vision|text)\.|logit_", path)}
    times = Counter(key for key, _ in found.values())
    # The temperature is computed from its logarithm, once, in double precision.
    folded = {"logit_scale"} if name == "model" else set()
    assert times == {key: 3 if "in_proj" in key else 1 for key in tensors.keys() - folded}
    assert len(computed) == len(folded)
    for value in computed.values():
        np.testing.assert_allclose(value, np.exp(tensors["logit_scale"].astype(np.float64)), rtol=1e-15)
    tables = ("positions", "token_embedding", "probe")
    for path, (key, way) in found.items():
        is_matrix = tensors[key].ndim == 2 and not path.endswith(tables)
        assert way == ("transposed" if is_matrix else "as it is"), path
    # What the graph has besides are numbers of its own, such as the places of 16 entries of a table.
    assert all(np.prod(held[path].shape) <= 16 for path in held.keys() - found.keys())
    # From the publisher's own layout they are the same.
    interface = spine.spec.interface(RECIPES[name].interface)
    ways = weights_of(spine.spec, interface, spine.checkpoints["big_vision"], graph, spine.model_file)
    assert (ways["weights"].keys(), ways["folded"].keys()) == (found.keys(), folded)


@every_graph
def test_each_image_and_text_is_itself_in_any_batch(session: Sessions, kind: str, name: str):
    """To the bit: alone, one with all, and in another order."""
    graph, inputs = session(kind, name), fitting(kind, name)
    axes = {port.name: port.shape for port in (*graph.get_inputs(), *graph.get_outputs())}
    expected = outputs_of(graph, inputs)

    def part_of(arrays: Arrays, place: dict[str, slice]) -> Arrays:
        return {port: x[tuple(place.get(axis, slice(None)) for axis in axes[port])] for port, x in arrays.items()}

    first, last, every, turned = slice(0, 1), slice(1, 2), slice(None), slice(None, None, -1)
    for images, texts in (
        (first, first),
        (last, first),
        (first, last),
        (first, every),
        (every, last),
        (turned, turned),
    ):
        place = {"batch": images, "images": images, "texts": texts}
        found = outputs_of(graph, {port: x.copy() for port, x in part_of(inputs, place).items()})
        for port, x in part_of(expected, place).items():
            # Logits too, but of one row or column another processor may take another kernel.
            limit = LIMITS["logit"]["limit"] if port.startswith("logits") else 0
            np.testing.assert_allclose(found[port], x, rtol=0, atol=limit, err_msg=f"{port}, {place}")
    whole = next(iter(expected.values()))
    assert not np.array_equal(whole[0], whole[1])


def valid(graph: ort.InferenceSession, grids: Grids, budget: int, junk: float = 0.0) -> list[np.ndarray]:
    """The embedding and the patches of every image, without what is behind the mask."""
    found = outputs_of(graph, patches(grids, budget, junk))
    return [
        np.concatenate([pooled[None], hidden[: rows * columns]])
        for pooled, hidden, (rows, columns) in zip(*reversed(found.values()), grids, strict=True)
    ]


@pytest.mark.parametrize("grids, budget", [(SMALL, 256), (LARGE, 1024)], ids=["small", "large"])
def test_padding_and_company_change_no_bit_of_naflex(session: Sessions, grids: Grids, budget: int):
    graph = session("naflex", "vision_model")
    expected = valid(graph, grids, budget)
    assert all(np.isfinite(x).all() for x in expected)
    for what, found in {
        "alone": [valid(graph, (grid,), budget)[0] for grid in grids],
        "in another order": valid(graph, grids[::-1], budget)[::-1],
        "more padding": valid(graph, grids, budget + 87),
        "junk": valid(graph, grids, budget, junk=1e4),
        "huge junk": valid(graph, grids, budget, junk=1e30),
    }.items():
        for grid, x, true in zip(grids, found, expected, strict=True):
            np.testing.assert_array_equal(x, true, err_msg=f"{grid}, {what}")


@pytest.mark.parametrize("grids, budget", [(SMALL, 256), (LARGE, 1024)], ids=["small", "large"])
def test_without_padding_naflex_is_the_same_but_for_rounding(session: Sessions, grids: Grids, budget: int):
    """Patches to the bit, but not always what the probe takes from them: there are fewer summands."""
    graph = session("naflex", "vision_model")
    for grid, expected in zip(grids, valid(graph, grids, budget), strict=True):
        (found,) = valid(graph, (grid,), grid[0] * grid[1])
        np.testing.assert_array_equal(found[1:], expected[1:], err_msg=str(grid))
        # Measured 5.4e-7 and 4.2e-7 at 13x19 and 3x5, and 0 elsewhere.
        np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=1e-6, err_msg=str(grid))


def test_grid_and_mask_of_naflex_count(session: Sessions):
    """Or else that nothing changes would say nothing."""
    graph, given = session("naflex", "vision_model"), patches(((13, 19),), 256)
    expected = outputs_of(graph, given)["pooler_output"]
    shorter = given["pixel_attention_mask"].copy()
    shorter[0, 246] = 0
    for change in ({"spatial_shapes": given["spatial_shapes"][:, ::-1].copy()}, {"pixel_attention_mask": shorter}):
        assert np.abs(outputs_of(graph, given | change)["pooler_output"] - expected).max() > 1e-3, change.keys()


@pytest.fixture(scope="module")
def proven(spines: Callable[[str], Spine], run: Runs, tmp_path_factory: pytest.TempPathFactory):
    """A graph with its passport and its sample."""

    @cache
    def make(kind: str, name: str) -> Path:
        spine, recipe, made = spines(KINDS[kind]), RECIPES[name], run(kind, name)
        graph, ledger = tmp_path_factory.mktemp(kind) / f"{name}.onnx", spine.archive.with_name("ledger.csv")
        record = describe(spine.spec, spine.checkpoint, origin={"kind": "synthetic", "seed": 0}, weights="synthetic")
        files = {"graph": graph, "model": spine.model_file, "checkpoint": spine.checkpoint, "ledger": ledger}
        files |= {"sample": sample_beside(graph), "record": graph.with_name("checkpoint.json")}
        write_json(files["record"], record)
        export(spine.spec, recipe, spine.model_file, graph, record, ledger_sha256=sha256_of(ledger))
        sample = sample_of(spine.spec.interface(recipe.interface), recipe, made.inputs, made.reference, made.equinox)
        write_arrays(files["sample"], sample)
        verdict = replace(judge(made.comparison), references=["transformers"], limits=LIMITS)
        passport = passport_of(spine.spec, recipe, verdict, whose="synthetic", threads=1, **files)
        write_json(passport_beside(graph), passport)
        return graph

    return make


@every_graph
def test_a_graph_is_verified_by_its_sample(proven, capsys: pytest.CaptureFixture[str], kind: str, name: str):
    graph = proven(kind, name)
    with np.load(sample_beside(graph)) as arrays:
        cases = {key.partition("/")[2] for key in arrays if not key.startswith("noise_floors/")}
        # Every port, and noise floors of every output.
        outputs = JOINT if name == "model" else TOWER
        assert len(arrays) == len(cases) * (len(ports(kind, name)) + len(outputs))
        if name == "model":
            assert cases == {PAIR}
            np.testing.assert_array_equal(arrays[f"logits_per_image/{PAIR}"], arrays[f"logits_per_text/{PAIR}"].T)
        if (kind, name) == ("naflex", "vision_model"):
            # No rows behind the mask.
            shapes = {case: arrays[f"last_hidden_state/{case}"].shape for case in cases}
            assert shapes == {case: (arrays[f"pixel_attention_mask/{case}"].sum(), 64) for case in cases}
    assert verify(graph)
    told = capsys.readouterr().out
    assert told.count("noise floors from the original") == len(cases) * len(outputs) and "FAIL" not in told


def added(port: str, place: Any, value: float) -> Callable[[Arrays], Arrays]:
    def change(sample: Arrays) -> Arrays:
        values = sample[f"{port}/{PAIR}"].copy()
        values[place] += values.dtype.type(value)
        return sample | {f"{port}/{PAIR}": values}

    return change


# Each with the outputs that are then not the recorded ones.
OF_TEXT, OF_IMAGE = (rf"(logits_per_(image|text)|{embeds})" for embeds in ("text_embeds", "image_embeds"))
EDITS = {
    "a logit of an image": (added("logits_per_image", (1, 2), 1e-3), "logits_per_image"),
    "a logit of a text": (added("logits_per_text", (4, 0), -1e-3), "logits_per_text"),
    "an embedding of an image": (added("image_embeds", (2, 7), 1e-5), "image_embeds"),
    "an embedding of a text": (added("text_embeds", (0, 0), 1e-5), "text_embeds"),
    "an id": (added("input_ids", (4, 3), 1), OF_TEXT),
    "a logit that is none": (added("logits_per_image", (0, 0), np.nan), "logits_per_image"),
}
OF_NAFLEX = {
    "a patch masked": (added("pixel_attention_mask", (0, 5), -1), OF_IMAGE),
    "padding unmasked": (added("pixel_attention_mask", (0, 250), 1), OF_IMAGE),
    "a row more": (added("spatial_shapes", (0, 0), 1), OF_IMAGE),
}


def edited(proven, kind: str, folder: Path, change: Callable[[Arrays], Arrays]) -> Path:
    """A copy of the graph of both towers, whose sample was changed."""
    graph = proven(kind, "model")
    for path in (graph, passport_beside(graph), sample_beside(graph)):
        (folder / path.name).write_bytes(path.read_bytes())
    change_sample(folder / graph.name, change)
    return folder / graph.name


@pytest.mark.parametrize(
    "kind, edit", [*(("fixed", edit) for edit in EDITS), *(("naflex", edit) for edit in (*EDITS, *OF_NAFLEX))]
)
def test_a_changed_sample_is_noticed(proven, tmp_path: Path, capsys, kind: str, edit: str):
    change, outputs = (EDITS | OF_NAFLEX)[edit]
    assert not verify(edited(proven, kind, tmp_path, change))
    wrong = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  FAIL")]
    assert wrong and all(re.match(rf"  FAIL  {PAIR}: {outputs}", line) for line in wrong), wrong


def test_padding_of_a_sample_may_be_anything(proven, tmp_path: Path):
    """Chelsea has 247 patches, and there is room for 256."""
    assert verify(edited(proven, "naflex", tmp_path, added("pixel_values", (0, slice(247, None)), 1e4)))


Staged = tuple[Arrays, Arrays, Callable[[Arrays], Arrays]]


@pytest.fixture(scope="module")
def staged(spines: Callable[[str], Spine], run: Runs, tmp_path_factory: pytest.TempPathFactory):
    """The layers of both towers with noise for each, what Equinox makes of it, and a way to run the graphs."""

    @cache
    def make(kind: str) -> Staged:
        spine, recipe, folder = spines(KINDS[kind]), RECIPES["model"], tmp_path_factory.mktemp(kind)
        interface, weights = spine.spec.interface("pair"), folder / "model.eqx"
        weights.write_bytes(spine.model_file.read_bytes())
        model, tensors = open_model(weights)
        paths = {name: folder / f"{name}.onnx" for name in ("accumulated", "injected")}
        write_stages(model, spine.spec, recipe, tensors, exported=spine.export(recipe), weights=weights, **paths)
        inputs, rng = interface.inputs_of(run(kind, "model").inputs, PAIR), np.random.default_rng(0)
        counts = {"vision": (3, 25 if kind == "fixed" else 256), "text": (5, 64)}
        layers = {
            layer: rng.standard_normal((*counts[layer.partition(".")[0]], 64), np.float32)
            for layer in layers_of(model, "pair")
        }
        equinox = dict(equinox_runner.stages(model, tensors, inputs, layers, interface))
        return layers, equinox, lambda given: run_stage_graphs(*paths.values(), inputs, given, 1, interface)

    return make


def own_stages(found: Arrays, mode: str) -> list[str]:
    """The stages of a mode by name: not the inputs of layers, which are given, nor what is an output anyhow."""
    start = f"float32/{mode}/"
    names = [key.removeprefix(start) for key in found if key.startswith(start)]
    return [name for name in names if not name.endswith(".input") and name not in JOINT]


@every_kind
def test_stages_of_both_towers_are_those_of_the_equinox_model(staged, kind: str):
    layers, equinox, graphs = staged(kind)
    towers = {"vision": "patch_embed", "text": "token_embed"}
    assert list(layers) == [f"{tower}.{layer}" for tower in towers for layer in ("blocks.0", "blocks.1", "norm")]
    found = graphs(layers)
    assert found.keys() == {key for key in equinox if key.startswith("float32/")}
    inner = ("attn_in", "q", "k", "attn_raw", "post_attn", "mlp_in", "mlp_raw", "output")
    blocks = [f"blocks.{index}.{stage}" for index in (0, 1) for stage in inner]
    wanted = [f"vision.{stage}" for stage in ("patch_embed", *blocks, "norm", "head_attn", "pooled")]
    wanted += [f"text.{stage}" for stage in ("token_embed", *blocks, "norm", "pooled")]
    for mode in MODES:
        assert own_stages(found, mode) == wanted
        for stage in (*wanted, *JOINT):
            single, double = (equinox[f"{dtype}/{mode}/{stage}"] for dtype in ("float32", "float64"))
            # Measured 1.6 at most.
            assert floors(found[f"float32/{mode}/{stage}"], double, single) <= LAYER_LIMIT, f"{mode}/{stage}"


@every_kind
def test_a_wrong_input_of_a_layer_shows_in_this_layer_alone(staged, kind: str):
    """So nothing of the text tower touches the image tower, nor the other way round."""
    layers, _, graphs = staged(kind)
    before = graphs(layers)
    of_norm = {"vision": ("norm", "head_attn", "pooled"), "text": ("norm", "pooled")}
    embeds = {"vision": "image_embeds", "text": "text_embeds"}
    for layer in layers:
        after, (tower, _, own) = graphs(layers | {layer: -layers[layer]}), layer.partition(".")
        shown = [stage for stage in own_stages(before, "injected") if stage.startswith(f"{layer}.")]
        if own == "norm":
            of_tower = (f"{tower}.{stage}" for stage in of_norm[tower])
            shown = [*of_tower, embeds[tower], "logits_per_text", "logits_per_image"]
        moved = [key for key in before if not key.endswith(".input") and not np.array_equal(before[key], after[key])]
        assert sorted(moved) == sorted(f"float32/injected/{stage}" for stage in shown), layer


@every_kind
def test_exchanged_logits_have_a_margin(session: Sessions, spines: Callable[[str], Spine], run: Runs, kind: str):
    interface = spines(KINDS[kind]).spec.interface("pair")
    found = outputs_of(session(kind, "model"), interface.inputs_of(run(kind, "model").inputs, PAIR))

    def ranks(**other: np.ndarray) -> dict[str, dict[str, Any]]:
        ours, theirs = (view({Case.parse(PAIR): outputs}, interface) for outputs in (found | other, found))
        compared = compare_semantics("onnx", "truth", ours, theirs)
        assert compared["finite"] and compared["matches"] is compared["worst_token"] is None
        return {figures["what"]: figures for figures in compared["neighbours"]}

    same = ranks()
    assert {what: (one["queries"], one["gallery"]) for what, one in same.items()} == {
        "texts_of_image": (3, 5),
        "images_of_text": (5, 3),
    }
    assert all((one["margin"], one["swapped"], one["top_1"]) == (0, 0, 1) for one in same.values())
    # Exchanged texts change the order of texts for an image, exchanged images that of images for a text.
    texts = ranks(text_embeds=found["text_embeds"][[1, 0, 2, 3, 4]])["texts_of_image"]
    images = ranks(image_embeds=found["image_embeds"][[2, 1, 0]])["images_of_text"]
    assert min(texts["margin"], images["margin"]) > LIMITS["neighbour_margin"]["limit"]


@every_graph
def test_inputs_that_fit_are_accepted(session: Sessions, kind: str, name: str):
    check_inputs(session(kind, name), fitting(kind, name))


WRONG: list[tuple[str, str, str, Callable[[np.ndarray], Any], str]] = [
    ("fixed", "vision_model", "pixel_values", lambda x: x[:, :, :64], "batch x 3 x 80 x 80 and is 2 x 3 x 64 x 80"),
    ("fixed", "vision_model", "pixel_values", lambda x: x[0], "and is 3 x 80 x 80"),
    ("fixed", "vision_model", "pixel_values", lambda x: x.astype(np.float64), "must be float32"),
    ("fixed", "vision_model", "pixel_values", lambda x: x * np.float32(np.inf), "not finite"),
    ("fixed", "text_model", "input_ids", lambda x: np.pad(x, ((0, 0), (0, 1))), "batch x 64 and is 3 x 65"),
    ("fixed", "text_model", "input_ids", lambda x: x[:, :20], "batch x 64 and is 3 x 20"),
    ("fixed", "text_model", "input_ids", lambda x: x.astype(np.int32), "must be int64"),
    ("fixed", "text_model", "input_ids", lambda x: x + 512, "is not one of the 512 of the model, 0 to 511"),
    ("fixed", "text_model", "input_ids", lambda x: x - 1, "token id -1 is not one"),
    ("fixed", "text_model", "attention_mask", lambda _: ids(3), "no attention_mask"),
    ("fixed", "model", "input_ids", lambda _: None, "input_ids is missing"),
    ("fixed", "model", "spatial_shapes", lambda _: ids(2), "no spatial_shapes"),
    ("fixed", "model", "pixel_values", lambda x: x[:0], "is 0 x 3 x 80 x 80"),
    ("naflex", "vision_model", "pixel_values", lambda _: np.zeros((2, 3, 80, 80), np.float32), "is 2 x 3 x 80 x 80"),
    ("naflex", "vision_model", "pixel_attention_mask", lambda x: x.astype(np.int64), "must be int32"),
    ("naflex", "vision_model", "pixel_attention_mask", lambda x: x[:, :11], "patches is 12 in pixel_values and 11"),
    ("naflex", "vision_model", "pixel_attention_mask", lambda _: None, "pixel_attention_mask is missing"),
    ("naflex", "model", "pixel_attention_mask", np.ones_like, "must be 1 for the patches"),
    ("naflex", "model", "pixel_attention_mask", lambda x: x[:, ::-1], "must be 1 for the patches"),
    ("naflex", "model", "spatial_shapes", lambda x: 0 * x, "spatial_shapes hold 0"),
    ("naflex", "model", "spatial_shapes", lambda x: 2 * x, "spatial_shapes say 48 patches, and there are 12"),
    ("naflex", "model", "spatial_shapes", lambda x: x[:1], "images is 2 in pixel_values and 1 in spatial_shapes"),
    ("naflex", "model", "spatial_shapes", lambda x: x.astype(np.int32), "must be int64"),
    ("naflex", "model", "input_ids", lambda x: x + 512, "is not one of the 512 of the model, 0 to 511"),
]


@pytest.mark.parametrize("kind, name, port, change, sentence", WRONG, ids=[f"{one[0]}-{one[4]}" for one in WRONG])
def test_inputs_that_do_not_fit_are_refused(session: Sessions, kind: str, name: str, port: str, change, sentence: str):
    inputs = fitting(kind, name)
    inputs[port] = change(inputs.get(port))
    given = {port: values for port, values in inputs.items() if values is not None}
    with pytest.raises(InputError, match=rf"^(?!.*\. ).*{re.escape(sentence)}.*\.$"):
        check_inputs(session(kind, name), given)


@pytest.fixture(scope="module")
def evidence(spines: Callable[[str], Spine], run: Runs) -> Callable[..., Evidence]:
    """What is known of some graphs of a kind."""

    def make(kind: str, *names: str) -> Evidence:
        spine = spines(KINDS[kind])
        loaded = [(name, load_image(path)) for name, path in PHOTOGRAPHS.items()]
        sizes = [] if names == ("text_model",) else [(80, 80)]
        rows = compare_preprocessing(loaded, sizes, spine.spec, part("siglip2", "references"), preprocess)
        record = describe(spine.spec, spine.checkpoint, origin={"kind": "synthetic"}, weights="synthetic")
        graphs = {name: spine.export(RECIPES[name]) for name in names}
        # Without pictures, which take long.
        comparisons = [replace(run(kind, name).comparison, error_maps=[]) for name in names]
        return Evidence(
            [judge_graph(one, LIMITS, record, rows, bytes=1_000_000) for one in comparisons],
            comparisons,
            record,
            spine.archive.with_name("ledger.csv").read_text().splitlines(),
            rows,
            {name: metadata(graph) for name, graph in graphs.items()},
            {name: operator_sets(graph) for name, graph in graphs.items()},
            PHOTOGRAPHS,
        )

    return make


def words_of(html: str) -> str:
    return " ".join(re.sub("<[^>]*>", " ", re.sub(r"(?s)<(style|script)>.*?</\1>", "", html)).split())


def check_words(told: dict[str, str]) -> None:
    """What was compared of each graph is said in its own words."""
    assert told["vision_model"].startswith("1 photograph at ")
    assert told["text_model"].startswith("5 texts") and "photograph" not in told["text_model"]
    # Photographs together with texts, and not photographs alone.
    assert told["model"] == "1 image-text set"


@every_kind
def test_the_page_tells_texts_from_photographs(evidence: Callable[..., Evidence], kind: str):
    whole = evidence(kind, *RECIPES)
    told = {one.export: inputs_in_words([one]) for one in whole.comparisons}
    check_words(told)
    page = words_of(parity_page(whole))
    for said in (
        "Passed: vision_model.onnx, text_model.onnx and model.onnx match Hugging Face transformers.",
        *told.values(),
        "Photographs and texts",
        "images or texts, by their embedding",
        "texts that fit an image",
        "images that fit a text",
    ):
        assert said in page
    # What is found on graphs with texts is not said of photographs.
    for verdict in whole.verdicts[1:]:
        of_graph = [finding for finding in verdict.findings if finding.leg != "preprocessing"]
        assert of_graph and not any("photograph" in finding.sentence for finding in of_graph)


@every_kind
def test_key_figures_of_texts_alone_are_not_of_photographs(evidence: Callable[..., Evidence], kind: str):
    """As of a text tower without an image tower."""
    figures = page_content(evidence(kind, "text_model"))["key_figures"]
    assert not any(re.search("photograph|pixel", figure.what) for figure in figures)
    assert all(figure.good for figure in figures)


@every_kind
def test_the_summary_tells_texts_from_photographs(evidence: Callable[..., Evidence], kind: str):
    _, *rows = re.findall("(?s)<tr>.*?</tr>", summary_page(summarise(evidence(kind, *RECIPES).verdicts)))
    # What was compared stands in the last cell.
    cells = [words_of(row.rpartition("<td")[2].partition(">")[2]) for row in rows]
    check_words(dict(zip(RECIPES, cells, strict=True)))
