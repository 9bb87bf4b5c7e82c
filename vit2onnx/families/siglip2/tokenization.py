"""How transformers and the library `tokenizers` turn words into token ids, against which ours are compared."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from tokenizers import Tokenizer as Library
from tokenizers import normalizers
from transformers import Siglip2Tokenizer

from vit2onnx.spec.subject import LIBRARY_IDS, TRANSFORMERS_IDS
from vit2onnx.texts import EOS_TOKEN, PAD_TOKEN, Tokenizer


def compare_texts(texts: Mapping[str, str], tokenizer: Path, length: int) -> Iterator[dict[str, Any]]:
    """How many of a text's token ids differ, one row per other way and text.

    `tokenizer` is the user's `tokenizer.json`, whose SHA-256 is in each row. Raises `InputError` if it is none.
    """
    ours = Tokenizer(tokenizer)
    others = {TRANSFORMERS_IDS: _transformers(tokenizer), LIBRARY_IDS: _library(tokenizer, length)}
    for other, theirs in others.items():
        for name, text in texts.items():
            ids = ours.inputs([text], length)[0], np.asarray(theirs(text, length))
            differing = int((ids[0] != ids[1]).sum()) if ids[0].shape == ids[1].shape else length
            yield {"other": other, "text": name, "differing_ids": differing, "tokenizer_sha256": ours.sha256}


def _transformers(tokenizer: Path) -> Any:
    """By the tokenizer of SigLIP2. Its settings are those of training, whatever lies beside the user's file."""
    with TemporaryDirectory() as folder:
        shutil.copyfile(tokenizer, Path(folder, "tokenizer.json"))
        settings = {"add_bos_token": False, "add_eos_token": True, "padding_side": "right"}
        Path(folder, "tokenizer_config.json").write_text(json.dumps(settings))
        theirs = Siglip2Tokenizer.from_pretrained(folder)
    return lambda text, length: theirs(text, padding="max_length", max_length=length, truncation=True)["input_ids"]


def _library(tokenizer: Path, length: int) -> Any:
    """By the library alone, from a text that is in lower case already."""
    library = Library.from_file(str(tokenizer))
    library.enable_truncation(length - 1)
    library.no_padding()
    ends = {token: library.token_to_id(token) for token in (PAD_TOKEN, EOS_TOKEN)}
    lower = normalizers.Lowercase()

    def ids(text: str, length: int) -> list[int | None]:
        found = [*library.encode(lower.normalize_str(text), add_special_tokens=False).ids, ends[EOS_TOKEN]]
        return [*found, *[ends[PAD_TOKEN]] * (length - len(found))]

    return ids
