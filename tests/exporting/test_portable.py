"""Graphs of plain operators: those of operator set 17 alone, and the same numbers as the native graphs."""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tests.conftest import DISTINCT, Spine
from vit2onnx.packing import pack
from vit2onnx.runners.onnx_double import run_in_double
from vit2onnx.spec.interface import Interface
from vit2onnx.spec.recipe import ATTENTION, Recipe

SIGLIP = ("siglip2_base_patch16_224", "siglip2_base_patch16_naflex")
# Operators that came after operator set 17.
LATER = {"Attention", "Gelu", "RotaryEmbedding", "RMSNormalization", "Swish"}
# |difference| of values of about 5 in single precision, measured 2.4e-6, and in double, measured 6e-15.
LIMIT, LIMIT_IN_DOUBLE = 1e-5, 1e-12
SIZES = {"batch": 2, "images": 2, "texts": 3, "height": 96, "width": 64, "patches": 12, "length": 17}
GRIDS = np.array([[3, 4], [2, 3]])


def recipe(interface: Interface, operators: str, attention: str | None = None) -> Recipe:
    opset = {"native": 24, "portable": 17}[operators]
    name = f"{interface.name}_{operators}_{attention}"
    return Recipe(name, opset, dict.fromkeys(interface.minimum), interface.name, attention, operators=operators)


def inputs_for(interface: Interface) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    if interface.packs:
        patch = interface.patch_size
        return pack([rng.standard_normal((3, *(side * patch for side in grid)), np.float32) for grid in GRIDS], patch)
    special = {
        "pixel_attention_mask": (np.arange(12) < GRIDS.prod(axis=1)[:, None]).astype(np.int32),
        "spatial_shapes": GRIDS,
    }
    found = {}
    for port in interface.inputs:
        shape = [SIZES.get(size, size) for size in interface.shape(port, {})]
        ids = rng.integers(0, 40, shape) if port.dtype == "int64" else rng.standard_normal(shape, np.float32)
        found[port.name] = special.get(port.name, ids)
    return found


def both(spine: Spine, interface: str, attention: str | None = None) -> tuple[Path, Path, Mapping[str, np.ndarray]]:
    own = spine.spec.interface(interface)
    native, portable = (spine.export(recipe(own, operators, attention)) for operators in ("native", "portable"))
    return native, portable, inputs_for(own)


def outputs(graph: Path, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    session = ort.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    return session.run(None, dict(inputs))


CASES = [(name, "images", None) for name in DISTINCT]
CASES += [(name, interface, None) for name in SIGLIP for interface in ("vision", "text", "pair")]
CASES += [("dinov3_vits16_pretrain_lvd1689m", "packed", attention) for attention in ATTENTION]
CASES += [("dinov2_vits14_reg4_pretrain", "packed", attention) for attention in ATTENTION]


@pytest.mark.parametrize(("name", "interface", "attention"), CASES)
def test_plain_operators_give_the_same(
    spines: Callable[[str], Spine], name: str, interface: str, attention: str | None
) -> None:
    native, portable, inputs = both(spines(name), interface, attention)
    for ours, theirs in zip(outputs(portable, inputs), outputs(native, inputs), strict=True):
        assert np.abs(ours - theirs).max() <= LIMIT * max(1, np.abs(theirs).max() / 5)
    ((exact,), (expected,)) = (run_in_double(graph, [inputs]) for graph in (portable, native))
    assert all(np.abs(exact[port] - expected[port]).max() <= LIMIT_IN_DOUBLE * 20 for port in expected)
    model = onnx.load(portable)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 17)]
    assert model.ir_version == 8
    inner = [node for one in model.graph.node for attribute in one.attribute for node in attribute.g.node]
    assert not Counter(node.op_type for node in [*model.graph.node, *inner]).keys() & LATER


def rotated_backwards(model: onnx.ModelProto) -> None:
    (first, second) = next(node for node in model.graph.node if node.op_type == "Split").output
    for node in model.graph.node:
        if node.op_type in ("Neg", "Concat"):
            names = [{first: second, second: first}.get(name, name) for name in node.input]
            node.input[:] = names


def unscaled_logits(model: onnx.ModelProto) -> None:
    (scale,) = (one for one in model.graph.initializer if one.name == "blocks.0/Sqrt")
    scale.CopyFrom(onnx.numpy_helper.from_array(np.float32(1), scale.name))


@pytest.mark.parametrize("spoil", [rotated_backwards, unscaled_logits])
def test_a_fault_would_show(spines: Callable[[str], Spine], tmp_path: Path, spoil) -> None:
    native, portable, inputs = both(spines("dinov3_vits16_pretrain_lvd1689m"), "images")
    model = onnx.load(portable)
    spoil(model)
    onnx.save(model, tmp_path / "spoilt.onnx")
    spoilt, right = (outputs(graph, inputs)[0] for graph in (tmp_path / "spoilt.onnx", native))
    assert np.abs(spoilt - right).max() > 1000 * LIMIT


def test_gelu_has_its_factors_in_the_order_that_no_runtime_mistakes(spines: Callable[[str], Spine]) -> None:
    # MNN takes x (1 + erf) / 2 for its approximation, and OpenCV crashes on it.
    _, portable, _ = both(spines("dinov3_vits16_pretrain_lvd1689m"), "images")
    nodes = {name: node for node in onnx.load(portable).graph.node for name in node.output}
    for erf in (node for node in nodes.values() if node.op_type == "Erf"):
        (plus,) = (node for node in nodes.values() if erf.output[0] in node.input)
        (product,) = (node for node in nodes.values() if plus.output[0] in node.input)
        (half,) = (nodes[name] for name in product.input if name != plus.output[0])
        assert (half.op_type, half.input[1]) == ("Mul", "float_scalar_0.5")
