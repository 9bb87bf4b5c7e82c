"""Run a PyTorch model step by step, with the weights of one step in memory at a time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from vit2onnx.errors import InputError
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


def vit_taps(
    norm1: nn.Module, attn: nn.Module, ls1: nn.Module, norm2: nn.Module, mlp: nn.Module, ls2: nn.Module
) -> dict[str, Tap | None]:
    """The stages of a transformer block, seen at these of its modules."""
    return {
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


def convnext_taps(dwconv: nn.Module, norm: nn.Module, pwconv2: nn.Module, drop_path: nn.Module) -> dict[str, Tap]:
    """The stages of a ConvNeXt block, seen at these of its modules."""
    return {
        "input": Tap(is_input=True, axis=1),
        "dwconv": Tap(dwconv, axis=1),
        "norm": Tap(norm),
        "raw": Tap(pwconv2),
        # Given to a module that does nothing in inference.
        "scaled": Tap(drop_path, is_input=True, axis=1),
        "output": Tap(axis=1),
    }


def downsample_taps(first: nn.Module, *, is_stem: bool) -> dict[str, Tap]:
    """The stages of a downsampling, seen at the first of its two modules."""
    if is_stem:
        return {"conv": Tap(first, axis=1), "output": Tap(axis=1)}
    return {"input": Tap(is_input=True, axis=1), "norm": Tap(first, axis=1), "output": Tap(axis=1)}


@dataclass(frozen=True)
class Step:
    """What a part of a model does to what came before, and which of its tensors it needs, by path.

    `name` is that of the layer in our models, and `taps` holds its stages by their full names, in order; `None` stands
    for queries and keys, which no module gives. `axis` is that of the channels that come in.
    """

    paths: tuple[str, ...]
    run: Callable[[torch.Tensor], torch.Tensor]
    name: str
    taps: Mapping[str, Tap | None]
    axis: int = -1

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
        with filled(model, state, step, dtype):
            values = {case: plans[case][index].run(value) for case, value in values.items()}
    return {case: value[0].numpy() for case, value in values.items()}


@contextmanager
def filled(model: nn.Module, state: Mapping[str, Reader], step: Step, dtype: torch.dtype) -> Iterator[None]:
    """Have the weights of one step in memory."""
    paths = tuple(f"{path}." for path in step.paths)
    keys = [key for key in state if f"{key}.".startswith(paths)]
    model.load_state_dict({key: state[key]().to(dtype) for key in keys}, strict=False, assign=True)
    yield
    empty = {key: torch.empty(tensor.shape, device="meta") for key, tensor in model.state_dict().items() if key in keys}
    model.load_state_dict(empty, strict=False, assign=True)


def run_stages(
    model: nn.Module,
    state: Mapping[str, Reader],
    steps: Steps,
    pixel_values: np.ndarray,
    dtype: torch.dtype,
    inputs: Mapping[str, np.ndarray] | None,
) -> Iterator[tuple[str, np.ndarray]]:
    """Every stage [tokens, channels] of an image [3, height, width], as `{mode}/{stage}`.

    In accumulated mode a step goes on from what the step before it has made. In injected mode it is given
    `inputs[step]`, channels last and without batch; or if there are no inputs, what it is given in accumulated mode
    rounded to single precision, which comes as `inputs/{step}`. The first step is given the image in both.

    `model` is on the meta device.
    """
    x = torch.from_numpy(pixel_values[None]).to(dtype)
    # Not around what is yielded, because whoever takes it would be in inference mode as well.
    with torch.inference_mode():
        plan = steps(x)
    for index, step in enumerate(plan):
        found: dict[str, np.ndarray] = {}
        with torch.inference_mode(), filled(model, state, step, dtype):
            start = x
            if index:
                given = x.movedim(step.axis, -1)[0].float().numpy() if inputs is None else inputs[step.name]
                if inputs is None:
                    found[f"inputs/{step.name}"] = given
                start = torch.from_numpy(given).to(dtype)[None].movedim(-1, step.axis)
            x, stages = _tapped(step, x)
            found |= {f"accumulated/{stage}": value for stage, value in stages.items()}
            _, stages = _tapped(step, start)
            found |= {f"injected/{stage}": value for stage, value in stages.items()}
        yield from found.items()


class _AttentionWatch(TorchFunctionMode):
    """Keeps the queries and keys [1, heads, tokens, head_dim] that attention was last given, whoever called it."""

    given: tuple[torch.Tensor, ...] = ()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.functional.scaled_dot_product_attention:
            self.given = args[:2]
        return func(*args, **(kwargs or {}))


def _tapped(step: Step, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, np.ndarray]]:
    """What a step makes of `x`, and its stages [tokens, channels]."""
    found: dict[str, np.ndarray] = {}

    def keep(stage: str, value: torch.Tensor, axis: int) -> None:
        last = value.movedim(axis, -1)
        # A copy, because what is seen may be changed in place afterwards.
        found[stage] = last.reshape(-1, last.shape[-1]).numpy().copy()

    def watch(stage: str, module: nn.Module, tap: Tap) -> Any:
        def before(_module: nn.Module, args: Any) -> None:
            keep(stage, args[0], tap.axis)

        def after(_module: nn.Module, _args: Any, out: Any) -> None:
            keep(stage, out[0] if isinstance(out, tuple) else out, tap.axis)

        return module.register_forward_pre_hook(before) if tap.is_input else module.register_forward_hook(after)

    inner = {stage: tap for stage, tap in step.taps.items() if tap and tap.module}
    hooks = [watch(stage, tap.module, tap) for stage, tap in inner.items()]
    try:
        with _AttentionWatch() as attention:
            out = step.run(x)
    finally:
        for hook in hooks:
            hook.remove()
    for stage, tap in step.taps.items():
        if tap and not tap.module:
            keep(stage, x if tap.is_input else out, tap.axis)
    rotated = [stage for stage, tap in step.taps.items() if not tap]
    for stage, value in zip(rotated, attention.given, strict=True):
        keep(stage, value[0].transpose(0, 1).flatten(1), -1)
    return out, {stage: found[stage] for stage in step.taps}
