"""What packed graphs cost for images of mixed sizes, against padding and against one call per image.

    python -m benchmarks.packing [dinov3_vits16_pretrain_lvd1689m] [--depth 2] [--mixes mixed8 skew]
    python -m benchmarks.packing --provider cuda --depth 12 --graphs FOLDER

The graphs have the variant's full width, so many blocks and synthetic weights. The forms of a mix run one after the
other, each in a session of its own; the rounds repeat this, so that a slow moment of the machine meets all of them.
Ratios are medians over rounds of ratios within a round, to one call per image. Times are those of the runtime alone,
because the inputs are arranged before. Memory is by how much the first run raises the resident memory of a new Python.
On a GPU, only wall time is measured, with inputs and outputs on the host.

Padding to the largest gives wrong features, because nothing masks what is filled up. Only its cost is of interest.
"""

import argparse
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort

# What exports is imported when it is needed, so that a machine with graphs needs no JAX.
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

# Heights and widths. Patches are those of 16 pixels.
MIXED = [(112, 112), (224, 224), (448, 672), (160, 288), (320, 320), (112, 448), (384, 256), (48, 112)]
MIXES: dict[str, Sizes] = {
    "mixed8": MIXED,  # 2602 patches
    "small32": [(48, 112), (112, 112), (80, 112), (48, 112)] * 8,  # 1008
    "equal8": [(224, 224)] * 8,  # 1568
    "big4": [(640, 640), (512, 768), (448, 448), (240, 256)],  # 4160
    "skew": [(896, 896), *[(112, 112)] * 15],  # 3871
    "one": [(224, 224)],  # 196
    "mixed64": MIXED * 8,  # 20816, for GPUs
}
RECIPES = (
    Recipe("dynamic", 23, dict.fromkeys(("batch", "height", "width"))),
    Recipe("packed_loop", 23, {}, "packed", "loop"),
    Recipe("packed_padded", 24, {}, "packed", "padded"),
)
# Seconds for which a form is run again in a round.
SPAN = 0.5
# What is asked of the loop on mixed8: CPU time as a ratio to that of two forms, and memory for twice the images.
OF_PADDING, OF_ONE_BY_ONE, OF_TWICE = 1 / 3, 1.20, 2.2


def pad_to_largest(images: Sequence[np.ndarray], _: int) -> Feeds:
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    batch = np.zeros((len(images), 3, height, width), np.float32)
    for filled, image in zip(batch, images, strict=True):
        filled[:, : image.shape[1], : image.shape[2]] = image
    return [{"pixel_values": batch}]


def one_by_one(images: Sequence[np.ndarray], _: int) -> Feeds:
    return [{"pixel_values": image[None]} for image in images]


def by_size(images: Sequence[np.ndarray], _: int) -> Feeds:
    shapes = dict.fromkeys(image.shape for image in images)
    return [{"pixel_values": np.stack([image for image in images if image.shape == shape])} for shape in shapes]


def packed(images: Sequence[np.ndarray], patch_size: int) -> Feeds:
    return [pack(images, patch_size)]


PADDING, ONE_BY_ONE, LOOP, PADDED = "padded to the largest", "one call per image", "packed, loop", "packed, padded"
# With the graph that each form takes, and how it arranges images.
FORMS: dict[str, tuple[str, Callable[[Sequence[np.ndarray], int], Feeds]]] = {
    PADDING: ("dynamic", pad_to_largest),
    ONE_BY_ONE: ("dynamic", one_by_one),
    "one call per size": ("dynamic", by_size),
    LOOP: ("packed_loop", packed),
    PADDED: ("packed_padded", packed),
}


def graphs_of(spec: VariantSpec, folder: Path) -> dict[str, Path]:
    """The graph of each recipe, exported with synthetic weights unless the folder has it."""
    graphs = {recipe.name: folder / f"{spec.name}.{spec.architecture.depth}.{recipe.name}.onnx" for recipe in RECIPES}
    missing = [recipe for recipe in RECIPES if not graphs[recipe.name].is_file()]
    if missing:
        from vit2onnx import spine
        from vit2onnx.checkpoints.fetch import fetch_synthetic
        from vit2onnx.exporting.graph import export
        from vit2onnx.spec.family import PUBLISHER, layout_of

        with tempfile.TemporaryDirectory() as scratch:
            checkpoint = Path(scratch) / "checkpoint"
            record = fetch_synthetic(spec, checkpoint, seed=0, layout=layout_of(spec.family, PUBLISHER))
            weights = spine.convert(spec, checkpoint, Path(scratch))
            for recipe in missing:
                export(spec, recipe, weights, graphs[recipe.name], record)
    return graphs


def feeds_of(form: str, sizes: Sizes, patch_size: int) -> Feeds:
    """What a graph is given in turn for noise images of these sizes."""
    rng = np.random.default_rng(0)
    return FORMS[form][1]([rng.standard_normal((3, *size), np.float32) for size in sizes], patch_size)


def session_on(provider: str, graph: Path, threads: int) -> ort.InferenceSession:
    if provider == "cpu":
        return session_of(graph, threads=threads)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(str(graph), options, providers=[CUDA, "CPUExecutionProvider"])
    if CUDA not in session.get_providers():
        sys.exit(f"onnxruntime offers {CUDA} but cannot load it here; see its message above.")
    return session


def run(session: ort.InferenceSession, feeds: Feeds) -> list[dict[str, np.ndarray]]:
    names = [port.name for port in session.get_outputs()]
    return [dict(zip(names, session.run(names, feed), strict=True)) for feed in feeds]


def milliseconds(session: ort.InferenceSession, feeds: Feeds) -> tuple[float, float]:
    """CPU time of all threads and wall time of one run, which is as many calls as there are feeds."""
    run(session, feeds)
    runs, cpu, wall = 0, time.process_time(), time.perf_counter()
    while not runs or time.perf_counter() - wall < SPAN:
        run(session, feeds)
        runs += 1
    return 1000 * (time.process_time() - cpu) / runs, 1000 * (time.perf_counter() - wall) / runs


def growth(form: str, graph: Path, sizes: Sizes, patch_size: int, threads: int) -> float:
    """MiB by which the first run raises the memory of this process; NaN if it takes more than half of what is free."""
    feeds, session = feeds_of(form, sizes, patch_size), session_of(graph, threads=threads)
    resource.setrlimit(resource.RLIMIT_DATA, (free_memory() // 2,) * 2)
    # Forgets the peak of loading.
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    # Any exception, because onnxruntime has none of its own for memory.
    try:
        outputs = run(session, feeds)
    except Exception:
        return float("nan")
    assert len(outputs) == len(feeds)
    return resident("VmHWM") - before


def in_new_python(*given: object) -> float:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(growth, *given).result()  # type: ignore[arg-type]


def apart(outputs: dict[str, list[dict[str, np.ndarray]]], grid_thw: np.ndarray) -> dict[str, float]:
    """How far the tokens of each packed form are at most from those of one call per image."""
    single = [found["last_hidden_state"][0] for found in outputs.pop(ONE_BY_ONE)]
    return {
        form: max(
            float(np.abs(features.tokens - tokens).max())
            for features, tokens in zip(unpack(*found, grid_thw), single, strict=True)
        )
        for form, found in outputs.items()
    }


def spread(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):6.2f} {f'({min(ratios):.2f} to {max(ratios):.2f})':16}"


def measure(mix: str, spec: VariantSpec, graphs: Mapping[str, Path], options: argparse.Namespace) -> None:
    """Print what every form of a mix costs, and how far packed images are from single ones."""
    sizes, patch_size, on_cpu = MIXES[mix], spec.architecture.patch_size, options.provider == "cpu"
    grid = feeds_of(LOOP, sizes, patch_size)[0]["grid_thw"]
    forms, memory, twice = list(FORMS), dict.fromkeys(FORMS, ""), dict.fromkeys(FORMS, float("nan"))
    for form in FORMS if on_cpu else ():
        asked = form, graphs[FORMS[form][0]]
        peak = in_new_python(*asked, sizes, patch_size, options.threads)
        if np.isnan(peak):
            forms.remove(form)
            continue
        memory[form] = f"{peak:8.0f}"
        if form in (LOOP, PADDED):
            twice[form] = in_new_python(*asked, [*sizes, *sizes], patch_size, options.threads) / peak
            memory[form] += f"{twice[form]:8.2f}"

    outputs, rounds = {}, []
    for number in range(options.rounds):
        times = {}
        for form in forms:
            session, feeds = (
                session_on(options.provider, graphs[FORMS[form][0]], options.threads),
                feeds_of(form, sizes, patch_size),
            )
            if not number and form in (ONE_BY_ONE, LOOP, PADDED):
                outputs[form] = run(session, feeds)
            times[form] = milliseconds(session, feeds)
        rounds.append(times)
    differences = apart(outputs, grid)

    patches = int(grid.prod(axis=1).sum())
    print(f"\n{mix}: {len(grid)} images, {patches} patches, {options.rounds} rounds")
    clocks = {"CPU ms": 0, "wall ms": 1} if on_cpu else {"wall ms": 1}
    heads = "".join(f"{clock:>9}{'  ratio (rounds)':24}" for clock in clocks)
    print(f"{'':24}{heads}{'     MiB   twice' if on_cpu else ''}")
    for form in FORMS:
        if form not in forms:
            print(f"{form:24}  not run: takes more than half of the free memory")
            continue
        cells = "".join(
            f"{statistics.median(one[form][at] for one in rounds):9.1f} "
            f"{spread([one[form][at] / one[ONE_BY_ONE][at] for one in rounds])}"
            for at in clocks.values()
        )
        print(f"{form:24}{cells}{memory[form]}")
    print("max |d| from one call per image: " + ", ".join(f"{form} {far:.1e}" for form, far in differences.items()))
    if on_cpu and mix == "mixed8":
        judge(rounds, twice[LOOP])


def judge(rounds: Sequence[Mapping[str, tuple[float, float]]], twice: float) -> None:
    """Print what is asked of the loop, and whether it holds."""
    of_padding, of_single = (
        statistics.median(one[LOOP][0] / one[base][0] for one in rounds) for base in (PADDING, ONE_BY_ONE)
    )
    for what, found, limit in (
        (f"CPU time, ratio to {PADDING}", of_padding, OF_PADDING),
        (f"CPU time, ratio to {ONE_BY_ONE}", of_single, OF_ONE_BY_ONE),
        ("memory for twice the images", twice, OF_TWICE),
    ):
        verdict = "kept" if found <= limit else "EXCEEDED"
        print(f"{LOOP}: {what} {found:.2f}, at most {limit:.2f}: {verdict}")


def print_cost_of_sizes(graph: Path, provider: str, threads: int) -> None:
    """What a call with one image takes if the last one was of the same size, and if it was of another."""
    session, times = session_on(provider, graph, threads), {"another size": [], "the same size": []}
    # Both have 200 patches.
    images = [feeds_of(ONE_BY_ONE, [size], 16) for size in ((160, 320), (320, 160))]
    for number in range(40):
        for kept in times.values():
            start = time.perf_counter()
            run(session, images[number % 2])
            kept.append(1000 * (time.perf_counter() - start))
    # The first calls set the graph up.
    said = ", ".join(f"{statistics.median(kept[4:]):.2f} ms after {what}" for what, kept in times.items())
    print(f"\ndynamic graph, one image of 200 patches: {said}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.packing", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("variant", nargs="?", default="dinov3_vits16_pretrain_lvd1689m")
    parser.add_argument("--depth", type=int, default=2, help="blocks")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mixes", nargs="+", choices=MIXES, help="all by default; mixed64 on GPUs only")
    parser.add_argument("--provider", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--graphs", type=Path, help="where graphs are kept, and used if they are there")
    options = parser.parse_args()
    if options.provider == "cuda" and CUDA not in ort.get_available_providers():
        sys.exit(f"This onnxruntime offers no {CUDA}; install onnxruntime-gpu on a machine with a GPU.")
    spec = VariantSpec.from_mapping(options.variant, read_variants(ROOT / "config" / "variants")[options.variant])
    if "packed" not in spec.interfaces:
        parser.error(f"{spec.name} has no packed graph")

    spec = replace(spec, architecture=replace(spec.architecture, depth=options.depth))
    print(f"{spec.name}, {options.depth} blocks; onnxruntime {ort.__version__}, {options.provider}", end="")
    print(f", {options.threads} threads; ratios to one call per image; padding gives wrong features, having no mask")
    with tempfile.TemporaryDirectory() as scratch:
        graphs = graphs_of(spec, options.graphs or Path(scratch))
        for mix in options.mixes or [mix for mix in MIXES if mix != "mixed64" or options.provider == "cuda"]:
            measure(mix, spec, graphs, options)
        if options.provider == "cuda":
            print_cost_of_sizes(graphs["dynamic"], options.provider, options.threads)


if __name__ == "__main__":
    main()
