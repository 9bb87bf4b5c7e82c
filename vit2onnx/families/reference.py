"""The words in which a family describes its PyTorch references: steps, and where their stages are seen."""

import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from vit2onnx.errors import InputError, first_few
from vit2onnx.weights.keytable import LazyTensor

Reader = Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Tap:
    """Where a stage can be seen: what a module, or if there is none the step itself, is given or gives.

    `axis` is that of the channels.
    """

    module: nn.Module | None = None
    is_input: bool = False
    axis: int = -1


@dataclass(frozen=True)
class Step:
    """What a part of a model does to what came before, and which of its tensors it needs, by path.

    `name` is that of the layer in our models, and `taps` holds its stages by their full names, in order; `None` stands
    for queries and keys, which no module gives. `axis` is that of the channels that come in. `port` is the output of
    which this is the value, if it is one. `takes` names what goes in: inputs by their port, or the results of earlier
    steps by the step; by default the result before, or in the first step the first input.
    """

    paths: tuple[str, ...]
    run: Callable[..., torch.Tensor]
    name: str
    taps: Mapping[str, Tap | None]
    axis: int = -1
    port: str = ""
    takes: tuple[str, ...] = ()

    @classmethod
    def of_layer(
        cls,
        path: str,
        run: Callable[[torch.Tensor], torch.Tensor],
        name: str,
        taps: Mapping[str, Tap | None],
        axis: int,
    ) -> "Step":
        """A layer of the trunk, with its stages by their names within the layer."""
        return cls((path,), run, name, {f"{name}.{stage}": tap for stage, tap in taps.items()}, axis)


# What a block's norms, attention, LayerScales and feed-forward layer are called, in order: by transformers and by Meta.
TRANSFORMERS_PARTS = ("norm1", "attention", "layer_scale1", "norm2", "mlp", "layer_scale2")
META_PARTS = ("norm1", "attn", "ls1", "norm2", "mlp", "ls2")


def vit_steps(path: str, layers: nn.ModuleList, parts: Sequence[str], **context: Any) -> list[Step]:
    """The blocks of a vision transformer at `path`, which are all given the `context`; `parts` names their modules."""
    steps = []
    for index, layer in enumerate(layers):
        norm1, attn, ls1, norm2, mlp, ls2 = (layer.get_submodule(name) for name in parts)
        taps = {
            "input": Tap(is_input=True),
            "attn_in": Tap(norm1),
            "q": None,
            "k": None,
            "attn_raw": Tap(attn),
            "attn_scaled": Tap(ls1),
            "post_attn": Tap(norm2, is_input=True),
            "mlp_in": Tap(norm2),
            "mlp_raw": Tap(mlp),
            "mlp_scaled": Tap(ls2),
            "output": Tap(),
        }
        run = partial(layer, **context)
        steps.append(Step.of_layer(f"{path}.{index}", run, f"blocks.{index}", taps, axis=-1))
    return steps


# The output of which the final norm is the value.
HIDDEN = "last_hidden_state"

# The steps for inputs [1, ...] by their ports: the same parts of a model in the same order for every such input.
Steps = Callable[[Mapping[str, torch.Tensor]], Sequence[Step]]


@dataclass(frozen=True)
class Reference:
    """A PyTorch model without memory for its weights, readers of these, and how it is run step by step.

    `in_double` changes what would stay in single precision. `natively` makes the model what it is as
    installed, if that differs from ours by design: see the family's `KNOWN_DIFFERENCE`.
    """

    module: nn.Module
    state: Mapping[str, Reader]
    steps: Steps
    in_double: Callable[[], None] = lambda: None
    natively: Callable[[], None] | None = None


def reader(tensor: LazyTensor, part: slice = slice(None), shape: tuple[int, ...] | None = None) -> Reader:
    """A reader of a tensor in float32, or of a part of its first axis, or in another shape."""

    def read() -> torch.Tensor:
        array = np.ascontiguousarray(tensor.read()[part]).astype(np.float32)
        return torch.from_numpy(array if shape is None else array.reshape(shape))

    return read


# Patterns with what takes their place, after the name of a tensor that only one layout has.
Renames = Sequence[tuple[str, Sequence[tuple[str, str]]]]


def renamed(tensors: Iterable[str], renames: Renames) -> dict[str, str]:
    """The new names of a checkpoint's tensors by the patterns of its layout; in an unknown layout none changes."""
    tensors = list(tensors)
    patterns = next((own for mark, own in renames if any(re.search(mark, name) for name in tensors)), ())
    found = {}
    for name in tensors:
        found[name] = name
        for pattern, replacement in patterns:
            found[name] = re.sub(pattern, replacement, found[name])
    return found


def import_from(repository: Path | None, file: str, name: str) -> None:
    """Let the publisher's code `name` be imported from a user's clone, which has `file`.

    Raises `InputError` if it is no such clone.
    """
    clone = repository or Path()
    if not (clone / file).is_file():
        raise InputError(
            f"reference.repositories: {clone} is no clone of github.com/{name}; name one or leave the entry out."
        )
    sys.path.insert(0, str(clone))
    logging.getLogger(name.rpartition("/")[2]).setLevel(logging.WARNING)


def check_names(name: str, model: nn.Module, state: Mapping[str, Reader]) -> None:
    """Raise `InputError` if the model misses a tensor or does not know one; `name` begins the sentence."""
    if differing := sorted(model.state_dict().keys() ^ state.keys()):
        raise InputError(f"{name}: only one of the two has {first_few(differing)}.")


def publisher_state(name: str, model: nn.Module, tensors: Mapping[str, LazyTensor]) -> dict[str, Reader]:
    """A checkpoint's tensors as the publisher's code reads them: under their own names, all in float32.

    Raises `InputError`, naming `name`, if the checkpoint is in another layout.
    """
    state = {key: reader(tensor) for key, tensor in tensors.items()}
    what = f"{name} is not in the publisher's own layout, which is all that its code reads"
    check_names(f"{what} (leave reference.repositories empty for it)", model, state)
    return state


@contextmanager
def native_convolutions() -> Iterator[None]:
    """Let PyTorch run its own convolutions instead of oneDNN's."""
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = before
