"""Export a variant's weights by one of several exporters: others', which `benchmarks.suite` compares with, and ours.

    python -m benchmarks.peers KIND FOLDER INPUTS.npz OUTPUT.onnx [--interface images]

KIND is one of the names below, FOLDER a variant's folder of results, and INPUTS.npz what the graph is to be given. The
last line of the output is JSON with the seconds that the export took and the MiB that it added to this process, both
without imports and without reading the reference's weights.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vit2onnx.errors import InputError
from vit2onnx.spec.family import has_part, part
from vit2onnx.spec.variant import VariantSpec, read_variants

ROOT = Path(__file__).parents[1]
# The attribute of the reference that computes an interface alone; none if that is the whole model.
ATTRIBUTES = {"images": "", "vision": "vision_model", "text": "text_model"}
Inputs = Mapping[str, np.ndarray]
# Writes a graph.
Export = Callable[[], Any]


def spec_of(folder: Path) -> VariantSpec:
    """The variant whose results lie in a folder."""
    record = folder / "checkpoint.json"
    if not record.is_file():
        raise InputError(
            f"{folder} has no checkpoint.json; name a variant's folder of results, as `make run` makes it."
        )
    name = json.loads(record.read_text())["variant"]
    return VariantSpec.from_mapping(name, read_variants(ROOT / "config" / "variants")[name])


def reference_model(folder: Path, interface: str, inputs: Inputs) -> Any:
    """transformers' model with a folder's weights: takes the inputs in order, gives tokens and pooled output."""
    from torch import nn

    from vit2onnx.runners.torch import filled_model, reference_of

    class Outputs(nn.Module):
        def __init__(self, model: nn.Module, names: list[str]):
            super().__init__()
            self.model, self.names = model, names

        def forward(self, *values: Any) -> tuple[Any, Any]:
            found = self.model(**dict(zip(self.names, values, strict=True)))
            return found.last_hidden_state, found.pooler_output

    model = filled_model(reference_of(spec_of(folder), "transformers", folder / "checkpoint")).eval()
    for module in model.modules():
        # The reference resizes the positions of NaFlex in double precision, which peers cannot export.
        vars(module).pop("resize_positional_embeddings", None)
    attribute = ATTRIBUTES[interface]
    return Outputs(model.get_submodule(attribute) if attribute and hasattr(model, attribute) else model, list(inputs))


def free_axes(interface: str, inputs: Inputs) -> dict[str, tuple[int, ...]]:
    """The axes that torch's exporter can leave free. With NaFlex the batch is none of them: its loop is unrolled."""
    if "spatial_shapes" in inputs:
        return {"pixel_values": (1,), "pixel_attention_mask": (1,), "spatial_shapes": ()}
    return dict.fromkeys(inputs, (0, 2, 3) if interface == "images" else (0,))


def by_torch(folder: Path, interface: str, inputs: Inputs, output: Path, *, fixed: bool = False) -> Export:
    """torch.onnx.export(dynamo=True), with axes as free as it can leave them, or fixed."""
    import torch

    model, free = reference_model(folder, interface, inputs), free_axes(interface, inputs)
    # An axis of size one would not be free.
    twice = {
        port: np.repeat(value, 2, axis=0) if 0 in free[port] and not fixed else value for port, value in inputs.items()
    }
    shapes = tuple(dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for axes in free.values())

    def export() -> None:
        torch.onnx.export(
            model,
            tuple(map(torch.from_numpy, twice.values())),
            output,
            dynamo=True,
            dynamic_shapes=None if fixed else (shapes,),
            input_names=list(inputs),
            verbose=False,
        )

    return torch.no_grad()(export)


def by_transformers(folder: Path, interface: str, inputs: Inputs, output: Path, *, fixed: bool = False) -> Export:
    """transformers' own exporter, with free sizes or fixed ones."""
    import torch
    from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

    model = reference_model(folder, interface, inputs).model
    given = {name: torch.from_numpy(value) for name, value in inputs.items()}

    def export() -> None:
        exported = OnnxExporter().export(model, given, config=OnnxConfig(dynamic=not fixed))
        with tempfile.TemporaryDirectory(dir=output.parent) as scratch:
            exported.save_pretrained(scratch)
            (graph,) = Path(scratch).glob("*.onnx")
            # Weights beside the graph keep the name that it has for them.
            for other in Path(scratch).iterdir():
                other.replace(output if other == graph else output.parent / other.name)

    return torch.no_grad()(export)


def by_example(folder: Path, interface: str, inputs: Inputs, output: Path) -> Export:
    """The example that jax2onnx ships, by jax2onnx's defaults. It takes square images of one size."""
    import equinox as eqx
    import onnx
    from jax2onnx import to_onnx

    from workflow.scripts.map_jax2onnx_example import map_jax2onnx_example

    spec = spec_of(folder)
    if not has_part(spec.family, "jax2onnx_example") or interface != "images":
        raise InputError("jax2onnx ships no example of this kind of model.")
    (images,) = inputs.values()
    if images.shape[2] != images.shape[3]:
        raise InputError("jax2onnx's example takes square images only.")
    with tempfile.TemporaryDirectory(dir=output.parent) as scratch:
        file = Path(scratch) / "example.eqx"
        map_jax2onnx_example(spec, folder / "archive.tar.lz4", file)
        model = eqx.tree_deserialise_leaves(file, part(spec.family, "jax2onnx_example").skeleton(spec.architecture))
    # It computes the positions of the size that it was made for.
    patches = (images.shape[2] // vars(spec.architecture)["patch_size"]) ** 2
    model = eqx.tree_at(lambda whole: whole.patch_embed.num_patches, model, patches)
    return lambda: onnx.save(to_onnx(model, [images.shape], model_name=output.stem), output)


def by_us(folder: Path, interface: str, inputs: Inputs, output: Path, *, operators: str) -> Export:
    """vit2onnx, with every size that of the inputs."""
    from vit2onnx.exporting.graph import export
    from vit2onnx.spec.recipe import OPERATORS, Recipe

    spec = spec_of(folder)
    sizes: dict[str, int | None] = {}
    for port in spec.interface(interface).inputs:
        axes = zip(port.axes, inputs[port.name].shape, strict=True)
        sizes |= {axis: size for axis, size in axes if isinstance(axis, str)}
    minimum = spec.interface(interface).minimum
    recipe = Recipe(
        output.stem,
        OPERATORS[operators],
        {axis: size for axis, size in sizes.items() if axis in minimum},
        interface,
        operators=operators,
    )
    record = json.loads((folder / "checkpoint.json").read_text())
    return lambda: export(spec, recipe, folder / "model.eqx", output, record)


# By name; those of `FIXED` are for one size of input, others for any.
PEERS: dict[str, Callable[[Path, str, Inputs, Path], Export]] = {
    "torch.onnx": by_torch,
    "transformers": by_transformers,
    "torch.onnx fixed": lambda *given: by_torch(*given, fixed=True),
    "transformers fixed": lambda *given: by_transformers(*given, fixed=True),
    "jax2onnx example": by_example,
    "native fixed": lambda *given: by_us(*given, operators="native"),
    "portable fixed": lambda *given: by_us(*given, operators="portable"),
}
FIXED = frozenset(PEERS) - {"torch.onnx", "transformers"}
OURS = frozenset({"native fixed", "portable fixed"})


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kind", choices=PEERS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("inputs", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--interface", default="images", choices=ATTRIBUTES)
    asked = parser.parse_args()
    from benchmarks.timed import forget_peak, resident

    asked.output.parent.mkdir(parents=True, exist_ok=True)
    try:
        export = PEERS[asked.kind](asked.folder, asked.interface, dict(np.load(asked.inputs)), asked.output)
        forget_peak()
        before, start = resident("VmRSS"), time.perf_counter()
        export()
    except InputError as problem:
        sys.exit(str(problem))
    took = time.perf_counter() - start
    print(json.dumps({"export_s": round(took, 2), "export_mib": round(resident("VmHWM") - before, 1)}))


if __name__ == "__main__":
    main()
