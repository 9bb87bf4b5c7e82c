"""Dense features of a graph: of the file itself, and of its layers by the diagnostic copy of it."""

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx

from vit2onnx.dense.features import Gathering
from vit2onnx.errors import InternalError
from vit2onnx.files import sha256_of
from vit2onnx.onnx_file import initializers, nodes
from vit2onnx.packing import pack, unpack
from vit2onnx.photographs import given_to
from vit2onnx.runners.batches import Inputs, batches_of
from vit2onnx.runners.onnx_stages import LEVEL
from vit2onnx.runners.session import batch_of, session_of
from vit2onnx.spec.case import AS_OUTPUT, path_of
from vit2onnx.spec.interface import Interface, cases_in
from vit2onnx.spec.recipe import Recipe

# The name of the array that says which graph was run.
GRAPH = "graph_sha256"


def dense_features(
    graph: Path,
    stages: Path,
    of_graph: Interface,
    recipe: Recipe,
    inputs: Mapping[str, np.ndarray],
    layers: Collection[int],
    threads: int,
) -> Iterator[tuple[str, np.ndarray]]:
    """The dense features of every case as `float32/{case}/{what}`; see `dense.features`.

    `inputs` are of the interface on whose cases graphs are compared. The last layer after the norm is of the file
    itself, in batches or packs as users have them. All others are of `stages`, its diagnostic copy. The last array is
    the SHA-256 of the graph.
    """
    interface = of_graph.compared_as
    cases = {case: interface.inputs_of(inputs, case) for case in cases_in(inputs)}
    gathering = Gathering(interface, layers)
    session = session_of(stages, LEVEL, threads)
    # Of the last layer, the graph itself has it.
    norm = final_norm(stages, interface) if layers else None
    for case, values in cases.items():
        found = session.run(list(interface.layers), _feeds(values, of_graph, batch_of(session)))
        for stage, value in zip(interface.layers, found, strict=True):
            gathering.see(case, stage, value[0], lambda array: array)
        if norm:
            gathering.norm(case, norm)
    # Before the other is loaded, so that no two are in memory at once.
    del session
    session = session_of(graph, threads=threads)
    names = [port.name for port in session.get_outputs()]
    (batch, *_) = of_graph.batches(recipe, [1], len(cases))
    left = dict.fromkeys(cases)
    for given, feeds in batches_of(cases, batch, of_graph):
        outputs = dict(zip(names, session.run(names, dict(feeds)), strict=True))
        for number, case in enumerate(given):
            if case in left:
                del left[case]
                gathering.finish(case, _of_case(outputs, number, feeds, of_graph))
    yield from ((f"float32/{key}", array) for key, array in gathering.arrays.items())
    yield GRAPH, np.array(sha256_of(graph))


def final_norm(stages: Path, interface: Interface) -> Callable[[np.ndarray], np.ndarray]:
    """The final norm of a graph, to be applied to an array [..., channels] of an earlier layer.

    No graph does that, so numpy computes it in double precision, with the weights of the graph's own node.
    """
    (tower,) = interface.towers
    names = {path_of(tower, "norm"), AS_OUTPUT["norm"]}
    for node in map(onnx.NodeProto.FromString, nodes(stages)):
        if node.op_type == "LayerNormalization" and node.output[0] in names:
            weights = initializers(stages)
            weight, bias = (
                np.fromfile(one.file, np.float32, one.nbytes // 4, offset=one.offset).astype(np.float64)
                for one in (weights[name] for name in node.input[1:3])
            )
            epsilon = next(attribute.f for attribute in node.attribute if attribute.name == "epsilon")
            return lambda value: _normed(value, weight, bias, epsilon)
    raise InternalError(f"{stages} has no final norm")


def _normed(value: np.ndarray, weight: np.ndarray, bias: np.ndarray, epsilon: float) -> np.ndarray:
    wide = value.astype(np.float64)
    centred = wide - wide.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + epsilon)
    return (scaled * weight + bias).astype(np.float32)


def _feeds(values: Inputs, interface: Interface, batch: int) -> dict[str, np.ndarray]:
    """What the copy of a graph is given for one case."""
    if interface.packs:
        return pack([values[interface.packs.inputs[0].name]], interface.patch_size)
    return {name: np.repeat(value[None], batch, axis=0) for name, value in given_to(interface, values).items()}


def _of_case(outputs: Inputs, number: int, feeds: Inputs, interface: Interface) -> Inputs:
    """What a graph gave for one case of a batch or pack, as graphs of single images give it."""
    if interface.packs:
        one = unpack(outputs, feeds["grid_thw"])[number]
        return {interface.packs.compared[0].name: one.tokens}
    return {name: value[number] for name, value in outputs.items()}
