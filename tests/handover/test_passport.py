"""The passport proves a graph's weights from the checkpoint alone; `verify` finds whatever is changed later."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests import transformers_model
from vit2onnx import verify
from vit2onnx.checkpoints.fetch import describe
from vit2onnx.errors import InputError
from vit2onnx.exporting.graph import export
from vit2onnx.exporting.weights import write_embedded, write_external
from vit2onnx.files import sha256_of, write_arrays
from vit2onnx.handover.passport import passport_of, sample_of, weights_of
from vit2onnx.onnx_file import initializers
from vit2onnx.parity.finding import Finding
from vit2onnx.parity.verdict import LEGS, Verdict
from vit2onnx.runners import equinox as equinox_runner
from vit2onnx.runners.onnx_constants import COMPUTED, compute, computed_constants
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec
from vit2onnx.weights.model_file import open_model

STATIC = Recipe("static", 23, {"batch": 2, "height": 48, "width": 64})


def only_weights(path: Path, model_file: Path, *, external: bool = False) -> Path:
    """An ONNX file with a model's weights and no nodes, which is enough to look at weights."""
    value = helper.make_tensor_value_info("norm.bias", TensorProto.FLOAT, None)
    model = helper.make_model(helper.make_graph([], "graph", [], [value]), ir_version=10)
    _, tensors = open_model(model_file)
    if external:
        write_external(path, model, tensors, model_file.name)
    else:
        write_embedded(path, model, tensors)
    return path


def test_every_weight_of_every_release_is_the_checkpoints_in_every_layout(small, tmp_path: Path):
    graph = only_weights(tmp_path / "graph.onnx", small.model_file)
    for layout, checkpoint in small.checkpoints.items():
        if layout == "timm" and small.spec.family == "dinov3_vit" and small.spec.architecture.qkv_bias:
            continue  # leaves out the biases, which are not zero in synthetic weights
        found = weights_of(small.spec, checkpoint, graph, small.model_file)
        assert found["weights"].keys() == initializers(graph).keys(), layout
        assert found["constants"] == {}


def test_the_way_from_the_checkpoint_is_told(
    tiny_spec: VariantSpec, tiny_checkpoint: Path, tiny_model_file: Path, tmp_path
):
    graph = only_weights(tmp_path / "graph.onnx", tiny_model_file)
    found = weights_of(tiny_spec, tiny_checkpoint, graph, tiny_model_file)["weights"]
    assert found["blocks.0.attn.proj.weight"]["transforms"] == ["transpose"]
    assert found["blocks.0.attn.k.weight"]["transforms"] == ["take_k, transpose"]
    bias = found["blocks.0.attn.v.bias"]
    assert bias["transforms"] == ["multiply_by_mask", "take_v_beside_zero_keys"]
    assert list(bias["sources"]) == ["blocks.0.attn.qkv.bias", "blocks.0.attn.qkv.bias_mask"]
    norm = found["norm.weight"]
    assert norm["transforms"] == []
    assert norm["sources"] == {"norm.weight": norm["sha256"]}


@pytest.mark.parametrize("external", [False, True])
def test_one_changed_bit_of_one_weight_is_named(
    tiny_spec: VariantSpec, tiny_checkpoint: Path, tiny_model_file: Path, tmp_path: Path, external: bool
):
    model_file = tmp_path / "model.eqx"
    model_file.write_bytes(tiny_model_file.read_bytes())
    graph = only_weights(tmp_path / "graph.onnx", model_file, external=external)
    flip(initializers(graph)["blocks.1.mlp.fc2.weight"])
    file = "model.eqx" if external else "graph.onnx"
    with pytest.raises(InputError, match=rf"blocks\.1\.mlp\.fc2\.weight in {file} is not what"):
        weights_of(tiny_spec, tiny_checkpoint, graph, model_file)


def test_a_changed_bit_from_which_a_graph_was_made_is_named_where_it_is(
    tiny_spec: VariantSpec, tiny_checkpoint: Path, tiny_model_file: Path, tmp_path: Path
):
    model_file = tmp_path / "model.eqx"
    model_file.write_bytes(tiny_model_file.read_bytes())
    flip(initializers(only_weights(tmp_path / "other.onnx", model_file, external=True))["norm.bias"])
    graph = only_weights(tmp_path / "graph.onnx", model_file)
    with pytest.raises(InputError, match=r"norm\.bias in model\.eqx is not what the checkpoint's norm\.bias gives"):
        weights_of(tiny_spec, tiny_checkpoint, graph, model_file)


def flip(initializer: Any) -> None:
    """Change the lowest bit of a weight's first element."""
    with initializer.file.open("r+b") as file:
        file.seek(initializer.offset)
        byte = file.read(1)[0]
        file.seek(initializer.offset)
        file.write(bytes([byte ^ 1]))


@pytest.fixture
def proven(tiny_spec: VariantSpec, tiny_checkpoint: Path, tiny_model_file: Path, tmp_path: Path) -> Mapping[str, Any]:
    """The arguments of `passport_of` for a static graph with external weights, in a folder of its own."""
    model_file, ledger, record = tmp_path / "model.eqx", tmp_path / "ledger.csv", tmp_path / "checkpoint.json"
    model_file.write_bytes(tiny_model_file.read_bytes())
    ledger.write_text("source,target\n")
    told = describe(tiny_spec, tiny_checkpoint, origin={"kind": "synthetic", "seed": 0}, weights="synthetic")
    record.write_text(json.dumps(told))
    graph, digest = tmp_path / "static.onnx", sha256_of(ledger)
    export(tiny_spec, STATIC, model_file, graph, told, ledger_sha256=digest, external=True)
    rng = np.random.default_rng(0)
    images = {f"{name}@48x{width}": rng.standard_normal((3, 48, width), np.float32) for name, width in NAMED}
    reference = transformers_model.features(tiny_spec, tiny_checkpoint, images)
    sample = tmp_path / "static.sample.npz"
    equinox = equinox_runner.features(*open_model(model_file), images)
    write_arrays(sample, sample_of(tiny_spec.interface(), STATIC, images, reference, equinox))
    verdict = Verdict(
        tuple(Finding(leg, "as it should be", 0.0, 1.0) for leg in LEGS),
        references=["transformers"],
        limits={"floors": {"limit": 10.0}},
    )
    files = {"graph": graph, "checkpoint": tiny_checkpoint, "model": model_file, "record": record, "ledger": ledger}
    return {
        **{"spec": tiny_spec, "recipe": STATIC, "verdict": verdict, "sample": sample, "official": False},
        **files,
    }


NAMED = (("cat", 64), ("cat", 80), ("dog", 64))


@pytest.fixture
def graph(proven: Mapping[str, Any]) -> Path:
    """A graph with its passport."""
    path: Path = proven["graph"]
    path.with_suffix(".passport.json").write_text(json.dumps(passport_of(**proven)))
    return path


def verified(graph: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["verify", str(graph)])
    status = verify.main()
    printed = capsys.readouterr()
    return status, printed.out + printed.err


def test_a_passport_says_what_the_file_is(proven: Mapping[str, Any]):
    found = passport_of(**proven)
    assert (found["variant"], found["export"]) == ("dinov3_tiny", "static")
    assert found["checkpoint"] == json.loads(proven["record"].read_text())
    assert found["file"]["sha256"] == sha256_of(proven["graph"])
    assert found["ledger_sha256"] == sha256_of(proven["ledger"])
    assert found["licence"] is None
    assert found["preprocessing"]["mean"] == [0.485, 0.456, 0.406]
    assert found["constants"]
    assert json.loads(json.dumps(found)) == json.loads(json.dumps(passport_of(**proven)))


@pytest.mark.parametrize(
    "key, text", [("departure", "none at all"), ("outputs", "{}"), ("version", "99"), ("licence", '{"id": "MIT"}')]
)
def test_edited_metadata_is_refused(proven: Mapping[str, Any], key: str, text: str):
    model = onnx.load(proven["graph"], load_external_data=False)
    next(entry for entry in model.metadata_props if entry.key == key).value = text
    proven["graph"].write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=rf"The metadata of .*static\.onnx was edited \({key}\)"):
        passport_of(**proven)


def test_of_periods_that_are_folded_the_tables_are_proved(proven: Mapping[str, Any]):
    found = weights_of(proven["spec"], proven["checkpoint"], proven["graph"], proven["model"])
    assert "rope_periods" not in found["weights"].keys() | initializers(proven["graph"]).keys()
    assert list(found["folded"]) == ["rope_periods"]
    assert list(found["folded"]["rope_periods"]["sources"]) == ["rope_embed.periods"]
    assert len(computed_constants(proven["graph"])) == 2
    assert computed_constants(proven["graph"]).keys() <= found["constants"].keys()


def test_tables_of_other_periods_are_refused(proven: Mapping[str, Any]):
    """Also where the graph says so itself."""
    told = r"rope_periods in static\.onnx is not what the checkpoint's rope_embed\.periods gives"
    model = onnx.load(proven["graph"], load_external_data=False)
    (text,) = [entry for entry in model.metadata_props if entry.key == COMPUTED]
    text.value = text.value.replace("3.15625", "3.1562502")
    exact = compute(onnx.parser.parse_model(text.value))
    proven["graph"].write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=told):
        weights_of(proven["spec"], proven["checkpoint"], proven["graph"], proven["model"])
    for table in model.graph.initializer:
        if table.name in exact:
            table.raw_data = exact[table.name].astype(np.float32).tobytes()
    proven["graph"].write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=told):
        weights_of(proven["spec"], proven["checkpoint"], proven["graph"], proven["model"])


def test_a_changed_table_is_refused(proven: Mapping[str, Any]):
    name = next(iter(computed_constants(proven["graph"])))
    flip(initializers(proven["graph"])[name])
    with pytest.raises(InputError, match=f"the constant {name} is not what its origin computes"):
        weights_of(proven["spec"], proven["checkpoint"], proven["graph"], proven["model"])


def test_a_graph_that_does_not_compute_its_sample_gets_none(proven: Mapping[str, Any]):
    model = onnx.load(proven["graph"], load_external_data=False)
    norm = next(node for node in model.graph.node if node.op_type == "LayerNormalization")
    next(attribute for attribute in norm.attribute if attribute.name == "epsilon").f = 1e-2
    proven["graph"].write_bytes(model.SerializeToString())
    told = r"static\.onnx does not compute its sample: cat@48x64: last_hidden_state, worst token .* noise floors"
    with pytest.raises(InputError, match=told):
        passport_of(**proven)


@pytest.mark.parametrize(
    "edited",
    [
        {"identity": "the publisher's dinov3_vits16_pretrain_lvd1689m-08c60483.pth"},
        {"weights": "official"},
        {"official_file": "dinov3_vits16_pretrain_lvd1689m-08c60483.pth"},
        {"sha256": "0" * 64},
        {"origin": {"kind": "huggingface", "name": "facebook/dinov3"}},
    ],
    ids=lambda edited: next(iter(edited)),
)
def test_an_edited_record_is_not_believed(proven: Mapping[str, Any], edited: dict[str, Any]):
    record = json.loads(proven["record"].read_text())
    proven["record"].write_text(json.dumps(record | edited))
    told = r"says something else of .* than is true \(synthetic weights, made here\); delete .*checkpoint\.json and run"
    with pytest.raises(InputError, match=told):
        passport_of(**proven)


def test_a_graph_that_did_not_pass_gets_none(proven: Mapping[str, Any]):
    with pytest.raises(InputError, match="did not pass"):
        passport_of(**proven | {"verdict": Verdict(())})


def test_another_ledger_is_seen(proven: Mapping[str, Any]):
    proven["ledger"].write_text("source,target\nx,y\n")
    with pytest.raises(InputError, match=r"ledger\.csv is not the one from which .* was made"):
        passport_of(**proven)


def test_the_sample_is_the_first_image_at_the_sizes_that_fit(proven: Mapping[str, Any]):
    with np.load(proven["sample"]) as arrays:
        outputs = ("last_hidden_state", "pooler_output")
        named = ("pixel_values", *outputs, *(f"noise_floors/{name}" for name in outputs))
        assert set(arrays) == {f"{name}/cat@48x64" for name in named}
        floors = arrays["noise_floors/last_hidden_state/cat@48x64"]
        assert floors.shape == arrays["last_hidden_state/cat@48x64"].shape[:1]
        # The one is a row of the other.
        assert arrays["noise_floors/pooler_output/cat@48x64"] == floors[0]
        np.testing.assert_array_equal(
            arrays["pooler_output/cat@48x64"], arrays["last_hidden_state/cat@48x64"][0], strict=True
        )
        # Single precision of features of unit scale.
        assert floors.min() > 2**-23 and floors.max() < 2**-19


def test_the_file_that_was_proven_is_verified(graph: Path, monkeypatch, capsys):
    status, printed = verified(graph, monkeypatch, capsys)
    assert status == 0
    assert printed.endswith("verified against its passport\n")
    assert "FAIL" not in printed
    for output in ("last_hidden_state", "pooler_output"):
        found = (
            rf"ok    cat@48x64: {output}, worst token ([\d.]+) noise floors from the original in double precision \(l"
        )
        # Measured 1.2.
        assert 0.1 < float(re.search(found, printed)[1]) < 5


def test_a_changed_weight_is_named(graph: Path, monkeypatch, capsys):
    flip(initializers(graph)["blocks.1.ls2.gamma"])
    status, printed = verified(graph, monkeypatch, capsys)
    assert status == 1
    assert "weights are the checkpoint's, 0 computed, but not blocks.1.ls2.gamma" in printed
    assert "NOT verified" in printed


def test_a_changed_node_is_seen(graph: Path, monkeypatch, capsys):
    model = onnx.load(graph, load_external_data=False)
    norm = next(node for node in model.graph.node if node.op_type == "LayerNormalization")
    next(attribute for attribute in norm.attribute if attribute.name == "epsilon").f = 1e-2
    graph.write_bytes(model.SerializeToString())
    status, printed = verified(graph, monkeypatch, capsys)
    assert status == 1
    assert "FAIL  SHA-256" in printed
    # It is another file, and not run.
    assert "worst token" not in printed


def with_hash(graph: Path) -> None:
    """Let the passport of a graph have the hash that the graph has now."""
    passport = graph.with_suffix(".passport.json")
    text = json.loads(passport.read_text())
    text["file"]["sha256"] = sha256_of(graph)
    passport.write_text(json.dumps(text))


@pytest.mark.parametrize("output", ["last_hidden_state", "pooler_output"])
def test_an_output_that_is_another_is_seen_where_the_hash_was_edited(graph: Path, monkeypatch, capsys, output: str):
    model = onnx.load(graph, load_external_data=False)
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = ["right" if name == output else name for name in names]
    model.graph.node.append(helper.make_node("Neg", ["right"], [output]))
    graph.write_bytes(model.SerializeToString())
    with_hash(graph)
    status, printed = verified(graph, monkeypatch, capsys)
    assert status == 1
    assert printed.count("FAIL") == 1
    assert f"FAIL  cat@48x64: {output}, worst token" in printed


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("variant", "dinov3_vit7b16_pretrain_lvd1689m"),
        ("licence", {"id": "MIT", "url": "", "file": "LICENSE.md"}),
        ("preprocessing", {}),
        ("departure", "RoPE periods in float32"),
        ("ledger_sha256", "0" * 64),
    ],
)
def test_a_passport_that_says_otherwise_than_the_file_is_seen(graph: Path, monkeypatch, capsys, key: str, value: Any):
    path = graph.with_suffix(".passport.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    status, printed = verified(graph, monkeypatch, capsys)
    assert status == 1
    assert f"FAIL  passport and metadata agree, but not on {key}\n" in printed


@pytest.mark.parametrize(("key", "value"), [("identity", "the publisher's own"), ("weights", "official")])
def test_another_checkpoint_than_the_files_is_seen(graph: Path, monkeypatch, capsys, key: str, value: str):
    path = graph.with_suffix(".passport.json")
    passport = json.loads(path.read_text())
    passport["checkpoint"][key] = value
    path.write_text(json.dumps(passport))
    status, printed = verified(graph, monkeypatch, capsys)
    assert status == 1
    assert "FAIL  passport and metadata agree, but not on " in printed


@pytest.mark.parametrize("limit", [1e9, 0, -1, float("nan")])
def test_a_limit_that_says_nothing_is_refused(graph: Path, monkeypatch, capsys, limit: float):
    path = graph.with_suffix(".passport.json")
    passport = json.loads(path.read_text())
    passport["sample"]["limit_in_floors"] = limit
    path.write_text(json.dumps(passport))
    status, printed = verified(graph, monkeypatch, capsys)
    assert status == 1
    assert f"FAIL  a limit of {limit:g} noise floors says nothing; passports have 100 at most" in printed


def change_sample(graph: Path, change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]) -> None:
    """Change the sample of a graph, and its hash in the passport."""
    sample, passport = graph.with_name("static.sample.npz"), graph.with_suffix(".passport.json")
    with np.load(sample) as arrays:
        write_arrays(sample, change(dict(arrays)))
    text = json.loads(passport.read_text())
    text["sample"]["sha256"] = sha256_of(sample)
    passport.write_text(json.dumps(text))


def test_another_output_than_the_recorded_one_is_seen(graph: Path, monkeypatch, capsys):
    name = "last_hidden_state/cat@48x64"
    change_sample(graph, lambda arrays: {**arrays, name: arrays[name] + np.float32(1e-4)})
    status, printed = verified(graph, monkeypatch, capsys)
    assert status == 1
    assert printed.count("FAIL") == 1
    assert "FAIL  cat@48x64: last_hidden_state, worst token" in printed
    assert "max |difference| 1.0e-04" in printed


def test_noise_floors_that_no_rounding_has_are_seen(graph: Path, monkeypatch, capsys):
    change_sample(graph, lambda arrays: {x: 1e9 * y if x.startswith("noise_floors/") else y for x, y in arrays.items()})
    status, printed = verified(graph, monkeypatch, capsys)
    assert status == 1
    assert "pooler_output was recorded with noise floors that no rounding has" in printed


def test_an_output_that_the_file_lacks_is_seen(graph: Path, monkeypatch, capsys):
    change_sample(graph, lambda arrays: {**arrays, "logits/cat@48x64": np.zeros((1, 3), np.float32)})
    status, printed = verified(graph, monkeypatch, capsys)
    assert status == 1
    assert "FAIL  the outputs logits were recorded and are not in the file" in printed


@pytest.mark.parametrize("kept", ["pixel_values", "last_hidden_state", "noise_floors"])
def test_a_sample_that_holds_too_little_verifies_nothing(graph: Path, monkeypatch, capsys, kept: str):
    change_sample(graph, lambda arrays: {name: array for name, array in arrays.items() if name.startswith(kept)})
    status, printed = verified(graph, monkeypatch, capsys)
    assert status == 1
    assert re.search("FAIL  (no input|.*) was(?: not)? recorded", printed) or printed.count("error: ") == 1


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("static.onnx", r"static\.onnx: there is no such file"),
        ("model.eqx", r"model\.eqx is missing, which holds weights; keep it beside the ONNX file"),
        ("static.passport.json", r"static\.passport\.json is missing; keep it beside the ONNX file"),
        ("static.sample.npz", r"static\.sample\.npz is missing; keep it beside the ONNX file"),
    ],
)
def test_a_missing_file_is_one_sentence(graph: Path, monkeypatch, capsys, name: str, sentence: str):
    graph.with_name(name).unlink()
    status, printed = verified(graph, monkeypatch, capsys)
    assert status == 1
    assert "error: " in printed
    assert re.search(sentence, printed)


@pytest.mark.parametrize(
    "change",
    [
        lambda passport: passport["sample"].pop("limit_in_floors"),
        lambda passport: passport["sample"].update(limit_in_floors=float("inf")),
        lambda passport: passport["sample"].update(limit_in_floors=None),
        lambda passport: passport.update(weights={}),
        lambda passport: passport["parity"].update(findings=[]),
        lambda passport: passport["parity"]["findings"][0].update(measured=1e9),
        lambda passport: passport.pop("constants"),
        lambda passport: passport.update(file="static.onnx"),
        lambda passport: passport.update(passport=1),
    ],
)
def test_a_passport_that_says_too_little_verifies_nothing(graph: Path, monkeypatch, capsys, change):
    path = graph.with_suffix(".passport.json")
    passport = json.loads(path.read_text())
    change(passport)
    path.write_text(json.dumps(passport))
    status, printed = verified(graph, monkeypatch, capsys)
    assert status == 1
    assert "FAIL" in printed or printed.count("error: ") == 1


@pytest.mark.parametrize("location", ["/dev/zero", "../model.eqx"])
def test_weights_in_another_folder_are_not_looked_for(graph: Path, monkeypatch, capsys, location: str):
    model = onnx.load(graph, load_external_data=False)
    entries = [entry for tensor in model.graph.initializer for entry in tensor.external_data]
    next(entry for entry in entries if entry.key == "location").value = location
    graph.write_bytes(model.SerializeToString())
    status, printed = verified(graph, monkeypatch, capsys)
    assert status == 1
    assert "its weights are in another folder" in printed


def test_verifying_needs_onnxruntime_and_numpy_only():
    code = "import sys; import vit2onnx.verify; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    packages = {"jax", "torch", "equinox", "onnx", "ml_dtypes", "yaml", "jaxtyping", "PIL", "pandas", "transformers"}
    assert not packages & set(loaded)
    assert {"numpy", "onnxruntime"} <= set(loaded)
