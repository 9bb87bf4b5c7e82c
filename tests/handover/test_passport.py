"""The passport proves a graph's weights from the checkpoint alone, and believes no record."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.handover.conftest import change_graph, change_json, flip
from vit2onnx.checkpoints.reading import open_variant
from vit2onnx.errors import InputError
from vit2onnx.exporting.weights import write_embedded, write_external
from vit2onnx.files import read_json, sha256_of
from vit2onnx.handover.passport import check_ledger, passport_of, weights_of
from vit2onnx.onnx_file import initializers
from vit2onnx.parity.verdict import Verdict
from vit2onnx.runners.onnx_constants import COMPUTED, compute, computed_constants
from vit2onnx.spec.variant import VariantSpec
from vit2onnx.weights.model_file import open_model


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


def made_from(proven: Mapping[str, Any]) -> tuple[Any, ...]:
    """The arguments of `weights_of`."""
    spec = proven["spec"]
    return spec, spec.interface(), proven["checkpoint"], proven["graph"], proven["model"]


def test_every_weight_of_every_release_is_the_checkpoints_in_every_layout(small, tmp_path: Path):
    graph = only_weights(tmp_path / "graph.onnx", small.model_file)
    for layout, checkpoint in small.checkpoints.items():
        if layout == "timm" and small.spec.family == "dinov3_vit" and small.spec.architecture.qkv_bias:
            continue  # leaves out the biases, which are not zero in synthetic weights
        found = weights_of(small.spec, small.spec.interface(), checkpoint, graph, small.model_file)
        assert found["weights"].keys() == initializers(graph).keys(), layout
        assert found["constants"] == {}


def test_the_way_from_the_checkpoint_is_told(
    tiny_spec: VariantSpec, tiny_checkpoint: Path, tiny_model_file: Path, tmp_path
):
    graph = only_weights(tmp_path / "graph.onnx", tiny_model_file)
    found = weights_of(tiny_spec, tiny_spec.interface(), tiny_checkpoint, graph, tiny_model_file)["weights"]
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
    with pytest.raises(InputError, match=rf"(blocks\.1\.mlp\.fc2\.weight in |/){file} is (not what|damaged within)"):
        weights_of(tiny_spec, tiny_spec.interface(), tiny_checkpoint, graph, model_file)


def test_no_graph_is_made_from_a_changed_bit(tiny_model_file: Path, tmp_path: Path):
    model_file = tmp_path / "model.eqx"
    model_file.write_bytes(tiny_model_file.read_bytes())
    flip(initializers(only_weights(tmp_path / "other.onnx", model_file, external=True))["norm.bias"])
    with pytest.raises(InputError, match=r"model\.eqx is damaged within norm\.bias"):
        only_weights(tmp_path / "graph.onnx", model_file)


def test_a_passport_says_what_the_file_is(proven: Mapping[str, Any]):
    found = passport_of(**proven)
    assert (found["variant"], found["export"]) == ("dinov3_tiny", "static")
    assert found["checkpoint"] == read_json(proven["record"])
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
    def edit(model: onnx.ModelProto) -> None:
        next(entry for entry in model.metadata_props if entry.key == key).value = text

    change_graph(proven["graph"], edit)
    with pytest.raises(InputError, match=rf"The metadata of .*static\.onnx was edited \({key}\)"):
        passport_of(**proven)


def test_of_periods_that_are_folded_the_tables_are_proved(proven: Mapping[str, Any]):
    found = weights_of(*made_from(proven))
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
        weights_of(*made_from(proven))
    for table in model.graph.initializer:
        if table.name in exact:
            table.raw_data = exact[table.name].astype(np.float32).tobytes()
    proven["graph"].write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=told):
        weights_of(*made_from(proven))


def test_a_changed_table_is_refused(proven: Mapping[str, Any]):
    name = next(iter(computed_constants(proven["graph"])))
    flip(initializers(proven["graph"])[name])
    with pytest.raises(InputError, match=f"the constant {name} is not what its origin computes"):
        weights_of(*made_from(proven))


def other_epsilon(model: onnx.ModelProto) -> None:
    norm = next(node for node in model.graph.node if node.op_type == "LayerNormalization")
    next(attribute for attribute in norm.attribute if attribute.name == "epsilon").f = 1e-2


def test_a_graph_that_does_not_compute_its_sample_gets_none(proven: Mapping[str, Any]):
    change_graph(proven["graph"], other_epsilon)
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
    change_json(proven["record"], lambda record: record.update(edited))
    told = r"checkpoint\.json says something else of .* than (is true \(synthetic weights, made here\)|.*onnx does)"
    with pytest.raises(InputError, match=told):
        passport_of(**proven)


def test_a_graph_that_did_not_pass_gets_none(proven: Mapping[str, Any]):
    with pytest.raises(InputError, match="did not pass"):
        passport_of(**proven | {"verdict": Verdict(())})


def test_another_ledger_is_seen(proven: Mapping[str, Any]):
    proven["ledger"].write_text(proven["ledger"].read_text() + "\n")
    with pytest.raises(InputError, match=r"ledger\.csv is not the one from which .* was made"):
        passport_of(**proven)


@pytest.mark.parametrize("number", [1, 5])
@pytest.mark.parametrize("edit", ["hash", "row"])
def test_a_ledger_that_was_edited_before_the_export_is_named(proven: Mapping[str, Any], number: int, edit: str):
    found = weights_of(*made_from(proven))
    ways = [*found["weights"].values(), *found["folded"].values()]
    opened = open_variant(proven["spec"], proven["checkpoint"])
    check_ledger(proven["ledger"], opened, ways)
    lines = proven["ledger"].read_text().splitlines()
    source, *_, digest, _ = lines[number].split(",")
    lines[number] = lines[number].replace(digest, "0" * 64) if edit == "hash" else ""
    proven["ledger"].write_text("\n".join(lines))
    with pytest.raises(InputError, match=rf"ledger\.csv was edited: it does not have the hash of {re.escape(source)}"):
        check_ledger(proven["ledger"], opened, ways)


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
