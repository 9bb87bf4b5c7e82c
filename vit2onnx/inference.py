"""Run a model file on images, one layer in memory at a time, in single and in double precision."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from vit2onnx.archive import leaf_names, open_model
from vit2onnx.keytable import LazyTensor
from vit2onnx.models import Model
from vit2onnx.models.rope import in_other_precision


def features(model: Path, cases: Mapping[str, np.ndarray], native: Collection[str] = ()) -> dict[str, np.ndarray]:
    """Features [tokens, embed_dim] of every case [3, height, width], as `float32/{case}` and `float64/{case}`.

    Those cases that `native` names are run once more in double precision with RoPE periods in the precision that the
    model does not use, if it has any: `native/{case}`.
    """
    skeleton, tensors = open_model(model)
    found = {f"float32/{case}": value for case, value in _features(skeleton, tensors, cases, "float32").items()}
    with jax.enable_x64(True):
        found |= {f"float64/{case}": value for case, value in _features(skeleton, tensors, cases, "float64").items()}
        if native and "rope_periods" in tensors:
            periods = in_other_precision(tensors["rope_periods"].read())
            other = {**tensors, "rope_periods": LazyTensor(periods.shape, periods.dtype.name, lambda: periods)}
            few = {case: cases[case] for case in native}
            found |= {f"native/{case}": value for case, value in _features(skeleton, other, few, "float64").items()}
    return found


def _features(
    model: Model, tensors: Mapping[str, LazyTensor], cases: Mapping[str, np.ndarray], dtype: str
) -> dict[str, np.ndarray]:
    trunk = model.trunk()
    in_trunk = tuple(f"{name}." for name, _ in trunk)
    # The layers stay shapes, which embed and head do not look at.
    outer = _fill(model, {name: tensor for name, tensor in tensors.items() if not name.startswith(in_trunk)}, dtype)
    arrays, shapes = eqx.partition(outer, eqx.is_array)

    @jax.jit
    def embed(arrays: Any, pixel_values: jax.Array) -> Any:
        return eqx.combine(arrays, shapes).embed(pixel_values)

    @eqx.filter_jit
    def run(layer: Any, x: jax.Array, context: Any) -> jax.Array:
        return layer(x, context)

    @jax.jit
    def head(arrays: Any, x: jax.Array) -> jax.Array:
        return eqx.combine(arrays, shapes).head(x).last_hidden_state

    inputs = {case: jnp.asarray(pixel_values[None], dtype) for case, pixel_values in cases.items()}
    states = {case: embed(arrays, pixel_values) for case, pixel_values in inputs.items()}
    for name, skeleton in trunk:
        prefix = f"{name}."
        own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        layer = _fill(skeleton, own, dtype)
        states = {case: (run(layer, x, context), context) for case, (x, context) in states.items()}
        # Before the next layer is read, and not while it is.
        jax.block_until_ready(states)
        del layer
    return {case: np.asarray(head(arrays, x)[0]) for case, (x, _) in states.items()}


def _fill(skeleton: Any, tensors: Mapping[str, LazyTensor], dtype: str) -> Any:
    """Put arrays of a dtype in the place of those shapes that have a tensor."""
    leaves = [
        jnp.asarray(tensors[name].read(), dtype) if name in tensors else leaf
        for name, leaf in zip(leaf_names(skeleton), jax.tree_util.tree_leaves(skeleton), strict=True)
    ]
    return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(skeleton), leaves)
