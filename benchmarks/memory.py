"""How much memory the steps take for two depths of a model, and what its graph takes at full depth, without weights.

    python -m benchmarks.memory FOLDER [--variant dinov3_vit7b16_pretrain_lvd1689m] [--depths 4 8]

Every step does what the rule of that name does, with synthetic weights, in a Python of its own. Its figure is the
highest resident memory of that process (VmHWM in /proc) less what is resident once its imports are done; seconds leave
the imports out too. Files lie in a scratch folder in FOLDER and are deleted as soon as no step needs them: at most two
of the deeper model's size at once.
"""

import argparse
import math
import multiprocessing
import re
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

# All else is imported by the steps, so that each has its own imports only.
from vit2onnx.spec.interface import Interface
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec

Work = Callable[[], object]


def whole_interface(spec: VariantSpec) -> Interface:
    """The interface with most of the model: the last of those that take prepared inputs."""
    return next(one for one in map(spec.interface, reversed(spec.interfaces)) if not one.prepares)


def recipe_of(spec: VariantSpec) -> Recipe:
    """Everything of a variant in one graph, with free sizes."""
    interface = whole_interface(spec)
    sizes = dict.fromkeys(interface.minimum) | dict(interface.recipe_defaults)
    return Recipe("dynamic", 23, sizes, interface.name)


def fetch_checkpoint(spec: VariantSpec, folder: Path) -> Work:
    from vit2onnx.spec.family import layout_of
    from workflow.scripts.fetch_checkpoint import fetch_checkpoint

    paths = folder / "checkpoint", folder / "checkpoint.json"
    synthetic = {"seed": 0, "layout": layout_of(spec.family, "publisher")}
    return lambda: fetch_checkpoint(spec, *paths, synthetic=synthetic, configured=None, check_hash=True)


def convert_checkpoint(spec: VariantSpec, folder: Path) -> Work:
    from workflow.scripts.convert_checkpoint import check_record, convert_checkpoint

    def work() -> None:
        checkpoint = folder / "checkpoint"
        check_record(checkpoint, folder / "checkpoint.json")
        convert_checkpoint(spec, checkpoint, folder / "archive.tar.lz4", folder / "ledger.csv")

    return work


def map_weights(spec: VariantSpec, folder: Path) -> Work:
    from workflow.scripts.map_weights import map_weights

    return lambda: map_weights(spec, folder / "archive.tar.lz4", folder / "model.eqx")


def export_onnx(spec: VariantSpec, folder: Path, *, external: bool) -> Work:
    from workflow.scripts.export_onnx import export_onnx

    model, record, graph = folder / "model.eqx", folder / "checkpoint.json", folder / "dynamic.onnx"
    return lambda: export_onnx(spec, recipe_of(spec), model, record, folder / "ledger.csv", graph, external=external)


def export_external(spec: VariantSpec, folder: Path) -> Work:
    return export_onnx(spec, folder, external=True)


def export_embedded(spec: VariantSpec, folder: Path) -> Work:
    """No runtime reads more than 2 GB of this, but it is written as smaller ones are."""
    return export_onnx(spec, folder, external=False)


def run_in_double(spec: VariantSpec, folder: Path) -> Work:
    import numpy as np

    from vit2onnx.runners.onnx_double import run_in_double

    interface = whole_interface(spec)
    own = {axis: size for axis, size in interface.recipe_defaults.items() if size}
    sizes = dict.fromkeys(interface.minimum, 2) | {"height": 224, "width": 224} | own | dict(interface.case_defaults)
    # Ones are token ids, masks and grids as well.
    inputs = {port.name: np.ones(interface.shape(port, sizes), port.dtype) for port in interface.inputs}
    return lambda: run_in_double(folder / "dynamic.onnx", [inputs])


def graph_without_weights(spec: VariantSpec, folder: Path) -> Work:
    from vit2onnx.exporting.graph import trace, write
    from vit2onnx.weights.keytable import LazyTensor
    from vit2onnx.weights.leaves import array_shapes
    from vit2onnx.weights.model_file import skeleton_of

    def work() -> None:
        skeleton, weights = skeleton_of(spec.family, spec.architecture), folder / "model.eqx"
        # For small weights of which a constant is computed, such as a temperature.
        weights.write_bytes(bytes(2**20))
        shapes = array_shapes(skeleton)
        tensors = {name: LazyTensor.in_file(weights, 0, shape, "float32") for name, shape in shapes.items()}
        recipe, interface = recipe_of(spec), spec.interface(recipe_of(spec).interface)
        graph = trace(skeleton, spec, recipe)
        path, metadata = folder / "dynamic.onnx", {"version": "0"}
        write(graph, path, interface, recipe, metadata, tensors, weights=weights, external=True)

    return work


# With the files that no later step needs.
STEPS = {
    fetch_checkpoint: (),
    convert_checkpoint: ("checkpoint",),
    map_weights: ("archive.tar.lz4",),
    export_external: (),
    run_in_double: (),
    export_embedded: ("model.eqx", "dynamic.onnx"),
}


def resident(field: str) -> float:
    """What this process has in memory (VmRSS), or has had at most (VmHWM), in MiB."""
    (kib,) = re.findall(rf"{field}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return int(kib) / 1024


def measure(step: Callable[[VariantSpec, Path], Work], spec: VariantSpec, folder: Path) -> tuple[float, float]:
    """MiB above the imports, and seconds."""
    work = step(spec, folder)
    imports, start = resident("VmRSS"), time.perf_counter()
    work()
    return resident("VmHWM") - imports, time.perf_counter() - start


def in_new_python(step: Callable[[VariantSpec, Path], Work], spec: VariantSpec, folder: Path) -> tuple[float, float]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, step, spec, folder).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where to put the scratch folder")
    parser.add_argument("--variant", default="dinov3_vit7b16_pretrain_lvd1689m")
    parser.add_argument("--depths", type=int, nargs=2, default=(4, 8), metavar="BLOCKS")
    options = parser.parse_args()

    from vit2onnx.checkpoints.identity import known_variants
    from vit2onnx.weights.leaves import array_shapes
    from vit2onnx.weights.model_file import skeleton_of

    released = known_variants()[options.variant]
    peaks: dict[str, list[float]] = {step.__name__: [] for step in STEPS}
    for depth in options.depths:
        # Of two towers, the shallower is not deepened.
        depths = {
            name: min(depth, own)
            for name in ("depth", "text_depth")
            if (own := getattr(released.architecture, name, 0))
        }
        spec = replace(released, architecture=replace(released.architecture, **depths))
        with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
            for step, obsolete in STEPS.items():
                peaks[step.__name__].append(in_new_python(step, spec, Path(scratch))[0])
                for name in obsolete:
                    (Path(scratch) / name).unlink()
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        peak, seconds = in_new_python(graph_without_weights, released, Path(scratch))

    name, shape = max(
        array_shapes(skeleton_of(spec.family, spec.architecture)).items(), key=lambda leaf: math.prod(leaf[1])
    )
    print(f"{released.name}: largest tensor {name} {shape}, {4 * math.prod(shape) / 2**20:.0f} MiB")
    few, many = options.depths
    print(f"{'MiB above the imports':24}{few:4} blocks{many:4} blocks    ratio")
    for step_name, (with_few, with_many) in peaks.items():
        print(f"{step_name:24}{with_few:11.0f}{with_many:11.0f}{with_many / with_few:9.2f}")
    depth = released.architecture.depth
    print(f"graph of {depth} blocks, without weights: {peak:.0f} MiB above the imports, {seconds:.1f} s")


if __name__ == "__main__":
    main()
