"""How fast the exported graphs are, against torch's own exporter on the reference model, in one run.

    python -m benchmarks.latency results/synthetic/dinov3_vits16_pretrain_lvd1689m [--size 224 224]

Every graph runs alone in this process, one after the other, with onnxruntime's default options; the rounds repeat
this, so that a slow moment of the machine meets all of them. Ratios are medians over rounds of ratios within a round.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch

from vit2onnx.runners.onnx_double import run_in_double
from vit2onnx.runners.torch import filled_model, reference_of
from vit2onnx.spec.variant import VariantSpec, read_variants

ROOT = Path(__file__).parents[1]
PEER = "torch.onnx.export(dynamo=True)"
DOUBLE = "dynamic, in double precision"


def export_peer(folder: Path, path: Path) -> None:
    """Export the reference model, filled from the same checkpoint, with all sizes free."""
    record = json.loads((folder / "checkpoint.json").read_text())
    name = record["variant"]
    spec = VariantSpec.from_mapping(name, read_variants(ROOT / "config" / "variants")[name])
    model = filled_model(reference_of(spec, "transformers", folder / "checkpoint"))
    free = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    example = torch.zeros(2, 3, 224, 256)
    torch.onnx.export(model, (example,), path, dynamo=True, dynamic_shapes={"pixel_values": free}, verbose=False)


def milliseconds(path: Path, pixel_values: np.ndarray, repeats: int) -> float:
    """The median time of one run, after some to warm up."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: pixel_values}
    times = []
    for _ in range(repeats + 5):
        start = time.perf_counter()
        session.run(None, feed)
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[5:])


def milliseconds_in_double(path: Path, pixel_values: np.ndarray) -> float:
    """The time of one run in double precision, as the verdict takes it, with all that it reads."""
    start = time.perf_counter()
    run_in_double(path, [pixel_values])
    return 1000 * (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a variant's folder of results")
    parser.add_argument("--size", type=int, nargs=2, default=(224, 224), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--repeats", type=int, default=20, help="timed runs of a graph in a round")
    options = parser.parse_args()

    shape = (options.batch, 3, *options.size)
    pixel_values = np.random.default_rng(0).standard_normal(shape, np.float32)
    with tempfile.TemporaryDirectory() as scratch:
        peer = Path(scratch) / "peer.onnx"
        export_peer(options.folder, peer)
        graphs = {PEER: peer, "dynamic": options.folder / "dynamic.onnx"}
        if shape == (1, 3, 224, 224):
            graphs["static"] = options.folder / "static.onnx"
        rounds = [
            {name: milliseconds(path, pixel_values, options.repeats) for name, path in graphs.items()}
            | {DOUBLE: milliseconds_in_double(graphs["dynamic"], pixel_values)}
            for _ in range(options.rounds)
        ]
    print(f"onnxruntime {ort.__version__}, torch {torch.__version__}, {'x'.join(map(str, shape))}, ms per run")
    for name in rounds[0]:
        ratios = [one[name] / one[PEER] for one in rounds]
        print(
            f"{name:32} {statistics.median(one[name] for one in rounds):7.2f}"
            f"   ratio {statistics.median(ratios):.3f} (rounds {min(ratios):.3f} to {max(ratios):.3f})"
        )


if __name__ == "__main__":
    main()
