"""`verify` finds whatever is changed of a graph, its passport or its sample, in a sentence that names the file."""

import json
import os
import re
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.handover.conftest import change_graph, change_json, change_sample, flip, with_hash
from vit2onnx.checksums import CHECKSUM
from vit2onnx.files import read_json, sha256_of, write_json
from vit2onnx.onnx_file import initializers
from vit2onnx.runners.session import session_of
from vit2onnx.verify import main

Verified = Callable[[Path], tuple[int, str]]


def told(verified: Verified, graph: Path) -> str:
    """The one sentence for which a graph is not verified."""
    status, printed = verified(graph)
    assert status == 1
    found = re.findall("(?:FAIL  |error: )(.*)\n", printed)
    assert len(found) == 1, printed
    return found[0]


def test_the_file_that_was_proven_is_verified(graph: Path, verified: Verified):
    status, printed = verified(graph)
    assert status == 0
    assert printed.endswith("is verified against its passport\n")
    assert "FAIL" not in printed
    for output in ("last_hidden_state", "pooler_output"):
        found = (
            rf"ok    cat@48x64: {output}, worst token ([\d.]+) noise floors from the original in double precision \(l"
        )
        # Measured 1.2.
        assert 0.1 < float(re.search(found, printed)[1]) < 5


def test_a_renamed_file_says_what_it_was_called(graph: Path, verified: Verified):
    renamed = graph.rename(graph.with_name("features.onnx"))
    sentence = told(verified, renamed)
    assert "features.passport.json is missing" in sentence
    assert sentence.endswith("static.passport.json is there: name ONNX file, passport and sample alike.")
    for ending in ("passport.json", "sample.npz"):
        graph.with_name(f"static.{ending}").rename(graph.with_name(f"features.{ending}"))
    assert verified(renamed)[0] == 0


def test_a_folder_is_no_file(graph: Path, verified: Verified):
    assert told(verified, graph.parent) == f"{graph.parent}: this is a folder; name an ONNX file."


def other_epsilon(model: onnx.ModelProto) -> None:
    norm = next(node for node in model.graph.node if node.op_type == "LayerNormalization")
    next(attribute for attribute in norm.attribute if attribute.name == "epsilon").f = 1e-2


def negated(output: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            for names in (node.input, node.output):
                names[:] = ["right" if name == output else name for name in names]
        model.graph.node.append(helper.make_node("Neg", ["right"], [output]))

    return change


def entry(key: str, value: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        next(one for one in model.metadata_props if one.key == key).value = value

    return change


def external(key: str, value: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        entries = [one for tensor in model.graph.initializer for one in tensor.external_data]
        next(one for one in entries if one.key == key).value = value

    return change


def third_output(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Identity", ["pooler_output"], ["third"]))
    model.graph.output.append(helper.make_tensor_value_info("third", onnx.TensorProto.FLOAT, None))


def further_initializer(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(helper.make_tensor("new", onnx.TensorProto.FLOAT, [1], b"\0\0\0\0", raw=True))


# Each with the sentence where size and hash in the passport were edited to fit. Without that, the hash tells.
GRAPH_EDITS: dict[str, tuple[Callable[[onnx.ModelProto], Any], str]] = {
    "node": (other_epsilon, r"cat@48x64: last_hidden_state, worst token"),
    "first output": (negated("last_hidden_state"), r"cat@48x64: last_hidden_state, worst token"),
    "second output": (negated("pooler_output"), r"cat@48x64: pooler_output, worst token"),
    "further output": (third_output, r"noise_floors/third/cat@48x64 was not recorded in static\.sample\.npz"),
    "output missing": (lambda m: m.graph.output.pop(), r"was recorded in static\.sample\.npz and is not in the file"),
    "further weight": (further_initializer, r"not the recorded weights: new"),
    "weight missing": (lambda model: model.graph.initializer.pop(), r"not the recorded weights: "),
    "licence": (entry("licence", '{"id": "MIT"}'), r"static\.passport\.json and the .* agree, but not on licence"),
    "metadata": (entry("outputs", "{"), r"static\.onnx: its metadata outputs is damaged"),
    "folder": (external("location", "../model.eqx"), r"static\.onnx is no complete ONNX file \(its weights are in an"),
    "folder itself": (external("location", ".."), r"static\.onnx is no complete ONNX file \(its weights are in an"),
    "device": (external("location", "/dev/zero"), r"static\.onnx is no complete ONNX file \(its weights are in an"),
    "offset": (external("offset", "0"), r"not the recorded weights: "),
    "end": (external("length", "9999999999"), r"model\.eqx ends within "),
}


@pytest.mark.parametrize("follows", [True, False], ids=["hash edited", "hash kept"])
@pytest.mark.parametrize(("change", "sentence"), GRAPH_EDITS.values(), ids=GRAPH_EDITS)
def test_a_changed_graph_is_named(graph: Path, verified: Verified, change, sentence: str, follows: bool):
    change_graph(graph, change)
    if follows:
        with_hash(graph)
    status, printed = verified(graph)
    assert status == 1
    assert re.search(rf"(FAIL  |error: ).*{sentence if follows else r'static.onnx has'}", printed)
    # A file that is another one is not run.
    assert follows or "worst token" not in printed


def test_a_changed_weight_is_named(graph: Path, verified: Verified):
    flip(initializers(graph)["blocks.1.ls2.gamma"])
    assert re.search("not the recorded weights: blocks.1.ls2.gamma$", told(verified, graph))


# Each with the sentence where the checksum was computed anew. Without that, the checksum tells.
PASSPORT_EDITS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "variant": (lambda p: p.update(variant="dinov3_vit7b16_pretrain_lvd1689m"), "agree, but not on .*variant"),
    "licence": (lambda p: p.update(licence={"id": "MIT", "url": "", "file": "x"}), "agree, but not on licence"),
    "preprocessing": (lambda p: p.update(preprocessing={}), "agree, but not on preprocessing"),
    "departure": (lambda p: p.update(departure="RoPE periods in float32"), "agree, but not on departure"),
    "ledger": (lambda p: p.update(ledger_sha256="0" * 64), "agree, but not on ledger_sha256"),
    "identity": (lambda p: p["checkpoint"].update(identity="the publisher's own"), "agree, but not on checkpoint"),
    "weights": (lambda p: p["checkpoint"].update(weights="official"), "agree, but not on weights"),
    "variant of it": (lambda p: p["checkpoint"].update(variant="x"), "but not on the checkpoint's variant"),
    "versions": (lambda p: p["versions"].update(jax="0.0"), "agree, but not on versions"),
    "boast": (lambda p: p.update(certified=True), "agree, but not on certified"),
    "name": (lambda p: p["file"].update(name="x.onnx"), "agree, but not on the file's name"),
    "size": (lambda p: p["file"].update(bytes=1), r"static\.onnx has \d+ bytes, but 1 were recorded"),
    "hash": (lambda p: p["file"].update(sha256="0" * 64), r"static\.onnx has SHA-256 \w+, not 0000"),
    "weight": (lambda p: p["weights"]["norm.bias"].update(sha256="0" * 64), "not the recorded weights: norm.bias"),
    "weight left out": (lambda p: p["weights"].pop("norm.bias"), "not the recorded weights: norm.bias"),
    "no weights": (lambda p: p.update(weights={}), "not the recorded weights: "),
    "no findings": (lambda p: p["parity"].update(findings=[]), r"all findings of static\.passport\.json"),
    "no leg": (lambda p: p["parity"]["findings"].pop(), r"all findings of static\.passport\.json"),
    "finding": (lambda p: p["parity"]["findings"][0].update(measured=9.0), r"all findings of static\.passport\.json"),
    "below zero": (lambda p: p["parity"]["findings"][0].update(measured=-9.0), "all findings of static"),
    "no limit": (lambda p: p["sample"].pop("limit_in_floors"), r"cannot be checked against its passport: KeyError"),
    "limit a text": (lambda p: p["sample"].update(limit_in_floors="10"), "cannot be checked against its passport"),
    "high limit": (lambda p: p["sample"].update(limit_in_floors=1e9), r"a limit of 1e\+09 noise floors says nothing"),
    "limit of zero": (lambda p: p["sample"].update(limit_in_floors=0), "a limit of 0 noise floors says nothing"),
    "another sample": (lambda p: p["sample"].update(sha256="0" * 64), r"static\.sample\.npz has SHA-256 \w+, not 0"),
    "size of sample": (lambda p: p["sample"].update(bytes=1), r"static\.sample\.npz has \d+ bytes, but 1 were"),
    "no constants": (lambda p: p.pop("constants"), r"cannot be checked against its passport: KeyError"),
    "another format": (lambda p: p.update(passport=1), r"static\.passport\.json is of format 1; use the verify\.py"),
    "control characters": (
        lambda p: p.update(passport="\x1b]0;x\x07\n\u202e"),
        r"is of format \\x1b\]0;x\\x07\\n\\u202e; use",
    ),
}


@pytest.mark.parametrize("follows", [True, False], ids=["checksum edited", "checksum kept"])
@pytest.mark.parametrize(("change", "sentence"), PASSPORT_EDITS.values(), ids=PASSPORT_EDITS)
def test_a_changed_passport_is_named(graph: Path, verified: Verified, change, sentence: str, follows: bool):
    path = graph.with_suffix(".passport.json")
    if follows:
        change_json(path, change)
        assert re.search(sentence, told(verified, graph))
    else:
        data = json.loads(path.read_text())
        change(data)
        path.write_text(json.dumps(data))
        assert re.search(r"static\.passport\.json was edited or is damaged: its checksum", told(verified, graph))


@pytest.mark.parametrize("key", ["transforms", "sources"])
def test_what_only_the_checksum_can_tell_is_told(graph: Path, verified: Verified, key: str):
    path = graph.with_suffix(".passport.json")
    data = json.loads(path.read_text())
    data["weights"]["norm.bias"][key] = {"another": "0" * 64} if key == "sources" else ["another"]
    path.write_text(json.dumps(data))
    assert "was edited or is damaged" in told(verified, graph)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[",
        b"[" * 100_000,
        b"{}",
        b"[]",
        b"null",
        b'{"checksum": NaN}',
        b'{"a": ' + b"1" * 5000 + b', "checksum": ""}',
        b"\xff\xfe\x00",
        b'{"passport": 4}',
    ],
    ids=range(10),
)
def test_what_is_no_passport_is_one_sentence(graph: Path, verified: Verified, text: bytes):
    graph.with_suffix(".passport.json").write_bytes(text)
    assert re.search(r"static\.passport\.json (is damaged|was edited)", told(verified, graph))


def test_a_passport_of_gigabytes_is_not_read(graph: Path, verified: Verified):
    with graph.with_suffix(".passport.json").open("r+b") as file:
        file.truncate(1 << 40)
    assert "static.passport.json has 1099511627776 bytes, more than such a file ever has" in told(verified, graph)


def test_a_graph_of_terabytes_is_not_hashed(graph: Path, verified: Verified):
    with graph.open("r+b") as file:
        file.truncate(1 << 40)
    status, printed = verified(graph)
    assert status == 1
    assert "FAIL  static.onnx has 1099511627776 bytes, but" in printed


@pytest.mark.parametrize("name", ["static.onnx", "static.passport.json", "static.sample.npz", "model.eqx"])
@pytest.mark.parametrize("what", ["missing", "truncated", "empty", "folder", "pipe"])
def test_a_file_that_is_not_whole_is_named(graph: Path, verified: Verified, name: str, what: str):
    path = graph.with_name(name)
    content = path.read_bytes()
    path.unlink()
    if what in ("truncated", "empty"):
        path.write_bytes(content[: len(content) // 2] if what == "truncated" else b"")
    elif what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    status, printed = verified(graph)
    assert status == 1
    assert re.search(rf"(FAIL  |error: ).*{re.escape(name)}", printed)
    assert printed.count("FAIL") + printed.count("error: ") <= 2


def test_another_output_than_the_recorded_one_is_seen(graph: Path, verified: Verified):
    name = "last_hidden_state/cat@48x64"
    change_sample(graph, lambda arrays: {**arrays, name: arrays[name] + np.float32(1e-4)})
    sentence = told(verified, graph)
    assert sentence.startswith("cat@48x64: last_hidden_state, worst token")
    assert sentence.endswith("max |difference| 1.0e-04")


CASE = "cat@48x64"
SAMPLE_EDITS: dict[str, tuple[Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]], str]] = {
    "floors": (
        lambda x: {k: 1e9 * v if k.startswith("noise_floors/") else v for k, v in x.items()},
        "was recorded with noise floors that no rounding has",
    ),
    "floors below zero": (
        lambda x: {k: -v if k.startswith("noise_floors/") else v for k, v in x.items()},
        "was recorded with noise floors that no rounding has",
    ),
    "one floor for all": (
        lambda x: {**x, f"noise_floors/last_hidden_state/{CASE}": x[f"noise_floors/last_hidden_state/{CASE}"][:1]},
        "was recorded with noise floors that no rounding has",
    ),
    "NaN": (
        lambda x: {**x, f"pooler_output/{CASE}": x[f"pooler_output/{CASE}"] * np.float32(np.nan)},
        "pooler_output was recorded with noise floors that no rounding has",
    ),
    "dtype": (
        lambda x: {**x, f"pooler_output/{CASE}": x[f"pooler_output/{CASE}"].astype(np.float16)},
        r"pooler_output is \(48,\) float32 instead of \(48,\) float16",
    ),
    "shape": (
        lambda x: {**x, f"pooler_output/{CASE}": x[f"pooler_output/{CASE}"][:5]},
        r"pooler_output is \(48,\) float32 instead of \(5,\) float32",
    ),
    "another output": (
        lambda x: {**x, f"logits/{CASE}": np.zeros((1, 3), np.float32)},
        f"logits/{CASE} was recorded in static.sample.npz and is not in the file",
    ),
    "only input": (lambda x: {k: v for k, v in x.items() if k.startswith("pixel")}, "was not recorded in static"),
    "only output": (lambda x: {k: v for k, v in x.items() if k.startswith("last")}, "no input was recorded in static"),
    "nothing": (lambda x: {}, "no input was recorded in static"),
    "no output": (
        lambda x: {k: v for k, v in x.items() if "pooler" not in k},
        f"pooler_output/{CASE} was not recorded in static.sample.npz",
    ),
    "size": (
        lambda x: {**x, f"pixel_values/{CASE}": x[f"pixel_values/{CASE}"][:, :20]},
        r"cannot be checked against its passport",
    ),
}


@pytest.mark.parametrize(("change", "sentence"), SAMPLE_EDITS.values(), ids=SAMPLE_EDITS)
def test_a_changed_sample_is_named(graph: Path, verified: Verified, change, sentence: str):
    change_sample(graph, change)
    status, printed = verified(graph)
    assert status == 1
    assert re.search(f"(FAIL  |error: ).*{sentence}", printed)


@pytest.mark.parametrize("how", ["deflated", "huge shape", "object"])
def test_a_sample_that_says_more_than_it_holds_is_refused(graph: Path, verified: Verified, how: str):
    sample = graph.with_name("static.sample.npz")
    header = {"huge shape": "(999999, 999999, 999)", "object": "(1,)"}.get(how, "(1,)")
    descr = "|O" if how == "object" else "<f4"
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {header}, }}".ljust(117) + "\n"
    content = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(8)
    kind = zipfile.ZIP_DEFLATED if how == "deflated" else zipfile.ZIP_STORED
    with zipfile.ZipFile(sample, "w", kind) as archive:
        for name in ("pixel_values", "last_hidden_state", "pooler_output"):
            archive.writestr(f"{name}/{CASE}.npy", content)
            archive.writestr(f"noise_floors/{name}/{CASE}.npy", content)
    told_of_it = {"bytes": sample.stat().st_size, "sha256": sha256_of(sample)}
    change_json(graph.with_suffix(".passport.json"), lambda data: data["sample"].update(told_of_it))
    status, printed = verified(graph)
    assert status == 1
    assert "static.sample.npz" in printed.split("FAIL")[-1] + printed.split("error: ")[-1]


def test_verified_files_hold_no_surprise(graph: Path):
    passport = graph.with_suffix(".passport.json")
    assert CHECKSUM in json.loads(passport.read_text())
    write_json(passport, read_json(passport))
    assert read_json(passport)["file"]["name"] == "static.onnx"


def test_a_reader_that_stops_early_is_no_traceback(graph: Path):
    command = f"{shlex.quote(sys.executable)} -m vit2onnx.verify {shlex.quote(str(graph))} | head -1"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True)
    assert done.stdout == f"{graph}:\n"
    assert done.stderr == ""
    assert done.returncode == 1


def test_verifying_needs_onnxruntime_and_numpy_only():
    code = "import sys; import vit2onnx.verify; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    packages = {"jax", "torch", "equinox", "onnx", "ml_dtypes", "yaml", "jaxtyping", "PIL", "pandas", "transformers"}
    assert not packages & set(loaded)
    assert {"numpy", "onnxruntime"} <= set(loaded)


def test_a_provider_is_named_by_what_is_installed(graph: Path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["verify.py", str(graph), "--provider", "NoSuchExecutionProvider"])
    assert main() == 1
    assert re.search(r"error: onnxruntime .* has no NoSuchExecutionProvider, only .*CPUEx", capsys.readouterr().err)


def test_a_provider_that_rounds_more_coarsely_is_tried_without_that(graph: Path, monkeypatch, capsys):
    settings = []

    def tf32(*given, **how):
        settings.append(how["settings"])
        session = session_of(*given, threads=how["threads"])
        outputs = session.run
        coarse = 0 if how["settings"] else 1e-2
        fake = SimpleNamespace(get_inputs=session.get_inputs, get_outputs=session.get_outputs)
        fake.get_providers = lambda: ["CUDAExecutionProvider"]
        fake.run = lambda names, given: [x + np.float32(coarse) for x in outputs(names, given)]
        return fake

    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr("vit2onnx.verify.session_of", tf32)
    monkeypatch.setattr(sys, "argv", ["verify.py", str(graph), "--provider", "CUDAExecutionProvider"])
    assert main() == 1
    before, _, after = capsys.readouterr().out.partition("CUDAExecutionProvider without TF32")
    assert "FAIL" in before and "ok    cat@48x64" in after and "FAIL" not in after.partition("NOT verified")[0]
    assert settings == [{}, {"use_tf32": "0"}]
