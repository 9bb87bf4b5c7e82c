"""Which ONNX operator each of our primitives becomes. Importing this module registers them with jax2onnx."""

import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
from jax.extend.core import Primitive
from jax2onnx.plugins.plugin_system import PrimitiveLeafPlugin, register_primitive

from vit2onnx.nn import naflex, positions, primitives, rope
from vit2onnx.spec.recipe import Recipe

# The key under which a node notes its part of the model, until it is named.
PART = "part"
Emit = Callable[[Any, list[ir.Value], Mapping[str, Any], str], ir.Value]
# By primitive, for graphs of plain operators; those that are not here are plain anyhow.
PLAIN: dict[str, Emit] = {}
_RECIPE: ContextVar[Recipe] = ContextVar("recipe")


@contextmanager
def lowered_for(recipe: Recipe) -> Iterator[None]:
    """Trace graphs with the operators, and with the attention of packed images, that a recipe asks for."""
    token = _RECIPE.set(recipe)
    try:
        yield
    finally:
        _RECIPE.reset(token)


def recipe_of_graph() -> Recipe:
    """The recipe of the graph that is traced."""
    return _RECIPE.get()


def is_portable() -> bool:
    """Whether the graph that is traced has plain operators only."""
    return recipe_of_graph().operators == "portable"


def lowers(primitive: Primitive) -> Callable[[Emit], Emit]:
    """Register a function that emits a primitive's nodes: (builder, inputs, parameters, output's name)."""

    def register(emit: Emit) -> Emit:
        class Lowering(PrimitiveLeafPlugin):
            def lower(self, ctx: Any, eqn: Any) -> None:
                inputs = [ctx.get_value_for_var(var) for var in eqn.invars]
                expected = ctx.get_value_for_var(eqn.outvars[0])
                before = len(ctx.builder.nodes)
                chosen = PLAIN.get(primitive.name, emit) if is_portable() else emit
                output = chosen(ctx.builder, inputs, eqn.params, expected.name)
                output.type, output.shape = expected.type, expected.shape
                for node in list(ctx.builder.nodes)[before:]:
                    node.metadata_props[PART] = str(eqn.source_info.name_stack)
                ctx.bind_value_for_var(eqn.outvars[0], output)

        register_primitive(jaxpr_primitive=primitive.name)(Lowering)
        return emit

    return register


def plainly(primitive: Primitive) -> Callable[[Emit], Emit]:
    """Register a function that emits the nodes of a primitive in graphs of plain operators."""

    def register(emit: Emit) -> Emit:
        PLAIN[primitive.name] = emit
        return emit

    return register


def lowers_to(
    primitive: Primitive, operator: str, attributes: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda _: {}
) -> None:
    """Register one node as a primitive's: its operator, and its attributes by the primitive's parameters."""

    @lowers(primitive)
    def emit(builder: Any, inputs: list[ir.Value], params: Mapping[str, Any], name: str) -> ir.Value:
        return getattr(builder, operator)(*inputs, **attributes(params), _outputs=[name])


lowers_to(primitives.layer_norm_p, "LayerNormalization", lambda params: {"axis": -1, "epsilon": params["eps"]})
lowers_to(primitives.residual_p, "Add")
lowers_to(primitives.scale_p, "Mul")
lowers_to(primitives.add_to_each_p, "Add")
lowers_to(primitives.gelu_p, "Gelu", lambda _: {"approximate": "none"})
lowers_to(primitives.gelu_tanh_p, "Gelu", lambda _: {"approximate": "tanh"})
lowers_to(primitives.relu_p, "Relu")
lowers_to(primitives.rotary_embedding_p, "RotaryEmbedding", lambda params: {"interleaved": 0, **params})
lowers_to(primitives.embedding_p, "Gather", lambda _: {"axis": 0})
lowers_to(
    primitives.attention_p,
    "Attention",
    lambda params: {"q_num_heads": params["num_heads"], "kv_num_heads": params["num_heads"]},
)


@lowers(primitives.linear_p)
def linear(builder: Any, inputs: list[ir.Value], params: Mapping[str, Any], name: str) -> ir.Value:
    # MatMul and Add, not Gemm, which takes matrices only, nor Einsum, which no runtime fuses or quantizes.
    if len(inputs) == 2:
        return builder.MatMul(*inputs, _outputs=[name])
    x, weight, bias = inputs
    product = builder.MatMul(x, weight)
    product.type, product.shape = x.type, ir.Shape([*x.shape[:-1], weight.shape[1]])
    return builder.Add(product, bias, _outputs=[name])


@lowers(primitives.convolution_p)
def convolution(builder: Any, inputs: list[ir.Value], params: Mapping[str, Any], name: str) -> ir.Value:
    return builder.Conv(
        *inputs,
        strides=[params["stride"]] * 2,
        pads=[params["padding"]] * 4,
        group=params["groups"],
        _outputs=[name],
    )


@lowers(primitives.mean_tokens_p)
def mean_tokens(builder: Any, inputs: list[ir.Value], params: Mapping[str, Any], name: str) -> ir.Value:
    return builder.ReduceMean(*inputs, integers(builder, 1), keepdims=1, _outputs=[name])


@lowers(primitives.silu_p)
def silu(builder: Any, inputs: list[ir.Value], params: Mapping[str, Any], name: str) -> ir.Value:
    gate = builder.Sigmoid(*inputs)
    gate.type, gate.shape = inputs[0].type, inputs[0].shape
    return builder.Mul(inputs[0], gate, _outputs=[name])


@lowers(primitives.first_token_p)
def first_token(builder: Any, inputs: list[ir.Value], params: Mapping[str, Any], name: str) -> ir.Value:
    return builder.Gather(*inputs, scalar(builder, 0), axis=1, _outputs=[name])


@lowers(primitives.last_token_p)
def last_token(builder: Any, inputs: list[ir.Value], params: Mapping[str, Any], name: str) -> ir.Value:
    return builder.Gather(*inputs, scalar(builder, -1), axis=1, _outputs=[name])


@lowers(primitives.pairs_p)
def pairs(builder: Any, inputs: list[ir.Value], params: Mapping[str, Any], name: str) -> ir.Value:
    mask, x = inputs
    one, axes = integers(builder, 1), integers(builder, 1, 2)
    if x.shape[1] == 1:
        return builder.Unsqueeze(mask, axes, _outputs=[name])
    shape = builder.Concat(one, one, size_of(builder, x, 1), one, axis=0)
    return builder.Expand(builder.Unsqueeze(mask, axes), shape, _outputs=[name])


@lowers(primitives.first_rows_p)
def first_rows(builder: Any, inputs: list[ir.Value], params: Mapping[str, Any], name: str) -> ir.Value:
    table, ids = inputs
    # Texts longer than the table are refused by the addition that follows.
    zero = integers(builder, 0)
    return builder.Slice(table, zero, size_of(builder, ids, 1), zero, _outputs=[name])


@lowers(primitives.l2_normalise_p)
def l2_normalise(builder: Any, inputs: list[ir.Value], params: Mapping[str, Any], name: str) -> ir.Value:
    # Not ReduceL2 or LpNormalization, which onnxruntime adds up one by one, and so rounds four times as far.
    squares = builder.ReduceSum(builder.Mul(*inputs, *inputs), integers(builder, -1), keepdims=1)
    return builder.Div(*inputs, builder.Sqrt(squares), _outputs=[name])


@lowers(primitives.dot_products_p)
def dot_products(builder: Any, inputs: list[ir.Value], params: Mapping[str, Any], name: str) -> ir.Value:
    parts = integers(builder, 0, math.gcd(primitives.SUMS, inputs[0].shape[1]), -1)
    x, y = (
        builder.Transpose(builder.Reshape(rows, parts), perm=perm)
        for rows, perm in zip(inputs, ([1, 0, 2], [1, 2, 0]), strict=True)
    )
    return builder.ReduceSum(builder.MatMul(x, y), integers(builder, 0), keepdims=0, _outputs=[name])


@lowers(primitives.flatten_grid_p)
def flatten_grid(builder: Any, inputs: list[ir.Value], params: Mapping[str, Any], name: str) -> ir.Value:
    # Zero keeps a size and minus one counts the rest, so that no arithmetic on sizes is in the way of shape inference.
    return builder.Reshape(*inputs, integers(builder, 0, -1, inputs[0].shape[3]), _outputs=[name])


@lowers(primitives.for_every_image_p)
def for_every_image(builder: Any, inputs: list[ir.Value], params: Mapping[str, Any], name: str) -> ir.Value:
    x, images = inputs
    shape = builder.Concat(size_of(builder, images, 0), integers(builder, *[1] * (len(x.shape) - 1)), axis=0)
    return builder.Expand(x, shape, _outputs=[name])


@lowers(rope.rope_angles_p)
def rope_angles(builder: Any, inputs: list[ir.Value], params: Mapping[str, Any], name: str) -> ir.Value:
    periods, patches = inputs
    turned = _turned(builder)
    count = periods.shape[0]
    grid = builder.Concat(size_of(builder, patches, 1), size_of(builder, patches, 2), integers(builder, 1), axis=0)

    def angles(axis: int) -> ir.Value:
        size = builder.Squeeze(size_of(builder, patches, axis))
        index = builder.Range(scalar(builder, 0), size, scalar(builder, 1))
        angle = turned(index, size)
        # As many rows, or columns, of one column, or row, of angles.
        spread = builder.Reshape(angle, integers(builder, *([-1, 1, 1] if axis == 1 else [1, -1, 1])))
        return builder.Expand(builder.Div(spread, periods), grid)

    both = builder.Concat(angles(1), angles(2), axis=2)
    prefix = [0, params["num_prefix"], 0, 0, 0, 0]
    return builder.Pad(
        builder.Reshape(both, integers(builder, 1, -1, 2 * count)), integers(builder, *prefix), _outputs=[name]
    )


@lowers(rope.rope_angles_of_places_p)
def rope_angles_of_places(builder: Any, inputs: list[ir.Value], params: Mapping[str, Any], name: str) -> ir.Value:
    periods, places = inputs
    turned = _turned(builder)

    def angles(axis: int) -> ir.Value:
        index, size = (builder.Gather(places, integers(builder, number), axis=1) for number in (axis, 2 + axis))
        return builder.Div(turned(index, size), periods)

    return builder.Concat(angles(0), angles(1), axis=1, _outputs=[name])


def _turned(builder: Any) -> Callable[[ir.Value, ir.Value], ir.Value]:
    """Returns a function of an index and a size (int64) that builds 2 pi times the centre of a place in [-1, 1]."""
    half, one, two, two_pi = (scalar(builder, number) for number in (0.5, 1.0, 2.0, 2 * math.pi))

    def turned(index: ir.Value, size: ir.Value) -> ir.Value:
        ratio = builder.Div(builder.Add(to_float(builder, index), half), to_float(builder, size))
        return builder.Mul(two_pi, builder.Sub(builder.Mul(two, ratio), one))

    return turned


@lowers(positions.with_positions_p)
def with_positions(builder: Any, inputs: list[ir.Value], params: Mapping[str, Any], name: str) -> ir.Value:
    patches, table = inputs
    entries, _, channels = table.shape
    height, width = (size_of(builder, patches, axis) for axis in (1, 2))
    shift = _shift(builder, height, width, entries, params["tenths"])
    weights = _weights_of_places(builder, entries, params, _sum_of_row)

    def matrix(size: ir.Value) -> ir.Value:
        place = builder.Range(scalar(builder, 0), builder.Squeeze(size), scalar(builder, 1))
        return weights(builder.Reshape(place, integers(builder, -1, 1)), size, shift)

    rows = builder.MatMul(matrix(height), builder.Reshape(table, integers(builder, entries, entries * channels)))
    rows = builder.Reshape(rows, integers(builder, -1, entries, channels))
    return builder.Add(patches, builder.MatMul(matrix(width), rows), _outputs=[name])


@lowers(positions.with_positions_of_places_p)
def with_positions_of_places(builder: Any, inputs: list[ir.Value], params: Mapping[str, Any], name: str) -> ir.Value:
    patches, table, places = inputs
    entries, _, channels = table.shape
    row, column, height, width = (builder.Gather(places, integers(builder, number), axis=1) for number in range(4))
    shift = _shift(builder, height, width, entries, params["tenths"])
    weights = _weights_of_places(builder, entries, params, partial(_sum_of_row_anywhere, entries=entries))
    both = builder.Mul(
        builder.Unsqueeze(weights(row, height, shift), integers(builder, 2)),
        builder.Unsqueeze(weights(column, width, shift), integers(builder, 1)),
    )
    both = builder.Reshape(both, integers(builder, -1, entries * entries))
    flat = builder.Reshape(table, integers(builder, entries * entries, channels))
    return builder.Add(patches, builder.MatMul(both, flat), _outputs=[name])


def _shift(builder: Any, height: ir.Value, width: ir.Value, entries: int, tenths: int) -> ir.Value | None:
    """What the offset adds to sizes, where the table is resized; nothing if there is no offset."""
    if not tenths:
        return None
    kept = (builder.Equal(size, integers(builder, entries)) for size in (height, width))
    return builder.Where(builder.And(*kept), integers(builder, 0), integers(builder, 2 * tenths))


def _sum_of_row(builder: Any, x: ir.Value) -> ir.Value:
    return builder.ReduceSum(x, integers(builder, 1), keepdims=1)


def _sum_of_row_anywhere(builder: Any, x: ir.Value, entries: int) -> ir.Value:
    """The same, by a product with ones. onnxruntime adds up a row in an order that depends on where it is in memory, so
    a row of a pack would depend on the number of rows before it. Sixteen columns, because one is summed in such a way.
    """
    ones = _constant(builder, f"float_ones_{entries}_16", ir.tensor(np.ones((entries, 16), np.float32)))
    zero, one = integers(builder, 0), integers(builder, 1)
    return builder.Slice(builder.MatMul(x, ones), zero, one, one)


def _weights_of_places(
    builder: Any, entries: int, params: Mapping[str, Any], total: Callable[[Any, ir.Value], ir.Value]
) -> Callable[[ir.Value, ir.Value, ir.Value | None], ir.Value]:
    """Returns a function of places, sizes and shift (int64) that builds `positions.weights_of`.

    `total` builds the sum of each row, which is kept as an axis.
    """
    antialias, a = params["antialias"], params["a"]
    half, one = scalar(builder, 0.5), scalar(builder, 1.0)
    beyond = 0 if antialias else positions.REACH
    columns = range(-beyond, entries + beyond)
    if not antialias:
        edges = integers(builder, *positions.clamped(entries).tolist())
        edges = builder.Reshape(edges, integers(builder, -1, 1))
        clamping = to_float(builder, builder.Equal(edges, integers(builder, *range(entries))))

    def weights(place: ir.Value, size: ir.Value, shift: ir.Value | None) -> ir.Value:
        over = builder.Add(builder.Mul(place, integers(builder, 20 * entries)), integers(builder, 10 * entries))
        under = builder.Mul(size, integers(builder, 20))
        under = builder.Add(under, shift) if shift else under
        # PARITY: whole numbers below 2^24, whose quotient rounds to no whole number that it is not. Not integers, which
        # tract cannot divide by a size that is free.
        over, under = to_float(builder, over), to_float(builder, under)
        whole = builder.Floor(builder.Div(over, under))
        fraction = builder.Div(builder.Sub(over, builder.Mul(whole, under)), under)
        # Negative, because jax2onnx takes a difference to have the shape of its first operand, if that is known.
        distance = builder.Sub(whole, to_float(builder, integers(builder, *columns)))
        distance = builder.Add(distance, builder.Sub(fraction, half))
        if not antialias:
            return builder.MatMul(cubic(distance), clamping)
        stretch = builder.Max(builder.Div(scalar(builder, float(entries)), to_float(builder, size)), one)
        found = cubic(builder.Div(distance, stretch))
        return builder.Div(found, total(builder, found))

    def cubic(distance: ir.Value) -> ir.Value:
        two = scalar(builder, 2.0)
        away = builder.Abs(distance)
        outer, inner = (builder.Relu(builder.Sub(reach, away)) for reach in (two, one))
        far = builder.Mul(builder.Mul(outer, outer), builder.Sub(one, outer))
        near = builder.Sub(scalar(builder, 4 * a + 3), builder.Mul(two, inner))
        return builder.Add(builder.Mul(scalar(builder, a), far), builder.Mul(builder.Mul(inner, inner), near))

    return weights


@lowers(naflex.resized_positions_p)
def resized_positions(builder: Any, inputs: list[ir.Value], params: Mapping[str, Any], name: str) -> ir.Value:
    table, shapes, patches = inputs
    rows, columns, channels = table.shape
    height, width = (builder.Gather(shapes, integers(builder, axis), axis=1) for axis in (0, 1))
    zero, last = scalar(builder, 0), integers(builder, 2)
    token = builder.Range(zero, builder.Squeeze(size_of(builder, patches, 1)), scalar(builder, 1))
    token = builder.Where(builder.Less(token, builder.Mul(height, width)), token, zero)

    def weights(size: ir.Value, index: ir.Value, entries: int) -> ir.Value:
        size, index = (to_float(builder, builder.Unsqueeze(value, last)) for value in (size, index))
        step, all_entries = scalar(builder, 2.0 * entries), scalar(builder, float(entries))
        place = builder.Add(builder.Mul(index, step), all_entries)
        apart = builder.Abs(builder.Sub(builder.Mul(size, _odd_numbers(builder, entries)), place))
        reach = builder.Mul(builder.Max(size, all_entries), scalar(builder, 2.0))
        found = builder.Relu(builder.Sub(reach, apart))
        return builder.Div(found, builder.ReduceSum(found, last, keepdims=1))

    both = builder.Mul(
        builder.Unsqueeze(weights(height, builder.Div(token, width), rows), integers(builder, 3)),
        builder.Unsqueeze(weights(width, builder.Mod(token, width), columns), last),
    )
    both = builder.Reshape(both, integers(builder, 0, 0, rows * columns))
    return builder.MatMul(both, builder.Reshape(table, integers(builder, rows * columns, channels)), _outputs=[name])


def size_of(builder: Any, value: ir.Value, axis: int) -> ir.Value:
    """The size of an axis, with one element: a constant if it is known."""
    size = value.shape[axis]
    return integers(builder, size) if isinstance(size, int) else builder.Shape(value, start=axis, end=axis + 1)


def to_float(builder: Any, value: ir.Value) -> ir.Value:
    return builder.Cast(value, to=ir.DataType.FLOAT)


def integers(builder: Any, *numbers: int) -> ir.Value:
    name = "_".join(map(str, numbers)) if len(numbers) < 9 else f"{len(numbers)}_{zlib.crc32(repr(numbers).encode()):x}"
    return _constant(builder, f"int64_{name}", ir.tensor(numbers, dtype=ir.DataType.INT64))


def _odd_numbers(builder: Any, count: int) -> ir.Value:
    numbers = naflex.odd_numbers(count).astype(np.float32)
    return _constant(builder, f"float_odd_{count}", ir.tensor(numbers))


def scalar(builder: Any, number: int | float) -> ir.Value:
    dtype = ir.DataType.INT64 if isinstance(number, int) else ir.DataType.FLOAT
    return _constant(builder, f"{dtype.name.lower()}_scalar_{number:.8g}", ir.tensor(number, dtype=dtype))


def _constant(builder: Any, name: str, tensor: ir.Tensor) -> ir.Value:
    """A constant that is named by its value, so that each is in a graph once."""
    known = (value for value in builder.initializers if value.name == name)
    return next(known, None) or builder.initializer(tensor, name=name)
