"""What outliers do to int8: cosines, sizes and times of files with and without them.

    python -m benchmarks.outliers FOLDER [--interface images] [--grid 14 14] [--threads 2]

`FOLDER` is a variant's folder of results. Outliers are planted in its weights as in the tests: 6 channels times 100
after every norm and in every v, without changing what the model computes. Ranges are measured on the photographs in
resources/images, and cosines on those in resources/dense. A table in Markdown is printed. Its cosines are the lowest of
a token: with the float32 file, and with the file without outliers. Bytes and time are shares of the float32 file's; the
time is the wall time of runs in random order in one process, a median. The rows `quantize_dynamic` are of onnxruntime's
own tool on the float32 file with the same outliers. It quantises matrix products alone, because files in which it has
quantised `Attention` do not open.
"""

import argparse
import random
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from onnxruntime.quantization import quantize_dynamic

from benchmarks.peers import ROOT, spec_of
from tests.precision.int8_files import File, Graph, file_of, lowest_cosine, planted
from vit2onnx.errors import InputError
from vit2onnx.spec.recipe import ACTIVATIONS, OPERATORS, Recipe
from vit2onnx.spec.variant import VariantSpec


def photographs(folder: str) -> tuple[str, ...]:
    """The photographs in a folder of resources/, by name."""
    return tuple(f"{folder}/{path.stem}" for path in sorted((ROOT / "resources" / folder).glob("*.jpg")))


SEEN, UNSEEN = photographs("images"), photographs("dense")


@dataclass(frozen=True)
class Made:
    """A model that lies in a folder of results."""

    spec: VariantSpec
    model_file: Path


def times_of(files: dict[str, File], graph: Graph, threads: int, rounds: int) -> dict[str, float]:
    """The median seconds of a run of each file, with the first input of one photograph."""
    sessions = {name: file.session(threads=threads) for name, file in files.items()}
    given = {name: value[:1] for name, value in graph.given(UNSEEN[:1])[0].items()}
    for one in sessions.values():
        one.run(None, given)
    seconds: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(rounds):
        for name in random.sample(list(sessions), len(sessions)):
            start = time.perf_counter()
            sessions[name].run(None, given)
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(found) for name, found in seconds.items()}


def naive(float32: File) -> bytes:
    """A file in int8 by onnxruntime's own tool, with its defaults but for scales per channel."""
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
        before.write_bytes(float32.content)
        quantize_dynamic(before, after, per_channel=True, op_types_to_quantize=["MatMul"])
        return after.read_bytes()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--interface", default="images")
    parser.add_argument("--operators", choices=OPERATORS, default="native")
    parser.add_argument("--grid", type=int, nargs=2, default=(14, 14), help="rows and columns of patches")
    parser.add_argument("--fixed", action="store_true", help="graphs whose sizes are fixed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=30)
    asked = parser.parse_args()
    try:
        measure(spec_of(asked.folder), asked)
    except InputError as error:
        parser.exit(2, f"{error}\n")


def measure(spec: VariantSpec, asked: argparse.Namespace) -> None:
    """Measure the files of one interface, and print the table."""
    interface = spec.interface(asked.interface)
    sizes = dict.fromkeys(interface.minimum) | dict(interface.recipe_defaults)
    if asked.fixed:
        patch = interface.patch_size
        fixed = {"batch": 1, "height": asked.grid[0] * patch, "width": asked.grid[1] * patch}
        sizes |= {axis: size for axis, size in fixed.items() if axis in sizes}
    recipe = Recipe("graph", OPERATORS[asked.operators], sizes, asked.interface, operators=asked.operators)
    ids = getattr(spec.architecture, "vocab_size", 0)
    graph = Graph(Made(spec, asked.folder / "model.eqx"), recipe, tuple(asked.grid), ids)
    given = graph.given(UNSEEN)
    float32 = file_of(graph, None)
    expected, without = float32.run(given), {}
    files = {"float32": float32}
    print(f"{spec.name}, {asked.interface}, {asked.operators}, {len(SEEN)} photographs seen, {len(UNSEEN)} not seen\n")
    print("| activations | outliers | cosine with float32 | distance from the file without | bytes |")
    print("|---|---|---|---|---|")
    for tensors, what in ((graph.tensors, "none"), (planted(graph), "6 x 100")):
        ranges = graph.ranges(tensors, SEEN)
        for activations in ACTIVATIONS:
            made = file_of(graph, activations, tensors, ranges=ranges)
            found = made.run(given)
            without.setdefault(activations, found)
            files.setdefault(activations, made)
            distance = f"{1 - lowest_cosine(found, without[activations]):.1e}" if what != "none" else ""
            share = len(made.content) / len(float32.content)
            cosine = lowest_cosine(found, expected)
            print(f"| {activations} | {what} | {cosine:.5f} | {distance} | {share:.3f} |", flush=True)
        theirs = File(naive(file_of(graph, None, tensors)), {}, {}).run(given)
        print(f"| quantize_dynamic | {what} | {lowest_cosine(theirs, expected):.5f} | | |", flush=True)
    found_times = times_of(files, graph, asked.threads, asked.rounds)
    print(f"\n| file | ms, {asked.threads} threads | ratio |\n|---|---|---|")
    for name, seconds in found_times.items():
        print(f"| {name} | {1e3 * seconds:.1f} | {seconds / found_times['float32']:.3f} |")


if __name__ == "__main__":
    main()
