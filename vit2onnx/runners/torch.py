"""Run PyTorch references step by step, with the weights of one step in memory at a time."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from vit2onnx.checkpoints.reading import open_variant
from vit2onnx.families.reference import Reader, Reference, Step, Tap
from vit2onnx.spec.family import part
from vit2onnx.spec.variant import VariantSpec


def reference_of(spec: VariantSpec, name: str, checkpoint: Path, repository: Path | None = None) -> Reference:
    """A reference of a variant with the weights of a checkpoint; `repository` is a clone of the publisher's code.

    Raises `InputError` if the checkpoint does not fit it.
    """
    references, opened = part(spec.family, "references"), open_variant(spec, checkpoint)
    if spec.own and spec.own.config is not None and name == "transformers":
        # Here, because it takes seconds to import.
        from vit2onnx.runners.pretrained import pretrained

        model = pretrained(spec.own, opened.tensors)
        state: dict[str, Reader] = {key: partial(_same, value) for key, value in model.state_dict().items()}
        own: Reference = references.from_transformers(spec, model, state)
        return own
    load = references.REFERENCES[name]
    reference: Reference = load(spec, str(checkpoint), opened.tensors, repository)
    return reference


def _same(value: torch.Tensor) -> torch.Tensor:
    return value


def features(
    reference: Reference, cases: Mapping[str, np.ndarray], native: Collection[str] = ()
) -> dict[str, np.ndarray]:
    """Features [tokens, embed_dim] of every case [3, height, width], as `float32/{case}` and `float64/{case}`.

    The cases in `native` are run once more in single precision with the reference as installed, if that differs by
    design: `native/{case}`.
    """

    def run(kind: str, some: Mapping[str, np.ndarray], dtype: torch.dtype) -> dict[str, np.ndarray]:
        return {f"{kind}/{case}": x for case, x in run_steps(reference, some, dtype).items()}

    found = run("float32", cases, torch.float32)
    if native and reference.natively:
        reference.natively()
        found |= run("native", {case: cases[case] for case in native}, torch.float32)
    reference.in_double()
    return found | run("float64", cases, torch.float64)


def stages(
    load: Callable[[], Reference], pixel_values: np.ndarray, inputs: Mapping[str, np.ndarray] | None = None
) -> Iterator[tuple[str, np.ndarray]]:
    """Every stage of an image [3, height, width] as `{dtype}/{mode}/{stage}`; see `run_stages`.

    The double precision comes first. Without `inputs`, its own are injected, and come as `inputs/{layer}`.
    """
    given = dict(inputs or {})
    for dtype in (torch.float64, torch.float32):
        reference = load()
        if dtype == torch.float64:
            reference.in_double()
        made: dict[str, np.ndarray] = {}
        for key, value in run_stages(reference, pixel_values, dtype, given or None):
            if key.startswith("inputs/"):
                made[key.removeprefix("inputs/")] = value
                yield key, value
            else:
                yield f"{value.dtype}/{key}", value
        given |= made


def filled_model(reference: Reference) -> nn.Module:
    """The model of a reference with all its weights at once."""
    reference.module.load_state_dict({key: read() for key, read in reference.state.items()}, assign=True)
    return reference.module


@torch.inference_mode()
def run_steps(reference: Reference, cases: Mapping[str, np.ndarray], dtype: torch.dtype) -> dict[str, np.ndarray]:
    """Features [tokens, embed_dim] of every case [3, height, width]."""
    values = {case: torch.from_numpy(x[None]).to(dtype) for case, x in cases.items()}
    plans = {case: reference.steps(x) for case, x in values.items()}
    for index, step in enumerate(next(iter(plans.values()))):
        with filled(reference, step, dtype):
            values = {case: plans[case][index].run(value) for case, value in values.items()}
    return {case: value[0].numpy() for case, value in values.items()}


@contextmanager
def filled(reference: Reference, step: Step, dtype: torch.dtype) -> Iterator[None]:
    """Have the weights of one step in memory."""
    model, state = reference.module, reference.state
    paths = tuple(f"{path}." for path in step.paths)
    keys = [key for key in state if f"{key}.".startswith(paths)]
    model.load_state_dict({key: state[key]().to(dtype) for key in keys}, strict=False, assign=True)
    yield
    empty = {key: torch.empty(tensor.shape, device="meta") for key, tensor in model.state_dict().items() if key in keys}
    model.load_state_dict(empty, strict=False, assign=True)


def run_stages(
    reference: Reference,
    pixel_values: np.ndarray,
    dtype: torch.dtype,
    inputs: Mapping[str, np.ndarray] | None,
) -> Iterator[tuple[str, np.ndarray]]:
    """Every stage [tokens, channels] of an image [3, height, width], as `{mode}/{stage}`.

    In accumulated mode a step goes on from what the step before it has made. In injected mode it is given
    `inputs[step]`, channels last and without batch; or if there are no inputs, what it is given in accumulated mode
    rounded to single precision, which comes as `inputs/{step}`. The first step is given the image in both.
    """
    x = torch.from_numpy(pixel_values[None]).to(dtype)
    # Not around what is yielded, because whoever takes it would be in inference mode as well.
    with torch.inference_mode():
        plan = reference.steps(x)
    for index, step in enumerate(plan):
        found: dict[str, np.ndarray] = {}
        with torch.inference_mode(), filled(reference, step, dtype):
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
