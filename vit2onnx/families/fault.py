"""The words in which a family says what can go wrong with its models, and ways that are the same in all families.

A fault is planted in weights, in the code of a model, in its graph, or in the preparation of photographs. One in
weights or code is in Equinox model and graph alike, and so shows between the former and the reference. One in a graph
shows between graph and Equinox model.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import equinox as eqx
import jax
import numpy as np
import onnx
import torch
from jaxtyping import Array
from PIL import Image

from vit2onnx.images import normalise, preprocess
from vit2onnx.nn import layers
from vit2onnx.nn.model import Model
from vit2onnx.nn.packing import Context
from vit2onnx.nn.primitives import gelu, linear
from vit2onnx.spec.variant import Preprocessing

# What prepared photographs are called where a stage is named.
PREPARED = "pixel_values"

Tensors = dict[str, np.ndarray]
Prepare = Callable[[Image.Image, int, int, Preprocessing], np.ndarray]
# Changes the tensors of a checkpoint in place, so that its weights amplify rounding, as trained weights may.
Amplify = Callable[[Mapping[str, torch.Tensor]], None]


@dataclass(frozen=True)
class Planted:
    """What was planted, in which model, at which stage it has to be found, between whom, and in which precisions.

    `interface` is that of the graph in which it is looked for.
    """

    name: str
    model: str
    stage: str
    interface: str = dataclasses.field(default="images", kw_only=True)
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
class InPack(InModel):
    """`plant` gives a model that is wrong with packed images alone, so that its graph differs from the Equinox model,
    which is run on single ones.
    """

    interface: str = dataclasses.field(default="packed", kw_only=True)
    between = ("onnx", "equinox")


@dataclass(frozen=True)
class InPackedGraph(InGraph):
    """`plant` changes a packed graph."""

    interface: str = dataclasses.field(default="packed", kw_only=True)


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


def flipped(kernel: np.ndarray) -> np.ndarray:
    return kernel[..., ::-1].copy()


def transposed(kernel: np.ndarray) -> np.ndarray:
    return kernel.swapaxes(2, 3).copy()


def of_class(kind: type, module: Any, **other: Any) -> Any:
    """A module with all fields of another but some, of its own class or one derived from it."""
    # Not by its constructor, which makes zeros.
    changed: Any = object.__new__(kind)
    for field in dataclasses.fields(module):
        object.__setattr__(changed, field.name, other.get(field.name, getattr(module, field.name)))
    return changed


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


def other_epsilon(norm: layers.LayerNorm) -> layers.LayerNorm:
    """That of most other families: 1e-6 instead of 1e-5, or the other way round."""
    changed: layers.LayerNorm = of_class(layers.LayerNorm, norm, eps={1e-5: 1e-6, 1e-6: 1e-5}[norm.eps])
    return changed


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


Change = Callable[[onnx.GraphProto, onnx.NodeProto], None]


def in_loop(operator: str, change: Change) -> Change:
    """Change all nodes of an operator in the body of a loop."""

    def plant(_: onnx.GraphProto, loop: onnx.NodeProto) -> None:
        (body,) = (attribute.g for attribute in loop.attribute if attribute.name == "body")
        for node in [node for node in body.node if node.op_type == operator]:
            change(body, node)

    return plant


def of_keys(change: Change) -> Change:
    """Change those slices of a pack that are keys and values of an image, and not its queries."""

    def plant(body: onnx.GraphProto, node: onnx.NodeProto) -> None:
        if node is not next(one for one in body.node if one.op_type == "Slice"):
            change(body, node)

    return in_loop("Slice", plant)


def from_first_on(_: onnx.GraphProto, node: onnx.NodeProto) -> None:
    """A slice begins with the first token of the pack."""
    node.input[1] = "int64_0"


def one_further(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    """A slice ends one token later."""
    further = f"{node.name}_further"
    graph.node.insert(list(graph.node).index(node), onnx.helper.make_node("Add", [node.input[2], "int64_1"], [further]))
    node.input[2] = further


def of_first_image(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    """Every patch is given the grid of the first image."""
    first = f"{node.name}_first"
    given = node.input[1]
    graph.node.insert(list(graph.node).index(node), onnx.helper.make_node("Sub", [given, given], [first]))
    node.input[1] = first


def exchanged_with_next(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    """What two nodes take of the same value is exchanged."""
    first, second = (one for one in graph.node if one.op_type == node.op_type and one.input[0] == node.input[0])
    first.input[1], second.input[1] = second.input[1], first.input[1]


# The nodes that take the grid of each patch's image, and of that the rows and the columns, among all `Gather`.
GRID_OF_PATCH, ROWS_OF_PATCH = 4, 5


class ChannelsFirst(layers.PatchEmbed):
    """Takes packed patches whose numbers are in the order [channel, row, column]."""

    def of_patches(self, rows: Array) -> Array:
        kernel = self.weight.transpose(1, 2, 3, 0)
        return linear(rows, kernel.reshape(-1, kernel.shape[-1]), self.bias)


def in_packs(model: str, attention: type, embedded: str, placed: str) -> tuple["InPack | InPackedGraph", ...]:
    """What packing can get wrong in every family.

    `attention` is the family's class, `embedded` the stage after the patch embedding, and `placed` the first stage that
    depends on where patches are.
    """

    class Unseparated(attention):
        """Attends to all images of a pack."""

        def mix(self, query: Array, key: Array, value: Array, context: Context) -> Array:
            mixed: Array = super().mix(query, key, value, context._replace(pack=None))
            return mixed

    def unseparated(m: Any) -> Model:
        return in_parts(lambda m: [b.attn for b in m.blocks], lambda attn: of_class(Unseparated, attn))(m)

    def channels_first(m: Any) -> Model:
        return in_parts(lambda m: [m.patch_embed], lambda embed: of_class(ChannelsFirst, embed))(m)

    return (
        InPack("images not kept apart", model, "blocks.0.attn_raw", unseparated),
        InPack("numbers of a patch in the order channel, row, column", model, embedded, channels_first),
        InPackedGraph("keys of the images before", model, "blocks.1.attn_raw", "Loop", 1, of_keys(from_first_on)),
        InPackedGraph("a key of the next image", model, "blocks.1.attn_raw", "Loop", 1, of_keys(one_further)),
        InPackedGraph("rows and columns exchanged", model, placed, "Gather", ROWS_OF_PATCH, exchanged_with_next),
        InPackedGraph("grid of the first image", model, placed, "Gather", GRID_OF_PATCH, of_first_image),
    )


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
    InPreprocessing("not divided by 255", scaled_by(255.0)),
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
