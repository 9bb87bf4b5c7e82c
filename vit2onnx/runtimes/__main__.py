"""Run graphs in other runtimes, and write one table of the results.

    python -m vit2onnx.runtimes results/synthetic --runtimes openvino,tract

writes runtimes.csv, runtimes.md and runtimes.html, and what each runtime has printed in logs/. A runtime that refuses
a graph, crashes, hangs or computes something else is a result and no error.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from vit2onnx.errors import InputError, printable
from vit2onnx.files import write_text
from vit2onnx.runtimes.comparing import Row
from vit2onnx.runtimes.installing import install
from vit2onnx.runtimes.page import runtimes_page
from vit2onnx.runtimes.register import RUNTIMES, Runtime, chosen
from vit2onnx.runtimes.running import run_in
from vit2onnx.runtimes.table import as_csv, as_markdown, graphs_in, rows_of


def tried(
    given: Sequence[Path], runtimes: Sequence[Runtime], output: Path, *, threads: int, seconds: float
) -> list[Row]:
    """The rows of all graphs. Prints a line for each when it is done."""
    rows = []
    run = partial(run_in, threads=threads, seconds=seconds)

    def keep(graph: str, runtime: str, log: str) -> None:
        write_text(output / "logs" / f"{graph.replace('/', '_')}_{runtime}.txt", log)

    for name, graph in graphs_in(given).items():
        for row in rows_of(name, graph, runtimes, run, keep):
            print(printable(f"{row.graph:40}  {row.runtime:20}  {row.cell}"), flush=True)
            rows.append(row)
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line. Returns the exit status: 1 if there is no table."""
    parser = argparse.ArgumentParser("vit2onnx.runtimes", description="Try graphs in other runtimes.")
    parser.add_argument("graphs", nargs="*", type=Path, help="ONNX files, or folders with some")
    parser.add_argument("--runtimes", default="", help=f"some of {', '.join(one.name for one in RUNTIMES)}")
    parser.add_argument("--install", action="store_true", help="install what is missing of them into .runtimes/ first")
    parser.add_argument("--threads", type=int, default=2, help="for each runtime that has threads (default: 2)")
    parser.add_argument("--seconds", type=float, default=300, help="for a graph in a runtime at most (default: 300)")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("results/runtimes"), help="a folder (default: %(default)s)"
    )
    given = parser.parse_args(arguments)
    try:
        runtimes = chosen(given.runtimes)
        for fault in install(runtimes) if given.install else []:
            print(printable(fault), file=sys.stderr)
        if given.seconds <= 0 or given.threads < 1:
            raise InputError("Give a time limit above 0 seconds, and one thread at least.")
        if given.graphs:
            given.output.mkdir(parents=True, exist_ok=True)
            rows = tried(given.graphs, runtimes, given.output, threads=given.threads, seconds=given.seconds)
            for suffix, content in ((".csv", as_csv(rows)), (".md", as_markdown(rows)), (".html", runtimes_page(rows))):
                write_text(given.output / f"runtimes{suffix}", content)
            print(printable(f"Wrote {given.output}/runtimes.html."))
        elif not given.install:
            raise InputError("There is no graph; name ONNX files or a folder.")
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(
            printable(f"{given.output} cannot be written: {error.strerror}; name another folder (-o)."), file=sys.stderr
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
