"""Check an ONNX file against its passport, wherever it has gone. Needs onnxruntime and numpy only.

    python verify.py static.onnx
    python verify.py static.onnx --provider CUDAExecutionProvider

looks for static.passport.json and static.sample.npz beside the file. Its hashes show that it is the file that was
proven. The recorded input and outputs show that it computes, on this machine, what the original computes. A provider of
onnxruntime is tried as it is by default; one that rounds more coarsely by default is also tried without that.
"""

import argparse
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from vit2onnx.arrays import Arrays
from vit2onnx.checksums import read_json, sha256_of
from vit2onnx.errors import InputError, first_few, printable
from vit2onnx.onnx_file import (
    FLOORS,
    PASSPORT_FORMAT,
    described,
    initializers,
    metadata,
    passport_beside,
    sample_beside,
)
from vit2onnx.parity.floors import ROUNDOFF, error, rms, token_floors
from vit2onnx.runners.session import CPU, batch_of, session_of

# Providers that round more coarsely by default than a file's precision says: by what, and the setting without it.
COARSER = {"CUDAExecutionProvider": ("TF32", {"use_tf32": "0"})}
# No limit of a passport is higher, so that an edited one cannot let everything pass.
HIGHEST_LIMIT = 100.0
# The largest noise floor in single precision and in any, as a share of an output's root mean square.
HIGHEST_FLOOR, HIGHEST_FLOOR_OF_ANY = 1e-4, 0.05
# No limit of a passport is lower, in small precisions; rows of fewer numbers have no direction to speak of.
LEAST_COSINE, FEWEST_CHANNELS = 0.99, 16
# No passport is larger; that of a model with 40 blocks has 0.4 MB.
MOST_BYTES = 1 << 26
# The keys of a passport that are not in the file's metadata.
OWN_KEYS = {"passport", "file", "checkpoint", "parity", "sample", "versions", "weights", "constants", "folded"}
# The keys that the metadata of every file has, and those of which it has one at least, by what goes in.
SAID = {"variant", "family", "export", "checkpoint", "weights", "licence", "outputs", "version"}
SAID_OF_INPUTS = {"preprocessing", "preparation", "text"}
# The input that says which rows of the features mean something.
MASK = "pixel_attention_mask"
AGAIN = "get it once more from whoever gave it to you"

Answer = tuple[bool, str]


def read_passport(graph: Path) -> dict[str, Any]:
    """The passport that lies beside a graph."""
    path = passport_beside(graph)
    if not path.is_file():
        earlier = graph.with_name(metadata(graph).get("passport", path.name))
        renamed = f" {earlier.name} is there: name ONNX file, passport and sample alike." if earlier.is_file() else ""
        raise InputError(f"{path} is missing; keep it beside the ONNX file.{renamed}")
    passport: dict[str, Any] = read_json(path, AGAIN, MOST_BYTES)
    if passport.get("passport") != PASSPORT_FORMAT:
        raise InputError(f"{path} is of format {passport.get('passport')}; use the verify.py that came with it.")
    return passport


def check_hashes(graph: Path, passport: dict[str, Any]) -> Iterator[Answer]:
    """Whether file and weights are those of the passport."""
    yield _is_recorded(graph, passport["file"])
    if graph.stat().st_size != passport["file"]["bytes"]:
        return
    present = initializers(graph)
    recorded = {name: weight["sha256"] for name, weight in passport["weights"].items()} | passport["constants"]
    differing = sorted(present.keys() ^ recorded.keys())
    differing += [name for name, one in present.items() if name in recorded and one.sha256() != recorded[name]]
    computed = sum(not weight["sources"] for weight in passport["weights"].values())
    counted = f"{len(passport['weights']) - computed} weights are the checkpoint's, {computed} computed"
    if differing:
        counted = f"not the recorded weights: {first_few(differing)}"
    yield bool(passport["weights"]) and not differing, counted


def _is_recorded(path: Path, recorded: dict[str, Any]) -> Answer:
    """Whether a file has its recorded size and hash."""
    if not path.is_file():
        raise InputError(f"{path} is missing; keep it beside the ONNX file.")
    # The size first, because hashing a wrong and huge file would take long.
    if (size := path.stat().st_size) != recorded["bytes"]:
        return False, f"{path.name} has {size} bytes, but {recorded['bytes']} were recorded"
    digest, wanted = sha256_of(path), recorded["sha256"]
    return digest == wanted, f"{path.name} has SHA-256 {digest}{'' if digest == wanted else f', not {wanted}'}"


def check_metadata(graph: Path, passport: dict[str, Any]) -> Iterator[Answer]:
    """Whether the passport says of the file what the file says of itself."""
    said, name = described(graph), passport_beside(graph).name
    # In a passport, `weights` holds the weights themselves, and `passport` its own format.
    # A package gives both files another name.
    own_name = f"{passport['export']}.onnx"
    told = {**passport, "weights": passport["checkpoint"]["weights"]}
    told["passport"] = passport_beside(graph.with_name(own_name)).name
    told["version"] = passport["versions"]["vit2onnx"]
    # A passport may know more of the checkpoint and of versions.
    for key in ("checkpoint", "versions"):
        told[key] = {entry: value for entry, value in told[key].items() if entry in said.get(key, ())}
    differing = sorted(key for key, value in said.items() if told.get(key) != value)
    if SAID_OF_INPUTS.isdisjoint(said):
        differing.append("preprocessing or text")
    own_keys = OWN_KEYS | ({"certificate"} if said.get("precision") == "float16" else set())
    differing += sorted(SAID - said.keys()) + sorted(passport.keys() - said.keys() - own_keys)
    differing += ["the file's name"] * (passport["file"]["name"] != own_name)
    differing += ["the checkpoint's variant"] * (passport["checkpoint"]["variant"] != passport["variant"])
    shown = f", but not on {', '.join(differing)}" if differing else ""
    yield not differing, f"{name} and the file's metadata agree{shown}"
    findings = passport["parity"]["findings"]
    legs = {finding["leg"] for finding in findings}
    pairs = [(finding["measured"], finding["limit"]) for finding in findings]
    passed = all(measured is not None and 0 <= measured <= limit < math.inf for measured, limit in pairs)
    yield passed and legs >= {"reference", "truth", "sanity"}, f"all findings of {name} are within their limits"


def check_sample(
    graph: Path, passport: dict[str, Any], threads: int = 0, provider: str = CPU, *, exactly: bool = False
) -> Iterator[Answer]:
    """Whether the graph computes all recorded outputs from the recorded inputs. Does not run it if it cannot tell.

    A provider is run as it is by default, or `exactly`, without what rounds more coarsely than single precision.
    """
    sample, limit = sample_beside(graph), passport["sample"]["limit_in_floors"]
    # Passports of files from before there were other precisions do not name it.
    precision = passport.get("precision", "float32")
    least = passport["sample"].get("least_cosine")
    if precision != "float32" and not (isinstance(least, float) and LEAST_COSINE <= least <= 1):
        yield False, f"a lowest cosine of {least} says nothing; passports of {precision} have {LEAST_COSINE:g} at least"
        return
    good, sentence = _is_recorded(sample, passport["sample"])
    yield good, sentence
    if not 0 < limit <= HIGHEST_LIMIT:
        good = False
        yield good, f"a limit of {limit:g} noise floors says nothing; passports have {HIGHEST_LIMIT:g} at most"
    if not good:
        return
    with Arrays(sample, AGAIN) as arrays:
        session = _session(graph, threads, provider, COARSER[provider][1] if exactly else {})
        if provider not in session.get_providers():
            yield False, f"onnxruntime could not start {provider}, and would run the file on the CPU"
            return
        inputs, outputs = ([port.name for port in ports] for ports in (session.get_inputs(), session.get_outputs()))
        ranks = {port.name: len(port.shape) for port in session.get_inputs()}
        cases = [name[len(inputs[0]) + 1 :] for name in arrays if name.startswith(f"{inputs[0]}/")]
        named = [*inputs, *outputs, *(f"{FLOORS}/{output}" for output in outputs)]
        wanted = {f"{name}/{case}" for name in named for case in cases}
        for name in sorted(wanted - {*arrays}):
            yield False, f"{name} was not recorded in {sample.name}"
        for name in sorted({*arrays} - wanted):
            yield False, f"{name} was recorded in {sample.name} and is not in the file"
        if not cases:
            yield False, f"no input was recorded in {sample.name}"
        if not cases or wanted != {*arrays}:
            return
        for case in cases:
            recorded = {name: arrays[f"{name}/{case}"] for name in inputs}
            # A case is one of a batch, or a batch by itself.
            alone = all(array.ndim < ranks[name] for name, array in recorded.items())
            times = batch_of(session)
            given = {name: np.repeat(x[None], times, axis=0) if alone else x for name, x in recorded.items()}
            mask = recorded.get(MASK)
            for output, values in zip(outputs, session.run(outputs, given)):
                expected, floors = arrays[f"{output}/{case}"], arrays[f"{FLOORS}/{output}/{case}"]
                found = values[0] if alone else values
                if alone and mask is not None and found.ndim > 1:
                    # Rows behind the mask mean nothing.
                    found = found[: int(mask.sum())]
                yield _check_output(f"{case}: {output}", found, expected, floors, limit, precision)
                if precision != "float32":
                    yield _check_cosine(f"{case}: {output}", found, expected, least)


def _session(graph: Path, threads: int, provider: str, settings: dict[str, str]) -> Any:
    if provider not in ort.get_available_providers():
        raise InputError(
            f"onnxruntime {ort.__version__} as installed here has no {provider}, only"
            f" {', '.join(ort.get_available_providers())}; install the package that has it."
        )
    try:
        return session_of(graph, threads=threads, provider=provider, settings=settings)
    # Any exception, because onnxruntime has none in common to all of its own.
    except Exception as problem:
        raise InputError(
            f"onnxruntime {ort.__version__} cannot load {graph}; native files need 1.23 or newer (and Python 3.10),"
            f" portable ones 1.20 ({problem})."
        ) from problem


def _check_output(
    what: str, values: np.ndarray, expected: np.ndarray, floors: np.ndarray, limit: float, precision: str
) -> Answer:
    if (values.shape, values.dtype) != (expected.shape, expected.dtype):
        return False, f"{what} is {values.shape} {values.dtype} instead of {expected.shape} {expected.dtype}"
    tokens, wanted = (array.reshape(-1, array.shape[-1]) for array in (values, expected))
    highest = min(ROUNDOFF[precision] * HIGHEST_FLOOR, HIGHEST_FLOOR_OF_ANY) * rms(expected)
    if floors.shape != tokens.shape[:1] or not (floors.min() > 0 and floors.max() <= highest):
        return False, f"{what} was recorded with noise floors that no rounding has"
    worst = float(token_floors(tokens, wanted, floors).max())
    unit = "noise floors" if precision == "float32" else f"noise floors of {precision}"
    measured = f"{worst:.2g} {unit}" if math.isfinite(worst) else "not finite"
    return (
        worst <= limit,
        f"{what}, worst token {measured} from the original in double precision (limit {limit:g}),"
        f" max |difference| {np.abs(error(values, expected)).max():.1e}",
    )


def _check_cosine(what: str, values: np.ndarray, expected: np.ndarray, least: float) -> Answer:
    """Whether every row has the direction of the recorded one. A few numbers, such as logits, have none."""
    # Not by parity.metrics, because this program is handed over as one file.
    a: np.ndarray = values.reshape(-1, values.shape[-1]).astype(np.float64)
    b: np.ndarray = expected.reshape(-1, expected.shape[-1]).astype(np.float64)
    if a.shape != b.shape or a.shape[1] < FEWEST_CHANNELS:
        return a.shape == b.shape, f"{what} has {a.shape[1]} numbers in a row"
    with np.errstate(invalid="ignore", divide="ignore"):
        lowest = float(np.min((a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)))
    return lowest >= least, f"{what}, lowest cosine of a token {lowest:.6f} (limit {least:g})"


def verify(graph: Path, provider: str = CPU) -> bool:
    """Say what is found of a graph, up to the first check that fails; returns whether all passed."""
    if not graph.is_file():
        raise InputError(
            f"{graph}: {'this is a folder; name an ONNX file' if graph.is_dir() else 'there is no such file'}."
        )
    passport = read_passport(graph)
    # A file is run only if it is the recorded one and its metadata agree with the passport.
    for check in (check_hashes, check_metadata, check_sample):
        how = {"provider": provider} if check is check_sample else {}
        if not _told(check(graph, passport, **how)):
            if check is check_sample and provider in COARSER:
                _say(f"        {provider} without {COARSER[provider][0]}, which it has by default:")
                _told(check_sample(graph, passport, provider=provider, exactly=True))
            return False
        if check is check_metadata:
            licence = passport["licence"]
            _say(f"        {passport['variant']}, {passport['export']}, from {passport['checkpoint']['identity']}")
            _say(f"        licence of the weights: {licence['id'] + ', ' + licence['url'] if licence else 'none'}")
    return True


def _told(answers: Iterator[Answer]) -> bool:
    """Say all answers; returns whether all are good."""
    found = []
    for good, sentence in answers:
        _say(f"  {'ok  ' if good else 'FAIL'}  {sentence}")
        found.append(good)
    return all(found)


def _say(text: str) -> None:
    print(printable(text), flush=True)


def main() -> int:
    """Status 0 if the file is verified, 1 if it is not or cannot be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("graph", type=Path, help="the ONNX file")
    parser.add_argument("--provider", default=CPU, help="of onnxruntime; by default %(default)s")
    options = parser.parse_args()
    graph: Path = options.graph
    for stream in (sys.stdout, sys.stderr):
        # Letters that the terminal's encoding lacks are escaped.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    # onnxruntime's own lines hold names from the file as they are. Fatal ones stay.
    ort.set_default_logger_severity(4)
    try:
        _say(f"{graph}:")
        passed = verify(graph, options.provider)
        _say(
            f"{graph.name} is verified against its passport"
            if passed
            else f"{graph.name} is NOT verified: this is not the file that was proven, or it computes something else"
        )
        return 0 if passed else 1
    except BrokenPipeError:
        # The reader of the pipe has stopped. Python would complain again when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        problem = "stopped"
    except InputError as fault:
        problem = str(fault)
    # Any exception, because broken files make numpy, json and onnxruntime raise what they like.
    except Exception as fault:
        problem = f"{graph} cannot be checked against its passport: {fault!r}"
    print(printable(f"error: {problem}"), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
