"""Which ONNX operators the primitives of packed images become. Importing this module registers them with jax2onnx."""

from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir
import onnx_ir.tape

from vit2onnx.exporting.lowerings import integers, is_portable, lowers, recipe_of_graph, scalar, size_of
from vit2onnx.exporting.portable import maker, plain_attention
from vit2onnx.nn import packing
from vit2onnx.spec.recipe import DEFAULT_ATTENTION

SEQUENCE = ir.SequenceType(ir.TensorType(ir.DataType.FLOAT))


@lowers(packing.token_ends_p)
def token_ends(builder: Any, inputs: list[ir.Value], params: Mapping[str, Any], name: str) -> ir.Value:
    grid, patches = inputs
    one, images, available = integers(builder, 1), size_of(builder, grid, 0), size_of(builder, patches, 0)
    frames, rows, columns = (builder.Gather(grid, scalar(builder, axis), axis=1) for axis in range(3))
    counts = builder.Mul(rows, columns)
    # No image has more patches than there are, so that no product or sum of those that pass wraps around.
    most = builder.Div(available, builder.Max(columns, one))
    single = builder.Equal(frames, one)
    within = builder.And(builder.GreaterOrEqual(builder.Min(rows, columns), one), builder.LessOrEqual(rows, most))
    wrong = _count(builder, builder.Not(builder.And(single, within)))
    total = builder.ReduceSum(counts, keepdims=1)
    faults = builder.Add(wrong, _whole(builder, builder.Not(builder.Equal(total, available))))
    ends = builder.CumSum(builder.Add(counts, integers(builder, params["num_prefix"])), scalar(builder, 0))
    # Fails if anything is wrong, because it then asks for more elements than there are. Not Gather, because GPUs do not
    # check its indices. Nor a shape that is made of other shapes, which onnxruntime simplifies.
    return builder.Reshape(ends, builder.Add(images, faults), _outputs=[name])


@lowers(packing.image_of_patch_p)
def image_of_patch(builder: Any, inputs: list[ir.Value], params: Mapping[str, Any], name: str) -> ir.Value:
    ends, patches = inputs
    count = integers(builder, params["num_prefix"])
    before = builder.Mul(count, _numbers(builder, size_of(builder, ends, 0), first=1))
    return _image_of(builder, builder.Sub(ends, before), size_of(builder, patches, 0), name)


@lowers(packing.patch_places_p)
def patch_places(builder: Any, inputs: list[ir.Value], params: Mapping[str, Any], name: str) -> ir.Value:
    image, ends, grid = inputs
    before = builder.Mul(integers(builder, params["num_prefix"]), image)
    start = builder.Sub(builder.Gather(_starts(builder, ends), image, axis=0), before)
    number = builder.Sub(_numbers(builder, size_of(builder, image, 0)), start)
    own = builder.Gather(grid, image, axis=0)
    height, width = (builder.Gather(own, scalar(builder, axis), axis=1) for axis in (1, 2))
    places = builder.Div(number, width), builder.Mod(number, width), height, width
    last = integers(builder, 1)
    return builder.Concat(*(builder.Unsqueeze(place, last) for place in places), axis=1, _outputs=[name])


@lowers(packing.patch_tokens_p)
def patch_tokens(builder: Any, inputs: list[ir.Value], params: Mapping[str, Any], name: str) -> ir.Value:
    (image,) = inputs
    before = builder.Mul(integers(builder, params["num_prefix"]), builder.Add(image, integers(builder, 1)))
    return builder.Add(_numbers(builder, size_of(builder, image, 0)), before, _outputs=[name])


@lowers(packing.prefix_tokens_p)
def prefix_tokens(builder: Any, inputs: list[ir.Value], params: Mapping[str, Any], name: str) -> ir.Value:
    start = builder.Unsqueeze(_starts(builder, *inputs), integers(builder, 1))
    # Not a constant, because jax2onnx takes a sum to have the shape of an operand that is known.
    return builder.Add(start, _numbers(builder, integers(builder, params["num_prefix"])), _outputs=[name])


@lowers(packing.token_sources_p)
def token_sources(builder: Any, inputs: list[ir.Value], params: Mapping[str, Any], name: str) -> ir.Value:
    ends, patches = inputs
    count = integers(builder, params["num_prefix"])
    tokens = builder.Add(size_of(builder, patches, 0), builder.Mul(count, size_of(builder, ends, 0)))
    image, number = _image_of(builder, ends, tokens), _numbers(builder, tokens)
    within = builder.Sub(number, builder.Gather(_starts(builder, ends), image, axis=0))
    # Made here and not on first use, because its nodes would be named after block 0.
    prepare, _ = _way()
    ends.meta["apart"] = prepare(builder, ends, image, within)
    source = builder.Where(builder.Less(within, count), within, builder.Sub(number, builder.Mul(count, image)))
    return builder.Unsqueeze(source, integers(builder, 0), _outputs=[name])


@lowers(packing.before_patches_p)
def before_patches(builder: Any, inputs: list[ir.Value], params: Mapping[str, Any], name: str) -> ir.Value:
    return builder.Pad(*inputs, integers(builder, params["num_prefix"], 0, 0, 0), _outputs=[name])


@lowers(packing.after_first_p)
def after_first(builder: Any, inputs: list[ir.Value], params: Mapping[str, Any], name: str) -> ir.Value:
    one = integers(builder, 1)
    return builder.Slice(*inputs, one, integers(builder, 2**62), one, _outputs=[name])


@lowers(packing.packed_attention_p)
def packed_attention(builder: Any, inputs: list[ir.Value], params: Mapping[str, Any], name: str) -> ir.Value:
    _, attend = _way()
    return attend(builder, inputs, params["num_heads"], name)


def _loop_over(builder: Any, ends: ir.Value, *_: ir.Value) -> tuple[ir.Value, ...]:
    """How often a loop over images runs, its condition, and the sequence to which it adds."""
    true = builder.initializer(ir.tensor(True), name="true")
    empty = builder.SequenceEmpty(dtype=ir.DataType.FLOAT)
    empty.type = SEQUENCE
    return builder.Squeeze(size_of(builder, ends, 0)), true, empty


def _loop(builder: Any, inputs: list[ir.Value], num_heads: int, name: str) -> ir.Value:
    """One image after the other, which takes the least memory."""
    *tokens, ends = inputs
    embed_dim = tokens[0].shape[2]
    image = ir.Value(name="image", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([]))
    go_on = ir.Value(name="go_on", type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape([]))
    before = ir.Value(name="before", type=SEQUENCE)
    body = ir.tape.Tape()
    place = body.op("Unsqueeze", [image, integers(builder, 0)])
    start, end = (body.op("Gather", [x, place], {"axis": 0}) for x in (_starts(builder, ends), ends))
    parts = [body.op("Slice", [x, start, end, integers(builder, 1)]) for x in tokens]

    def make(operator: str, taken: Sequence[ir.Value], **how: Any) -> ir.Value:
        return body.op(operator, taken, how)

    if is_portable():
        mixed = plain_attention(builder, make, parts, embed_dim, num_heads)
    else:
        mixed = make("Attention", parts, **_heads(num_heads))
    after = body.op("SequenceInsert", [before, mixed])
    after.type = SEQUENCE
    still = body.op("Identity", [go_on])
    still.type, still.shape = go_on.type, go_on.shape
    graph = ir.Graph([image, go_on, before], [still, after], nodes=body.nodes, name="body")
    whole = builder.Loop(*ends.meta["apart"], body=graph)
    whole.type = SEQUENCE
    return builder.ConcatFromSequence(whole, axis=1, _outputs=[name])


def _padded(builder: Any, inputs: list[ir.Value], num_heads: int, name: str) -> ir.Value:
    """All images at once, each filled up to the longest, which suits GPUs."""
    *tokens, ends = inputs
    embed_dim = tokens[0].shape[2]
    lengths, filled, back = ends.meta["apart"]
    images = [builder.Gather(builder.Squeeze(x, integers(builder, 0)), filled, axis=0) for x in tokens]
    if is_portable():
        places = _numbers(builder, builder.ReduceMax(lengths, keepdims=1))
        own = builder.Less(places, builder.Unsqueeze(lengths, integers(builder, 1)))
        mask = builder.Unsqueeze(own, integers(builder, 1, 2))
        mixed = plain_attention(builder, maker(builder), images, embed_dim, num_heads, mask)
    else:
        mixed = builder.Attention(*images, None, None, None, lengths, **_heads(num_heads))
    rows = builder.Reshape(mixed, integers(builder, -1, embed_dim))
    return builder.Gather(rows, back, axis=0, _outputs=[name])


def _paddings(builder: Any, ends: ir.Value, image: ir.Value, within: ir.Value) -> tuple[ir.Value, ...]:
    """The length of each image, the tokens [images, longest] of each, and where each token [1, tokens] is there.

    `image` [tokens] is the number of the image of each token, and `within` its place there. What fills an image up is
    its own last token, so that nothing of another image is near it.
    """
    starts, last = _starts(builder, ends), integers(builder, 1)
    lengths = builder.Sub(ends, starts)
    longest = builder.ReduceMax(lengths, keepdims=1)
    wanted = builder.Add(builder.Unsqueeze(starts, last), _numbers(builder, longest))
    filled = builder.Min(wanted, builder.Unsqueeze(builder.Sub(ends, last), last))
    back = builder.Unsqueeze(builder.Add(builder.Mul(image, longest), within), integers(builder, 0))
    return lengths, filled, back


def _starts(builder: Any, ends: ir.Value) -> ir.Value:
    """Where each image begins, made once per graph."""
    if "starts" not in ends.meta:
        zero = integers(builder, 0)
        ends.meta["starts"] = builder.Concat(zero, builder.Slice(ends, zero, integers(builder, -1), zero), axis=0)
    found: ir.Value = ends.meta["starts"]
    return found


def _image_of(builder: Any, ends: ir.Value, rows: ir.Value, name: str = "") -> ir.Value:
    """The number of the image to which each of so many rows belongs: how many images end before it.

    Not by comparing all rows with all ends, which takes half a gigabyte for a thousand small images.
    """
    zero, one = integers(builder, 0), integers(builder, 1)
    inner = builder.Slice(ends, zero, integers(builder, -1), zero)
    ones = builder.Expand(one, builder.Shape(inner))
    steps = builder.ScatterElements(builder.Expand(zero, rows), inner, ones, axis=0, reduction="add")
    return builder.CumSum(steps, scalar(builder, 0), **({"_outputs": [name]} if name else {}))


def _numbers(builder: Any, count: ir.Value, first: int = 0) -> ir.Value:
    """So many whole numbers in order; `count` has one element."""
    limit = builder.Add(count, integers(builder, first)) if first else count
    return builder.Range(scalar(builder, first), builder.Squeeze(limit), scalar(builder, 1))


def _whole(builder: Any, value: ir.Value) -> ir.Value:
    return builder.Cast(value, to=ir.DataType.INT64)


def _count(builder: Any, flags: ir.Value) -> ir.Value:
    """How many of some flags are set, with one element."""
    return builder.ReduceSum(_whole(builder, flags), keepdims=1)


def _heads(num_heads: int) -> dict[str, int]:
    return {"q_num_heads": num_heads, "kv_num_heads": num_heads}


# What all blocks use, and the attention of one.
WAYS = {"loop": (_loop_over, _loop), "padded": (_paddings, _padded)}


def _way() -> Any:
    """How the graph that is traced keeps images apart."""
    return WAYS[recipe_of_graph().attention or DEFAULT_ATTENTION]
