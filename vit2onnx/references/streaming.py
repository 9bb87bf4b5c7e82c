"""Run a PyTorch model step by step, with the weights of one step in memory at a time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from vit2onnx.errors import InputError
from vit2onnx.keytable import LazyTensor

Reader = Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Step:
    """What a part of a model does to what came before, and which of its tensors it needs, by path."""

    paths: tuple[str, ...]
    run: Callable[[torch.Tensor], torch.Tensor]


# What is to be done with an input [1, 3, height, width]: the same parts of a model in the same order for every input.
Steps = Callable[[torch.Tensor], Sequence[Step]]


def reader(tensor: LazyTensor, part: slice = slice(None), shape: tuple[int, ...] | None = None) -> Reader:
    """A reader of a tensor in float32, or of a part of its first axis, or in another shape."""

    def read() -> torch.Tensor:
        array = np.ascontiguousarray(tensor.read()[part]).astype(np.float32)
        return torch.from_numpy(array if shape is None else array.reshape(shape))

    return read


def check_names(name: str, model: nn.Module, state: Mapping[str, Reader]) -> None:
    """Raise `InputError` if the model misses a tensor or does not know one; `name` begins the sentence."""
    if differing := sorted(model.state_dict().keys() ^ state.keys()):
        raise InputError(
            f"{name}: only one of the two has {', '.join(differing[:3])}{' and more' if len(differing) > 3 else ''}."
        )


def fill(model: nn.Module, state: Mapping[str, Reader]) -> None:
    """Load all tensors into a model at once."""
    model.load_state_dict({key: read() for key, read in state.items()}, assign=True)


@contextmanager
def native_convolutions() -> Iterator[None]:
    """Let PyTorch run its own convolutions instead of oneDNN's."""
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = before


@torch.inference_mode()
def run_steps(
    model: nn.Module,
    state: Mapping[str, Reader],
    steps: Steps,
    cases: Mapping[str, np.ndarray],
    dtype: torch.dtype,
) -> dict[str, np.ndarray]:
    """Features [tokens, embed_dim] of every case [3, height, width].

    `model` is on the meta device.
    """
    values = {case: torch.from_numpy(x[None]).to(dtype) for case, x in cases.items()}
    plans = {case: steps(x) for case, x in values.items()}
    for index, step in enumerate(next(iter(plans.values()))):
        paths = tuple(f"{path}." for path in step.paths)
        keys = [key for key in state if f"{key}.".startswith(paths)]
        model.load_state_dict({key: state[key]().to(dtype) for key in keys}, strict=False, assign=True)
        values = {case: plans[case][index].run(value) for case, value in values.items()}
        empty = {
            key: torch.empty(tensor.shape, device="meta") for key, tensor in model.state_dict().items() if key in keys
        }
        model.load_state_dict(empty, strict=False, assign=True)
    return {case: value[0].numpy() for case, value in values.items()}
