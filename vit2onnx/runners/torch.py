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
from vit2onnx.dense.features import Gathering
from vit2onnx.errors import InternalError
from vit2onnx.families.reference import Reader, Reference, Step, Tap
from vit2onnx.spec.case import MODES, path_of
from vit2onnx.spec.family import part
from vit2onnx.spec.interface import Interface, cases_in, key_of, of_cases
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
    reference: Reference, cases: Mapping[str, np.ndarray], interface: Interface, native: Collection[str] = ()
) -> dict[str, np.ndarray]:
    """What a reference gives for every case, without batch, as `float32/{case}` and `float64/{case}`.

    `cases` has the inputs of an interface; its outputs are called as `key_of` says. The cases in `native` are run once
    more in single precision with the reference as installed, if that differs by design: `native/{case}`.
    """

    def run(kind: str, some: Mapping[str, np.ndarray], dtype: torch.dtype) -> dict[str, np.ndarray]:
        return {f"{kind}/{key}": x for key, x in run_steps(reference, some, dtype, interface).items()}

    found = run("float32", cases, torch.float32)
    if native and reference.natively:
        reference.natively()
        found |= run("native", of_cases(cases, native), torch.float32)
    reference.in_double()
    return found | run("float64", cases, torch.float64)


def stages(
    load: Callable[[], Reference],
    inputs: Mapping[str, np.ndarray],
    interface: Interface,
    injected: Mapping[str, np.ndarray] | None = None,
) -> Iterator[tuple[str, np.ndarray]]:
    """Every stage of a case, whose `inputs` are given by port, as `{dtype}/{mode}/{stage}`; see `run_stages`.

    The double precision comes first. Without `injected`, its own are injected, and come as `inputs/{layer}`.
    """
    given = dict(injected or {})
    for dtype in (torch.float64, torch.float32):
        reference = load()
        if dtype == torch.float64:
            reference.in_double()
        made: dict[str, np.ndarray] = {}
        for key, value in run_stages(reference, inputs, dtype, given or None, interface):
            if key.startswith("inputs/"):
                made[key.removeprefix("inputs/")] = value
                yield key, value
            else:
                yield f"{value.dtype}/{key}", value
        given |= made


def dense_features(
    reference: Reference, cases: Mapping[str, np.ndarray], interface: Interface, layers: Collection[int] = ()
) -> Iterator[tuple[str, np.ndarray]]:
    """The dense features of every case as `float32/{case}/{what}` and `float64/{case}/{what}`; see `dense.features`."""
    for dtype in (torch.float32, torch.float64):
        if dtype == torch.float64:
            reference.in_double()
        gathering = Gathering(interface, layers)
        outputs = run_steps(reference, cases, dtype, interface, _see_in(gathering, interface))
        for case in cases_in(cases):
            gathering.finish(case, interface.outputs_of(outputs, case))
        kind = str(dtype).removeprefix("torch.")
        yield from ((f"{kind}/{key}", array) for key, array in gathering.arrays.items())


def _see_in(gathering: Gathering, interface: Interface) -> "See":
    """How the results of steps are gathered; the final norm is applied to earlier layers while it has its weights."""
    (tower,) = interface.towers

    def see(case: str, step: Step, made: torch.Tensor) -> None:
        def layer(value: torch.Tensor) -> np.ndarray:
            array: np.ndarray = value[0].movedim(step.axis if step.axis < 0 else step.axis - 1, -1).numpy()
            return array

        gathering.see(case, f"{step.name}.output", made, layer)
        if step.name == path_of(tower, "norm"):
            gathering.norm(case, lambda value: step.run(value)[0].numpy())

    return see


def filled_model(reference: Reference) -> nn.Module:
    """The model of a reference with all its weights at once."""
    reference.module.load_state_dict({key: read() for key, read in reference.state.items()}, assign=True)
    return reference.module


# What is told of the result of every step of a case.
See = Callable[[str, Step, torch.Tensor], None]


@torch.inference_mode()
def run_steps(
    reference: Reference,
    cases: Mapping[str, np.ndarray],
    dtype: torch.dtype,
    interface: Interface,
    see: See = lambda case, step, made: None,
) -> dict[str, np.ndarray]:
    """What a reference gives for every case, called as `key_of` says; `see` is told the result of every step."""
    values = {case: _typed(interface.inputs_of(cases, case), dtype, interface) for case in cases_in(cases)}
    plans = {case: reference.steps(inputs) for case, inputs in values.items()}
    outputs: dict[str, dict[str, np.ndarray]] = {case: {} for case in values}
    wanted = {name for plan in plans.values() for step in plan for name in step.takes}
    last = {case: next(iter(inputs.values())) for case, inputs in values.items()}
    of_layers, norm = {port.layer for port in interface.outputs} - {""}, path_of(interface.towers[0], "norm")
    layers: dict[str, dict[str, torch.Tensor]] = {case: {} for case in values}
    for index, step in enumerate(next(iter(plans.values()))):
        with filled(reference, step, dtype):
            for case, plan in plans.items():
                last[case] = plan[index].run(*_taken(step, values[case], last[case]))
                see(case, plan[index], last[case])
                if step.name in wanted:
                    values[case][step.name] = last[case]
                if step.port:
                    outputs[case][step.port] = last[case].numpy()
                if f"{step.name}.output" in of_layers:
                    # A copy, because it may be changed in place afterwards.
                    layers[case][f"{step.name}.output"] = last[case].clone()
                if step.name == norm:
                    outputs[case] |= _outputs_of_layers(layers[case], interface, plan[index])
                    layers[case].clear()
    check_buffers(reference.module)
    found = {}
    for case, arrays in outputs.items():
        for port in interface.compared:
            value = arrays[port.name][0] if interface.is_batched else arrays[port.name]
            found[key_of(case, port, interface.compared)] = value[: interface.rows(port, case)]
    return found


def _outputs_of_layers(layers: Mapping[str, torch.Tensor], interface: Interface, norm: Step) -> dict[str, np.ndarray]:
    """The outputs [1, tokens, channels] that are of layers, while the step of the final norm has its weights.

    What this step puts before all tokens, as the mean of a map, is left out.
    """
    found = {}
    for port in (port for port in interface.outputs if port.layer):
        value = layers[port.layer]
        last = value.movedim(norm.axis, -1)
        tokens = last.reshape(len(last), -1, last.shape[-1])
        if port.normed:
            made = norm.run(value)
            tokens = made[:, made.shape[1] - tokens.shape[1] :]
        found[port.name] = tokens.numpy()
    return found


def _typed(inputs: Mapping[str, np.ndarray], dtype: torch.dtype, interface: Interface) -> dict[str, torch.Tensor]:
    """Inputs by their ports, with their batch, in a precision; whole numbers stay such."""
    found = {}
    for port, value in inputs.items():
        tensor = torch.from_numpy(value[None] if interface.is_batched else value)
        found[port] = tensor.to(dtype) if tensor.is_floating_point() else tensor
    return found


def _taken(step: Step, values: Mapping[str, torch.Tensor], last: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What a step is given."""
    return tuple(values[name] for name in step.takes) or (last,)


def check_buffers(model: nn.Module) -> None:
    """Raise `InternalError` if a buffer has no values: a model that was built without memory would compute nonsense.

    Those of a checkpoint are left out, because they are in memory only as long as their step.
    """
    of_checkpoint = model.state_dict().keys()
    if empty := [name for name, one in model.named_buffers() if one.is_meta and name not in of_checkpoint]:
        raise InternalError(f"the reference ran without values for its buffers {empty}")


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
    inputs: Mapping[str, np.ndarray],
    dtype: torch.dtype,
    injected: Mapping[str, np.ndarray] | None,
    interface: Interface,
) -> Iterator[tuple[str, np.ndarray]]:
    """Every stage [tokens, channels] of a case, whose `inputs` are given by port, as `{mode}/{stage}`.

    In accumulated mode a step goes on from what the step before it has made. In injected mode it is given
    `injected[step]`, channels last and without batch; or if there are none, what it is given in accumulated mode
    rounded to single precision, which comes as `inputs/{step}`. The first step, and one that says what it takes, are
    given inputs, or the results of earlier steps in the same mode.
    """
    values = _typed(inputs, dtype, interface)
    by_mode = {mode: dict(values) for mode in MODES}
    # Not around what is yielded, because whoever takes it would be in inference mode as well.
    with torch.inference_mode():
        plan = reference.steps(values)
    wanted = {name for step in plan for name in step.takes}
    x = next(iter(values.values()))
    for index, step in enumerate(plan):
        found: dict[str, np.ndarray] = {}
        with torch.inference_mode(), filled(reference, step, dtype):
            taken = {mode: _taken(step, by_mode[mode], x) for mode in MODES}
            if index and not step.takes:
                (start,) = taken["accumulated"]
                last = start.movedim(step.axis, -1)
                given = (last[0] if interface.is_batched else last).float().numpy()
                given = given if injected is None else injected[step.name]
                if injected is None:
                    found[f"inputs/{step.name}"] = given
                start = torch.from_numpy(given).to(dtype)
                start = (start[None] if interface.is_batched else start).movedim(-1, step.axis)
                taken["injected"] = (start,)
            for mode in MODES:
                made, stages = _tapped(step, *taken[mode])
                found |= {f"{mode}/{stage}": value for stage, value in stages.items()}
                if step.name in wanted:
                    by_mode[mode][step.name] = made
                x = made if mode == "accumulated" else x
        yield from found.items()


class _AttentionWatch(TorchFunctionMode):
    """Keeps the queries and keys [1, heads, tokens, head_dim] that attention was last given, whoever called it."""

    given: tuple[torch.Tensor, ...] = ()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.functional.scaled_dot_product_attention:
            self.given = args[:2]
        return func(*args, **(kwargs or {}))


def _tapped(step: Step, x: torch.Tensor, *others: torch.Tensor) -> tuple[torch.Tensor, dict[str, np.ndarray]]:
    """What a step makes of its inputs, and its stages [tokens, channels]."""
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
            out = step.run(x, *others)
    finally:
        for hook in hooks:
            hook.remove()
    for stage, tap in step.taps.items():
        if tap and not tap.module:
            keep(stage, x if tap.is_input else out, tap.axis)
    if rotated := [stage for stage, tap in step.taps.items() if not tap]:
        for stage, value in zip(rotated, attention.given, strict=True):
            keep(stage, value.transpose(1, 2).flatten(2), -1)
    return out, {stage: found[stage] for stage in step.taps}
