"""Run a model on cases, one layer in memory at a time, in single and in double precision."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from vit2onnx.dense.features import Gathering, registers_of
from vit2onnx.nn.model import Features, Model, PackedFeatures, Tower, output_of_layer, outputs_of
from vit2onnx.spec.case import MODES, path_of
from vit2onnx.spec.interface import Interface, cases_in, key_of, of_cases
from vit2onnx.weights.keytable import LazyTensor
from vit2onnx.weights.leaves import leaf_names


def features(
    model: Model,
    tensors: Mapping[str, LazyTensor],
    cases: Mapping[str, np.ndarray],
    interface: Interface,
    native: Collection[str] = (),
) -> dict[str, np.ndarray]:
    """What a model gives for every case, without batch, as `float32/{case}` and `float64/{case}`.

    `model` is a model of shapes, and `tensors` has the parameters that it is filled with. `cases` has the inputs of an
    interface; its outputs are called as `key_of` says. The cases in `native` are run once more in double precision as
    references are installed, if they differ by design: `native/{case}`.
    """
    found = {f"float32/{key}": value for key, value in _features(model, tensors, cases, "float32", interface)}
    with jax.enable_x64(True):
        found |= {f"float64/{key}": value for key, value in _features(model, tensors, cases, "float64", interface)}
        if native and (other := model.natively(tensors)):
            few = _features(*other, of_cases(cases, native), "float64", interface)
            found |= {f"native/{key}": value for key, value in few}
    return found


def dense_features(
    model: Model,
    tensors: Mapping[str, LazyTensor],
    cases: Mapping[str, np.ndarray],
    interface: Interface,
    layers: Collection[int] = (),
    *,
    ablate: bool = True,
) -> Iterator[tuple[str, np.ndarray]]:
    """The dense features of every case as `float32/{case}/{what}`; see `dense.features`.

    To `ablate` is to run a model that has register tokens without them as well: `ablated/{case}/{what}`.
    """
    runs = {"float32": (model, tensors, 0)}
    if ablate and (ablated := model.without_registers(tensors)):
        runs["ablated"] = (*ablated, registers_of(interface))
    for kind, (one, own, dropped) in runs.items():
        gathering = Gathering(interface, layers, dropped=dropped)
        for case, outputs in outputs_of_cases(one, own, cases, interface, gathering):
            gathering.finish(case, outputs)
        yield from ((f"{kind}/{key}", array) for key, array in gathering.arrays.items())


def outputs_of_cases(
    model: Model,
    tensors: Mapping[str, LazyTensor],
    cases: Mapping[str, np.ndarray],
    interface: Interface,
    gathering: Gathering | None = None,
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """What a model gives in single precision for every case, by port; `gathering` sees its layers."""
    found = dict(_features(model, tensors, cases, "float32", interface, gathering))
    for case in cases_in(cases):
        yield case, interface.outputs_of(found, case)


def stages(
    model: Model,
    tensors: Mapping[str, LazyTensor],
    inputs: Mapping[str, np.ndarray],
    injected: Mapping[str, np.ndarray],
    interface: Interface,
) -> Iterator[tuple[str, np.ndarray]]:
    """Every stage [tokens, channels] of a case, whose `inputs` are given by port, as `{dtype}/{mode}/{stage}`.

    In accumulated mode a layer goes on from what the layer before it has made; in injected mode it is given
    `injected[layer]` instead, without batch, if there is one. All that the layers have besides is the same.
    """
    for dtype in ("float32", "float64"):
        for key, value in _stages(model, tensors, inputs, dtype, injected, interface):
            yield f"{dtype}/{key}", value


def _stages(
    model: Model,
    tensors: Mapping[str, LazyTensor],
    inputs: Mapping[str, np.ndarray],
    dtype: str,
    injected: Mapping[str, np.ndarray],
    interface: Interface,
) -> Iterator[tuple[str, np.ndarray]]:
    # Closed before something is yielded, because whoever takes it would compute in this precision too.
    def precision() -> AbstractContextManager[None]:
        return jax.enable_x64(dtype == "float64")

    def starts(name: str, x: jax.Array) -> dict[str, jax.Array]:
        given = jnp.asarray(_with_batch(injected[name], interface), dtype) if name in injected else x
        return {"accumulated": x, "injected": given}

    def named(by_mode: Mapping[str, Mapping[str, jax.Array]], prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
        for mode, found in by_mode.items():
            for stage, x in found.items():
                yield f"{mode}/{prefix}{stage}", np.asarray(x).reshape(-1, x.shape[-1])

    pooled: dict[str, dict[str, jax.Array]] = {mode: {} for mode in MODES}
    for tower_name, skeleton in model.towers(interface.name).items():
        start, own = path_of(tower_name, ""), _of_tower(tower_name, tensors)
        with precision():
            outer = _fill_outer(skeleton, own, dtype)
            x, context = _embed(outer, _typed(inputs, outer.inputs, dtype, interface))
        if outer.embedded:
            yield from named({mode: {outer.embedded: x} for mode in MODES}, start)
        for name, layer_skeleton in skeleton.trunk():
            with precision():
                layer = _fill_layer(name, layer_skeleton, own, dtype)
                given = starts(f"{start}{name}", x)
                by_mode = {mode: _layer_stages(layer, value, context) for mode, value in given.items()}
                x = by_mode["accumulated"]["output"]
            yield from named(by_mode, f"{start}{name}.")
            # Before the next layer is read, and not while it is.
            del layer, by_mode
        with precision():
            by_mode = {mode: _head_stages(outer, y, context) for mode, y in starts(f"{start}norm", x).items()}
            for mode, found in by_mode.items():
                pooled[mode][tower_name] = outer.features(found, context).pooler_output
        yield from named(by_mode, start)
    with precision():
        joint = _fill_joint(model, tensors, dtype)
        by_mode = {mode: joint.joint_stages(interface.name, found) for mode, found in pooled.items()}
    yield from named(by_mode)


# Compiled once per structure and shapes: for all layers that are alike, and for one model with other weights.
@eqx.filter_jit
def _embed(outer: Tower, inputs: tuple[jax.Array, ...]) -> Any:
    return outer.embed(*inputs)


@eqx.filter_jit
def _run(layer: Any, x: jax.Array, context: Any) -> jax.Array:
    found: jax.Array = layer(x, context)
    return found


@eqx.filter_jit
def _layer_stages(layer: Any, x: jax.Array, context: Any) -> dict[str, jax.Array]:
    found: dict[str, jax.Array] = layer.stages(x, context)
    return found


@eqx.filter_jit
def _head_stages(outer: Tower, x: jax.Array, context: Any) -> dict[str, jax.Array]:
    return outer.head_stages(x, context)


@eqx.filter_jit
def _output_of_layer(outer: Any, x: jax.Array, *, normed: bool) -> jax.Array:
    return output_of_layer(outer, x, normed=normed)


def _normed(outer: Tower, context: Any, x: jax.Array) -> np.ndarray:
    """Tokens [tokens, channels] of an earlier layer after the final norm."""
    return np.asarray(_head_stages(outer, x, context)["norm"][0])


def _of_tower(name: str, tensors: Mapping[str, LazyTensor]) -> Mapping[str, LazyTensor]:
    """The tensors of a tower by their names in it."""
    prefix = path_of(name, "")
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def _with_batch(value: np.ndarray, interface: Interface) -> np.ndarray:
    return value[None] if interface.is_batched else value


def _typed(
    inputs: Mapping[str, np.ndarray], ports: Iterable[str], dtype: str, interface: Interface
) -> tuple[jax.Array, ...]:
    """The inputs of a tower with their batch, in a precision; whole numbers stay such."""
    found = []
    for port in ports:
        value = _with_batch(inputs[port], interface)
        whole = "int64" if dtype == "float64" else "int32"
        found.append(jnp.asarray(value, dtype if value.dtype.kind == "f" else whole))
    return tuple(found)


def _fill_outer(tower: Tower, tensors: Mapping[str, LazyTensor], dtype: str) -> Tower:
    """Fill all but the layers, which stay shapes, and which embed and head do not look at."""
    in_trunk = tuple(f"{name}." for name, _ in tower.trunk())
    outside = {name: tensor for name, tensor in tensors.items() if not name.startswith(in_trunk)}
    filled: Tower = _fill(tower, outside, dtype)
    return filled


def _fill_layer(name: str, skeleton: Any, tensors: Mapping[str, LazyTensor], dtype: str) -> Any:
    """Fill one layer."""
    return _fill(skeleton, _of_tower(name, tensors), dtype)


def _fill_joint(model: Model, tensors: Mapping[str, LazyTensor], dtype: str) -> Model:
    """Fill what lies outside of all towers."""
    filled: Model = _fill(model, {name: tensor for name, tensor in tensors.items() if "." not in name}, dtype)
    return filled


def _features(
    model: Model,
    tensors: Mapping[str, LazyTensor],
    cases: Mapping[str, np.ndarray],
    dtype: str,
    interface: Interface,
    gathering: Gathering | None = None,
) -> Iterator[tuple[str, np.ndarray]]:
    inputs = {case: interface.inputs_of(cases, case) for case in cases_in(cases)}
    made: dict[str, dict[str, Features | PackedFeatures]] = {case: {} for case in inputs}
    of_layers: dict[str, dict[str, jax.Array]] = {case: {} for case in inputs}
    for tower_name, tower in model.towers(interface.name).items():
        own = _of_tower(tower_name, tensors)
        outer = _fill_outer(tower, own, dtype)
        states = {case: _embed(outer, _typed(x, outer.inputs, dtype, interface)) for case, x in inputs.items()}
        for name, skeleton in tower.trunk():
            layer = _fill_layer(name, skeleton, own, dtype)
            states = {case: (_run(layer, x, context), context) for case, (x, context) in states.items()}
            # Before the next layer is read, and not while it is.
            jax.block_until_ready(states)
            del layer
            if gathering:
                for case, (x, _) in states.items():
                    gathering.see(case, path_of(tower_name, f"{name}.output"), x, lambda value: np.asarray(value[0]))
            for port in (port for port in interface.outputs if port.layer == path_of(tower_name, f"{name}.output")):
                for case, (x, _) in states.items():
                    of_layers[case][port.name] = _output_of_layer(outer, x, normed=port.normed)
        for case, state in states.items():
            if gathering:
                gathering.norm(case, partial(_normed, outer, state[1]))
            made[case][tower_name] = outer.features(_head_stages(outer, *state), state[1])
    joint = _fill_joint(model, tensors, dtype)
    for case, found in made.items():
        outputs = outputs_of(joint, interface.name, found) | of_layers[case]
        for port in interface.compared:
            value = np.asarray(outputs[port.name])
            value = value[0] if interface.is_batched else value
            yield key_of(case, port, interface.compared), value[: interface.rows(port, case)]


def _fill(skeleton: Any, tensors: Mapping[str, LazyTensor], dtype: str) -> Any:
    """Put arrays of a dtype in the place of those shapes that have a tensor."""
    leaves = [
        jnp.asarray(tensors[name].read(), dtype) if name in tensors else leaf
        for name, leaf in zip(leaf_names(skeleton), jax.tree_util.tree_leaves(skeleton), strict=True)
    ]
    return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(skeleton), leaves)
