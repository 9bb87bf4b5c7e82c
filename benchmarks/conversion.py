"""How long converting and mapping take, against copying the same bytes on the same disk, in one run.

    python -m benchmarks.conversion FOLDER [--variant dinov3_vit7b16_pretrain_lvd1689m --depth 4] [--cold]

Everything lies in a scratch folder in FOLDER, whose disk it is that counts. What is timed is what the rule of that name
does, once its imports are done, and then an fsync of what it wrote; the copy is the checkpoint's, by `shutil.copyfile`,
and an fsync. Before each, what it wrote in the last round is deleted, the disk has nothing left to write, some seconds
pass, and its input is read to the page cache, or dropped from it with --cold. Rounds repeat this, and the first, in
which all is warmed up, is not counted; ratios are medians over rounds of ratios to the copy within a round. What
hashing and lz4 cost is measured on the checkpoint's bytes, alone in one thread, without writing anything.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from vit2onnx.checkpoints.convert import convert_checkpoint
from vit2onnx.checkpoints.identity import known_variants
from vit2onnx.checkpoints.synthetic import write_synthetic
from vit2onnx.files import sha256_of
from vit2onnx.weights.archive import compress
from vit2onnx.weights.leaves import CHUNK
from workflow.scripts.convert_checkpoint import check_record
from workflow.scripts.map_weights import map_weights

COPY = "copy, the measure"
# A virtual machine hands memory back that has been free for two seconds, and to get it again takes longer than to copy
# to it. Without the pause a copy would find what its own last file left, and anything slower would not.
PAUSE = 5


def sync(path: Path) -> None:
    """Wait until a file is on its disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def prepare(path: Path, *, cold: bool) -> None:
    """Bring a file to the page cache, or drop it from there."""
    with path.open("rb") as file:
        if cold:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        else:
            while file.read(CHUNK):
                pass


def compress_only(path: Path) -> None:
    """Compress a file's bytes as an archive's are, and forget them."""
    with path.open("rb") as file:
        for _ in compress(iter(lambda: file.read(CHUNK), b"")):
            pass


def seconds(work: Callable[[], None], source: Path, written: Path | None, *, cold: bool) -> float:
    if written:
        written.unlink(missing_ok=True)
    os.sync()
    time.sleep(PAUSE)
    prepare(source, cold=cold)
    start = time.perf_counter()
    work()
    if written:
        sync(written)
    return time.perf_counter() - start


def seconds_to_import(script: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import workflow.scripts.{script}"], check=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where to put the scratch folder")
    parser.add_argument("--variant", default="dinov3_vitl16_pretrain_lvd1689m")
    parser.add_argument("--depth", type=int, help="another number of blocks than the variant's")
    parser.add_argument("--layout", default="meta", help="the checkpoint's, as in the config")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cold", action="store_true", help="read from the disk instead of the page cache")
    options = parser.parse_args()

    spec = known_variants()[options.variant]
    if options.depth:
        spec = replace(spec, architecture=replace(spec.architecture, depth=options.depth))
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        folder = Path(scratch)
        checkpoint = folder / "checkpoint"
        copy, record = folder / "copy", folder / "checkpoint.json"
        archive, model = folder / "archive.tar.lz4", folder / "model.eqx"
        write_synthetic(spec, checkpoint, seed=0, layout=options.layout)
        record.write_text(json.dumps({"sha256": sha256_of(checkpoint)}))

        def convert() -> None:
            check_record(checkpoint, record)
            convert_checkpoint(spec, checkpoint, archive, folder / "ledger.csv")

        steps: dict[str, tuple[Callable[[], object], Path, Path | None]] = {
            COPY: (lambda: shutil.copyfile(checkpoint, copy), checkpoint, copy),
            "convert_checkpoint": (convert, checkpoint, archive),
            "map_weights": (lambda: map_weights(spec, archive, model), archive, model),
            "SHA-256 alone": (lambda: sha256_of(checkpoint), checkpoint, None),
            "lz4 alone": (lambda: compress_only(checkpoint), checkpoint, None),
        }
        rounds = [
            {name: seconds(*step, cold=options.cold) for name, step in steps.items()} for _ in range(options.rounds + 1)
        ][1:]
        sizes = {path.name: path.stat().st_size / 1e6 for path in (checkpoint, archive, model)}

    print(f"{spec.name}, {spec.architecture.depth} blocks, {options.layout} layout, {os.cpu_count()} processors")
    print(", ".join(f"{name} {size:.1f} MB" for name, size in sizes.items()))
    print(f"load average of the last minute {os.getloadavg()[0]:.1f}, of which this run is a part")
    for script in ("convert_checkpoint", "map_weights"):
        print(f"imports of {script}, not counted below: {seconds_to_import(script):.1f} s")
    for name in steps:
        ratios = [one[name] / one[COPY] for one in rounds]
        print(
            f"{name:20} {statistics.median(one[name] for one in rounds):7.2f} s"
            f"   ratio {statistics.median(ratios):.2f} (rounds {min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
