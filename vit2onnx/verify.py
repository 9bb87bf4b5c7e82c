"""Check an ONNX file against its passport, wherever it has gone. Needs onnxruntime and numpy only.

    python -m vit2onnx.verify static.onnx

looks for static.passport.json and static.sample.npz beside it. That the file is the one that was proven is seen from
its hashes, that it computes what the original computes, on this machine, from the recorded input and output.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vit2onnx.errors import InputError
from vit2onnx.files import read_arrays, sha256_of
from vit2onnx.onnx_file import FLOORS, PASSPORT_FORMAT, described, initializers, passport_beside, sample_beside
from vit2onnx.parity.floors import error, in_floors, rms
from vit2onnx.runners.onnx import batch_of, session_of

# No limit of a passport is higher, so that an edited one cannot let everything pass.
HIGHEST_LIMIT = 100.0
# The largest noise floor, as a share of an output's root mean square.
HIGHEST_FLOOR = 1e-3


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
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{path} is no passport written by vit2onnx.") from None


def check_hashes(graph: Path, passport: dict[str, Any]) -> Iterator[tuple[bool, str]]:
    """Whether file and weights are those of the passport."""
    present = initializers(graph)
    digest, wanted = sha256_of(graph), passport["file"]["sha256"]
    yield digest == wanted, f"SHA-256 {digest}{'' if digest == wanted else f', but {wanted} was recorded'}"
    recorded = {name: weight["sha256"] for name, weight in passport["weights"].items()} | passport["constants"]
    differing = sorted(present.keys() ^ recorded.keys())
    differing += [name for name, one in present.items() if name in recorded and one.sha256() != recorded[name]]
    shown = f", but not {', '.join(differing[:3])}{' and more' if len(differing) > 3 else ''}" if differing else ""
    computed = sum(not weight["sources"] for weight in passport["weights"].values())
    counted = f"{len(passport['weights']) - computed} weights are the checkpoint's, {computed} computed"
    yield bool(passport["weights"]) and not differing, f"{counted}{shown}"


def check_metadata(graph: Path, passport: dict[str, Any]) -> Iterator[tuple[bool, str]]:
    """Whether the passport says of the file what the file says of itself."""
    said = described(graph)
    # The weights themselves have this name in a passport, and its own format the other.
    told = passport | {"weights": passport["checkpoint"]["weights"], "passport": passport_beside(graph).name}
    told["version"] = passport["versions"]["vit2onnx"]
    # A passport may know more of the checkpoint and of versions.
    for key in ("checkpoint", "versions"):
        told[key] = {name: value for name, value in told[key].items() if name in said[key]}
    differing = [key for key, value in said.items() if told.get(key) != value]
    differing += sorted({"variant", "family", "export", "checkpoint", "licence", "preprocessing"} - said.keys())
    findings = passport["parity"]["findings"]
    passed = all(finding["measured"] <= finding["limit"] for finding in findings)
    yield bool(findings) and passed, "all findings of the passport are within their limits"
    yield not differing, f"passport and metadata agree{', but not on ' + ', '.join(differing) if differing else ''}"


def check_sample(graph: Path, passport: dict[str, Any], threads: int = 0) -> Iterator[tuple[bool, str]]:
    """Whether the graph computes all recorded outputs from the recorded inputs."""
    sample = sample_beside(graph)
    if not sample.is_file():
        raise InputError(f"{sample} is missing; keep it beside the ONNX file.")
    yield sha256_of(sample) == passport["sample"]["sha256"], f"{sample.name} is the one that was recorded"
    limit = passport["sample"]["limit_in_floors"]
    if not 0 < limit <= HIGHEST_LIMIT:
        yield False, f"a limit of {limit:g} noise floors says nothing; passports have {HIGHEST_LIMIT:g} at most"
    arrays = read_arrays(sample)
    session = session_of(graph, threads=threads)
    image_name, outputs = session.get_inputs()[0].name, [port.name for port in session.get_outputs()]
    cases = [name.removeprefix(f"{image_name}/") for name in arrays if name.startswith(f"{image_name}/")]
    if not cases:
        yield False, "no input was recorded"
    recorded = {name.partition("/")[0] for name in arrays} - {image_name, FLOORS}
    if missing := sorted(recorded - {*outputs}):
        yield False, f"the outputs {', '.join(missing)} were recorded and are not in the file"
    for case in cases:
        images = np.repeat(arrays[f"{image_name}/{case}"][None], batch_of(session), axis=0)
        for output, values in zip(outputs, session.run(outputs, {image_name: images}), strict=True):
            yield _check_output(f"{case}: {output}", values[0], output, case, arrays, limit)


def _check_output(
    what: str, values: np.ndarray, output: str, case: str, arrays: Mapping[str, np.ndarray], limit: float
) -> tuple[bool, str]:
    if (key := f"{output}/{case}") not in arrays:
        return False, f"{what} was not recorded"
    expected, floors = arrays[key], arrays[f"{FLOORS}/{key}"]
    if values.shape != expected.shape:
        return False, f"{what} has shape {values.shape} instead of {expected.shape}"
    if not floors.max() <= HIGHEST_FLOOR * rms(expected):
        return False, f"{what} was recorded with noise floors that no rounding has"
    worst = in_floors(np.atleast_2d(values), np.atleast_2d(expected), floors).floors
    measured = "not finite" if worst is None else f"{worst:.2g} noise floors"
    return (
        worst is not None and worst <= limit,
        f"{what}, worst token {measured} from the original in double precision (limit {limit:g}),"
        f" max |difference| {np.abs(error(values, expected)).max():.1e}",
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
        for check in (check_hashes, check_metadata, check_sample):
            # A file that is another one is not run.
            for good, sentence in check(graph, passport) if passed or check is not check_sample else ():
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
