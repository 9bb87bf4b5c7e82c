"""The register of families: what there is is found by its folder, and what is missing is named in one sentence."""

from pathlib import Path

import pytest

from vit2onnx.errors import InputError
from vit2onnx.spec import family as register
from vit2onnx.spec.family import PARTS, families, has_part, incomplete, missing_of, part, self_test_models


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A register of one family, which is not complete; beside it lies a folder that is none."""
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "__init__.py").touch()
    (tmp_path / "half" / "model.py").write_text("raise AssertionError('not to be imported')\n")
    (tmp_path / "notes").mkdir()
    monkeypatch.setattr(register, "FOLDER", tmp_path)
    return tmp_path


def test_families_are_the_folders_that_are_packages(folder: Path):
    assert families() == ["half"]


def test_there_are_four_families_and_they_are_complete():
    assert families() == ["dinov2", "dinov3_convnext", "dinov3_vit", "siglip2"]
    for family in families():
        for name, promised in PARTS.items():
            assert missing_of(family, name) == incomplete(family) == ""
            assert all(hasattr(part(family, name), wanted) for wanted in promised)


def test_a_part_is_the_module_of_its_name():
    assert part("dinov3_vit", "model").__name__ == "vit2onnx.families.dinov3_vit.model"
    assert part("dinov3_convnext", "model") is not part("dinov3_vit", "model")
    # One that no other family needs to have.
    assert has_part("dinov3_vit", "jax2onnx_example") and not has_part("dinov3_convnext", "jax2onnx_example")


def sentence(family: str, name: str) -> str:
    with pytest.raises(InputError) as caught:
        part(family, name)
    return str(caught.value)


def test_an_unknown_family_is_named_with_those_that_there_are():
    assert sentence("bert", "model") == (
        "There is no family 'bert' in vit2onnx/families, only dinov2, dinov3_convnext, dinov3_vit, siglip2."
    )


def test_a_part_that_is_not_there_is_named(folder: Path):
    assert sentence("half", "layouts") == (
        "The family half is not complete: there is no vit2onnx/families/half/layouts.py."
    )


def test_all_that_a_family_lacks_is_one_sentence(folder: Path):
    there_is_no = [f"there is no vit2onnx/families/half/{name}.py" for name in ("architecture", "interface", "layouts")]
    assert incomplete("half").startswith(f"The family half is not complete: {'; '.join(there_is_no)}; ")
    assert incomplete("half").endswith("; there is no vit2onnx/families/half/architecture.schema.yaml.")
    assert "vit2onnx/families/half/model.py lacks Model; " in incomplete("half")


def test_what_a_part_lacks_is_named_and_the_part_is_not_imported(folder: Path):
    assert sentence("half", "model") == "The family half is not complete: vit2onnx/families/half/model.py lacks Model."


@pytest.mark.parametrize(
    "definition",
    ["class Model: ...", "def Model(): ...", "Model = 1", "Model: int = 1", "import Model", "from a import b as Model"],
)
def test_a_name_may_be_given_in_any_way(folder: Path, definition: str):
    (folder / "half" / "model.py").write_text(f"{definition}\n")
    assert missing_of("half", "model") == ""


def test_a_name_within_something_else_is_no_name_of_the_part(folder: Path):
    (folder / "half" / "model.py").write_text("def model():\n    Model = 1\n    return Model\n")
    assert missing_of("half", "model").endswith("model.py lacks Model")


def test_models_of_the_self_test_are_those_of_all_families():
    found = self_test_models()
    assert found.keys() == {model for family in families() for model in part(family, "architecture").MODELS}
    assert found["ConvNeXt"] == "dinov3_convnext_tiny_pretrain_lvd1689m"
    assert found["ViT"] == "dinov3_vits16_pretrain_lvd1689m"
