"""Run an inference model on images, in single and in double precision."""

from collections.abc import Mapping

import equinox as eqx
import jax
import numpy as np

from vit2onnx.models import Model


def features(model: Model, cases: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Features [tokens, embed_dim] of every case [3, height, width], as `float32/{case}` and `float64/{case}`."""

    @eqx.filter_jit
    def run(model: Model, pixel_values: np.ndarray) -> jax.Array:
        return model(jax.numpy.asarray(pixel_values)).last_hidden_state

    found = {f"float32/{case}": np.asarray(run(model, x[None])[0]) for case, x in cases.items()}
    with jax.enable_x64(True):
        double = jax.tree_util.tree_map(lambda leaf: leaf.astype("float64"), model)
        for case, x in cases.items():
            found[f"float64/{case}"] = np.asarray(run(double, x[None].astype("float64"))[0])
    return found
