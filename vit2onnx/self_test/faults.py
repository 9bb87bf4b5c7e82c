"""The faults that conversions are known to make, where each is planted and at which stage it has to be found.

Blocks are counted from zero. What is planted in one block is in the second of two, so that the first has to be found
right. A fault in weights or model code is in Equinox model and graph alike, and so shows between the former and the
reference; one in a graph shows between graph and Equinox model.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import equinox as eqx
import jax
import ml_dtypes
import numpy as np
import onnx
import torch
from jaxtyping import Array
from PIL import Image

from vit2onnx.families.dinov3_convnext import model as dinov3_convnext
from vit2onnx.families.dinov3_vit import model as dinov3_vit
from vit2onnx.families.models import Model
from vit2onnx.images import normalise, preprocess
from vit2onnx.nn import layers
from vit2onnx.nn.primitives import attention, gelu, linear, mean_tokens, rotary_embedding
from vit2onnx.nn.rope import rope_periods
from vit2onnx.self_test import MODELS
from vit2onnx.spec.variant import Preprocessing

VIT, SWIGLU, UNBIASED, CONVNEXT, SHARP, *_ = MODELS

# What prepared photographs are called where a stage is named.
PREPARED = "pixel_values"

Tensors = dict[str, np.ndarray]
Prepare = Callable[[Image.Image, int, int, Preprocessing], np.ndarray]


@dataclass(frozen=True)
class Planted:
    """What was planted, in which model, at which stage it has to be found, between whom, and in which precisions."""

    name: str
    model: str
    stage: str
    between = ("equinox", "transformers")
    shows_in: ClassVar[tuple[str, ...]] = ("single", "double")


@dataclass(frozen=True)
class InWeights(Planted):
    """`plant` gives the parameters that are other than the checkpoint's, from all of the model and all of the file."""

    plant: Callable[[Tensors, Tensors], Tensors]
    planted_in = "weights"


@dataclass(frozen=True)
class InModel(Planted):
    """`plant` gives a model of the same parameters that computes something else, and from which graphs are exported."""

    plant: Callable[[Any], Model]
    planted_in = "model"


@dataclass(frozen=True)
class InRounding(InModel):
    """`plant` gives a model that rounds further; in double precision nothing is wrong with it."""

    shows_in: ClassVar[tuple[str, ...]] = ("single",)


@dataclass(frozen=True)
class InGraph(Planted):
    """`plant` changes a graph at the one node that is meant: the `index`-th of an operator."""

    operator: str
    index: int
    plant: Callable[[onnx.GraphProto, onnx.NodeProto], None]
    planted_in = "graph"
    between = ("onnx", "equinox")

    def change(self, graph: onnx.ModelProto) -> None:
        """Plant it in a graph that may have a few nodes more at its start than others of the model."""
        nodes = [node for node in graph.graph.node if node.op_type == self.operator]
        self.plant(graph.graph, nodes[self.index])


@dataclass(frozen=True)
class InPreprocessing:
    """`plant` prepares photographs in another way than `images.preprocess`."""

    name: str
    plant: Prepare
    planted_in = "preprocessing"


InChain = InWeights | InModel | InGraph


def edit(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Tensors, Tensors], Tensors]:
    return lambda tensors, _: {name: change(tensors[name].copy())}


def off(by: float) -> Callable[[np.ndarray], np.ndarray]:
    """One element of a parameter is off."""

    def change(array: np.ndarray) -> np.ndarray:
        array.reshape(-1)[7] += by
        return array

    return change


def exchange(first: str, second: str) -> Callable[[Tensors, Tensors], Tensors]:
    def plant(tensors: Tensors, _: Tensors) -> Tensors:
        pairs = ((first, second), (second, first))
        return {name.replace(a, b): value for a, b in pairs for name, value in tensors.items() if name.startswith(a)}

    return plant


def fused(*order: int) -> Callable[[Tensors, Tensors], Tensors]:
    """Queries, keys and values in another order."""

    def plant(tensors: Tensors, _: Tensors) -> Tensors:
        names = [f"blocks.1.attn.qkv.{leaf}" for leaf in ("weight", "bias")]
        parts = {name: np.split(tensors[name], 3, axis=-1) for name in names if name in tensors}
        return {name: np.concatenate([three[i] for i in order], axis=-1) for name, three in parts.items()}

    return plant


def third_zero(index: int) -> Callable[[np.ndarray], np.ndarray]:
    """The bias of queries (0), keys or values (2) missing."""

    def change(bias: np.ndarray) -> np.ndarray:
        bias.reshape(3, -1)[index] = 0
        return bias

    return change


def heads_transposed(weight: np.ndarray) -> np.ndarray:
    """The rows of the projection by channel and head instead of by head and channel; there are two heads."""
    return weight.reshape(2, -1, weight.shape[1]).swapaxes(0, 1).reshape(weight.shape)


def cls_for_register(tensors: Tensors, _: Tensors) -> Tensors:
    registers = tensors["register_tokens"].copy()
    registers[:, :1] = tensors["cls_token"]
    return {"cls_token": tensors["register_tokens"][:, :1], "register_tokens": registers}


def duplicated_block(tensors: Tensors, _: Tensors) -> Tensors:
    first = "blocks.0."
    return {name.replace(first, "blocks.1."): x for name, x in tensors.items() if name.startswith(first)}


def block_in_bfloat16(tensors: Tensors, _: Tensors) -> Tensors:
    block = {name: x for name, x in tensors.items() if name.startswith("blocks.1.")}
    return {name: x.astype(ml_dtypes.bfloat16).astype(np.float32) for name, x in block.items()}


def unmasked_key_bias(_: Tensors, checkpoint: Tensors) -> Tensors:
    return {"blocks.1.attn.qkv.bias": checkpoint["blocks.1.attn.qkv.bias"]}


def flipped(kernel: np.ndarray) -> np.ndarray:
    return kernel[..., ::-1].copy()


def transposed(kernel: np.ndarray) -> np.ndarray:
    return kernel.swapaxes(2, 3).copy()


IN_WEIGHTS = (
    InWeights("w1 and w2 exchanged", SWIGLU, "blocks.1.mlp_raw", exchange("blocks.1.mlp.w1.", "blocks.1.mlp.w2.")),
    InWeights("query and key exchanged", VIT, "blocks.1.q", fused(1, 0, 2)),
    InWeights("key and value exchanged", VIT, "blocks.1.k", fused(0, 2, 1)),
    InWeights("query and value exchanged", UNBIASED, "blocks.1.q", fused(2, 1, 0)),
    InWeights("bias of queries missing", VIT, "blocks.1.q", edit("blocks.1.attn.qkv.bias", third_zero(0))),
    InWeights("bias of values missing", VIT, "blocks.1.attn_raw", edit("blocks.1.attn.qkv.bias", third_zero(2))),
    InWeights("key bias not masked", VIT, "blocks.1.k", unmasked_key_bias),
    InWeights("heads transposed", VIT, "blocks.1.attn_raw", edit("blocks.1.attn.proj.weight", heads_transposed)),
    InWeights("LayerScale skipped", VIT, "blocks.1.attn_scaled", edit("blocks.1.ls1.gamma", np.ones_like)),
    InWeights("LayerScales exchanged", VIT, "blocks.1.attn_scaled", exchange("blocks.1.ls1.", "blocks.1.ls2.")),
    InWeights("norms exchanged", VIT, "blocks.1.attn_in", exchange("blocks.1.norm1.", "blocks.1.norm2.")),
    InWeights("block duplicated", VIT, "blocks.1.attn_in", duplicated_block),
    InWeights("CLS and a register exchanged", VIT, "patch_embed", cls_for_register),
    InWeights("registers exchanged", VIT, "patch_embed", edit("register_tokens", lambda x: x[:, [1, 0, 2, 3]])),
    InWeights("patch kernel flipped", VIT, "patch_embed", edit("patch_embed.weight", flipped)),
    InWeights("patch kernel transposed", VIT, "patch_embed", edit("patch_embed.weight", transposed)),
    InWeights(
        "colours of the kernel reversed", VIT, "patch_embed", edit("patch_embed.weight", lambda x: x[:, ::-1].copy())
    ),
    InWeights(
        "RoPE periods in float32",
        VIT,
        "blocks.0.q",
        edit("rope_periods", lambda x: rope_periods(len(x), "float32")),
    ),
    InWeights("RoPE periods reversed", VIT, "blocks.0.q", edit("rope_periods", lambda x: x[::-1].copy())),
    InWeights("a bias off by 1e-3", VIT, "blocks.1.mlp_raw", edit("blocks.1.mlp.fc2.bias", off(1e-3))),
    InWeights("a hidden bias off by 1e-3", VIT, "blocks.1.mlp_raw", edit("blocks.1.mlp.fc1.bias", off(1e-3))),
    InWeights("an attention bias off by 1e-3", VIT, "blocks.1.attn_raw", edit("blocks.1.attn.proj.bias", off(1e-3))),
    InWeights("a weight off by 1e-3", SWIGLU, "blocks.1.mlp_raw", edit("blocks.1.mlp.w3.weight", off(1e-3))),
    InWeights(
        "a matrix in half precision",
        VIT,
        "blocks.1.mlp_raw",
        edit("blocks.1.mlp.fc1.weight", lambda x: x.astype(np.float16).astype(np.float32)),
    ),
    InWeights("a block in bfloat16", VIT, "blocks.1.attn_in", block_in_bfloat16),
    InWeights("gain of the final norm missing", VIT, "norm", edit("norm.weight", np.ones_like)),
    InWeights("bias of the final norm missing", VIT, "norm", edit("norm.bias", np.zeros_like)),
    InWeights(
        "depthwise kernel flipped",
        CONVNEXT,
        "stages.2.blocks.1.dwconv",
        edit("stages.2.blocks.1.dwconv.weight", flipped),
    ),
    InWeights("gamma skipped", CONVNEXT, "stages.2.blocks.0.scaled", edit("stages.2.blocks.0.gamma", np.ones_like)),
    InWeights(
        "a bias of downsampling's norm off by 1e-3",
        CONVNEXT,
        "stages.1.downsample.norm",
        edit("stages.1.downsample.norm.bias", off(1e-3)),
    ),
    InWeights(
        "downsampling's kernel transposed",
        CONVNEXT,
        "stages.3.downsample.output",
        edit("stages.3.downsample.conv.weight", transposed),
    ),
    InWeights(
        "the stem's bias off by 1e-3",
        CONVNEXT,
        "stages.0.downsample.conv",
        edit("stages.0.downsample.conv.bias", off(1e-3)),
    ),
)


def of_class(kind: type, module: Any) -> Any:
    """A module with all fields of another, of a class derived from its own."""
    return kind(**{field.name: getattr(module, field.name) for field in dataclasses.fields(module)})


def in_parts(parts: Callable[[Any], list[Any]], change: Callable[[Any], Any]) -> Callable[[Any], Model]:
    """Change some parts of a model."""

    def plant(model: Any) -> Model:
        changed: Model = eqx.tree_at(parts, model, [change(part) for part in parts(model)])
        return changed

    return plant


class TanhMlp(layers.Mlp):
    """With the approximate GELU."""

    def __call__(self, x: Array) -> Array:
        return self.fc2(jax.nn.gelu(self.fc1(x), approximate=True))


class RoughMlp(layers.Mlp):
    """With a matrix product of eleven bits in single precision, as GPUs compute it by default."""

    def __call__(self, x: Array) -> Array:
        return self.fc2(gelu(linear(of_eleven_bits(x), of_eleven_bits(self.fc1.weight), self.fc1.bias)))


def of_eleven_bits(x: Array) -> Array:
    """What TensorFloat-32 keeps of single precision, by Veltkamp's splitting; XLA cannot convert to half everywhere."""
    if x.dtype != np.float32:
        return x
    shifted = x * (2.0**13 + 1)
    return shifted - (shifted - x)


class InterleavedAttention(dinov3_vit.Attention):
    """Rotates neighbouring channels, as RoPE was published first, instead of the halves of a head."""

    def project(self, x: Array, rope: Any) -> tuple[Array, Array, Array]:
        width = x.shape[-1]
        query, key, value = jax.lax.split(self.qkv(x), (width,) * 3, axis=2)
        heads = np.arange(width).reshape(self.num_heads, -1, 2)
        halves = np.concatenate([heads[:, :, 0], heads[:, :, 1]], axis=1).reshape(-1)
        back = np.argsort(halves)

        def rotate(x: Array) -> Array:
            return rotary_embedding(x[..., halves], *rope, num_heads=self.num_heads)[..., back]

        return rotate(query), rotate(key), value


class UnscaledAttention(dinov3_vit.Attention):
    """Without the division of the logits by the root of a head's width."""

    def mix(self, query: Array, key: Array, value: Array) -> Array:
        root = (query.shape[-1] // self.num_heads) ** 0.5
        return self.proj(attention(query * root, key, value, num_heads=self.num_heads))


class ParallelBlock(dinov3_vit.Block):
    """With the second residual taken from the block's input."""

    def stages(self, x: Array, rope: Any) -> dict[str, Array]:
        found = super().stages(x, rope)
        return found | {"output": x + found["mlp_scaled"]}


class ExchangedAxes(dinov3_vit.Dinov3ViT):
    """With columns where RoPE has rows, and rows where it has columns."""

    def embed(self, pixel_values: Array) -> tuple[Array, Any]:
        tokens, rope = super().embed(pixel_values)
        half = rope[0].shape[-1] // 2
        return tokens, tuple(jax.lax.concatenate([x[..., half:], x[..., :half]], 2) for x in rope)


class RotatedPrefix(dinov3_vit.Dinov3ViT):
    """With CLS and registers rotated as the first patch is."""

    def embed(self, pixel_values: Array) -> tuple[Array, Any]:
        tokens, rope = super().embed(pixel_values)
        num_prefix = 1 + self.register_tokens.shape[1]
        first = [[x[:, num_prefix : num_prefix + 1]] * num_prefix for x in rope]
        return tokens, tuple(
            jax.lax.concatenate([*prefix, x[:, num_prefix:]], 1) for prefix, x in zip(first, rope, strict=True)
        )


class NoFinalNorm(dinov3_vit.Dinov3ViT):
    """With the tokens of the last block as features."""

    def head_stages(self, tokens: Array) -> dict[str, Array]:
        return {"norm": tokens + 0 * self.norm(tokens)}


class ColumnByColumn(layers.PatchEmbed):
    """With patches in the order of columns."""

    def __call__(self, pixel_values: Array) -> Array:
        patches = super().__call__(pixel_values)
        return patches.swapaxes(1, 2).reshape(patches.shape)


class MeanOfNormed(dinov3_convnext.Dinov3ConvNeXt):
    """With CLS as the mean of the normed map instead of the norm of its mean."""

    def head_stages(self, x: Array) -> dict[str, Array]:
        found = super().head_stages(x)
        patches = found["norm"][:, 1:]
        return found | {"norm": jax.lax.concatenate([mean_tokens(patches), patches], 1)}


def other_epsilon(norm: layers.LayerNorm) -> layers.LayerNorm:
    """That of most other families: 1e-6 instead of 1e-5, or the other way round."""
    return dataclasses.replace(norm, eps={1e-5: 1e-6, 1e-6: 1e-5}[norm.eps])


IN_MODEL = (
    InModel(
        "tanh GELU",
        VIT,
        "blocks.0.mlp_raw",
        in_parts(lambda m: [b.mlp for b in m.blocks], lambda m: of_class(TanhMlp, m)),
    ),
    InRounding(
        "a matrix product in TF32",
        VIT,
        "blocks.1.mlp_raw",
        in_parts(lambda m: [m.blocks[1].mlp], lambda m: of_class(RoughMlp, m)),
    ),
    InModel("epsilon 1e-6", VIT, "blocks.0.attn_in", in_parts(lambda m: [b.norm1 for b in m.blocks], other_epsilon)),
    InModel(
        "rotation interleaved",
        VIT,
        "blocks.0.q",
        in_parts(lambda m: [b.attn for b in m.blocks], lambda m: of_class(InterleavedAttention, m)),
    ),
    InModel(
        "attention not scaled",
        VIT,
        "blocks.0.attn_raw",
        in_parts(lambda m: [b.attn for b in m.blocks], lambda m: of_class(UnscaledAttention, m)),
    ),
    InModel(
        "residual of the block's input",
        VIT,
        "blocks.0.output",
        in_parts(lambda m: list(m.blocks), lambda m: of_class(ParallelBlock, m)),
    ),
    InModel("rows and columns exchanged in RoPE", VIT, "blocks.0.q", lambda m: of_class(ExchangedAxes, m)),
    InModel("prefix tokens rotated", VIT, "blocks.0.q", lambda m: of_class(RotatedPrefix, m)),
    InModel("final norm missing", VIT, "norm", lambda m: of_class(NoFinalNorm, m)),
    InModel(
        "patches column by column",
        VIT,
        "patch_embed",
        in_parts(lambda m: [m.patch_embed], lambda m: of_class(ColumnByColumn, m)),
    ),
    InModel("CLS is the mean of what is normed", CONVNEXT, "norm", lambda m: of_class(MeanOfNormed, m)),
    InModel(
        "epsilon 1e-5",
        CONVNEXT,
        "stages.0.blocks.0.norm",
        in_parts(lambda m: [block.norm for stage in m.stages for block in stage.blocks], other_epsilon),
    ),
)


def attribute(name: str, value: Any) -> Callable[[onnx.GraphProto, onnx.NodeProto], None]:
    def plant(_: onnx.GraphProto, node: onnx.NodeProto) -> None:
        kept = [one for one in node.attribute if one.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])

    return plant


def exchanged_inputs(first: int, second: int) -> Callable[[onnx.GraphProto, onnx.NodeProto], None]:
    def plant(_: onnx.GraphProto, node: onnx.NodeProto) -> None:
        node.input[first], node.input[second] = node.input[second], node.input[first]

    return plant


def inputs_in_half_precision(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    """Round what goes into a node to ten bits, as TensorFloat-32 does in a matrix product."""
    place = list(graph.node).index(node)
    for number, name in enumerate(list(node.input)):
        half, rounded = f"{name}_{place}_half", f"{name}_{place}_rounded"
        graph.node.insert(place, onnx.helper.make_node("Cast", [name], [half], to=onnx.TensorProto.FLOAT16))
        graph.node.insert(place + 1, onnx.helper.make_node("Cast", [half], [rounded], to=onnx.TensorProto.FLOAT))
        node.input[number] = rounded


IN_GRAPH = (
    InGraph("tanh GELU", VIT, "blocks.1.mlp_raw", "Gelu", 1, attribute("approximate", "tanh")),
    InGraph("epsilon 1e-3", VIT, "blocks.1.mlp_in", "LayerNormalization", 3, attribute("epsilon", 1e-3)),
    InGraph("rotation interleaved", VIT, "blocks.1.k", "RotaryEmbedding", 3, attribute("interleaved", 1)),
    InGraph("another scale of attention", VIT, "blocks.1.attn_raw", "Attention", 1, attribute("scale", 0.2)),
    InGraph("causal attention", VIT, "blocks.1.attn_raw", "Attention", 1, attribute("is_causal", 1)),
    InGraph(
        "gain and bias of a norm exchanged", VIT, "blocks.1.mlp_in", "LayerNormalization", 3, exchanged_inputs(1, 2)
    ),
    InGraph("query and key exchanged", VIT, "blocks.1.attn_raw", "Attention", 1, exchanged_inputs(0, 1)),
    InGraph("a matrix product in TF32", VIT, "blocks.1.mlp_raw", "MatMul", 6, inputs_in_half_precision),
    InGraph("tanh GELU", CONVNEXT, "stages.2.blocks.0.raw", "Gelu", 2, attribute("approximate", "tanh")),
)

# The same once more where rounding is amplified, and floors are high.
IN_SHARP_GRAPH = tuple(dataclasses.replace(fault, model=SHARP) for fault in IN_GRAPH if fault.model == VIT)

IN_CHAIN: tuple[InChain, ...] = (*IN_WEIGHTS, *IN_MODEL, *IN_GRAPH, *IN_SHARP_GRAPH)


def with_other(**settings: Any) -> Prepare:
    return lambda image, height, width, how: preprocess(image, height, width, dataclasses.replace(how, **settings))


def resized_by(resize: Callable[[Image.Image, int, int], Image.Image]) -> Prepare:
    """With another way to resize; what has the right size already is not resampled."""
    return lambda image, height, width, how: preprocess(resize(image, height, width), height, width, how)


def at_once(resampling: Image.Resampling) -> Prepare:
    """Horizontally and vertically as Pillow sees fit."""
    return resized_by(lambda image, height, width: image.resize((width, height), resampling))


def rows_first(image: Image.Image, height: int, width: int) -> Image.Image:
    bilinear = Image.Resampling.BILINEAR
    return image.resize((image.width, height), bilinear).resize((width, height), bilinear)


def not_antialiased(image: Image.Image, height: int, width: int) -> Image.Image:
    scale = (image.width / width, 0, 0, 0, image.height / height, 0)
    return image.transform((width, height), Image.Transform.AFFINE, scale, Image.Resampling.BILINEAR)


def in_float(rounded: Callable[[np.ndarray], np.ndarray]) -> Prepare:
    """Resized in floating point, and rounded to grey levels in another way."""

    def prepare(image: Image.Image, height: int, width: int, how: Preprocessing) -> np.ndarray:
        pixels = torch.from_numpy(np.array(image, np.float32)).permute(2, 0, 1)[None]
        small = torch.nn.functional.interpolate(pixels, (height, width), mode="bilinear", antialias=True)[0].numpy()
        return normalise(rounded(small) * np.float32(1 / 255), how)

    return prepare


def scaled_by(factor: float) -> Prepare:
    """Divided by another number than 255."""

    def prepare(image: Image.Image, height: int, width: int, how: Preprocessing) -> np.ndarray:
        scaled = with_other(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))(image, height, width, how)
        return normalise(scaled * np.float32(factor), how)

    return prepare


def cropped(image: Image.Image, height: int, width: int, how: Preprocessing) -> np.ndarray:
    side = min(image.size)
    return preprocess(image.crop((0, 0, side, side)), height, width, how)


def exchanged_sides(image: Image.Image, height: int, width: int, how: Preprocessing) -> np.ndarray:
    return preprocess(image, width, height, how).swapaxes(1, 2)


IN_PREPROCESSING = (
    InPreprocessing("BGR", lambda *given: preprocess(*given)[::-1]),
    InPreprocessing(
        "BGR photograph, RGB constants",
        lambda image, *given: preprocess(Image.merge("RGB", image.split()[::-1]), *given),
    ),
    InPreprocessing(
        "mean and deviation of other data", with_other(mean=(0.430, 0.411, 0.296), std=(0.213, 0.156, 0.143))
    ),
    InPreprocessing("mean and deviation of one half", with_other(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))),
    InPreprocessing("a mean off by 1e-3", with_other(mean=(0.485, 0.457, 0.406))),
    InPreprocessing("a deviation off by 1e-3", with_other(std=(0.229, 0.224, 0.226))),
    InPreprocessing("no normalisation", with_other(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))),
    InPreprocessing("divided by 256", scaled_by(255 / 256)),
    InPreprocessing("not divided by 255", scaled_by(255)),
    InPreprocessing("nearest neighbour", at_once(Image.Resampling.NEAREST)),
    InPreprocessing("bicubic", with_other(interpolation="bicubic")),
    InPreprocessing("Lanczos", at_once(Image.Resampling.LANCZOS)),
    InPreprocessing("not antialiased", resized_by(not_antialiased)),
    InPreprocessing("vertically first", resized_by(rows_first)),
    InPreprocessing("not rounded to grey levels", in_float(lambda pixels: pixels)),
    InPreprocessing("rounded once, in the end", in_float(np.round)),
    InPreprocessing("rounded down", in_float(np.floor)),
    InPreprocessing("cropped to a square", cropped),
    InPreprocessing("height and width exchanged", exchanged_sides),
    InPreprocessing("half precision", lambda *given: preprocess(*given).astype(np.float16).astype(np.float32)),
)
