"""Which ONNX operator each of our primitives becomes. Importing this module registers them with jax2onnx."""

from collections.abc import Callable, Mapping
from typing import Any

import onnx_ir as ir
from jax.extend.core import Primitive
from jax2onnx.plugins.plugin_system import PrimitiveLeafPlugin, register_primitive

from vit2onnx.nn import primitives

Emit = Callable[[Any, list[ir.Value], Mapping[str, Any], str], ir.Value]


def lowers(primitive: Primitive) -> Callable[[Emit], Emit]:
    """Register a function that emits a primitive's nodes: (builder, inputs, parameters, output's name)."""

    def register(emit: Emit) -> Emit:
        class Lowering(PrimitiveLeafPlugin):
            def lower(self, ctx: Any, eqn: Any) -> None:
                inputs = [ctx.get_value_for_var(var) for var in eqn.invars]
                expected = ctx.get_value_for_var(eqn.outvars[0])
                output = emit(ctx.builder, inputs, eqn.params, expected.name)
                output.type, output.shape = expected.type, expected.shape
                ctx.bind_value_for_var(eqn.outvars[0], output)

        register_primitive(jaxpr_primitive=primitive.name)(Lowering)
        return emit

    return register


@lowers(primitives.linear_p)
def linear(builder: Any, inputs: list[ir.Value], params: Mapping[str, Any], name: str) -> ir.Value:
    # MatMul and Add, not Gemm, which takes matrices only, nor Einsum, which no runtime fuses or quantizes.
    if len(inputs) == 2:
        return builder.MatMul(*inputs, _outputs=[name])
    x, weight, bias = inputs
    product = builder.MatMul(x, weight)
    product.type, product.shape = x.type, ir.Shape([*x.shape[:-1], weight.shape[1]])
    return builder.Add(product, bias, _outputs=[name])


@lowers(primitives.layer_norm_p)
def layer_norm(builder: Any, inputs: list[ir.Value], params: Mapping[str, Any], name: str) -> ir.Value:
    return builder.LayerNormalization(*inputs, axis=-1, epsilon=params["eps"], _outputs=[name])


@lowers(primitives.scale_p)
def scale(builder: Any, inputs: list[ir.Value], params: Mapping[str, Any], name: str) -> ir.Value:
    return builder.Mul(*inputs, _outputs=[name])


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
    axes = builder.initializer(ir.tensor([1], dtype=ir.DataType.INT64), name=f"{name}_axes")
    return builder.ReduceMean(*inputs, axes, keepdims=1, _outputs=[name])


@lowers(primitives.silu_p)
def silu(builder: Any, inputs: list[ir.Value], params: Mapping[str, Any], name: str) -> ir.Value:
    gate = builder.Sigmoid(*inputs)
    gate.type, gate.shape = inputs[0].type, inputs[0].shape
    return builder.Mul(inputs[0], gate, _outputs=[name])


@lowers(primitives.gelu_p)
def gelu(builder: Any, inputs: list[ir.Value], params: Mapping[str, Any], name: str) -> ir.Value:
    return builder.Gelu(*inputs, approximate="none", _outputs=[name])


@lowers(primitives.rotary_embedding_p)
def rotary_embedding(builder: Any, inputs: list[ir.Value], params: Mapping[str, Any], name: str) -> ir.Value:
    return builder.RotaryEmbedding(*inputs, interleaved=0, num_heads=params["num_heads"], _outputs=[name])


@lowers(primitives.attention_p)
def attention(builder: Any, inputs: list[ir.Value], params: Mapping[str, Any], name: str) -> ir.Value:
    heads = params["num_heads"]
    return builder.Attention(*inputs, q_num_heads=heads, kv_num_heads=heads, _outputs=[name])
