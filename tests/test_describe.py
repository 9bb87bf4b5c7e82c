"""What a checkpoint is, said without a run; and what is written from it is taken by the workflow."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from tests.checkpoints.own_models import VARIANTS, model_of
from vit2onnx.checkpoints.own import own_variants
from vit2onnx.describe import main
from vit2onnx.errors import InputError

ROOT = Path(__file__).parents[1]


def test_a_folder_is_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    model_of("vit", num_register_tokens=0).save_pretrained(tmp_path / "my run")
    assert main([str(tmp_path / "my run")]) == 0
    told = capsys.readouterr().out
    assert "a backbone of the family dinov3_vit in huggingface layout" in told
    assert "num_registers 0 instead of 4" in told
    assert "ASSUMED as in dinov3_vits16_pretrain_lvd1689m, because nothing tells: preprocessing." in told
    assert "Tensor embeddings.mask_token is not needed" in told
    assert told.endswith("It is complete: every tensor of the backbone has its place.\n")


def test_every_tensor_that_does_not_fit_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    model = model_of("vit")
    model.save_pretrained(tmp_path)
    state = {name: value for name, value in model.state_dict().items() if "norm2" not in name}
    (tmp_path / "model.safetensors").unlink()
    torch.save({name.replace("model.", "", 1): value for name, value in state.items()}, tmp_path / "mine.pth")
    assert main([str(tmp_path / "mine.pth")]) == 1
    told = capsys.readouterr().err
    for block in (0, 1):
        for leaf in ("weight", "bias"):
            assert f"tensor layer.{block}.norm2.{leaf} 32 is missing" in told


def test_what_is_written_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    model_of("dinov2 classifier").save_pretrained(tmp_path / "mine")
    given = [str(tmp_path / "mine"), "--name", "dog", "--ignore", "classifier.*"]
    assert main([*given, "--variant-file", str(tmp_path / "dog.yaml"), "--config", str(tmp_path / "run.json")]) == 0
    config = json.loads((tmp_path / "run.json").read_text())
    assert (config["weights"], list(config["own"])) == ("own", ["dog"])
    found = own_variants(config["own"], VARIANTS)["dog"]
    file = yaml.safe_load((tmp_path / "dog.yaml").read_text())
    assert {key: found[key] for key in file} == file
    # Corrected by hand, it tells what the model is.
    file["architecture"]["num_heads"] = 4
    with_file = {**VARIANTS, "dog": {"family": "dinov2", **file}}
    told = own_variants(config["own"], with_file)["dog"]
    assert told["architecture"]["num_heads"] == 4
    assert told["own"]["assumed"] == ()
    # The name of a release would say that the file is one.
    with pytest.raises(InputError, match=r"own\.dinov2_vits14_pretrain: this is the name of a release"):
        own_variants({"dinov2_vits14_pretrain": str(tmp_path / "mine")}, VARIANTS)
