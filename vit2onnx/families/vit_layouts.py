"""What the layouts of vision transformers share. Their archives are those of Equimo's `VisionTransformer`."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import equinox as eqx
import jax
import numpy as np

from vit2onnx.weights.keytable import COPY, Entry, Transform, restoring

# A block in the archive.
BLOCK = "blocks.0.blocks.{i}"

MASK_TOKEN = "replaces patches in training only"
NO_MASK_TOKEN = Entry("mask_token", (), restoring("zeros, as before training", partial(np.zeros, dtype=np.float32)))
# What Equimo calls activations.
ACT_LAYERS = {"gelu": "exactgelu", "gelu_tanh": "gelu", "relu": "relu", "silu": "silu"}


def same(target: str, source: str, transform: Transform = COPY) -> tuple[Entry, Entry]:
    """Lines for weight and bias, which are called so on both sides; `transform` is the weight's."""
    return Entry(f"{target}.weight", (f"{source}.weight",), transform), Entry(f"{target}.bias", (f"{source}.bias",))


def archive_skeleton(config: Mapping[str, Any]) -> Any:
    """Equimo's model with a shape in place of every array; `config` has the arguments of its class."""
    from equimo.models import VisionTransformer

    key = jax.random.PRNGKey(0)
    return eqx.filter_eval_shape(lambda: VisionTransformer(**config, key=key))
