"""Small graphs of every family and interface, with weights that are made up, and inputs for them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx.numpy_helper import from_array

from vit2onnx.exporting.folding import fold
from vit2onnx.exporting.graph import trace
from vit2onnx.runners.onnx_double import run_nodes
from vit2onnx.runners.session import ALL, session_of
from vit2onnx.self_test.chain import shrink
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec, read_variants
from vit2onnx.weights.keytable import LazyTensor
from vit2onnx.weights.leaves import array_shapes
from vit2onnx.weights.model_file import skeleton_of

VARIANTS = Path(__file__).parents[2] / "config" / "variants"
# The largest absolute value of pixels that are about as normalised ones.
PIXELS = 2.7
Arrays = Mapping[str, np.ndarray]
OPERATORS = {"native": 24, "portable": 17}
S16, S16_PLUS = "dinov3_vits16_pretrain_lvd1689m", "dinov3_vits16plus_pretrain_lvd1689m"
S14, S14_REGISTERS = "dinov2_vits14_pretrain", "dinov2_vits14_reg4_pretrain"
CONVNEXT, SIGLIP, NAFLEX = (
    "dinov3_convnext_tiny_pretrain_lvd1689m",
    "siglip2_base_patch16_224",
    "siglip2_base_patch16_naflex",
)
FIXED = {"batch": 1, "height": 48, "width": 64}
FIXED_14 = {"batch": 1, "height": 56, "width": 42}
# Variant, interface, sizes, and attention of packed images.
GRAPHS: dict[str, tuple[str, str, Mapping[str, int], str | None]] = {
    "vit": (S16, "images", {}, None),
    "vit_fixed": (S16, "images", FIXED, None),
    "photographs": (S16, "photographs", {"height": 48, "width": 64}, None),
    "swiglu": (S16_PLUS, "images", {}, None),
    "packed_loop": (S16, "packed", {}, "loop"),
    "packed_padded": (S16, "packed", {}, "padded"),
    "dinov2": (S14_REGISTERS, "images", {}, None),
    "dinov2_free": (S14, "images", {}, None),
    "dinov2_fixed": (S14, "images", FIXED_14, None),
    "dinov2_packed": (S14, "packed", {}, "loop"),
    "convnext": (CONVNEXT, "images", {}, None),
    "siglip2_pair": (SIGLIP, "pair", {}, None),
    "naflex": (NAFLEX, "vision", {}, None),
}


@dataclass(frozen=True)
class Small:
    """A graph whose parameters are inputs, with what is given to it."""

    graph: ir.Model
    tensors: Mapping[str, LazyTensor]
    inputs: list[str]
    patch: int

    def copy(self) -> ir.Model:
        return self.graph.clone()

    def exact(
        self, batches: list[Arrays], observe: Callable[[str, np.ndarray], None] = lambda *_: None
    ) -> list[Arrays]:
        weights = {name: tensor.read for name, tensor in self.tensors.items()}
        # ONNX's own sigmoid overflows, and is right then.
        with np.errstate(over="ignore", invalid="ignore"):
            return list(run_nodes(ir.to_proto(self.graph), weights, batches, observe))

    def largest(self, batches: list[Arrays]) -> dict[str, float]:
        found: dict[str, float] = {}

        def observe(name: str, value: np.ndarray) -> None:
            if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.size:
                assert np.isfinite(value).all(), name
                found[name] = max(found.get(name, 0.0), float(np.abs(value).max()))

        self.exact(batches, observe)
        return found


@cache
def traced(which: str, operators: str = "native") -> tuple[ir.Model, VariantSpec, Recipe]:
    """A graph of `GRAPHS` as it is traced; not to be changed."""
    name, interface, sizes, attention = GRAPHS[which]
    spec = shrink(VariantSpec.from_mapping(name, read_variants(VARIANTS)[name]))
    ports = spec.interface(interface)
    all_sizes = dict.fromkeys(ports.minimum) | dict(ports.fixed) | dict(sizes)
    recipe = Recipe(which, OPERATORS[operators], all_sizes, interface, attention=attention, operators=operators)
    return trace(skeleton_of(spec.family, spec.architecture), spec, recipe), spec, recipe


def small(
    which: str,
    operators: str = "native",
    change: Callable[[str, np.ndarray], np.ndarray] = lambda _, value: value,
    seed: int = 0,
) -> Small:
    """A small graph whose constants are folded, with random weights that `change` may change by their names."""
    graph, spec, recipe = traced(which, operators)
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in array_shapes(skeleton_of(spec.family, spec.architecture)).items():
        value = 0.2 * rng.standard_normal(shape)
        if name == "rope_periods":
            value = np.linspace(1, 100, shape[0])
        elif "norm" in name and name.endswith("weight"):
            value = 1 + np.abs(value)
        array = change(name, value).astype(np.float32)
        tensors[name] = LazyTensor(shape, "float32", partial(_same, array))
    copy = graph.clone()
    inputs = [port.name for port in spec.interface(recipe.interface).inputs]
    used = {value.name for value in copy.graph.inputs}
    folded = fold(copy, {name: tensor for name, tensor in tensors.items() if name in used}, inputs)
    return Small(copy, folded, inputs, spec.architecture.patch_size)


def batches_for(which: str, seed: int = 0) -> list[Arrays]:
    """Batches of noise, of the least and greatest pixels, and of checkerboards."""
    rng = np.random.default_rng(seed)
    return [_inputs(which, rng, pixels) for pixels in (_noise, _bright, _dark, _extremes, _checkerboard)]


def _inputs(which: str, rng: np.random.Generator, pixels: Callable[..., np.ndarray]) -> Arrays:
    name, interface, sizes, _ = GRAPHS[which]
    patch = 14 if "14" in name else 16
    if interface == "packed":
        return {
            "pixel_values": pixels(rng, 10, 3 * patch * patch).astype(np.float32),
            "grid_thw": np.array([[1, 2, 3], [1, 2, 2]]),
        }
    if name == NAFLEX:
        mask = np.array([[1] * 20 + [0] * 4] * 2, np.int32)
        shapes = np.array([[4, 5], [10, 2]])
        return {
            "pixel_values": pixels(rng, 2, 24, 768).astype(np.float32),
            "pixel_attention_mask": mask,
            "spatial_shapes": shapes,
        }
    if name == SIGLIP:
        return {"input_ids": rng.integers(0, 50, (3, 8)), "pixel_values": pixels(rng, 2, 3, 80, 80).astype(np.float32)}
    if interface == "photographs":
        levels = pixels(rng, 2, 60, 90, 3) * (127.5 / PIXELS) + 127.5
        return {"photographs": levels.astype(np.uint8)}
    height, width = sizes.get("height", 4 * patch), sizes.get("width", 3 * patch)
    batch = sizes.get("batch", 2)
    return {"pixel_values": pixels(rng, batch, 3, height, width).astype(np.float32)}


def run(model: ir.Model, tensors: Mapping[str, LazyTensor], batch: Arrays, folder: Path) -> dict[str, np.ndarray]:
    """What onnxruntime gives, of a graph whose parameters are inputs, after ONNX's own check."""
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    types = {value.name: value.type.tensor_type.elem_type for value in proto.graph.input}
    kept = [value for value in proto.graph.input if value.name not in tensors]
    del proto.graph.input[:]
    proto.graph.input.extend(kept)
    for name, tensor in tensors.items():
        stored = from_array(tensor.read(), name)
        assert stored.data_type == types[name], name
        proto.graph.initializer.append(stored)
    path = folder / "graph.onnx"
    onnx.save(proto, path)
    session: ort.InferenceSession = session_of(path, ALL, 1)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(batch)), strict=True))


def _noise(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.uniform(-PIXELS, PIXELS, shape)


def _bright(_: np.random.Generator, *shape: int) -> np.ndarray:
    return np.full(shape, PIXELS)


def _dark(_: np.random.Generator, *shape: int) -> np.ndarray:
    return np.full(shape, -PIXELS)


def _extremes(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.choice([-PIXELS, PIXELS], shape)


def _checkerboard(_: np.random.Generator, *shape: int) -> np.ndarray:
    return PIXELS * (1 - 2.0 * (np.indices(shape).sum(axis=0) % 2))


def _same(value: np.ndarray) -> np.ndarray:
    return value
