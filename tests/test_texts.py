"""Texts become the ids that transformers makes of them; what is no text or no tokenizer is refused."""

import hashlib
import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from transformers import AutoTokenizer

from tests.toy_tokenizer import tokenizer, vocabulary, write_tokenizer
from vit2onnx.errors import InputError
from vit2onnx.families.siglip2.tokenization import compare_texts
from vit2onnx.parity.preprocessing import judge_texts
from vit2onnx.texts import Tokenizer, check_ids, text_input

# Nothing, one to more than 64 tokens with the end, several scripts, bytes, characters that lower-casing makes two of,
# Greek words that end with a capital sigma, special tokens in both cases, and spaces of all kinds.
TEXTS = {
    "empty": "",
    "space": " ",
    **{f"{count} tokens": "x" * count for count in (1, 5, 62, 63, 64, 65, 200)},
    "lower": "a cat ate the hat",
    "upper": "A CAT ate The Hat",
    "accents": "É é Ünïcode ß ẞ",
    "chinese": "一只猫",
    "emoji": "a 🐈 and 👨‍👩‍👧",
    "two of one": "İstanbul",
    "sigma": "ΟΔΟΣ ΟΔΟΣ",
    "special": "<EOS> <eos> <pad> a",
    "ends with eos": "a<eos>",
    "ends with pad": "a<pad>",
    "spaces": "  a  cat\n\tthe ",
    "control": "\x00a\x7f",
}
every_text = pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like that of a NaFlex checkpoint, the texts of which transformers puts into lower case."""
    return write_tokenizer(tmp_path_factory.mktemp("checkpoint") / "naflex").parent


@pytest.fixture(scope="module")
def ours(folder: Path) -> Tokenizer:
    return Tokenizer(folder / "tokenizer.json")


@pytest.fixture(scope="module")
def theirs(folder: Path):
    return AutoTokenizer.from_pretrained(folder)


def of_transformers(tokenizer, text: str) -> list[int]:
    """The ids as SigLIP2's processor asks for them."""
    return tokenizer(text, padding="max_length", max_length=64, truncation=True)["input_ids"]


@every_text
def test_ids_are_those_of_transformers(ours: Tokenizer, theirs, text):
    assert type(theirs).__name__ == "Siglip2Tokenizer"
    inputs = ours.inputs([text])
    assert inputs.dtype == np.int64 and inputs.shape == (1, 64)
    assert inputs[0].tolist() == of_transformers(theirs, text)


@every_text
def test_ids_are_those_of_the_library_for_a_text_in_lower_case(ours: Tokenizer, text):
    """As whoever uses tokenizer.json alone has them, if they do not forget to lower-case."""
    library = tokenizer()
    library.enable_padding(length=64, pad_id=0, pad_token="<pad>")
    library.enable_truncation(64)
    # Where str.lower() differs, as the next test shows.
    if text == TEXTS["sigma"]:
        text = text.replace("Σ", "σ")  # noqa: RUF001
    elif "<EOS>" in text:
        text = text.replace("<EOS>", "")
    assert ours.inputs([text])[0].tolist() == library.encode(text.lower()).ids


def test_python_lower_cases_two_things_in_another_way(ours: Tokenizer, theirs):
    """Greek words that end with a capital sigma, and a special token that is written in capitals."""
    for name in ("sigma", "special"):
        text = TEXTS[name]
        assert ours.ids(text.lower()) != ours.ids(text)
        assert ours.inputs([text])[0].tolist() == of_transformers(theirs, text)


def test_all_texts_are_compared_and_judged(folder: Path, ours: Tokenizer):
    rows = list(compare_texts(TEXTS, folder / "tokenizer.json", 64))
    assert {(row["other"], row["text"]) for row in rows if row["differing_ids"]} == {("tokenizers_ids", "special")}
    assert len(rows) == 2 * len(TEXTS) and {row["tokenizer_sha256"] for row in rows} == {ours.sha256}
    (finding,) = judge_texts(rows)
    assert finding.passed
    rows[1]["differing_ids"] = 1
    (finding,) = judge_texts(rows)
    assert finding.sentence == "ours - transformers_ids, token ids that differ (worst at space): 1.00e+00 > 0.00e+00"
    # Who gives ids has no words to compare.
    assert judge_texts([]) == ()


def test_a_fixed_resolution_checkpoint_is_not_lower_cased_by_transformers(tmp_path: Path, ours: Tokenizer):
    """transformers 5.23 decides by the type of the model. We always do, because training did."""
    theirs = AutoTokenizer.from_pretrained(write_tokenizer(tmp_path / "fixed", model_type="siglip").parent)
    assert of_transformers(theirs, "A Cat") != of_transformers(theirs, "a cat")
    assert ours.inputs(["A Cat"])[0].tolist() == of_transformers(theirs, "a cat")


def test_cases_of_one_text_give_the_same_ids(ours: Tokenizer):
    upper, lower = ours.inputs([TEXTS["upper"], TEXTS["upper"].lower()])
    assert (upper == lower).all()
    # Merged in lower case: "▁c" + "at".
    assert vocabulary()["▁cat"] in upper


@pytest.mark.parametrize("count", range(67))
def test_every_length_ends_with_eos(ours: Tokenizer, count: int):
    ids = ours.inputs(["x" * count])[0]
    kept = min(count, 63)
    assert ids.tolist() == [vocabulary()["x"]] * kept + [1] + [0] * (63 - kept)


def test_what_the_file_says_of_cutting_and_filling_is_left_out(tmp_path: Path, ours: Tokenizer):
    """Files that were saved after use hold both."""
    used = tokenizer()
    used.enable_padding(length=8, pad_id=4, pad_token="<mask>", direction="left")
    used.enable_truncation(8)
    used.save(str(tmp_path / "used.json"))
    texts = list(TEXTS.values())
    np.testing.assert_array_equal(Tokenizer(tmp_path / "used.json").inputs(texts), ours.inputs(texts), strict=True)


def test_a_tokenizer_that_begins_texts_does_not_do_so_here(tmp_path: Path, ours: Tokenizer):
    path = write_tokenizer(tmp_path / "bos")
    content = json.loads(path.read_text())
    content["post_processor"]["single"].insert(0, {"SpecialToken": {"id": "<bos>", "type_id": 0}})
    content["post_processor"]["special_tokens"]["<bos>"] = {"id": "<bos>", "ids": [2], "tokens": ["<bos>"]}
    path.write_text(json.dumps(content))
    assert Library.from_file(str(path)).encode("a").ids[0] == 2
    np.testing.assert_array_equal(Tokenizer(path).inputs(["a cat"]), ours.inputs(["a cat"]), strict=True)


def test_a_tokenizer_that_lower_cases_already_gives_the_same(tmp_path: Path, theirs, ours: Tokenizer):
    """As transformers saves it."""
    theirs.save_pretrained(tmp_path)
    assert "Lowercase" in (tmp_path / "tokenizer.json").read_text()
    texts = list(TEXTS.values())
    np.testing.assert_array_equal(Tokenizer(tmp_path / "tokenizer.json").inputs(texts), ours.inputs(texts), strict=True)


def test_a_tokenizer_is_known_by_its_hash_and_its_size(folder: Path, ours: Tokenizer):
    assert ours.sha256 == hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()
    assert ours.vocab_size == len(vocabulary())


def test_a_text_that_the_tokenizer_cannot_cut_is_refused(tmp_path: Path):
    """It has neither bytes nor a token for what it does not know."""

    def strict(content):
        content["model"] |= {"byte_fallback": False, "unk_token": "<none>"}

    with pytest.raises(InputError, match=r"strict\.json: it cannot cut '猪' into tokens .*\.$"):
        Tokenizer(saved(tmp_path / "strict.json", strict)).ids("猪")


def test_a_panic_of_the_library_is_an_input_error(folder: Path, monkeypatch):
    """Such an error is not derived from Exception."""

    class PanicException(BaseException):
        pass

    def panic(content):
        raise PanicException("index out of bounds")

    monkeypatch.setattr("tokenizers.Tokenizer", type("Library", (), {"from_buffer": panic}))
    with pytest.raises(InputError, match=r"no tokenizer\.json"):
        Tokenizer(folder / "tokenizer.json")


def test_texts_come_as_a_list(ours: Tokenizer):
    for given_ in ("a cat", [], ()):
        with pytest.raises(InputError, match="list of at least one text"):
            ours.inputs(given_)


@pytest.mark.parametrize("text", [b"a cat", None, 3])
def test_what_is_no_text_is_refused(ours: Tokenizer, text):
    with pytest.raises(InputError, match=r"must be a str and not .*\.$"):
        ours.ids(text)


def test_half_a_character_is_refused(ours: Tokenizer):
    with pytest.raises(InputError, match=r"half a character .*\.$"):
        ours.ids("a\ud83d")


def saved(path: Path, change) -> Path:
    content = json.loads(tokenizer().to_str())
    change(content)
    path.write_text(json.dumps(content))
    return path


def test_a_missing_tokenizer_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"none\.json cannot be opened .*\.$"):
        Tokenizer(tmp_path / "none.json")
    with pytest.raises(InputError, match="is a folder"):
        Tokenizer(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"null", b"\x80\x02", b'{"model": {"type": "BPE"}}', b"\x0a\x0f\x0a\x05<unk>\x15"],
    ids=["empty", "mapping", "list", "null", "no text", "half", "tokenizer.model"],
)
def test_another_file_is_no_tokenizer(tmp_path: Path, content: bytes):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"tokenizer\.json: this is no tokenizer\.json .*beside the checkpoint.*\.$"):
        Tokenizer(path)


def test_a_tokenizer_without_tokens_is_refused(tmp_path: Path):
    def empty(content):
        content["model"] |= {"vocab": {}, "merges": [], "unk_token": None}
        content |= {"added_tokens": [], "post_processor": None}

    with pytest.raises(InputError, match=r"has no tokens; .*\.$"):
        Tokenizer(saved(tmp_path / "empty.json", empty))


OTHER_TOKENS = [("<pad>", "<eos>", "0 is '<eos>'"), ("<eos>", "<bos>", "1 is '<bos>'")]


@pytest.mark.parametrize("first, second, found", OTHER_TOKENS)
def test_other_tokens_at_the_two_ids_are_refused(tmp_path: Path, first: str, second: str, found: str):
    """As in Llama's and CLIP's vocabularies."""

    def exchange(content):
        vocab = content["model"]["vocab"]
        vocab[first], vocab[second] = vocab[second], vocab[first]
        content |= {"added_tokens": [], "post_processor": None}

    with pytest.raises(InputError, match=rf"its token {found} and not '{first}'; .*\.$"):
        Tokenizer(saved(tmp_path / "other.json", exchange))


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch):
    path = write_tokenizer(tmp_path / "large")
    monkeypatch.setattr("vit2onnx.texts.MOST_BYTES", 1000)
    with pytest.raises(InputError, match="larger than any"):
        Tokenizer(path)


CONTENT = tokenizer().to_str().encode()


@pytest.mark.filterwarnings("ignore")
@settings(derandomize=True, max_examples=200, deadline=None, database=None)
@given(st.lists(st.tuples(st.integers(0, len(CONTENT) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_any_tokenizer(tmp_path_factory: pytest.TempPathFactory, changes):
    """A changed file is read or refused, even where the library panics."""
    found = bytearray(CONTENT)
    for place, byte in changes:
        found[place] = byte
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(bytes(found))
    with suppress(InputError):
        assert Tokenizer(path).inputs(["a Cat 🐈"]).shape == (1, 64)


@pytest.mark.parametrize(
    "ids, length, expected",
    [
        ([], 3, [1, 0, 0]),
        ([7], 3, [7, 1, 0]),
        ([7, 1], 3, [7, 1, 0]),
        ([7, 8], 3, [7, 8, 1]),
        ([7, 8, 9], 3, [7, 8, 1]),
        ([7, 8, 9, 1], 3, [7, 8, 1]),
        ([7, 1, 0, 0, 0, 0], 3, [7, 1, 0]),
        ([7, 0, 0], 3, [7, 1, 0]),
        ([0, 0], 3, [1, 0, 0]),
        ([7, 1, 1], 4, [7, 1, 1, 0]),
        ([7], 1, [1]),
        (np.array([7, 8], np.uint8), 4, [7, 8, 1, 0]),
    ],
)
def test_ids_are_ended_and_filled_up(ids, length, expected):
    given_ = text_input(ids, length)
    np.testing.assert_array_equal(given_, np.array(expected, np.int64), strict=True)
    np.testing.assert_array_equal(text_input(given_, length), given_, strict=True)


def test_other_ids_end_and_fill_up():
    assert text_input([7], 4, eos=2, pad=9).tolist() == [7, 2, 9, 9]


@pytest.mark.parametrize("ids", [[[1, 2]], 3, ["a"], [1.0], [True], [None], [2**70]])
def test_what_is_no_list_of_ids_is_refused(ids):
    with pytest.raises(InputError, match=r"\.$"):
        text_input(ids, 4)


def test_a_text_needs_a_place_for_its_end():
    with pytest.raises(InputError, match="no place for its end"):
        text_input([7], 0)


@pytest.mark.parametrize("wrong", [-1, 10, 256000, -(2**63)])
def test_an_id_that_is_not_of_the_vocabulary_is_named(wrong: int):
    check_ids(np.array([[0, 9]]), 10)
    with pytest.raises(InputError, match=rf"token id {wrong} is not one of the 10 .* 0 to 9; .*\.$"):
        check_ids(np.array([[0, 9], [3, wrong]]), 10)


def test_ids_of_another_type_and_an_empty_vocabulary_are_refused():
    with pytest.raises(InputError, match="whole numbers"):
        check_ids(np.zeros(3, np.float32), 10)
    with pytest.raises(InputError, match="has no ids"):
        check_ids(np.zeros(3, np.int64), 0)


def test_no_ids_are_of_any_vocabulary():
    check_ids(np.zeros((0, 64), np.int64), 10)
