"""The layers of the config, as one."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from vit2onnx.errors import InputError
from vit2onnx.spec.settings import settings_of

ROOT = Path(__file__).parents[2]
DEFAULTS = settings_of({}, ROOT, {})
# The recipes of models with a tower for images and one for texts.
OF_TOWERS = ("vision_model", "text_model", "model")


def test_the_defaults_are_those_of_the_project():
    assert DEFAULTS.items() >= yaml.safe_load((ROOT / "config" / "config.yaml").read_text()).items()


def test_the_users_config_lies_over_the_defaults():
    config = {"weights": "official", "exports": {"wide": {"opset": 24}}, "parity": {"sizes": [[64, 64]]}}
    found = settings_of(config, ROOT, {})
    assert found["weights"] == "official"
    assert list(found["exports"]) == ["static", "dynamic", *OF_TOWERS, "wide"]
    assert found["parity"] == DEFAULTS["parity"] | {"sizes": [[64, 64]]}
    assert found["images"] == DEFAULTS["images"]


def test_null_removes_an_entry_and_nothing_else(tmp_path: Path):
    earlier = {"images": {"gone": "gone.jpg"}, "official": {"checkpoints": {"a": "a.pth"}}}
    earlier["reference"] = {"repositories": {"facebookresearch/dinov3": "dinov3"}}
    # Tabs are whitespace in JSON, and none in YAML.
    (tmp_path / "earlier.json").write_text(json.dumps(earlier, indent="\t"))
    config = {
        "exports": {"static": None},
        "images": {"camera": None, "gone": None},
        "official": {"checkpoints": {"a": None, "b": "b.pth"}},
        "reference": {"repositories": {"facebookresearch/dinov3": None}},
    }
    found = settings_of(config, ROOT, {}, [tmp_path / "earlier.json"])
    assert list(found["exports"]) == ["dynamic", *OF_TOWERS]
    assert list(found["images"]) == ["astronaut", "chelsea", "coffee"]
    assert found["official"] == DEFAULTS["official"] | {"checkpoints": {"b": "b.pth"}}
    assert found["official"]["golden_image"] is None
    assert found["reference"] == {"repositories": {}, "kornia": False}
    assert config["exports"] == {"static": None}, "what the user wrote is left as it is"


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (
            {"exports": {"statik": None}},
            "exports.statik: null removes nothing, because there is no 'statik', only static",
        ),
        ({"images": {"camra": None}}, "images.camra: null removes nothing, because there is no 'camra', only camera"),
        ({"images": {"x": None}}, "there is no 'x', only astronaut, camera, chelsea, coffee"),
        ({"official": {"checkpoints": {"dinov3": None}}}, "official.checkpoints.dinov3: null removes nothing, because"),
        ({"reference": {"repositories": {"dinov3": None}}}, "there is no 'dinov3', only nothing"),
    ],
)
def test_a_removal_of_what_is_not_there_is_named(config: dict, sentence: str, tmp_path: Path):
    (tmp_path / "same.yaml").write_text(yaml.safe_dump(config))
    for files in ([], [tmp_path / "same.yaml"]):
        with pytest.raises(InputError, match=f"^config: .*{re.escape(sentence)}"):
            settings_of(config, ROOT, {}, files)
    command_line = json.loads(json.dumps(config).replace("null", '"null"'))
    with pytest.raises(InputError, match=re.escape(sentence)):
        settings_of(command_line, ROOT, command_line)


def test_all_removals_of_nothing_are_named_at_once():
    with pytest.raises(InputError, match=r"exports\.a: .*; exports\.b: .*; images\.c: "):
        settings_of({"images": {"c": None}, "exports": {"a": None, "b": None}}, ROOT, {})


@pytest.mark.parametrize("name", ["config.yaml", "limits.yaml"])
def test_a_key_that_is_there_twice_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "config", tmp_path / "config")
    path = tmp_path / "config" / name
    content = path.read_text() + "nested: {one: 1, two: 2,\n one: 3}\n"
    path.write_text(content)
    where = rf"the key 'one' is there twice in .*, line {content.count(chr(10))}, column 2\.$"
    for root, files in ((ROOT, [path]), (tmp_path, [])):
        with pytest.raises(InputError, match=rf"^config/{name} is no valid YAML: {where}"):
            settings_of({}, root, {}, files)


@pytest.mark.parametrize("config", [{"exports": None}, {"official": "x"}, {"images": ["a"]}])
def test_what_is_no_mapping_is_left_to_the_check(config: dict):
    (key,) = config
    assert settings_of(config, ROOT, {})[key] == config[key]


def test_values_of_the_command_line_are_taken_in_their_type():
    # As Snakemake parses `--config`: nested values are texts.
    given = {
        "exports": {"fast": {"batch": "1", "height": "dynamic", "opset": "24"}, "static": "null"},
        "parity": {"sizes": [["64", "96"]], "stages": "true"},
        "limits": {"float32": {"cosine": {"limit": "0.9"}}},
        "images": {"mine": "~/photos/*.jpg", "quoted": "[a", "home": "~/x", "number": "1e-7"},
        "keep_archive": "false",
    }
    found = settings_of({**given, "weights": "synthetic"}, ROOT, given)
    assert found["exports"]["fast"] == {"batch": 1, "height": "dynamic", "opset": 24}
    assert "static" not in found["exports"]
    assert found["parity"]["sizes"] == [[64, 96]]
    assert found["parity"]["stages"] is True
    assert found["limits"]["float32"]["cosine"]["limit"] == 0.9
    assert found["images"].items() >= given["images"].items()
    assert found["keep_archive"] is False


def test_values_of_files_are_left_as_they_are():
    # Quoted in a file, a number is a text, which the check then names.
    assert settings_of({"synthetic": {"seed": "0"}}, ROOT, {})["synthetic"]["seed"] == "0"
    assert settings_of({"synthetic": {"seed": "0"}}, ROOT, {"synthetic": {"seed": "1"}})["synthetic"]["seed"] == "0"
