"""A runtime that doubles its input, and does wrong what its options say. It is run like those of others."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vit2onnx.runtimes.programs.protocol import Arrays, RefusedError, Report, Run, main


def open_graph(graph: Path, sets: list[Arrays], report: Report, options: Mapping[str, Any]) -> Run:
    """What computes 2 x, as wrongly as `does` says."""
    does = options["does"]
    report.add(version="0.1", placement={"HereExecutionProvider": {"Mul": 1}})
    print("opening", graph.name)
    if does == "refuses":
        raise RefusedError("there is no Mul", "Mul")
    if does == "crashes opening":
        os.abort()
    if does == "leaves":
        sys.exit(0)
    if does == "hangs":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        Path(options["told"]).write_text(str(child.pid))
        time.sleep(60)

    def run(inputs: Arrays) -> Arrays:
        made = 2 * inputs["x"]
        if does == "crashes running":
            os.abort()
        if does == "takes one size" and len(made) > 1:
            raise RuntimeError("a batch of 2")
        wrong = {"is not finite": made * np.nan, "is another shape": made[None], "is wrong": -made}
        return {} if does == "lacks an output" else {"y": wrong.get(does, made)}

    return run


if __name__ == "__main__":
    main(open_graph)
