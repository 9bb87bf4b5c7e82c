"""The runtimes that can be tried, and where each is installed."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vit2onnx.errors import InputError

ROOT = Path(__file__).parents[2]
# Where `make runtimes` installs them, each in a folder of its own.
FOLDER = ROOT / ".runtimes"
# The environment that vit2onnx runs in.
OWN = ""
PROGRAMS = "vit2onnx.runtimes.programs."
GPU, NODE, BROWSER = ("nvidia-smi",), ("node",), ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True)
class Runtime:
    """A way to run a graph: a module of programs, in an environment, with options.

    `environment` is a folder of `FOLDER`, or `OWN`; what it holds is the dependency group of this name in
    pyproject.toml. Without one of the programs that it `needs`, a runtime is left out.
    """

    name: str
    title: str
    program: str
    environment: str
    options: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()

    @property
    def lacks(self) -> str:
        """The program that it needs and that is not here; empty if there is one, or if it needs none."""
        return "" if not self.needs or any(map(shutil.which, self.needs)) else self.needs[0]


# The others are compared with it.
BASELINE = Runtime("onnxruntime", "onnxruntime, CPU", PROGRAMS + "onnxruntime", OWN)
CUDA: dict[str, Any] = {"provider": "CUDAExecutionProvider"}
RUNTIMES = (
    BASELINE,
    Runtime("reference", "ONNX's reference operators", PROGRAMS + "reference", OWN),
    Runtime("onnxruntime_1_20", "onnxruntime 1.20, CPU", PROGRAMS + "onnxruntime", "onnxruntime_1_20"),
    Runtime("onnxruntime_cuda", "onnxruntime, CUDA", PROGRAMS + "onnxruntime", "onnxruntime_cuda", CUDA, needs=GPU),
    Runtime(
        "onnxruntime_cuda_f32",
        "onnxruntime, CUDA without TF32",
        PROGRAMS + "onnxruntime",
        "onnxruntime_cuda",
        CUDA | {"settings": {"use_tf32": "0"}},
        needs=GPU,
    ),
    Runtime("web_node", "onnxruntime-web, Node", PROGRAMS + "web", "web", {"host": "node"}, needs=NODE),
    Runtime("web_chromium", "onnxruntime-web, Chromium", PROGRAMS + "web", "web", {"host": "chromium"}, needs=BROWSER),
    Runtime("openvino", "OpenVINO", PROGRAMS + "openvino", "openvino"),
    Runtime(
        "openvino_f32",
        "OpenVINO in float32",
        PROGRAMS + "openvino",
        "openvino",
        {"settings": {"INFERENCE_PRECISION_HINT": "f32"}},
    ),
    Runtime("opencv", "OpenCV", PROGRAMS + "opencv", "opencv"),
    Runtime("tract", "tract", PROGRAMS + "tract", "tract"),
    Runtime("mnn", "MNN", PROGRAMS + "mnn", "mnn"),
    Runtime("ncnn", "ncnn", PROGRAMS + "ncnn", "ncnn"),
)


def chosen(names: str) -> tuple[Runtime, ...]:
    """The runtimes that are named, between commas; all for an empty text. Raises `InputError` for an unknown one."""
    known = {one.name: one for one in RUNTIMES}
    listed = [name.strip() for name in names.split(",") if name.strip()]
    if unknown := [name for name in listed if name not in known]:
        raise InputError(f"There is no runtime {unknown[0]}; name some of {', '.join(known)}.")
    return tuple(known[name] for name in listed) or RUNTIMES
