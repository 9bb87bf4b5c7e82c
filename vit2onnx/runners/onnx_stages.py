"""Run the graphs whose outputs are all stages."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort

from vit2onnx.packing import pack
from vit2onnx.photographs import given_to
from vit2onnx.runners.session import batch_of, session_of
from vit2onnx.spec.case import AS_OUTPUT, Case, path_of
from vit2onnx.spec.interface import Interface

# As the graph is written: what the optimiser fuses has no stages in between. That it changes nothing is for the
# comparison of outputs to say.
LEVEL = ort.GraphOptimizationLevel.ORT_DISABLE_ALL


def run_stage_graphs(
    accumulated: Path,
    injected: Path,
    inputs: Mapping[str, np.ndarray],
    of_layers: Mapping[str, np.ndarray],
    threads: int,
    interface: Interface,
) -> dict[str, np.ndarray]:
    """Every stage [tokens, channels] of a case, whose `inputs` are given by port, as `float32/{mode}/{stage}`.

    `of_layers` holds what every layer is given in the second graph, without batch.
    """
    given = {f"{layer}.input": value for layer, value in of_layers.items()}
    found = {}
    for mode, path, values in (("accumulated", accumulated, inputs), ("injected", injected, {**inputs, **given})):
        for stage, value in _run(path, values, of_layers, threads, interface):
            found[f"float32/{mode}/{stage}"] = value
    return found


def _run(
    path: Path, inputs: Mapping[str, np.ndarray], layers: Collection[str], threads: int, interface: Interface
) -> Iterator[tuple[str, np.ndarray]]:
    session = session_of(path, LEVEL, threads)
    feeds, own_rows = _feeds(session, inputs, interface)
    # Graphs of several towers have no such outputs, and those of a pack are parts of a stage.
    stages = {} if interface.packs else {port: path_of(interface.towers[0], s) for s, port in AS_OUTPUT.items()}
    parts = {port.name for port in interface.outputs if port.row_of or interface.packs}
    names = [value.name for value in session.get_outputs() if value.name not in parts]
    layer, before = "", np.empty(0)
    for name, value in zip(names, session.run(names, feeds), strict=True):
        one = value[0] if interface.is_batched or interface.packs else value
        tokens = one.reshape(-1, value.shape[-1])[own_rows]
        own = name.rpartition(".")[0]
        if own in layers and own != layer:
            # The stage before a layer's own is what the layer is given.
            yield f"{own}.input", before
            layer = own
        yield stages.get(name, name), tokens
        before = tokens


def _feeds(
    session: ort.InferenceSession, inputs: Mapping[str, np.ndarray], interface: Interface
) -> tuple[dict[str, np.ndarray], slice]:
    """What a graph is given for a case, and which rows of each stage are the case's.

    A packed graph is given another image before and behind it, and their layers what those of the case get, reversed
    and negative. So a layer that mixes images shows.
    """
    if interface.packs:
        of_layers = {name: value for name, value in inputs.items() if name.endswith(".input")}
        feeds = {name: np.concatenate([-value[::-1], value, -value[::-1]])[None] for name, value in of_layers.items()}
        image = inputs[interface.packs.inputs[0].name]
        # As many patches, but as columns.
        other = -image.swapaxes(1, 2)
        count = interface.packs.sizes(Case("", *image.shape[1:]))["tokens"]
        return feeds | pack([other, image, other], interface.patch_size), slice(count, 2 * count)
    of_layers = {name: value for name, value in inputs.items() if name.endswith(".input")}
    given = {**of_layers, **given_to(interface, inputs)}
    if interface.is_batched:
        # A graph of fixed batch is given the same case as often.
        return {name: np.repeat(value[None], batch_of(session), axis=0) for name, value in given.items()}, slice(None)
    return given, slice(None)
