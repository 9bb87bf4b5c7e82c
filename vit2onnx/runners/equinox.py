"""Run a model on images, one layer in memory at a time, in single and in double precision."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from vit2onnx.nn.model import Model
from vit2onnx.spec.case import MODES
from vit2onnx.weights.keytable import LazyTensor
from vit2onnx.weights.leaves import leaf_names


def features(
    model: Model, tensors: Mapping[str, LazyTensor], cases: Mapping[str, np.ndarray], native: Collection[str] = ()
) -> dict[str, np.ndarray]:
    """Features [tokens, embed_dim] of every case [3, height, width], as `float32/{case}` and `float64/{case}`.

    `model` is a model of shapes, and `tensors` has the parameters that it is filled with. The cases in `native` are run
    once more in double precision as references are installed, if they differ by design: `native/{case}`.
    """
    found = {f"float32/{case}": value for case, value in _features(model, tensors, cases, "float32").items()}
    with jax.enable_x64(True):
        found |= {f"float64/{case}": value for case, value in _features(model, tensors, cases, "float64").items()}
        if native and (other := model.natively(tensors)):
            few = {case: cases[case] for case in native}
            found |= {f"native/{case}": value for case, value in _features(*other, few, "float64").items()}
    return found


def stages(
    model: Model, tensors: Mapping[str, LazyTensor], pixel_values: np.ndarray, inputs: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, np.ndarray]]:
    """Every stage [tokens, channels] of an image [3, height, width], as `{dtype}/{mode}/{stage}`.

    In accumulated mode a layer goes on from what the layer before it has made; in injected mode it is given
    `inputs[layer]` instead, without batch, if there is one. All that the layers have besides is the same.
    """
    for dtype in ("float32", "float64"):
        for key, value in _stages(model, tensors, pixel_values, dtype, inputs):
            yield f"{dtype}/{key}", value


def _stages(
    model: Model,
    tensors: Mapping[str, LazyTensor],
    pixel_values: np.ndarray,
    dtype: str,
    inputs: Mapping[str, np.ndarray],
) -> Iterator[tuple[str, np.ndarray]]:
    # Closed before something is yielded, because whoever takes it would compute in this precision too.
    def precision() -> AbstractContextManager[None]:
        return jax.enable_x64(dtype == "float64")

    def starts(name: str, x: jax.Array) -> dict[str, jax.Array]:
        return {"accumulated": x, "injected": jnp.asarray(inputs[name][None], dtype) if name in inputs else x}

    def named(by_mode: Mapping[str, Mapping[str, jax.Array]], layer: str = "") -> Iterator[tuple[str, np.ndarray]]:
        for mode, found in by_mode.items():
            for stage, x in found.items():
                yield f"{mode}/{layer}{stage}", np.asarray(x)[0].reshape(-1, x.shape[-1])

    with precision():
        outer = _fill_outer(model, tensors, dtype)
        x, context = _embed(outer, jnp.asarray(pixel_values[None], dtype))
        embedded = outer.embed_stages(x)
    yield from named(dict.fromkeys(MODES, embedded))
    del embedded
    for name, skeleton in model.trunk():
        with precision():
            layer = _fill_layer(name, skeleton, tensors, dtype)
            by_mode = {mode: _layer_stages(layer, start, context) for mode, start in starts(name, x).items()}
            x = by_mode["accumulated"]["output"]
        yield from named(by_mode, f"{name}.")
        # Before the next layer is read, and not while it is.
        del layer, by_mode
    with precision():
        by_mode = {mode: _head_stages(outer, start) for mode, start in starts("norm", x).items()}
    yield from named(by_mode)


# Compiled once per structure and shapes: for all layers that are alike, and for one model with other weights.
@eqx.filter_jit
def _embed(outer: Model, pixel_values: jax.Array) -> Any:
    return outer.embed(pixel_values)


@eqx.filter_jit
def _run(layer: Any, x: jax.Array, context: Any) -> jax.Array:
    found: jax.Array = layer(x, context)
    return found


@eqx.filter_jit
def _head(outer: Model, x: jax.Array) -> jax.Array:
    return outer.head(x).last_hidden_state


@eqx.filter_jit
def _layer_stages(layer: Any, x: jax.Array, context: Any) -> dict[str, jax.Array]:
    found: dict[str, jax.Array] = layer.stages(x, context)
    return found


@eqx.filter_jit
def _head_stages(outer: Model, x: jax.Array) -> dict[str, jax.Array]:
    return outer.head_stages(x)


def _fill_outer(model: Model, tensors: Mapping[str, LazyTensor], dtype: str) -> Model:
    """Fill all but the layers, which stay shapes, and which embed and head do not look at."""
    in_trunk = tuple(f"{name}." for name, _ in model.trunk())
    outside = {name: tensor for name, tensor in tensors.items() if not name.startswith(in_trunk)}
    filled: Model = _fill(model, outside, dtype)
    return filled


def _fill_layer(name: str, skeleton: Any, tensors: Mapping[str, LazyTensor], dtype: str) -> Any:
    """Fill one layer."""
    prefix = f"{name}."
    own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    return _fill(skeleton, own, dtype)


def _features(
    model: Model, tensors: Mapping[str, LazyTensor], cases: Mapping[str, np.ndarray], dtype: str
) -> dict[str, np.ndarray]:
    outer = _fill_outer(model, tensors, dtype)
    inputs = {case: jnp.asarray(pixel_values[None], dtype) for case, pixel_values in cases.items()}
    states = {case: _embed(outer, pixel_values) for case, pixel_values in inputs.items()}
    for name, skeleton in model.trunk():
        layer = _fill_layer(name, skeleton, tensors, dtype)
        states = {case: (_run(layer, x, context), context) for case, (x, context) in states.items()}
        # Before the next layer is read, and not while it is.
        jax.block_until_ready(states)
        del layer
    return {case: np.asarray(_head(outer, x)[0]) for case, (x, _) in states.items()}


def _fill(skeleton: Any, tensors: Mapping[str, LazyTensor], dtype: str) -> Any:
    """Put arrays of a dtype in the place of those shapes that have a tensor."""
    leaves = [
        jnp.asarray(tensors[name].read(), dtype) if name in tensors else leaf
        for name, leaf in zip(leaf_names(skeleton), jax.tree_util.tree_leaves(skeleton), strict=True)
    ]
    return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(skeleton), leaves)
