"""Check an ONNX file against its passport, wherever it has gone. Needs onnxruntime and numpy only.

    python -m vit2onnx.verify static.onnx

looks for static.passport.json and static.sample.npz beside it. That the file is the one that was proven is seen from
its hashes, that it computes what the original computes, on this machine, from the recorded input and output.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vit2onnx.errors import InputError
from vit2onnx.files import read_arrays, sha256_of
from vit2onnx.onnx_file import FLOORS, PASSPORT_FORMAT, initializers, passport_beside, sample_beside
from vit2onnx.parity.floors import error, in_floors
from vit2onnx.runners.onnx import batch_of, session_of


def read_passport(graph: Path) -> dict[str, Any]:
    """The passport that lies beside a graph."""
    path = passport_beside(graph)
    try:
        passport: dict[str, Any] = json.loads(path.read_text())
        if passport["passport"] != PASSPORT_FORMAT:
            raise InputError(f"{path} is of format {passport['passport']}; use the vit2onnx that wrote it.")
        return passport
    except FileNotFoundError:
        raise InputError(f"{path} is missing; keep it beside the ONNX file.") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} is no passport written by vit2onnx.") from None


def check_hashes(graph: Path, passport: dict[str, Any]) -> Iterator[tuple[bool, str]]:
    """Whether file and weights are those of the passport."""
    present = initializers(graph)
    found, wanted = sha256_of(graph), passport["file"]["sha256"]
    yield found == wanted, f"SHA-256 {found}{'' if found == wanted else f', but {wanted} was recorded'}"
    recorded = {name: weight["sha256"] for name, weight in passport["weights"].items()} | passport["constants"]
    differing = sorted(present.keys() ^ recorded.keys())
    differing += [name for name, one in present.items() if name in recorded and one.sha256() != recorded[name]]
    shown = f", but not {', '.join(differing[:3])}{' and more' if len(differing) > 3 else ''}" if differing else ""
    computed = sum(not weight["sources"] for weight in passport["weights"].values())
    counted = f"{len(passport['weights']) - computed} weights are the checkpoint's, {computed} computed"
    yield bool(passport["weights"]) and not differing, f"{counted}{shown}"


def check_sample(graph: Path, passport: dict[str, Any]) -> Iterator[tuple[bool, str]]:
    """Whether the graph computes the recorded outputs from the recorded inputs."""
    sample = sample_beside(graph)
    if not sample.is_file():
        raise InputError(f"{sample} is missing; keep it beside the ONNX file.")
    yield sha256_of(sample) == passport["sample"]["sha256"], f"{sample.name} is the one that was recorded"
    arrays = read_arrays(sample)
    session = session_of(graph)
    limit = passport["sample"]["limit_in_floors"]
    image_name, output = session.get_inputs()[0].name, session.get_outputs()[0].name
    cases = [name.removeprefix(f"{image_name}/") for name in arrays if name.startswith(f"{image_name}/")]
    if not cases:
        yield False, "no input was recorded"
    for case in cases:
        images = np.repeat(arrays[f"{image_name}/{case}"][None], batch_of(session), axis=0)
        (found,) = session.run([output], {image_name: images})
        expected, floors = arrays[f"{output}/{case}"], arrays[f"{FLOORS}/{case}"]
        if found[0].shape != expected.shape:
            yield False, f"{case}: {output} has shape {found[0].shape} instead of {expected.shape}"
            continue
        worst = in_floors(found[0], expected, floors).floors
        measured = "not finite" if worst is None else f"{worst:.2g} noise floors"
        yield (
            worst is not None and worst <= limit < float("inf"),
            f"{case}: worst token {measured} from the original in double precision (limit {limit:g}),"
            f" max |difference| {np.abs(error(found[0], expected)).max():.1e}",
        )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m vit2onnx.verify", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("graph", type=Path, help="the ONNX file")
    graph: Path = parser.parse_args().graph
    try:
        if not graph.is_file():
            raise InputError(f"{graph}: there is no such file.")
        passport = read_passport(graph)
        licence = passport["licence"]
        print(f"{graph}: {passport['variant']}, {passport['export']}, from {passport['checkpoint']['identity']}")
        print(f"  licence of the weights: {licence['id'] + ', ' + licence['url'] if licence else 'none'}")
        passed = True
        for good, sentence in itertools.chain(check_hashes(graph, passport), check_sample(graph, passport)):
            print(f"  {'ok  ' if good else 'FAIL'}  {sentence}")
            passed &= good
    except InputError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    # Any exception, because broken files make numpy, json and onnxruntime raise what they like.
    except Exception as problem:
        print(f"error: {graph} cannot be checked against its passport: {problem!r}", file=sys.stderr)
        return 1
    print(
        "verified against its passport"
        if passed
        else "NOT verified: this is not the file that was proven, or it computes something else"
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
