"""What packed graphs cost for images of mixed sizes, against padding and against one call per image.

    python -m benchmarks.packing [dinov3_vits16_pretrain_lvd1689m] [--depth 2] [--mixes mixed8 skew]
    python -m benchmarks.packing --provider cuda --depth 12 --graphs FOLDER

The graphs have the variant's full width, so many blocks and synthetic weights. The forms of a mix run one after the
other, each in a session of its own; the rounds repeat this, so that a slow moment of the machine meets all of them.
Ratios are medians over rounds of ratios within a round, to one call per image. Times are the runtime's alone, because
inputs are arranged before. Memory is what the first run adds to a new Python, in which it reuses what loading has
freed, so that small figures are too low. On a GPU only wall time is measured, with inputs and outputs on the host.

Padding to the largest gives wrong features, because nothing masks what is filled up. It is here for its cost only.
"""

import argparse
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort

from benchmarks.memory import resident
from vit2onnx.machine import free_memory
from vit2onnx.packing import pack, unpack
from vit2onnx.runners.session import session_of
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec, read_variants

ROOT = Path(__file__).parents[1]
CUDA = "CUDAExecutionProvider"
Sizes = Sequence[tuple[int, int]]
Feeds = list[dict[str, np.ndarray]]

# Heights and widths, with how many patches of 16 pixels they are in all.
MIXED = [(112, 112), (224, 224), (448, 672), (160, 288), (320, 320), (112, 448), (384, 256), (48, 112)]
MIXES: dict[str, Sizes] = {
    "mixed8": MIXED,  # 2602
    "small32": [(48, 112), (112, 112), (80, 112), (48, 112)] * 8,  # 1008
    "equal8": [(224, 224)] * 8,  # 1568
    "big4": [(640, 640), (512, 768), (448, 448), (240, 256)],  # 4160
    "skew": [(896, 896), *[(112, 112)] * 15],  # 3871
    "one": [(224, 224)],  # 196
    "mixed64": MIXED * 8,  # 20816; by default on GPUs only
}
RECIPES = (
    Recipe("dynamic", 23, dict.fromkeys(("batch", "height", "width"))),
    Recipe("packed_loop", 23, {}, "packed", "loop"),
    Recipe("packed_padded", 24, {}, "packed", "padded"),
)
PADDING, SINGLE, LOOP, PADDED = "padding to the largest", "one call per image", "packed, loop", "packed, padded"
# With the recipe of the graph that each form runs.
FORMS = {
    PADDING: "dynamic",
    SINGLE: "dynamic",
    "one call per size": "dynamic",
    LOOP: "packed_loop",
    PADDED: "packed_padded",
}
# Seconds for which a form is run again in a round.
SPAN = 0.5
# At most, for the loop on mixed8: ratios of CPU time, and memory for twice the images.
OF_PADDING, OF_SINGLE, OF_TWICE = 1 / 3, 1.20, 2.2


def graphs_of(spec: VariantSpec, folder: Path) -> dict[str, Path]:
    """The graphs of all recipes, exported unless they are in the folder. Only an export needs JAX."""
    depth = vars(spec.architecture)["depth"]
    graphs = {recipe.name: folder / f"{spec.name}.{depth}.{recipe.name}.onnx" for recipe in RECIPES}
    if not all(graph.is_file() for graph in graphs.values()):
        from vit2onnx import spine
        from vit2onnx.checkpoints.fetch import fetch_synthetic
        from vit2onnx.exporting.graph import export
        from vit2onnx.spec.family import PUBLISHER, layout_of

        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            checkpoint = Path(scratch) / "checkpoint"
            record = fetch_synthetic(spec, checkpoint, seed=0, layout=layout_of(spec.family, PUBLISHER))
            weights = spine.convert(spec, checkpoint, Path(scratch))
            for recipe in RECIPES:
                export(spec, recipe, weights, graphs[recipe.name], record)
    return graphs


def feeds_of(form: str, sizes: Sizes, patch_size: int) -> Feeds:
    """What a form gives its graph in turn, for noise images of these sizes."""
    rng = np.random.default_rng(0)
    images = [rng.standard_normal((3, *size), np.float32) for size in sizes]
    if form in (LOOP, PADDED):
        return [pack(images, patch_size)]
    if form == SINGLE:
        return [{"pixel_values": image[None]} for image in images]
    if form == PADDING:
        height, width = np.max(sizes, axis=0)
        images = [np.pad(x, ((0, 0), (0, height - x.shape[1]), (0, width - x.shape[2]))) for x in images]
    shapes = dict.fromkeys(image.shape for image in images)
    return [{"pixel_values": np.stack([image for image in images if image.shape == shape])} for shape in shapes]


def session_on(provider: str, graph: Path, threads: int) -> ort.InferenceSession:
    session = session_of(graph, threads=threads)
    if provider == "cuda":
        session.set_providers([CUDA, "CPUExecutionProvider"])
        if CUDA not in session.get_providers():
            sys.exit(f"onnxruntime offers {CUDA} but cannot use it on this machine; its own message says why.")
    return session


def run(session: ort.InferenceSession, feeds: Feeds) -> list[dict[str, np.ndarray]]:
    names = [port.name for port in session.get_outputs()]
    return [dict(zip(names, session.run(names, feed), strict=True)) for feed in feeds]


def milliseconds(session: ort.InferenceSession, feeds: Feeds) -> tuple[float, float]:
    """CPU time of all threads, and wall time, for all feeds once."""
    run(session, feeds)
    runs, cpu, wall = 0, time.process_time(), time.perf_counter()
    while not runs or time.perf_counter() - wall < SPAN:
        run(session, feeds)
        runs += 1
    return 1000 * (time.process_time() - cpu) / runs, 1000 * (time.perf_counter() - wall) / runs


def growth(form: str, graph: Path, sizes: Sizes, patch_size: int, threads: int) -> float:
    """MiB that the first run adds to this process; NaN if they are more than half of what is free."""
    feeds, session = feeds_of(form, sizes, patch_size), session_of(graph, threads=threads)
    resource.setrlimit(resource.RLIMIT_DATA, (free_memory() // 2,) * 2)
    # The peak so far is forgotten.
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    # Any exception, because onnxruntime has none of its own for memory.
    try:
        kept = run(session, feeds)
    except Exception:
        return float("nan")
    return resident("VmHWM") - before if kept else 0.0


def growth_in_new_python(*given: object) -> float:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(growth, *given).result()  # type: ignore[arg-type]


def ratios(rounds: Sequence[Mapping[str, tuple[float, float]]], form: str, base: str, clock: int = 0) -> list[float]:
    return [one[form][clock] / one[base][clock] for one in rounds]


def spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):7.2f}  {f'({min(values):.2f} to {max(values):.2f})':18}"


def measure(mix: str, patch_size: int, graphs: Mapping[str, Path], options: argparse.Namespace) -> None:
    """Print what every form of a mix costs, and how far packed images are from single ones."""
    sizes, on_cpu = MIXES[mix], options.provider == "cpu"
    memory: dict[str, list[float]] = {form: [] for form in FORMS}
    for form, recipe in FORMS.items() if on_cpu else ():
        for times in (1, 2) if form in (LOOP, PADDED) else (1,):
            given = form, graphs[recipe], [*sizes] * times, patch_size, options.threads
            memory[form].append(growth_in_new_python(*given))
    rounds: list[dict[str, tuple[float, float]]] = [{} for _ in range(options.rounds)]
    tokens: dict[str, list[np.ndarray]] = {}
    for times_of in rounds:
        for form in [form for form in FORMS if not np.isnan(memory[form][:1]).any()]:
            session = session_on(options.provider, graphs[FORMS[form]], options.threads)
            feeds = feeds_of(form, sizes, patch_size)
            times_of[form] = milliseconds(session, feeds)
            if form in (LOOP, PADDED) and form not in tokens:
                tokens[form] = [one.tokens for one in unpack(run(session, feeds)[0], feeds[0]["grid_thw"])]
            elif form == SINGLE and form not in tokens:
                tokens[form] = [one["last_hidden_state"][0] for one in run(session, feeds)]

    patches = sum(height // patch_size * (width // patch_size) for height, width in sizes)
    print(f"\n{mix}: {len(sizes)} images, {patches} patches, {options.rounds} rounds")
    clocks = {"CPU ms": 0, "wall ms": 1} if on_cpu else {"wall ms": 1}
    heads = "".join(f"{clock:>10}{'  ratio  (rounds)':27}" for clock in clocks)
    print(f"{'':24}{heads}{'     MiB  twice' if on_cpu else ''}")
    for form in FORMS:
        if form not in rounds[0]:
            print(f"{form:24}   not run, because it needs more than half of the free memory")
            continue
        cells = "".join(
            f"{statistics.median(one[form][clock] for one in rounds):10.1f}"
            + spread(ratios(rounds, form, SINGLE, clock))
            for clock in clocks.values()
        )
        peak = f"{memory[form][0]:8.0f}" if on_cpu else ""
        twice = f"{memory[form][1] / memory[form][0]:7.2f}" if memory[form][1:] else ""
        print(f"{form:24}{cells}{peak}{twice}")
    for form in tokens:
        if form != SINGLE:
            far = max(np.abs(ours - single).max() for ours, single in zip(tokens[form], tokens[SINGLE], strict=True))
            print(f"{form}: max |difference| from one call per image {far:.1e}")
    if on_cpu and mix == "mixed8":
        for what, found, limit in (
            ("CPU time of padding to the largest", statistics.median(ratios(rounds, LOOP, PADDING)), OF_PADDING),
            ("CPU time of one call per image", statistics.median(ratios(rounds, LOOP, SINGLE)), OF_SINGLE),
            ("memory if the images are twice as many", memory[LOOP][1] / memory[LOOP][0], OF_TWICE),
        ):
            print(f"{LOOP}: {found:.2f} x the {what}; limit {limit:.2f}, {'kept' if found <= limit else 'EXCEEDED'}")


def print_cost_of_sizes(session: ort.InferenceSession, patch_size: int) -> None:
    """What a call with one image takes after a call with the same size, and after one with another."""
    other: list[float] = []
    same: list[float] = []
    short, long = 10 * patch_size, 20 * patch_size
    images = [feeds_of(SINGLE, [size], patch_size) for size in ((short, long), (long, short))]
    for number in range(40):
        for times in (other, same):
            start = time.perf_counter()
            run(session, images[number % 2])
            times.append(1000 * (time.perf_counter() - start))
    # The first calls of a session take longer.
    after_other, after_same = (statistics.median(times[4:]) for times in (other, same))
    print(f"\ndynamic graph, one image of 200 patches: {after_same:.2f} ms after a call with the same size,", end="")
    print(f" {after_other:.2f} ms after one with another")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.packing", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("variant", nargs="?", default="dinov3_vits16_pretrain_lvd1689m")
    parser.add_argument("--depth", type=int, default=2, help="blocks")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mixes", nargs="+", choices=MIXES, help="by default all, and mixed64 on GPUs only")
    parser.add_argument("--provider", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--graphs", type=Path, metavar="FOLDER", help="keeps the graphs; those in it are used")
    options = parser.parse_args()
    if options.provider == "cuda" and CUDA not in ort.get_available_providers():
        sys.exit(f"This onnxruntime has no {CUDA}; install onnxruntime-gpu on a machine with a GPU.")
    spec = VariantSpec.from_mapping(options.variant, read_variants(ROOT / "config" / "variants")[options.variant])
    if "packed" not in spec.interfaces:
        parser.error(f"{spec.name} has no packed graph")

    spec = replace(spec, architecture=replace(spec.architecture, **{"depth": options.depth}))
    print(f"{spec.name}, {options.depth} blocks; onnxruntime {ort.__version__}, {options.provider}", end="")
    print(f", threads {options.threads}, processors {os.cpu_count()}")
    print(f"Ratios are to {SINGLE}; twice: memory for twice the images, as a ratio.")
    print("Padding has no mask and gives wrong features; only its cost counts.")
    patch_size: int = vars(spec.architecture)["patch_size"]
    with tempfile.TemporaryDirectory() as scratch:
        graphs = graphs_of(spec, options.graphs or Path(scratch))
        for mix in options.mixes or [mix for mix in MIXES if mix != "mixed64" or options.provider == "cuda"]:
            measure(mix, patch_size, graphs, options)
        if options.provider == "cuda":
            print_cost_of_sizes(session_on("cuda", graphs["dynamic"], options.threads), patch_size)


if __name__ == "__main__":
    main()
