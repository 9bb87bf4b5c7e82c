"""A ledger of real stages: a healthy one has no divergence, and a planted fault is named at the stage where it is.

Faults are planted in the weights, in the Equinox model's code and in the graphs, so that everything from there to the
sentence has to notice them.
"""

import itertools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
import yaml

from vit2onnx import inference
from vit2onnx.archive import open_model
from vit2onnx.cases import MODES, layer_inputs
from vit2onnx.checkpoints.fetch import describe
from vit2onnx.exporting.graph import trace, write
from vit2onnx.exporting.metadata import metadata_of
from vit2onnx.exporting.stages import write_stages
from vit2onnx.keytable import LazyTensor
from vit2onnx.models import build, dinov3_vit, layers
from vit2onnx.models.rope import rope_periods
from vit2onnx.parity.divergence import TRUTH, judge_stages
from vit2onnx.parity.stage_graphs import run_stage_graphs
from vit2onnx.parity.stages import as_csv, make_ledger
from vit2onnx.references import transformers_model
from vit2onnx.variants import ExportSpec

CONFIG = Path(__file__).parents[2] / "config" / "config.yaml"
LIMITS = {name: limit["limit"] for name, limit in yaml.safe_load(CONFIG.read_text())["parity"]["limits"].items()}
FLOORS = LIMITS["noise_floors"]
DYNAMIC = ExportSpec("dynamic", None, None, None, opset=23)
# Neither square nor a multiple of the patch.
IMAGE = np.random.default_rng(0).standard_normal((3, 70, 101), np.float32)
Stages = Mapping[str, np.ndarray]
Tensors = dict[str, np.ndarray]


class Case:
    """A small variant's reference, Equinox model and graphs; what is asked for twice is computed once."""

    def __init__(self, spine: Any, folder: Path):
        self.spine, self.folder = spine, folder
        self.reference = dict(transformers_model.stages(spine.spec, spine.checkpoints["meta"], IMAGE))
        self.inputs = layer_inputs(self.reference)
        self.equinox = dict(inference.stages(spine.model_file, IMAGE, self.inputs))
        weights = folder / "model.eqx"
        weights.write_bytes(spine.model_file.read_bytes())
        origin = {"kind": "synthetic", "seed": 0}
        record = describe(spine.spec, spine.checkpoints["meta"], origin=origin, official=False)
        self.graphs = {mode: folder / f"{mode}.onnx" for mode in MODES}
        self.skeleton, self.tensors = open_model(weights)
        exported, metadata = folder / "exported.onnx", metadata_of(spine.spec, DYNAMIC, record, "")
        graph = trace(self.skeleton, spine.spec, DYNAMIC)
        write(graph, exported, DYNAMIC, metadata, self.tensors, weights=weights, external=True)
        write_stages(
            self.skeleton, spine.spec, DYNAMIC, self.tensors, exported=exported, weights=weights, **self.graphs
        )
        self.onnx = run_stage_graphs(*self.graphs.values(), IMAGE, self.inputs, threads=1)

    def ledger(self, **other: Stages) -> dict[str, Any]:
        stages = {"transformers": self.reference, "equinox": self.equinox, "onnx": self.onnx}
        return make_ledger({"variant": self.spine.spec.name, "export": "dynamic"}, stages | other, FLOORS)


@pytest.fixture(scope="module")
def case_of(spines, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Case]:
    known: dict[str, Case] = {}

    def get(name: str) -> Case:
        if name not in known:
            known[name] = Case(spines(f"dinov3_{name}_pretrain_lvd1689m"), tmp_path_factory.mktemp(name))
        return known[name]

    return get


@pytest.mark.parametrize("name", ["vits16", "vits16plus", "vit7b16", "convnext_tiny"])
def test_healthy_stages_diverge_nowhere(case_of: Callable[[str], Case], name: str):
    ledger = case_of(name).ledger()
    assert judge_stages(ledger, LIMITS) == []
    assert ledger["first_divergence"] == {"accumulated": None, "injected": None}
    pairs = {(row["subject"], row["other"]) for row in ledger["stages"]}
    singles = ("transformers", "equinox", "onnx")
    assert pairs == {
        *((name, TRUTH) for name in (*singles, "equinox_float64")),
        ("equinox", "transformers"),
        ("onnx", "transformers"),
        ("onnx", "equinox"),
    }
    # Measured 1.9 floors between any two, 1.4 from the truth and 1.5e-14 between the truths.
    assert max(row["floors"] for row in ledger["stages"] if row["subject"] in singles) < FLOORS / 2
    assert all(row["floors"] <= 1 for row in ledger["stages"] if row["subject"] == "transformers")


def test_every_stage_of_a_vision_transformer_is_there(case_of: Callable[[str], Case]):
    ledger = case_of("vits16").ledger()
    found = {mode: dict.fromkeys(r["stage"] for r in ledger["stages"] if r["mode"] == mode) for mode in MODES}
    inner = [
        "input",
        "attn_in",
        "q",
        "k",
        "attn_raw",
        "attn_scaled",
        "post_attn",
        "mlp_in",
        "mlp_raw",
        "mlp_scaled",
        "output",
    ]
    stages = ["patch_embed", *(f"blocks.{i}.{stage}" for i in range(2) for stage in inner), "norm"]
    assert list(found["accumulated"]) == stages
    assert list(found["injected"]) == [stage for stage in stages if not stage.endswith(".input")]


def test_every_stage_of_a_convnext_is_there(case_of: Callable[[str], Case]):
    ledger = case_of("convnext_tiny").ledger()
    found = list(dict.fromkeys(row["stage"] for row in ledger["stages"] if row["mode"] == "accumulated"))
    block = ["input", "dwconv", "norm", "raw", "scaled", "output"]
    stages: list[str] = []
    for index, depth in enumerate((1, 1, 2, 1)):
        between = ("input", "norm", "output") if index else ("conv", "output")
        stages += [f"stages.{index}.downsample.{stage}" for stage in between]
        stages += [f"stages.{index}.blocks.{number}.{stage}" for number in range(depth) for stage in block]
    assert found == [*stages, "norm_in", "norm"]


def test_a_ledger_is_the_same_twice(case_of: Callable[[str], Case]):
    case = case_of("vits16")
    onnx_stages = run_stage_graphs(*case.graphs.values(), IMAGE, case.inputs, threads=1)
    equinox = dict(inference.stages(case.spine.model_file, IMAGE, case.inputs))
    reference = dict(transformers_model.stages(case.spine.spec, case.spine.checkpoints["meta"], IMAGE))
    again = case.ledger(onnx=onnx_stages, equinox=equinox, transformers=reference)
    assert json.dumps(again, allow_nan=False) == json.dumps(case.ledger())
    assert as_csv(again) == as_csv(case.ledger())
    assert as_csv(again).count("\n") == 1 + len(again["stages"])


def edit(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Tensors], Tensors]:
    return lambda tensors: tensors | {name: change(tensors[name].copy())}


def one_element(by: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array.reshape(-1)[7] += by
        return array

    return change


def exchange(first: str, second: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: (
        tensors
        | {
            one + end: tensors[other + end]
            for one, other in ((first, second), (second, first))
            for end in ("", ".weight", ".bias", ".gamma")
            if other + end in tensors
        }
    )


def parts(*order: int) -> Callable[[np.ndarray], np.ndarray]:
    """Queries, keys and values in another order."""
    return lambda x: np.concatenate([np.split(x, 3, axis=-1)[i] for i in order], axis=-1)


def fused(block: int, *order: int) -> Callable[[Tensors], Tensors]:
    return lambda tensors: (
        tensors
        | {
            name: parts(*order)(tensors[name])
            for name in (f"blocks.{block}.attn.qkv.{end}" for end in ("weight", "bias"))
        }
    )


def unmasked(bias: np.ndarray) -> np.ndarray:
    third = len(bias) // 3
    bias[third : 2 * third] = 0.01
    return bias


def duplicated_block(tensors: Tensors) -> Tensors:
    return {name: tensors[name.replace("blocks.1.", "blocks.0.")] for name in tensors}


def cls_for_register(tensors: Tensors) -> Tensors:
    cls, registers = tensors["cls_token"], tensors["register_tokens"].copy()
    first = registers[:, :1].copy()
    registers[:, :1] = cls
    return tensors | {"cls_token": first, "register_tokens": registers}


def as_half(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float16).astype(np.float32)


def head_rows(weight: np.ndarray) -> np.ndarray:
    """Heads and their channels exchanged, for the two heads of a small model."""
    return weight.reshape(2, -1, weight.shape[1]).transpose(1, 0, 2).reshape(weight.shape)


# In the weights: what is done, of which variant, and where it is named.
WEIGHT_FAULTS = {
    "bias off by 1e-3": ("vits16", edit("blocks.1.mlp.fc2.bias", one_element(1e-3)), "blocks.1.mlp_raw"),
    "inner bias off by 1e-3": ("vits16", edit("blocks.1.mlp.fc1.bias", one_element(1e-3)), "blocks.1.mlp_raw"),
    "bias of attention off": ("vits16", edit("blocks.1.attn.proj.bias", one_element(1e-3)), "blocks.1.attn_raw"),
    "weight off by 1e-3": ("vits16", edit("blocks.1.mlp.fc2.weight", one_element(1e-3)), "blocks.1.mlp_raw"),
    "half precision": ("vits16", edit("blocks.1.mlp.fc1.weight", as_half), "blocks.1.mlp_raw"),
    "LayerScale skipped": ("vits16", edit("blocks.1.ls1.gamma", np.ones_like), "blocks.1.attn_scaled"),
    "LayerScales exchanged": ("vits16", exchange("blocks.1.ls1", "blocks.1.ls2"), "blocks.1.attn_scaled"),
    "norms exchanged": ("vits16", exchange("blocks.1.norm1", "blocks.1.norm2"), "blocks.1.attn_in"),
    "w1 and w2 exchanged": ("vits16plus", exchange("blocks.1.mlp.w1", "blocks.1.mlp.w2"), "blocks.1.mlp_raw"),
    "query and key exchanged": ("vits16", fused(1, 1, 0, 2), "blocks.1.q"),
    "key and value exchanged": ("vits16", fused(1, 0, 2, 1), "blocks.1.k"),
    "query and value exchanged": ("vits16", fused(1, 2, 1, 0), "blocks.1.q"),
    "key bias not masked": ("vits16", edit("blocks.0.attn.qkv.bias", unmasked), "blocks.0.k"),
    "heads transposed": ("vits16", edit("blocks.1.attn.proj.weight", head_rows), "blocks.1.attn_raw"),
    "block duplicated": ("vits16", duplicated_block, "blocks.1.attn_in"),
    "registers exchanged": ("vits16", edit("register_tokens", lambda x: x[:, [1, 0, 2, 3]]), "patch_embed"),
    "CLS and register exchanged": ("vits16", cls_for_register, "patch_embed"),
    "patch kernel flipped": ("vits16", edit("patch_embed.weight", lambda x: x[..., ::-1].copy()), "patch_embed"),
    "patch kernel transposed": ("vits16", edit("patch_embed.weight", lambda x: x.swapaxes(2, 3).copy()), "patch_embed"),
    "colours reversed": ("vits16", edit("patch_embed.weight", lambda x: x[:, ::-1].copy()), "patch_embed"),
    "unrounded periods": ("vits16", edit("rope_periods", lambda x: rope_periods(len(x), "float32")), "blocks.0.q"),
    "final norm missing": ("vits16", edit("norm.weight", np.ones_like), "norm"),
    "depthwise kernel flipped": (
        "convnext_tiny",
        edit("stages.2.blocks.1.dwconv.weight", lambda x: x[..., ::-1].copy()),
        "stages.2.blocks.1.dwconv",
    ),
    "gamma skipped": (
        "convnext_tiny",
        edit("stages.2.blocks.0.gamma", np.ones_like),
        "stages.2.blocks.0.scaled",
    ),
    "downsampling's norm": (
        "convnext_tiny",
        edit("stages.1.downsample.norm.bias", one_element(1e-3)),
        "stages.1.downsample.norm",
    ),
    "downsampling's kernel": (
        "convnext_tiny",
        edit("stages.3.downsample.conv.weight", lambda x: x.swapaxes(2, 3).copy()),
        "stages.3.downsample.output",
    ),
    "stem's bias": (
        "convnext_tiny",
        edit("stages.0.downsample.conv.bias", one_element(1e-3)),
        "stages.0.downsample.conv",
    ),
    "final norm's bias": ("convnext_tiny", edit("norm.bias", one_element(1e-3)), "norm"),
}


def single(case: Case) -> Stages:
    """The stages of the Equinox model as it is now, in single precision."""
    stages = inference.stages(case.spine.model_file, IMAGE, case.inputs)
    return dict(itertools.takewhile(lambda item: item[0].startswith("float32/"), stages))


@pytest.mark.parametrize("fault", WEIGHT_FAULTS)
def test_a_fault_in_the_weights_is_named_at_its_stage(
    case_of: Callable[[str], Case], monkeypatch: pytest.MonkeyPatch, fault: str
):
    name, plant, stage = WEIGHT_FAULTS[fault]
    case = case_of(name)
    values = plant({name: tensor.read() for name, tensor in case.tensors.items()})
    assert {name: x.shape for name, x in values.items()} == {name: t.shape for name, t in case.tensors.items()}
    spoilt = {name: LazyTensor(x.shape, x.dtype.name, lambda x=x: x) for name, x in values.items()}
    monkeypatch.setattr(inference, "open_model", lambda path: (case.skeleton, spoilt))
    ledger = case.ledger(equinox=single(case))
    for mode in MODES:
        found = ledger["first_divergence"][mode]
        assert (found["stage"], found["subject"], found["other"]) == (stage, "equinox", "transformers"), mode
    assert judge_stages(ledger, LIMITS)[-1] == ledger["first_divergence"]["injected"]["sentence"]
    # Every other layer is right by itself; what follows in accumulated mode is not.
    layer = stage.rpartition(".")[0]
    pair = [row for row in ledger["stages"] if (row["subject"], row["other"]) == ("equinox", "transformers")]
    others = [row for row in pair if layer and not row["stage"].startswith(f"{layer}.")]
    if fault not in ("unrounded periods", "block duplicated"):
        assert all(row["floors"] <= FLOORS for row in others if row["mode"] == "injected")
    if stage != "norm":
        assert next(row for row in pair if row["stage"] == "norm")["floors"] > FLOORS


def tanh_gelu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "gelu", lambda x: jax.nn.gelu(x, approximate=True))


def turn_table(monkeypatch: pytest.MonkeyPatch, change: Callable[[jax.Array], jax.Array]) -> None:
    table = dinov3_vit.rope_table
    monkeypatch.setattr(dinov3_vit, "rope_table", lambda *args: tuple(change(x) for x in table(*args)))


def rotated_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    turn_table(monkeypatch, lambda x: x.at[:5].set(x[5]))


def exchanged_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    turn_table(monkeypatch, lambda x: jnp.concatenate(jnp.split(x, 2, axis=-1)[::-1], axis=-1))


def interleaved_rope(monkeypatch: pytest.MonkeyPatch) -> None:
    def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array, *, num_heads: int) -> jax.Array:
        heads = x.reshape(*x.shape[:2], num_heads, -1, 2)
        even, odd, cos, sin = heads[..., 0], heads[..., 1], cos[:, :, None], sin[:, :, None]
        return jnp.stack([even * cos - odd * sin, odd * cos + even * sin], -1).reshape(x.shape)

    monkeypatch.setattr(dinov3_vit, "rotary_embedding", rotate)


def unscaled_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    attention = dinov3_vit.attention
    monkeypatch.setattr(dinov3_vit, "attention", lambda q, k, v, num_heads: attention(8 * q, k, v, num_heads=num_heads))


def forgotten_residual(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = dinov3_vit.Block.stages

    def stages(self: Any, x: jax.Array, rope: Any) -> dict[str, jax.Array]:
        found = whole(self, x, rope)
        return found | {"output": found["mlp_scaled"]}

    monkeypatch.setattr(dinov3_vit.Block, "stages", stages)


# In the code of the Equinox model, and so in every block.
CODE_FAULTS = {
    tanh_gelu: "blocks.0.mlp_raw",
    rotated_prefix: "blocks.0.q",
    exchanged_axes: "blocks.0.q",
    interleaved_rope: "blocks.0.q",
    unscaled_attention: "blocks.0.attn_raw",
    forgotten_residual: "blocks.0.output",
}


@pytest.mark.parametrize("plant", CODE_FAULTS, ids=lambda plant: plant.__name__)
def test_a_fault_in_the_code_is_named_at_its_stage(
    case_of: Callable[[str], Case], monkeypatch: pytest.MonkeyPatch, plant: Callable[[pytest.MonkeyPatch], None]
):
    case = case_of("vits16")
    plant(monkeypatch)
    ledger = case.ledger(equinox=single(case))
    for mode in MODES:
        found = ledger["first_divergence"][mode]
        assert (found["stage"], found["subject"], found["other"]) == (CODE_FAULTS[plant], "equinox", "transformers")


@pytest.mark.parametrize(
    ("name", "stage"), [("vits16", "blocks.0.attn_in"), ("convnext_tiny", "stages.0.downsample.output")]
)
def test_another_epsilon_is_named_at_the_first_norm(
    case_of: Callable[[str], Case], monkeypatch: pytest.MonkeyPatch, name: str, stage: str
):
    case = case_of(name)
    arch = case.spine.spec.architecture
    other = replace(arch, norm_eps={1e-5: 1e-6, 1e-6: 1e-5}[arch.norm_eps])
    skeleton = build(case.spine.spec.family, other)
    monkeypatch.setattr(inference, "open_model", lambda path: (skeleton, case.tensors))
    found = case.ledger(equinox=single(case))["first_divergence"]
    assert {found[mode]["stage"] for mode in MODES} == {stage}


def nodes(model: onnx.ModelProto, operator: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == operator]


def set_attribute(node: onnx.NodeProto, name: str, value: Any) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])


def of_output(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if name in node.output)


# In the graphs: what is done, and where it is named. The second of two blocks each.
GRAPH_FAULTS: dict[str, tuple[Callable[[onnx.ModelProto], Any], str]] = {
    "tanh GELU": (lambda m: set_attribute(nodes(m, "Gelu")[1], "approximate", "tanh"), "blocks.1.mlp_raw"),
    "epsilon": (lambda m: set_attribute(of_output(m, "blocks.1.mlp_in"), "epsilon", 1e-3), "blocks.1.mlp_in"),
    "interleaved": (lambda m: set_attribute(of_output(m, "blocks.1.k"), "interleaved", 1), "blocks.1.k"),
    "scale of attention": (lambda m: set_attribute(nodes(m, "Attention")[1], "scale", 0.2), "blocks.1.attn_raw"),
    "causal attention": (lambda m: set_attribute(nodes(m, "Attention")[1], "is_causal", 1), "blocks.1.attn_raw"),
    "LayerScale of the other": (
        lambda m: of_output(m, "blocks.1.mlp_scaled").input.__setitem__(1, "blocks.1.ls1.gamma"),
        "blocks.1.mlp_scaled",
    ),
    "norm of the other": (
        lambda m: of_output(m, "blocks.1.mlp_in").input.__setitem__(1, "blocks.1.norm1.weight"),
        "blocks.1.mlp_in",
    ),
    "no residual": (
        lambda m: of_output(m, "blocks.1.output").input.__setitem__(0, "blocks.1.attn_scaled"),
        "blocks.1.output",
    ),
}


@pytest.mark.parametrize("fault", GRAPH_FAULTS)
def test_a_fault_in_the_graph_is_named_at_its_stage(case_of: Callable[[str], Case], fault: str):
    case = case_of("vits16")
    plant, stage = GRAPH_FAULTS[fault]
    paths = []
    for mode, path in case.graphs.items():
        model = onnx.load(path, load_external_data=False)
        plant(model)
        paths.append(case.folder / f"spoilt_{mode}.onnx")
        onnx.save(model, paths[-1])
    ledger = case.ledger(onnx=run_stage_graphs(*paths, IMAGE, case.inputs, threads=1))
    for mode in MODES:
        found = ledger["first_divergence"][mode]
        assert (found["stage"], found["subject"], found["other"]) == (stage, "onnx", "equinox")
    # The truths agree, so it is the export's fault.
    (sentence,) = judge_stages(ledger, LIMITS)
    assert sentence.startswith(f"first divergence: {stage}, onnx and equinox, ")
    assert sentence.endswith(" x the noise floor")


def test_two_truths_that_differ_are_a_fault(case_of: Callable[[str], Case]):
    case = case_of("vits16")
    key = "float64/injected/blocks.1.attn_raw"
    other = case.equinox[key].copy()
    other[3, 5] += 1e-8
    (fault,) = judge_stages(case.ledger(equinox={**case.equinox, key: other}), LIMITS)
    assert fault.startswith(
        "in double precision equinox_float64 and truth differ first at blocks.1.attn_raw (injected): "
    )
    without = {key: x for key, x in case.equinox.items() if key.startswith("float32/")}
    assert judge_stages(case.ledger(equinox=without), LIMITS) == [
        "there is no second implementation in double precision"
    ]


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["transformers", "equinox", "onnx"])
def test_what_is_not_finite_diverges(case_of: Callable[[str], Case], name: str, value: float):
    case = case_of("vits16")
    key = "float32/injected/blocks.1.mlp_in"
    stages = {"transformers": case.reference, "equinox": case.equinox, "onnx": case.onnx}[name]
    other = stages[key].copy()
    other[3, 5] = value
    ledger = case.ledger(**{name: {**stages, key: other}})
    json.dumps(ledger, allow_nan=False)
    assert ledger["first_divergence"]["injected"]["sentence"].endswith(", not finite")
    assert ledger["first_divergence"]["injected"]["stage"] == "blocks.1.mlp_in"
    assert ledger["first_divergence"]["accumulated"] is None


def test_a_missing_stage_is_an_error(case_of: Callable[[str], Case]):
    case = case_of("vits16")
    fewer = {key: x for key, x in case.onnx.items() if not key.endswith("blocks.1.q")}
    with pytest.raises(ValueError, match=r"only one of transformers and onnx has the stages blocks\.1\.q"):
        case.ledger(onnx=fewer)
