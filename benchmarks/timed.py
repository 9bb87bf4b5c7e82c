"""One model in one runtime, in a process of its own, which `benchmarks.suite` asks for so many runs at a time.

    python benchmarks/timed.py KIND FILE INPUTS.npz OUTPUT.npy THREADS [INTERFACE]

Needs numpy and the runtime only, so that another Python can run it. KIND is `onnxruntime`, `openvino`, `double`,
`torch` or `torch.compile`. FILE is a graph; for torch it is a variant's folder of results. The first line of the output
is JSON: the seconds that loading and the first run took, and the memory in MiB that both added. By then OUTPUT.npy has
the first output of that run. Then every line of the input is a number of runs. It is answered with the CPU time and the
wall time of each, in milliseconds.
"""

import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Inputs = dict[str, np.ndarray]
# Runs a model once.
Run = Callable[[], list[Any]]


def resident(field: str) -> float:
    """A size of this process in MiB: `VmRSS` is resident now, `VmHWM` the most so far."""
    return int(re.search(rf"^{field}:\s*(\d+)", Path("/proc/self/status").read_text(), re.M)[1]) / 1024  # type: ignore[index]


def forget_peak() -> None:
    """Let `VmHWM` start again from what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")


def in_onnxruntime(file: Path, threads: int) -> tuple[str, Callable[[Inputs], Run]]:
    """onnxruntime's CPU provider with its defaults, but for threads, which do not spin while they wait."""
    import onnxruntime as ort

    def load(inputs: Inputs) -> Run:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        # By position, because peers rename inputs.
        feed = dict(zip((port.name for port in session.get_inputs()), inputs.values(), strict=True))
        return lambda: session.run(None, feed)

    return f"onnxruntime {ort.__version__}", load


def in_openvino(file: Path, threads: int) -> tuple[str, Callable[[Inputs], Run]]:
    """OpenVINO on the CPU, in single precision."""
    import openvino as ov

    def load(inputs: Inputs) -> Run:
        settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
        request = ov.Core().compile_model(str(file), "CPU", settings).create_infer_request()
        given = list(inputs.values())
        return lambda: list(request.infer(given).values())

    return f"OpenVINO {ov.__version__.partition('-')[0]}", load


def in_double(file: Path) -> tuple[str, Callable[[Inputs], Run]]:
    """A graph in double precision with numpy, as the verdict takes it; every run reads the file."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from vit2onnx.runners.onnx_double import run_in_double

    def load(inputs: Inputs) -> Run:
        return lambda: list(next(iter(run_in_double(file, [inputs]))).values())

    return f"numpy {np.__version__}", load


def in_torch(folder: Path, threads: int, interface: str, *, compiled: bool) -> tuple[str, Callable[[Inputs], Run]]:
    """transformers' model in PyTorch, as it is or compiled."""
    import torch
    import transformers

    sys.path.insert(0, str(Path(__file__).parents[1]))
    from benchmarks.peers import reference_model

    torch.set_num_threads(threads)

    def load(inputs: Inputs) -> Run:
        model = reference_model(folder, interface, inputs)
        run = torch.compile(model) if compiled else model
        given = [torch.from_numpy(value) for value in inputs.values()]
        return lambda: torch.inference_mode()(run)(*given)

    return f"torch {torch.__version__}, transformers {transformers.__version__}", load


def main() -> None:
    kind, file, arrays, output, threads, *interface = sys.argv[1:]
    # Answers alone go to the output: libraries print what they like.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def answer(value: Any) -> None:
        answers.write(json.dumps(value) + "\n")

    inputs = dict(np.load(arrays))
    if kind.startswith("torch"):
        runtime, load = in_torch(Path(file), int(threads), *interface, compiled=kind == "torch.compile")
    elif kind == "double":
        runtime, load = in_double(Path(file))
    else:
        runtime, load = {"onnxruntime": in_onnxruntime, "openvino": in_openvino}[kind](Path(file), int(threads))
    forget_peak()
    before, start = resident("VmRSS"), time.perf_counter()
    run = load(inputs)
    loaded = time.perf_counter() - start
    outputs = run()
    first = time.perf_counter() - start - loaded
    peak = resident("VmHWM") - before
    np.save(output, np.asarray(outputs[0]))
    answer({"runtime": runtime, "load_s": loaded, "first_s": first, "peak_mib": peak})
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            cpu, wall = time.process_time(), time.perf_counter()
            run()
            times.append([1000 * (time.process_time() - cpu), 1000 * (time.perf_counter() - wall)])
        answer(times)


if __name__ == "__main__":
    main()
