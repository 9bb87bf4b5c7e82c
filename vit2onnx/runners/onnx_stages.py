"""Run the graphs whose outputs are all stages."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort

from vit2onnx.runners.session import batch_of, session_of
from vit2onnx.spec.case import AS_OUTPUT, path_of
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
    feeds = dict(inputs)
    if interface.is_batched:
        # A graph of fixed batch is given the same case as often.
        feeds = {name: np.repeat(value[None], batch_of(session), axis=0) for name, value in inputs.items()}
    parts = {port.name for port in interface.outputs if port.row_of}
    names = [value.name for value in session.get_outputs() if value.name not in parts]
    # Graphs of several towers have no such outputs.
    stages = {port: path_of(interface.towers[0], stage) for stage, port in AS_OUTPUT.items()}
    layer, before = "", np.empty(0)
    for name, value in zip(names, session.run(names, feeds), strict=True):
        tokens = (value[0] if interface.is_batched else value).reshape(-1, value.shape[-1])
        own = name.rpartition(".")[0]
        if own in layers and own != layer:
            # The stage before a layer's own is what the layer is given.
            yield f"{own}.input", before
            layer = own
        yield stages.get(name, name), tokens
        before = tokens
