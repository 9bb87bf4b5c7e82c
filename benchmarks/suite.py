"""Measure a variant's ONNX files against other exporters and runtimes: time, memory, loading, size and export.

    python -m benchmarks.suite FOLDER [--batches 1 4] [--sizes 224 160x288] [--threads 1 2] [--contenders NAME ...]
    python -m benchmarks.suite FOLDER --whole

FOLDER is a variant's folder of results with its checkpoint. By default a few minutes: one image of 224x224 and one of
448x448, one thread. --whole measures every contender with batches of 1 to 16, 224x224 to 768x768, one and two threads,
and takes hours. Writes suite.csv, about.json, figures, and the graphs of others, which later runs use again unless
--fresh is given.

A cell is a batch, a size and a number of threads. Each contender of a cell has a process of its own, and only one runs
at a time. In a round each runs for a moment, in random order, and rounds repeat this, so that slow moments of the
machine meet all of them. After a third of the rounds, and after two, the processes begin anew. Threads do not spin
while they wait. CPU time is that of the whole process with all its threads, and suffers less than wall time from what
else the machine does. Ratios are of CPU time, to the fastest graph that torch.onnx and transformers made: medians over
rounds of the ratio within a round.
"""

import argparse
import json
import math
import os
import platform
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd

from benchmarks.figures import bar_figure, time_figure
from benchmarks.peers import ATTRIBUTES, FIXED, OURS, PEERS, spec_of
from vit2onnx.errors import InputError
from vit2onnx.files import write_arrays
from vit2onnx.images import naflex_input
from vit2onnx.machine import free_memory
from vit2onnx.spec.family import has_part
from vit2onnx.spec.variant import VariantSpec

ROOT = Path(__file__).parents[1]
TIMED = ROOT / "benchmarks" / "timed.py"
RUNTIMES = ROOT / ".runtimes"
# PyTorch's contenders, with the kinds of `benchmarks.timed`.
LIVE = {"PyTorch": "torch", "torch.compile": "torch.compile"}
# Our files as the verdict runs them.
DOUBLE = "double precision"
QUICK = ("torch.onnx", "transformers", "jax2onnx example", "PyTorch")
CONTENDERS = (*PEERS, *LIVE, "OpenVINO", DOUBLE)
# What ratios are to: the fastest of these.
BASES = ("torch.onnx", "transformers", "torch.onnx fixed", "transformers fixed")
BATCHES, SIZES, THREADS = (1, 2, 4, 8, 16), ("224", "320", "448", "576", "768"), (1, 2)
# Runs in a round last about as long as this for each contender, in seconds.
SPAN = 0.2
# How often the processes of a cell begin anew: where memory comes to lie changes times by up to two percent.
STARTS = 3
# Characters of a message in a table.
MOST_SAID = 400
Inputs = dict[str, np.ndarray]
Row = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """What is measured at once: inputs of one shape, and a number of threads."""

    interface: str
    batch: int
    size: tuple[int, int]
    threads: int

    @property
    def label(self) -> str:
        return f"{self.interface}, batch {self.batch}, {self.size[0]}x{self.size[1]}, threads {self.threads}"


@dataclass(frozen=True)
class Contender:
    """A model in a runtime; `about` is what is known of it before it runs."""

    name: str
    kind: str
    file: Path
    python: Path
    about: Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """What to measure, and how. `others` are graphs by name; `kept` the exports that are as new as wanted."""

    spec: VariantSpec
    folder: Path
    graphs: Path
    contenders: Sequence[str]
    others: Mapping[str, Path]
    rounds: int
    seconds: float
    fresh: bool
    kept: set[Path] = field(default_factory=set)


def inputs_of(spec: VariantSpec, cell: Cell) -> Inputs:
    """Noise, or token ids, as a graph takes them; patches of an image of the cell's size."""
    rng, arch = np.random.default_rng(0), vars(spec.architecture)
    if cell.interface == "text":
        return {"input_ids": rng.integers(2, arch["vocab_size"], (cell.batch, arch["text_length"]))}
    images = rng.standard_normal((cell.batch, 3, *cell.size), np.float32)
    if cell.interface != "vision" or arch.get("image_size"):
        return {"pixel_values": images}
    patches = math.prod(cell.size) // arch["patch_size"] ** 2
    prepared = [naflex_input(image, arch["patch_size"], patches) for image in images]
    return {port: np.stack([one[port] for one in prepared]) for port in prepared[0]}


def cells_of(spec: VariantSpec, asked: argparse.Namespace) -> list[Cell]:
    """The cells that are asked for; a model of one image size, or of texts, has no others."""
    found = []
    for interface in (name for name in spec.interfaces if name in ATTRIBUTES):
        fixed = vars(spec.architecture).get("image_size")
        sizes = [(fixed, fixed)] if fixed else [size_of(text) for text in asked.sizes]
        if interface == "text":
            sizes = [(vars(spec.architecture)["text_length"], 1)]
        found += [
            Cell(interface, batch, size, threads)
            for threads in asked.threads
            for batch in asked.batches
            for size in sizes
        ]
    return found


def size_of(text: str) -> tuple[int, int]:
    """Height and width of `448` or `160x288`."""
    if not re.fullmatch(r"\d+(x\d+)?", text):
        raise InputError(f"{text} is no size; write 448, or 160x288 for height and width.")
    height, _, width = text.partition("x")
    return int(height), int(width or height)


def takes(graph: Path, inputs: Inputs, *, named: bool) -> bool:
    """Whether a graph has inputs of these shapes, and of these names if they are `named`; others rename inputs."""
    ports = onnx.load(graph, load_external_data=False).graph.input
    names = [port.name for port in ports] if named else list(inputs)
    if len(ports) != len(inputs) or set(names) != inputs.keys():
        return False
    shapes = ([dim.dim_value for dim in port.type.tensor_type.shape.dim] for port in ports)
    dims = dict(zip(names, shapes, strict=True))
    return all(
        len(dims[name]) == value.ndim
        and all(dim in (0, size) for dim, size in zip(dims[name], value.shape, strict=True))
        for name, value in inputs.items()
    )


def facts_of(graph: Path) -> Row:
    """Size of a graph with its weights, in millions of bytes, and its nodes; those of a function count at each call."""
    model = onnx.load(graph, load_external_data=False)
    files = {graph}
    for tensor in model.graph.initializer:
        files |= {graph.parent / entry.value for entry in tensor.external_data if entry.key == "location"}
    functions = {(one.domain, one.name): one.node for one in model.functions}

    def count(nodes: Sequence[onnx.NodeProto]) -> int:
        return sum(count(functions[key]) if (key := (n.domain, n.op_type)) in functions else 1 for n in nodes)

    return {"file_mb": sum(file.stat().st_size for file in files) / 1e6, "nodes": count(model.graph.node)}


def exported(plan: Plan, kind: str, cell: Cell, arrays: Path) -> tuple[Path, Row]:
    """The graph of an exporter for a cell, and what its export took. Made once for all cells if its sizes are free.

    It is made anew if it is of another checkpoint, or if the plan says so. Raises `InputError` with the last line that
    the exporter printed if it fails.
    """
    shape = f"_{cell.batch}x{cell.size[0]}x{cell.size[1]}" if kind in FIXED else ""
    # A folder for each, because exporters name the file of the weights as they like.
    graph = plan.graphs / f"{cell.interface}_{re.sub('[ .]', '_', kind)}{shape}" / "model.onnx"
    record, checkpoint = graph.with_suffix(".json"), (plan.folder / "checkpoint.json").read_text()
    known = json.loads(record.read_text()) if record.is_file() else {}
    if record not in plan.kept and (plan.fresh or known.get("checkpoint") != checkpoint):
        graph.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "benchmarks.peers", kind, plan.folder, arrays, graph]
        command += ["--interface", cell.interface]
        done = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True)
        last = (done.stderr if done.returncode else done.stdout).strip().splitlines()[-1]
        known = {"problem": last[:MOST_SAID]} if done.returncode else json.loads(last)
        known["checkpoint"] = checkpoint
        record.write_text(json.dumps(known))
    plan.kept.add(record)
    if "problem" in known:
        raise InputError(known["problem"])
    return graph, {key: value for key, value in known.items() if key != "checkpoint"}


def contenders_of(plan: Plan, cell: Cell, inputs: Inputs, arrays: Path) -> Iterator[Contender | Row]:
    """The contenders of a cell, and rows that say why others take no part."""
    here = Path(sys.executable)
    openvino = RUNTIMES / "openvino" / "bin" / "python"
    files = {f"vit2onnx {path.stem}": path for path in sorted(plan.folder.glob("*.onnx"))}
    for name, path in {**files, **plan.others}.items():
        if takes(path, inputs, named=name in files):
            yield Contender(name, "onnxruntime", path, here, facts_of(path))
            short = name.removeprefix("vit2onnx ")
            if "OpenVINO" in plan.contenders and openvino.exists():
                yield Contender(f"OpenVINO, {short}", "openvino", path, openvino, {})
            if DOUBLE in plan.contenders and name in files:
                yield Contender(f"{DOUBLE}, {short}", "double", path, here, {})
    for name in plan.contenders:
        if name in PEERS:
            called = f"vit2onnx {name}" if name in OURS else name
            print(f"  {name}: exporting", file=sys.stderr, flush=True)
            try:
                graph, facts = exported(plan, name, cell, arrays)
                yield Contender(called, "onnxruntime", graph, here, {**facts_of(graph), **facts})
            except InputError as problem:
                yield {"contender": called, "left_out": f"does not export: {problem}"}
        elif name in LIVE:
            yield Contender(name, LIVE[name], plan.folder, here, {})
        elif name == "OpenVINO" and not openvino.exists():
            yield {"contender": name, "left_out": "not installed; run make runtimes"}


class Worker:
    """The process of a contender. Raises `InputError` with its last line if it ends before it answers."""

    def __init__(self, contender: Contender, cell: Cell, arrays: Path, output: Path):
        self.contender, self.output = contender, output
        given = [contender.kind, contender.file.resolve(), arrays, output, cell.threads]
        given += [cell.interface] if contender.kind.startswith("torch") else []
        # Threads of OpenMP, too, do not spin.
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(cell.threads)}
        environment["MKL_NUM_THREADS"] = str(cell.threads)
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed on exit
        self.process = subprocess.Popen(
            [contender.python, TIMED, *map(str, given)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        self.about: Row = self.answer()

    def answer(self) -> Any:
        line = self.process.stdout.readline()  # type: ignore[union-attr]
        if line:
            return json.loads(line)
        status = self.process.wait()
        self.log.seek(0)
        said = [f"exit status {status}", *self.log.read().strip().splitlines()][-1]
        self.close()
        raise InputError(f"{self.contender.name}: {said[:MOST_SAID]}")

    def run(self, times: int) -> list[list[float]]:
        """CPU time and wall time of some runs, in milliseconds."""
        self.process.stdin.write(f"{times}\n")  # type: ignore[union-attr]
        self.process.stdin.flush()  # type: ignore[union-attr]
        found: list[list[float]] = self.answer()
        return found

    def close(self) -> None:
        """End the process, if it has not ended."""
        self.process.communicate()
        self.log.close()


def measure(plan: Plan, cell: Cell) -> list[Row]:
    """A row for every contender of a cell."""
    inputs = inputs_of(plan.spec, cell)
    with tempfile.TemporaryDirectory() as folder:
        arrays = Path(folder) / "inputs.npz"
        write_arrays(arrays, inputs)
        rows = {}
        contenders = []
        for one in contenders_of(plan, cell, inputs, arrays):
            if isinstance(one, Contender):
                contenders.append(one)
                rows[one.name] = {"contender": one.name, **one.about, "rounds": [], "starts": []}
            else:
                rows[one["contender"]] = one
        for start in range(STARTS):
            print(f"  start {start + 1} of {STARTS}", file=sys.stderr, flush=True)
            with ExitStack() as stack:
                workers = start_all(
                    stack, [x for x in contenders if "left_out" not in rows[x.name]], cell, arrays, rows
                )
                first = first_tokens(np.load(workers[0].output)) if workers else None
                take_turns(
                    workers, plan.rounds * (start + 1) // STARTS - plan.rounds * start // STARTS, plan.seconds, rows
                )
                for worker in workers:
                    row = rows[worker.contender.name]
                    row["starts"].append(worker.about)
                    row["difference"] = float(np.abs(first_tokens(np.load(worker.output)) - first).max())
    return with_ratios(list(rows.values()))


def start_all(
    stack: ExitStack, contenders: Sequence[Contender], cell: Cell, arrays: Path, rows: Mapping[str, Row]
) -> list[Worker]:
    """A process for each contender, as long as there is memory; a row says so of one that has none."""
    workers: list[Worker] = []
    for one in contenders:
        # All contenders stay in memory until the cell is done.
        if any(2 * worker.about["peak_mib"] > free_memory() / 2**20 for worker in workers):
            rows[one.name]["left_out"] = "no memory is left beside the other contenders"
            continue
        try:
            worker = Worker(one, cell, arrays, arrays.with_name(f"{len(workers)}.npy"))
        except InputError as problem:
            rows[one.name]["left_out"] = f"does not run: {problem}"
            continue
        stack.callback(worker.close)
        workers.append(worker)
    return workers


def take_turns(workers: Sequence[Worker], rounds: int, seconds: float, rows: Mapping[str, Row]) -> None:
    """Let each worker run for about so many seconds of CPU time in every round, once at least."""
    # The second run of each, because the first allocates.
    repeats = [max(1, round(1000 * seconds / worker.run(1)[0][0])) for worker in workers]
    order, chance = list(range(len(workers))), random.Random(0)
    for _ in range(rounds):
        chance.shuffle(order)
        for place in order:
            rows[workers[place].contender.name]["rounds"].append(workers[place].run(repeats[place]))


def first_tokens(output: np.ndarray) -> np.ndarray:
    """The first token of each input, which all contenders give: jax2onnx's example leaves registers out."""
    return (output[:, 0] if output.ndim == 3 else output).astype(np.float64)


def with_ratios(rows: Sequence[Row]) -> list[Row]:
    """Rows with medians and ranges over rounds in place of the rounds, and ratios of CPU time to the fastest base.

    A round has the CPU time and the wall time of each run; `starts` what was measured each time that the process began.
    `ratio_best` is of the fastest runs of all. A contender that is left out once is left out.
    """
    running = [row for row in rows if "left_out" not in row]
    of_round = {row["contender"]: np.array([np.median(x, 0) for x in row["rounds"]]) for row in running}
    best = {row["contender"]: min(cpu for one in row["rounds"] for cpu, _ in one) for row in running}
    base = min((name for name in BASES if name in best), key=lambda name: np.median(of_round[name][:, 0]), default=None)
    found = []
    for row in rows:
        own, name = {key: value for key, value in row.items() if key not in ("rounds", "starts")}, row["contender"]
        if name in best:
            cpu, wall = of_round[name].T
            own |= {**summary("cpu_ms", cpu), **summary("wall_ms", wall), "cpu_ms_best": best[name]}
            own["runs"] = sum(map(len, row["rounds"]))
            for what, values in pd.DataFrame(row["starts"]).items():
                own[what] = values[0] if what == "runtime" else values.median()
            if base:
                own |= {"base": base, **summary("ratio", cpu / of_round[base][:, 0])}
                own["ratio_best"] = best[name] / best[base]
        found.append(own)
    return found


def summary(what: str, values: np.ndarray) -> Row:
    return {what: np.median(values), f"{what}_least": values.min(), f"{what}_most": values.max()}


def about_machine() -> Row:
    """Where and when this was measured; the load is that of the last minute."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    model = re.search(r"^model name\s*:\s*(.*)", text, re.M)
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": model[1] if model else platform.processor(),
        "processors": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
    }


def show(cell: Cell, rows: Sequence[Row]) -> None:
    """Print a cell as a Markdown table."""
    print(f"\n{cell.label}\n")
    print("| contender | CPU ms | wall ms | ratio (rounds) | ratio of best | load s | memory MiB | file MB | nodes |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        if "cpu_ms" not in row:
            print(f"| {row['contender']} | {row['left_out']} ||||||||")
            continue
        ratio = f"{row['ratio']:.3f} ({row['ratio_least']:.3f} to {row['ratio_most']:.3f})" if "ratio" in row else ""
        best = f"{row['ratio_best']:.3f}" if "ratio" in row else ""
        file = [f"{row['file_mb']:.1f}" if "file_mb" in row else "", str(row.get("nodes", ""))]
        cells = [
            f"{row['cpu_ms']:.1f}",
            f"{row['wall_ms']:.1f}",
            ratio,
            best,
            f"{row['load_s']:.2f}",
            f"{row['peak_mib']:.0f}",
        ]
        print(f"| {' | '.join([row['contender'], *cells, *file])} |", flush=True)


def write(rows: Sequence[Row], output: Path) -> None:
    """The table and its figures."""
    table = pd.DataFrame(rows)
    table.to_csv(output / "suite.csv", index=False, float_format="%.5g")
    measured = table[table["cpu_ms"].notna()] if "cpu_ms" in table else table[:0]
    for (interface, threads), part in measured.groupby(["interface", "threads"]):
        for name, draw in (("time", time_figure), ("ratio", bar_figure)):
            (output / f"{name}_{interface}_{threads}.svg").write_text(draw(part), encoding="utf-8")


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.suite", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="a variant's folder of results")
    parser.add_argument("--batches", type=int, nargs="+", default=(1,))
    parser.add_argument("--sizes", nargs="+", default=("224", "448"), help="448, or 160x288 for height and width")
    parser.add_argument("--threads", type=int, nargs="+", default=(1,))
    parser.add_argument(
        "--contenders",
        nargs="*",
        choices=CONTENDERS,
        default=None,
        metavar="NAME",
        help=f"besides the folder's files; of {', '.join(CONTENDERS)}; by default {', '.join(QUICK)}",
    )
    parser.add_argument(
        "--graph", nargs="+", default=(), metavar="NAME=FILE", help="other ONNX files to measure as well"
    )
    parser.add_argument("--whole", action="store_true", help="all batches, sizes, threads and contenders")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=SPAN, help="for each contender in a round; at least one run")
    parser.add_argument("--fresh", action="store_true", help="export the graphs of others anew")
    parser.add_argument("--output", type=Path, help="by default benchmarks/results/suite/VARIANT")
    asked = parser.parse_args()
    if asked.whole:
        asked.batches, asked.sizes, asked.threads = BATCHES, SIZES, THREADS
        asked.contenders = [name for name in CONTENDERS if name != DOUBLE]
    if asked.contenders is None:
        asked.contenders = QUICK
    return asked


def main() -> None:
    asked = options()
    try:
        spec = spec_of(asked.folder)
        cells = cells_of(spec, asked)
        others = graphs_named(asked.graph)
    except InputError as problem:
        sys.exit(str(problem))
    contenders = [x for x in asked.contenders if x != "jax2onnx example" or has_part(spec.family, "jax2onnx_example")]
    output = (asked.output or ROOT / "benchmarks" / "results" / "suite" / spec.name).resolve()
    graphs = output / "graphs"
    graphs.mkdir(parents=True, exist_ok=True)
    plan = Plan(spec, asked.folder.resolve(), graphs, contenders, others, asked.rounds, asked.seconds, asked.fresh)
    (output / "about.json").write_text(json.dumps({"variant": spec.name, **about_machine()}, indent=2) + "\n")
    rows: list[Row] = []
    for cell in cells:
        print(cell.label, file=sys.stderr, flush=True)
        try:
            found = measure(plan, cell)
        except InputError as problem:
            found = [{"contender": "all", "left_out": f"a process ended: {problem}"}]
        show(cell, found)
        place = {"interface": cell.interface, "batch": cell.batch, "height": cell.size[0], "width": cell.size[1]}
        rows += [{**place, "threads": cell.threads, **row} for row in found]
        write(rows, output)
    print(f"\nsuite.csv, figures and graphs are in {output}", file=sys.stderr)


def graphs_named(pairs: Sequence[str]) -> dict[str, Path]:
    """Files by the names that are given to them as NAME=FILE."""
    found = {}
    for pair in pairs:
        name, _, file = pair.partition("=")
        if not Path(file).is_file():
            raise InputError(f"{pair} names no file; write NAME=FILE.")
        found[name] = Path(file).resolve()
    return found


if __name__ == "__main__":
    main()
