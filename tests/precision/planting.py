"""Outliers planted in weights without changing what a model computes.

Multiply some channels of what one part gives, and divide the rows of all Linears that take it: a published model may
share its products among its weights in any such way, and real ones have channels a hundred times as large as others.
Synthetic weights do not have them by themselves. This module knows models by the names of their parameters only, so
it does not share a mistake with `precision.smoothing`, which undoes it.
"""

import re
from collections.abc import Iterator, Mapping

import numpy as np

from vit2onnx.weights.keytable import LazyTensor

# Parts that give something per channel, and the Linears that alone take it, as they are called below one module.
NEIGHBOURS = {
    "norm1": ("attn.q", "attn.k", "attn.v"),
    "norm2": ("mlp.fc1", "mlp.w1", "mlp.w2"),
    "attn.v": ("attn.proj",),
    "mlp.w2": ("mlp.w3",),
    # A ConvNeXt's block, and the pooling head of SigLIP2.
    "norm": ("pwconv1", "mlp.fc1"),
}


def neighbours(names: Mapping[str, LazyTensor]) -> Iterator[tuple[str, list[str]]]:
    """Modules with parameters, each with the Linears that take what it gives, by their path."""
    modules = {name.rpartition(".")[0] for name in names}
    for module in sorted(modules):
        for last, after in NEIGHBOURS.items():
            found = re.fullmatch(rf"((?:.+\.)?){re.escape(last)}", module)
            takers = [f"{found[1]}{one}" for one in after if f"{found[1]}{one}" in modules] if found else []
            if takers:
                yield module, takers


def plant(
    tensors: Mapping[str, LazyTensor], *, channels: int = 6, factor: float = 100.0, seed: int = 0
) -> dict[str, LazyTensor]:
    """The tensors of an inference model with so many channels enlarged by `factor` after every norm, in every v and in
    every w2. Which channels they are, `seed` decides. The model computes the same but for rounding.
    """
    random = np.random.default_rng(seed)
    planted = dict(tensors)
    for module, takers in neighbours(tensors):
        width = tensors[f"{module}.weight"].shape[-1]
        factors = np.ones(width, np.float32)
        factors[random.choice(width, channels, replace=False)] = factor
        for name in (f"{module}.weight", f"{module}.bias"):
            if name in planted:
                planted[name] = _changed(planted[name], factors)
        for taker in takers:
            planted[f"{taker}.weight"] = _changed(planted[f"{taker}.weight"], 1 / factors[:, None])
    return planted


def _changed(tensor: LazyTensor, factors: np.ndarray) -> LazyTensor:
    return LazyTensor(tensor.shape, tensor.dtype, lambda: (tensor.read() * factors).astype(tensor.dtype))
