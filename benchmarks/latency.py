"""How fast the exported graphs are, against the exporters of torch and of transformers on the reference model.

    python -m benchmarks.latency results/synthetic/dinov3_vits16_pretrain_lvd1689m [--size 224 224]
    python -m benchmarks.latency results/synthetic/siglip2_base_patch16_224

Every graph runs alone in this process, one after the other, with onnxruntime's default options; the rounds repeat
this, so that a slow moment of the machine meets all of them. Ratios are medians over rounds of ratios within a round,
to torch's own exporter. Files with weights in other files are run as they are.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import nn

from vit2onnx.families.reference import Reference
from vit2onnx.images import naflex_input
from vit2onnx.runners.onnx_double import run_in_double
from vit2onnx.runners.torch import filled_model, reference_of
from vit2onnx.spec.variant import VariantSpec, read_variants

ROOT = Path(__file__).parents[1]
PEER = "torch.onnx.export(dynamo=True)"
TRANSFORMERS = "transformers.exporters"
# Files by the interface that they have, and the attribute of the reference that computes the same.
FILES = {
    "images": ({"dynamic": "dynamic.onnx", "static": "static.onnx"}, ""),
    "vision": ({"vision_model": "vision_model.onnx"}, "vision_model"),
    "text": ({"text_model": "text_model.onnx"}, "text_model"),
}
Inputs = Mapping[str, np.ndarray]


class Outputs(nn.Module):
    """A model that gives plain tensors for its inputs in order."""

    def __init__(self, model: nn.Module, names: list[str]):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = self.model(**dict(zip(self.names, inputs, strict=True)))
        return found.last_hidden_state, found.pooler_output


def inputs_for(spec: VariantSpec, interface: str, batch: int, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Noise, or token ids, as a graph takes them; patches of an image of this size."""
    rng, arch = np.random.default_rng(0), vars(spec.architecture)
    if interface == "text":
        return {"input_ids": rng.integers(2, arch["vocab_size"], (batch, arch["text_length"]))}
    fixed = arch.get("image_size")
    height, width = (fixed, fixed) if fixed else size
    images = rng.standard_normal((batch, 3, height, width), np.float32)
    if interface != "vision" or fixed:
        return {"pixel_values": images}
    patches = height * width // arch["patch_size"] ** 2
    prepared = [naflex_input(image, arch["patch_size"], patches) for image in images]
    return {port: np.stack([one[port] for one in prepared]) for port in prepared[0]}


def free_axes(interface: str, inputs: Inputs) -> dict[str, tuple[int, ...]]:
    """Those that torch's exporter can leave free. With NaFlex the batch is none of them: its loop is unrolled."""
    if "spatial_shapes" in inputs:
        return {"pixel_values": (1,), "pixel_attention_mask": (1,), "spatial_shapes": ()}
    return dict.fromkeys(inputs, (0, 2, 3) if interface == "images" else (0,))


def export_torch(model: nn.Module, interface: str, inputs: Inputs, folder: Path) -> Path:
    """By torch's exporter, with free axes as far as it can."""
    path, free = folder / "torch.onnx", free_axes(interface, inputs)
    # An axis of size one would not be free.
    twice = {port: np.repeat(value, 2, axis=0) if 0 in free[port] else value for port, value in inputs.items()}
    shapes = tuple(dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for axes in free.values())
    torch.onnx.export(
        Outputs(model, list(inputs)),
        tuple(map(torch.from_numpy, twice.values())),
        path,
        dynamo=True,
        dynamic_shapes=(shapes,),
        input_names=list(inputs),
        verbose=False,
    )
    return path


def export_transformers(model: nn.Module, _: str, inputs: Inputs, folder: Path) -> Path:
    """By transformers' own exporter, with free sizes."""
    from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

    given = {name: torch.from_numpy(value) for name, value in inputs.items()}
    exported = OnnxExporter().export(model, given, config=OnnxConfig(dynamic=True))
    exported.save_pretrained(folder / "transformers")
    return next((folder / "transformers").glob("*.onnx"))


def milliseconds(path: Path, inputs: Inputs, repeats: int) -> float:
    """The median time of one run, after some to warm up."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    ports = [port.name for port in session.get_inputs()]
    feed = dict(zip(ports, inputs.values(), strict=True))
    times = []
    for _ in range(repeats + 3):
        start = time.perf_counter()
        session.run(None, feed)
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[3:])


def milliseconds_in_double(path: Path, inputs: Inputs, _: int) -> float:
    """The time of one run in double precision, as the verdict takes it, with all that it reads."""
    start = time.perf_counter()
    run_in_double(path, [inputs])
    return 1000 * (time.perf_counter() - start)


def measure(reference: Reference, spec: VariantSpec, folder: Path, interface: str, options: Any) -> None:
    """Print the times of the graphs of an interface and of its peers."""
    files, attribute = FILES[interface]
    inputs = inputs_for(spec, interface, options.batch, tuple(options.size))
    model = filled_model(reference)
    for module in model.modules():
        # The reference resizes the positions of NaFlex in double precision, which peers cannot export.
        vars(module).pop("resize_positional_embeddings", None)
    model = model.get_submodule(attribute) if attribute and hasattr(model, attribute) else model
    ours = {name: folder / file for name, file in files.items() if (folder / file).is_file()}
    if any(value.shape[2:] != (224, 224) for value in inputs.values()) or options.batch != 1:
        ours.pop("static", None)
    with tempfile.TemporaryDirectory() as scratch:
        graphs = dict(ours)
        for name, export in ((PEER, export_torch), (TRANSFORMERS, export_transformers)):
            try:
                with torch.no_grad():
                    graphs[name] = export(model, interface, inputs, Path(scratch))
            # Any exception, because exporters of others raise what they like.
            except Exception as error:
                print(f"{name} cannot export this: {type(error).__name__}: {str(error).splitlines()[0][:100]}")
        nodes = {name: len(onnx.load(path, load_external_data=False).graph.node) for name, path in graphs.items()}
        timed = {name: partial(milliseconds, path) for name, path in graphs.items()}
        if options.double:
            timed |= {f"{name}, in double precision": partial(milliseconds_in_double, ours[name]) for name in ours}
        rounds = [{name: run(inputs, options.repeats) for name, run in timed.items()} for _ in range(options.rounds)]
    shape = ", ".join(f"{name} {'x'.join(map(str, value.shape))}" for name, value in inputs.items())
    print(f"{spec.name}, {interface}: {shape}; ms per run")
    base = PEER if PEER in graphs else TRANSFORMERS
    for name in rounds[0]:
        ratios = [one[name] / one[base] for one in rounds]
        print(
            f"{name:32} {statistics.median(one[name] for one in rounds):8.2f}"
            f"   ratio {statistics.median(ratios):.3f} (rounds {min(ratios):.3f} to {max(ratios):.3f})"
            f"   {nodes.get(name, '')} nodes"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a variant's folder of results")
    parser.add_argument("--size", type=int, nargs=2, default=(224, 224), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--repeats", type=int, default=15, help="timed runs of a graph in a round")
    parser.add_argument("--double", action="store_true", help="time the run in double precision, too")
    options = parser.parse_args()

    name = json.loads((options.folder / "checkpoint.json").read_text())["variant"]
    spec = VariantSpec.from_mapping(name, read_variants(ROOT / "config" / "variants")[name])
    print(f"onnxruntime {ort.__version__}, torch {torch.__version__}")
    for interface in spec.interfaces:
        if interface in FILES:
            reference = reference_of(spec, "transformers", options.folder / "checkpoint")
            measure(reference, spec, options.folder, interface, options)


if __name__ == "__main__":
    main()
