"""Run the graphs whose outputs are all stages."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort

from vit2onnx.runners.session import batch_of, session_of

# As the graph is written: what the optimiser fuses has no stages in between. That it changes nothing is for the
# comparison of outputs to say.
LEVEL = ort.GraphOptimizationLevel.ORT_DISABLE_ALL


def run_stage_graphs(
    accumulated: Path, injected: Path, pixel_values: np.ndarray, inputs: Mapping[str, np.ndarray], threads: int
) -> dict[str, np.ndarray]:
    """Every stage [tokens, channels] of an image [3, height, width], as `float32/{mode}/{stage}`.

    `inputs` holds what every layer is given in the second graph, without batch.
    """
    given = {f"{layer}.input": value for layer, value in inputs.items()}
    found = {f"float32/accumulated/{stage}": value for stage, value in _run(accumulated, pixel_values, {}, threads)}
    alone = _run(injected, pixel_values, given, threads)
    return found | {f"float32/injected/{stage}": value for stage, value in alone}


def _run(
    path: Path, pixel_values: np.ndarray, inputs: Mapping[str, np.ndarray], threads: int
) -> Iterator[tuple[str, np.ndarray]]:
    session = session_of(path, LEVEL, threads)
    feeds = {session.get_inputs()[0].name: pixel_values, **inputs}
    # A graph of fixed batch is given the same image as often.
    repeated = {name: np.repeat(value[None], batch_of(session), axis=0) for name, value in feeds.items()}
    names = [value.name for value in session.get_outputs() if value.name != "pooler_output"]
    layer, before = "", None
    for name, value in zip(names, session.run(names, repeated), strict=True):
        tokens = value[0].reshape(-1, value.shape[-1])
        own = name.rpartition(".")[0]
        if own and own != layer and before is not None:
            # What a layer is given is what the layer before it gives.
            yield f"{own}.input", before
        layer = own or layer
        if name == "patch_embed" or name.endswith(".output"):
            before = tokens
        yield "norm" if name == "last_hidden_state" else name, tokens
