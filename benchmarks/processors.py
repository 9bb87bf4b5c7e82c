"""Whether the verdict holds on other processors: the self-test with the kernels of other instruction sets.

    python -m benchmarks.processors --seeds 30

Runs the self-test with this machine's own kernels and with those of AVX-512, AVX2 and SSE4, with one and with two
threads, each in a process of its own. A processor that lacks an instruction set repeats its own kernels. Prints for
each how many healthy models are flagged, how near the nearest comes to every limit, and how far the least fault is
beyond.
PyTorch, XLA and numpy keep to the instruction set; onnxruntime has no switch.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from vit2onnx.self_test.planting import TELLING
from vit2onnx.spec.variant import read_variants
from workflow.scripts.plant_faults import plant

ROOT = Path(__file__).parents[1]
# What PyTorch (oneDNN, MKL, ATen), XLA and numpy (OpenBLAS) read when they start.
NAMES = ("ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "ATEN_CPU_CAPABILITY", "XLA_FLAGS", "OPENBLAS_CORETYPE")
INSTRUCTION_SETS = {
    "this machine's": (),
    "AVX-512": ("AVX512_CORE", "AVX512", "avx512", "AVX512", "SkylakeX"),
    "AVX2": ("AVX2", "AVX2", "avx2", "AVX2", "Haswell"),
    "SSE4": ("SSE41", "SSE4_2", "default", "SSE4_2", "Nehalem"),
}


def environment(values: tuple[str, ...], threads: int) -> dict[str, str]:
    """The environment of a process that keeps to an instruction set and a number of threads."""
    named = dict(zip(NAMES, values, strict=False))
    if values:
        named["XLA_FLAGS"] = f"--xla_cpu_max_isa={named['XLA_FLAGS']}"
    return {**os.environ, **named, "NPROC": str(threads), "OMP_NUM_THREADS": str(threads)}


def measure(seeds: int, threads: int) -> dict[str, Any]:
    """What the self-test says in this process: how near healthy models come, and how far the least fault is beyond."""
    limits = yaml.safe_load((ROOT / "config/limits.yaml").read_text())["limits"]
    photographs = [ROOT / f"resources/images/{name}.jpg" for name in ("chelsea", "coffee")]
    given = read_variants(ROOT / "config/variants"), photographs, limits["float32"], limits["preprocessing"]
    with TemporaryDirectory() as folder:
        result, table = (Path(folder) / name for name in ("self_test.json", "self_test.csv"))
        plant(*given, result, table, seeds=seeds, threads=threads)
        found = json.loads(result.read_text())
    limits, placed = found["limits"], [row for row in found["faults"] if row["model"]]
    return {
        "healthy": len(found["healthy"]),
        "flagged": sum(bool(row["flagged"]) for row in found["healthy"]),
        "nearest": found["nearest"],
        "faults": len(placed),
        "found": sum(row["passed"] for row in placed),
        "least": {
            what: min(max(row[name] / limits[name] for name in names) for row in placed if what in row["shows_in"])
            for what, names in TELLING.items()
        },
        "wrong": found["wrong"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.processors", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=30, help="healthy models of each kind")
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.threads:
        print(json.dumps(measure(asked.seeds, asked.threads)))
        return
    table = Table("instruction set", "threads", "healthy, flagged", "nearest", "faults, found", "least")
    for name, values in INSTRUCTION_SETS.items():
        for threads in (1, 2):
            command = [sys.executable, "-m", "benchmarks.processors", f"--seeds={asked.seeds}", f"--threads={threads}"]
            own = environment(values, threads)
            done = subprocess.run(command, env=own, cwd=ROOT, stdout=subprocess.PIPE, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            healthy, faults = (f"{found[a]}, {found[b]}" for a, b in (("healthy", "flagged"), ("faults", "found")))
            nearest, least = ("\n".join(f"{k} {v:.2g}" for k, v in found[key].items()) for key in ("nearest", "least"))
            table.add_row(name, str(threads), healthy, nearest, faults, least)
            for sentence in found["wrong"]:
                print(f"{name}, {threads} threads: {sentence}", file=sys.stderr, flush=True)
    console = Console()
    console.print(table)
    console.print("Nearest and least are shares and multiples of the limits.")


if __name__ == "__main__":
    main()
