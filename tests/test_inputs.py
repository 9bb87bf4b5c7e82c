"""Photographs become the inputs of a graph, one at a time, and those that can show a fault come first."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vit2onnx import inputs
from vit2onnx.errors import InputError
from vit2onnx.images import load_image, preprocess
from vit2onnx.inputs import ids_of_texts, inputs_of
from vit2onnx.spec.case import Case
from vit2onnx.spec.variant import VariantSpec

FOLDER = Path(__file__).parents[1] / "resources" / "images"
SIZES = [(48, 112), (64, 32)]


@pytest.fixture
def photographs(tmp_path: Path) -> Mapping[str, Path]:
    """One of one colour before two others."""
    Image.new("RGB", (80, 60), (200, 30, 30)).save(tmp_path / "red.png")
    return {"red": tmp_path / "red.png", "cat": FOLDER / "chelsea.jpg", "cup": FOLDER / "coffee.jpg"}


def cases(names: Mapping[str, Path]) -> list[Case]:
    return [Case(name, *size) for name in names for size in SIZES]


def prepared(spec: VariantSpec, photographs: Mapping[str, Path]) -> dict[str, np.ndarray]:
    return inputs_of(spec, spec.interface(), cases(photographs), photographs, {})


def test_every_case_is_its_photograph_at_its_size(real_spec: VariantSpec, photographs: Mapping[str, Path]):
    found = prepared(real_spec, photographs)
    assert found.keys() == {str(case) for case in cases(photographs)}
    for case in cases(photographs):
        image = load_image(photographs[case.name])
        expected = preprocess(image, case.height, case.width, real_spec.preprocessing)
        np.testing.assert_array_equal(found[str(case)], expected)


def test_photographs_that_can_show_a_fault_come_first(real_spec: VariantSpec, photographs: Mapping[str, Path]):
    assert [name.partition("@")[0] for name in prepared(real_spec, photographs)] == [
        name for name in ("cat", "cup", "red") for _ in SIZES
    ]


def test_each_photograph_is_opened_once_and_one_at_a_time(
    real_spec: VariantSpec, photographs: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
):
    opened = []

    def load(path: Path) -> Image.Image:
        opened.append(path)
        return load_image(path)

    monkeypatch.setattr(inputs, "load_image", load)
    prepared(real_spec, photographs)
    assert opened == [*photographs.values()]


def test_photographs_that_show_nothing_are_refused(real_spec: VariantSpec, photographs: Mapping[str, Path]):
    with pytest.raises(InputError, match=r"^No photograph can show a fault: red is of one colour\."):
        prepared(real_spec, {"red": photographs["red"]})


def test_a_photograph_that_cannot_be_read_is_named(real_spec: VariantSpec, tmp_path: Path):
    (tmp_path / "broken.jpg").write_text("<html>")
    with pytest.raises(InputError, match=r"broken\.jpg: this is not a complete, readable image"):
        prepared(real_spec, {"broken": tmp_path / "broken.jpg"})


def test_ids_need_no_tokenizer_and_words_do():
    assert ids_of_texts({"one": [5, 6], "empty": []}, None, 10) == {"one": [5, 6], "empty": []}
    assert ids_of_texts({"drawn": 2}, None, 4) == {"drawn": [3, 3]}
    with pytest.raises(InputError, match=r"^texts: cat is in words; name a tokenizer\.json in `tokenizer`"):
        ids_of_texts({"one": [5], "cat": "a cat"}, None, 10)
