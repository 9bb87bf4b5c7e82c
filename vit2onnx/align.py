"""Put a packed model to the test: what it gives for an image may not depend on the other images of a call.

    python -m vit2onnx.align packed.onnx *.jpg --against dynamic.onnx
    python -m vit2onnx.align path/to/huggingface_folder *.jpg --device cuda

takes a packed graph, or a folder of Hugging Face with a model that has a packed form in PyTorch. Photographs keep their
sizes, and noise of mixed sizes is added. `--against` names what gives each image by itself: a graph of single images,
or a folder of Hugging Face; by default that is the folder itself, as transformers runs it.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from vit2onnx.errors import InputError
from vit2onnx.features.packed import said_by
from vit2onnx.images import load_image, preprocess
from vit2onnx.packing.arrays import native_size, pack
from vit2onnx.packing.probes import EXACT, EXCHANGED, ROUNDED, Probed, Run, noise, probe, refusals
from vit2onnx.parity.comparison import Row
from vit2onnx.parity.floors import rms
from vit2onnx.parity.metrics import worst
from vit2onnx.parity.packing import figures_of, rows_of
from vit2onnx.runners.packing import run_of
from vit2onnx.runners.session import session_of
from vit2onnx.spec.family import families, has_part, part
from vit2onnx.spec.plain_data import read_data
from vit2onnx.spec.variant import Preprocessing

AGAINST = "against each image by itself"
# What still passes where calls have other sizes: a share of the root mean square of the features, of which 4e-6 was
# measured, and a cosine, of which 1 - 2e-13 was.
LIMIT, COSINE = 1e-5, 0.999999
# How photographs are prepared where no file says it. Any way would do, because all are given the same.
IMAGENET = Preprocessing("bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# Gives the tokens [tokens, embed_dim] of one image [3, height, width]: CLS, registers, patches.
Single = Callable[[np.ndarray], np.ndarray]


def align(
    run: Run, single: Single | None, images: Mapping[str, np.ndarray], patch_size: int, limit: float, *, clips: bool
) -> tuple[list[dict[str, Any]], list[str]]:
    """A row of figures per probe and image, as `rows_of` gives them, and all that is wrong, in sentences.

    `limit` is the largest difference that passes where calls have other sizes, as a share of the root mean square of
    all features. `clips` says whether the model takes several frames of an image.
    """
    probed = list(probe(run, images, patch_size))
    together = {one.image: one.expected for one in probed}
    if single:
        alone = {name: single(image) for name, image in images.items()}
        if other := [name for name, tokens in alone.items() if tokens.shape != together[name].shape]:
            shapes = [" x ".join(map(str, of[other[0]].shape)) for of in (together, alone)]
            raise InputError(f"What is compared gives {shapes[1]} tokens instead of {shapes[0]}; it is another model.")
        probed = [Probed(AGAINST, name, together[name], tokens) for name, tokens in alone.items()] + probed
    rows = list(rows_of(probed, {}))
    faults = list(_faults(rows, limit * rms(np.concatenate([*together.values()]))))
    refused = refusals(run, pack(images.values(), patch_size), clips=clips)
    return rows, faults + [f"not refused: {wrong}" for wrong, message in refused if message is None]


def _faults(rows: Sequence[Mapping[str, Any]], limit: float) -> Iterator[str]:
    for row in rows:
        where = f"{row['image']}, {row['probe']}"
        largest = worst([row["max_abs"]])
        if row["probe"] in EXACT and largest != 0:
            yield f"{where}: differs by {largest:.1e} and must not differ by a bit"
        if row["probe"] in (AGAINST, *ROUNDED) and not (largest <= limit and worst([row["cosine"]]) >= COSINE):
            yield f"{where}: differs by {largest:.1e} (limit {limit:.1e}), least cosine {row['cosine']}"
        if row["probe"] == EXCHANGED and largest <= limit:
            yield f"{where}: does not show, so these images cannot show a fault"


def _table(rows: Sequence[Row]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("the same image", no_wrap=True)
    for title in ("images", "max diff", "min cos", "mean cos", "max cos"):
        table.add_column(title, justify="right", no_wrap=True)
    for what in dict.fromkeys(row["probe"] for row in rows):
        own = [row for row in rows if row["probe"] == what]
        figures = figures_of(own)
        name = f"{what} (a fault)" if what == EXCHANGED else what
        cosines = (f"{figures[kind]:.6f}" for kind in ("least", "mean", "most"))
        table.add_row(name, str(len(own)), f"{figures['max_abs']:.1e}", *cosines)
    return table


def _of_folder(folder: Path, device: str) -> tuple[Run, int, Preprocessing]:
    """The packed form of a folder's model, its patch size, and how photographs are prepared for it."""
    config = folder / "config.json"
    if not config.is_file():
        raise InputError(f"{folder} is neither a packed ONNX file nor a Hugging Face folder: it has no config.json.")
    # Here, because a graph needs no torch.
    import torch

    packings = [part(family, "packing") for family in families() if has_part(family, "packing")]
    forms = {one.MODEL_TYPE: one.Packing for one in packings}
    described = read_data(config, str(config))
    kind = described.get("model_type") if isinstance(described, dict) else None
    if not isinstance(kind, str) or kind not in forms:
        raise InputError(f"{folder} has a model of the type {kind}; only {', '.join(forms)} has a packed form.")
    try:
        model = forms[kind](folder, device)
    except (AssertionError, RuntimeError) as error:
        raise InputError(f"{folder} does not go to the device {device}: {error}") from error

    def run(pixel_values: np.ndarray, grid_thw: np.ndarray) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            found = model.features(torch.from_numpy(pixel_values), torch.from_numpy(grid_thw))
        return {name: value.float().cpu().numpy() for name, value in found.items()}

    return run, model.patch_size, IMAGENET


def _single(path: Path, device: str) -> Single:
    """A graph of single images, or a model of transformers."""
    if path.suffix == ".onnx":
        session = session_of(path)
        (port, *others) = session.get_inputs()
        if others or port.name != "pixel_values" or any(isinstance(size, int) for size in (port.shape[2:] or [1])):
            raise InputError(f"{path} takes no single images of any size; give a graph of free height and width.")
        return lambda image: np.asarray(session.run(["last_hidden_state"], {"pixel_values": image[None]})[0][0])
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(path, local_files_only=True).eval().to(device)

    @torch.inference_mode()
    def tokens(image: np.ndarray) -> np.ndarray:
        found = model(pixel_values=torch.from_numpy(image[None]).to(device)).last_hidden_state
        return np.asarray(found[0].cpu().numpy())

    return tokens


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line. Returns the exit status: 1 if something is wrong."""
    parser = argparse.ArgumentParser("vit2onnx.align", description="Put a packed model to the test.")
    parser.add_argument("model", type=Path, help="a packed ONNX file, or a folder of Hugging Face")
    parser.add_argument("photographs", nargs="+", type=Path)
    parser.add_argument("--against", type=Path, help="a graph of single images, or a folder of Hugging Face")
    parser.add_argument("--max-patches", type=int, default=256, help="larger photographs are shrunk (%(default)s)")
    parser.add_argument("--device", default="cpu", help="where a folder's model runs (%(default)s)")
    parser.add_argument("--limit", type=float, default=LIMIT, help="largest difference, of the root mean square")
    given = parser.parse_args(arguments)
    try:
        if not 0 < given.limit < 1:
            raise InputError(f"--limit is {given.limit:g}; give a share of the features between 0 and 1.")
        is_graph = given.model.suffix == ".onnx"
        if is_graph:
            patch_size, prepared = said_by(given.model)
            run = run_of(session_of(given.model, quiet=True))
        else:
            run, patch_size, prepared = _of_folder(given.model, given.device)
        against = given.against or (None if is_graph else given.model)
        single = _single(against, given.device) if against else None
        images = {}
        for path in dict.fromkeys(given.photographs):
            image = load_image(path)
            size = native_size(image.height, image.width, patch_size, given.max_patches)
            images[str(path) if path.name in images else path.name] = preprocess(image, *size, prepared)
        images |= noise(patch_size)
        rows, faults = align(run, single, images, patch_size, given.limit, clips=not is_graph)
    except (InputError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    Console().print(_table(rows))
    compared = "" if single else " What each image gives by itself was not compared; name it by --against."
    print(*faults, "FAILED" if faults else f"Passed: no image depends on another.{compared}", sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
