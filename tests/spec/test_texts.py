"""Texts of a config are token ids or words by name, and what is neither is named."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from vit2onnx.errors import InputError
from vit2onnx.spec.texts import MOST_IDS, MOST_TEXTS, random_ids, texts_file, texts_in

ROOT = Path(__file__).parents[2]


def written(folder: Path, texts: Any) -> Path:
    path = folder / "texts.yaml"
    path.write_text(texts if isinstance(texts, str) else yaml.safe_dump(texts, sort_keys=False))
    return path


def refused(folder: Path, texts: Any) -> str:
    with pytest.raises(InputError) as caught:
        texts_in(written(folder, texts), "texts.yaml")
    return str(caught.value)


def test_ids_and_words_are_taken_as_they_are(tmp_path: Path):
    texts = {"ids": [5, 0, 255999], "empty": [], "words": "a cat", "nothing": "", "0.a-B_c": [1]}
    found = texts_in(written(tmp_path, texts), "texts.yaml")
    assert found == texts and [*found] == [*texts]


def test_the_texts_of_the_project_are_numbers_of_ids():
    found = texts_in(ROOT / "resources" / "texts.yaml", "resources/texts.yaml")
    assert sorted(found.values()) == [0, 1, 5, 9, 20, 62, 63, 80]


def test_random_ids_are_of_the_vocabulary_and_always_the_same():
    ids = random_ids("nine", 1000, 8)
    assert set(ids) == {3, 4, 5, 6, 7} and random_ids("nine", 1000, 8) == ids != random_ids("one", 1000, 8)
    assert random_ids("none", 0, 8) == []


@pytest.mark.parametrize("count", [-1, MOST_IDS + 1, "9", True, None])
def test_a_number_of_tokens_is_a_number(tmp_path: Path, count: Any):
    assert "bad: it must be tokens with a number from 0 to 4096" in refused(tmp_path, {"bad": {"tokens": count}})


def test_the_words_of_the_project_are_words():
    found = texts_in(ROOT / "resources" / "words.yaml", "resources/words.yaml")
    assert len(found) > 1 and all(isinstance(words, str) for words in found.values())


def test_a_file_that_is_not_there_is_named_as_the_config_has_it(tmp_path: Path):
    with pytest.raises(InputError, match=r"^config: texts: there is no file gone\.yaml\.$"):
        texts_in(tmp_path / "gone.yaml", "gone.yaml")


@pytest.mark.parametrize("texts", ["", "- 1", "text", {}, {f"t{number}": [1] for number in range(MOST_TEXTS + 1)}])
def test_a_file_holds_names_with_texts_and_not_too_many(tmp_path: Path, texts: Any):
    wanted = "texts.yaml: it must hold 1 to 1000 names, each with token ids or words."
    assert refused(tmp_path, texts) == wanted


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (5, "it must be a list of token ids, words in quotes, or {tokens: 9}"),
        (None, "it must be a list of token ids, words in quotes, or {tokens: 9}"),
        ([1, -1], "it must be a list of token ids, words in quotes, or {tokens: 9}"),
        ([1, 2.0], "it must be a list of token ids, words in quotes, or {tokens: 9}"),
        ([True], "it must be a list of token ids, words in quotes, or {tokens: 9}"),
        (["1"], "it must be a list of token ids, words in quotes, or {tokens: 9}"),
        ([1] * (MOST_IDS + 1), "it has more than 4096 token ids"),
    ],
    ids=["number", "null", "negative", "fraction", "truth", "word", "too many"],
)
def test_what_is_no_text_is_named(tmp_path: Path, text: Any, sentence: str):
    assert refused(tmp_path, {"good": [1], "bad": text}) == f"texts.yaml: bad: {sentence}."


@pytest.mark.parametrize("name", ["a/b", "a@1x8", "", "-rf", "a b", "a\n", "é", "n" * 65])
def test_a_name_that_no_file_can_have_is_named(tmp_path: Path, name: str):
    assert (
        refused(tmp_path, {name: [1]}) == f"texts.yaml: {name!r} must be letters, digits, _, . and - only, at most 64."
    )


def test_a_name_that_is_no_text_is_named(tmp_path: Path):
    assert refused(tmp_path, {5: [1]}) == "texts.yaml: the key 5 is no text; put it in quotes."


def test_all_faults_are_named_at_once(tmp_path: Path):
    found = refused(tmp_path, {"a b": [1], "bad": 5})
    assert found.count(";") == 1 and "'a b'" in found and "bad: it must be" in found


def test_json_is_yaml(tmp_path: Path):
    assert texts_in(written(tmp_path, json.dumps({"a": [1, 2]})), "texts.yaml") == {"a": [1, 2]}


def test_texts_are_looked_for_in_the_working_directory_and_then_in_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    here, project = tmp_path / "here", tmp_path / "project"
    for folder in (here, project):
        folder.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(here))
    written(project, {"a": [1]})
    assert texts_file({"texts": "texts.yaml"}, project) == project / "texts.yaml"
    written(here, {"a": [2]})
    assert texts_file({"texts": "texts.yaml"}, project) == Path("texts.yaml")
    assert texts_file({"texts": "~/texts.yaml"}, project) == here / "texts.yaml"
