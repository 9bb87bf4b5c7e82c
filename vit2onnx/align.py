"""Put a packed model to the test: what it gives for an image may not depend on the other images of a call.

    python -m vit2onnx.align packed.onnx *.jpg --against dynamic.onnx
    python -m vit2onnx.align path/to/huggingface_folder *.jpg --device cuda

takes a packed graph, or a folder of Hugging Face with a model that has a packed form in PyTorch. Photographs keep their
sizes, and noise of mixed sizes is added. `--against` names what gives each image by itself: a graph of single images,
or a folder of Hugging Face; by default that is the folder itself, as transformers runs it.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from vit2onnx.errors import InputError
from vit2onnx.features import Packed
from vit2onnx.images import load_image, preprocess
from vit2onnx.packing.arrays import native_size, pack
from vit2onnx.packing.probes import EXACT, EXCHANGED, ROUNDED, Packer, Probed, Run, probe, wrong_inputs
from vit2onnx.parity.metrics import worst
from vit2onnx.parity.packing import noise, rows_of
from vit2onnx.runners.packing import run_of
from vit2onnx.runners.session import session_of
from vit2onnx.spec.family import families, has_part, part
from vit2onnx.spec.variant import Preprocessing

# Of the tokens of an image.
COSINES = ("cosine", "mean_cosine", "greatest_cosine")
AGAINST = "against each image by itself"
# What still passes where calls have other sizes: of the output's root mean square, and a cosine.
LIMIT, COSINE = 1e-5, 0.999999
# How photographs are prepared where no file says it. Any way would do, because all are given the same.
USUAL = Preprocessing("bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# Gives the tokens [tokens, embed_dim] of one image [3, height, width]: CLS, registers, patches.
Single = Callable[[np.ndarray], np.ndarray]


def align(
    run: Run, single: Single | None, images: Mapping[str, np.ndarray], patch_size: int, *, clips: bool
) -> tuple[list[dict[str, Any]], list[str]]:
    """A row of figures per probe and image, as `rows_of` gives them, and the wrong inputs that are not refused.

    `clips` says whether the model takes several frames of an image.
    """
    probed = list(probe(run, images, patch_size))
    if single:
        together = {one.image: one.expected for one in probed}
        probed = [Probed(AGAINST, name, together[name], single(image)) for name, image in images.items()] + probed
    silent = []
    for wrong, *given in wrong_inputs(**pack(images.values(), patch_size), clips=clips):
        # Any exception, because runtimes have none in common.
        with suppress(Exception):
            run(*given)
            silent.append(wrong)
    return list(rows_of(probed, {})), silent


def faults_of(rows: Sequence[Mapping[str, Any]], silent: Sequence[str], scale: float, limit: float) -> Iterator[str]:
    """All that is wrong, in sentences. `scale` is the root mean square of the features."""
    for row in rows:
        where = f"{row['image']}, {row['probe']}"
        largest = worst([row["max_abs"]])
        if row["probe"] in EXACT and largest != 0:
            yield f"{where}: differs by {largest:.1e} and must not differ by a bit"
        if row["probe"] in (AGAINST, *ROUNDED) and not (largest <= limit * scale and worst([row["cosine"]]) >= COSINE):
            yield f"{where}: differs by {largest:.1e} (limit {limit * scale:.1e}), least cosine {row['cosine']}"
        if row["probe"] == EXCHANGED and largest <= limit * scale:
            yield f"{where}: does not show, so these images cannot show a fault"
    yield from (f"not refused: {wrong}" for wrong in silent)


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("the same image", no_wrap=True)
    for title in ("images", "max diff", "min cos", "mean cos", "max cos"):
        table.add_column(title, justify="right", no_wrap=True)
    for what in dict.fromkeys(row["probe"] for row in rows):
        own = [row for row in rows if row["probe"] == what]
        found = [[np.nan if row[name] is None else row[name] for row in own] for name in COSINES]
        figures = np.min(found[0]), np.mean(found[1]), np.max(found[2])
        name = f"{what} (a fault)" if what == EXCHANGED else what
        largest = worst(row["max_abs"] for row in own)
        table.add_row(name, str(len(own)), f"{largest:.1e}", *(f"{cosine:.6f}" for cosine in figures))
    return table


def _of_folder(folder: Path, device: str) -> tuple[Run, int, Preprocessing]:
    """The packed form of a folder's model, its patch size, and how photographs are prepared for it."""
    config = folder / "config.json"
    if not config.is_file():
        raise InputError(f"{folder} is no packed ONNX file and no folder of Hugging Face; it has no config.json.")
    # Here, because a graph needs no torch.
    import torch

    forms = {
        one.MODEL_TYPE: one.Packing
        for one in (part(name, "packing") for name in families() if has_part(name, "packing"))
    }
    kind = json.loads(config.read_text()).get("model_type")
    if kind not in forms:
        raise InputError(f"{folder} has a model of the type {kind}; only {', '.join(forms)} has a packed form.")
    model = forms[kind](folder, device)

    def run(pixel_values: np.ndarray, grid_thw: np.ndarray) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            found = model.features(torch.from_numpy(pixel_values), torch.from_numpy(grid_thw))
        return {name: value.float().cpu().numpy() for name, value in found.items()}

    return run, model.patch_size, USUAL


def _single(path: Path, device: str) -> Single:
    """A graph of single images, or a model of transformers."""
    if path.suffix == ".onnx":
        session = session_of(path)
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
        is_graph = given.model.suffix == ".onnx"
        if is_graph:
            packed = Packed(given.model)
            run, patch_size, prepared = (
                run_of(session_of(given.model, quiet=True)),
                packed.patch_size,
                packed.preprocessing,
            )
        else:
            run, patch_size, prepared = _of_folder(given.model, given.device)
        against = given.against or (None if is_graph else given.model)
        images = {}
        for path in given.photographs:
            image = load_image(path)
            size = native_size(image.height, image.width, patch_size, given.max_patches)
            images[path.name] = preprocess(image, *size, prepared)
        images |= noise(patch_size)
        single = _single(against, given.device) if against else None
        rows, silent = align(run, single, images, patch_size, clips=not is_graph)
        packer = Packer(run, images, patch_size)
        scale = float(np.sqrt(np.mean([np.mean(x.astype(np.float64) ** 2) for x in packer.tokens(list(images))])))
    except (InputError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    Console().print(_table(rows))
    faults = list(faults_of(rows, silent, scale, given.limit))
    print(*faults, "FAILED" if faults else "Passed: no image depends on another.", sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
