"""Texts as transformers prepares them for SigLIP2: lower case, tokens, `<eos>`, and padding to a fixed length.

Only `Tokenizer` needs the library `tokenizers`, so ids can be made an input without it.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vit2onnx.errors import InputError
from vit2onnx.files import check_regular
from vit2onnx.spec.texts import EOS, PAD

# The names of the tokens that fill a text up and end it, in Gemma's tokenizer.
PAD_TOKEN, EOS_TOKEN = "<pad>", "<eos>"
# Gemma's file has 18 to 34 MB, depending on its version.
MOST_BYTES = 200_000_000


class Tokenizer:
    """A user's `tokenizer.json`, set up as for SigLIP2 whatever the file itself asks for.

    Texts are put into lower case, and nothing is put before them. Truncation, padding and added tokens that the
    file asks for are switched off. `sha256` is that of the file, and `vocab_size` is one more than its largest id.
    """

    def __init__(self, path: Path, eos: int = EOS, pad: int = PAD):
        """Read it. Raises `InputError` if it is no such file, or has other tokens than expected at the two ids."""
        # Here, because ids need no tokenizer.
        from tokenizers import Tokenizer as Library
        from tokenizers import normalizers

        check_regular(path)
        if path.stat().st_size > MOST_BYTES:
            raise InputError(f"{path}: this file is larger than any tokenizer.json; {_way_out()}.")
        content = path.read_bytes()
        self.path, self.sha256, self.eos, self.pad = path, hashlib.sha256(content).hexdigest(), eos, pad
        try:
            # First, because the library would say less about a file in another format.
            json.loads(content)
            self._library = Library.from_buffer(content)
        except MemoryError:
            raise
        # Any other, because the library raises Exception itself, and its panics are not even that.
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
                raise
            raise InputError(f"{path}: this is no tokenizer.json ({error}); {_way_out()}.") from error
        self.vocab_size = 1 + max(self._library.get_vocab().values(), default=-1)
        if not self.vocab_size:
            raise InputError(f"{path}: this tokenizer.json has no tokens; {_way_out()}.")
        for number, token in ((pad, PAD_TOKEN), (eos, EOS_TOKEN)):
            if (found := self._library.id_to_token(number)) != token:
                raise InputError(f"{path}: its token {number} is {found!r} and not {token!r}; {_way_out()}.")
        self._library.no_truncation()
        self._library.no_padding()
        # PARITY: as a step of the tokenizer, not by str.lower(), which ends Greek words with another sigma than
        # transformers does, and would turn "<EOS>" into the token <eos>.
        own = self._library.normalizer
        lower = normalizers.Lowercase()
        self._library.normalizer = normalizers.Sequence([lower, own]) if own else lower

    def ids(self, text: str) -> list[int]:
        """The token ids of a text of any length, ended by `eos`. Raises `InputError` for what is not text."""
        if not isinstance(text, str):
            raise InputError(f"A text must be a str and not {type(text).__name__}; decode it first.")
        try:
            text.encode()
            # A text may end with the token <eos>; it gets another one, as in transformers.
            return [*self._library.encode(text, add_special_tokens=False).ids, self.eos]
        except UnicodeEncodeError as error:
            raise InputError(f"The text {text!r} holds half a character ({error}); correct it.") from error
        # The library raises Exception itself.
        except Exception as error:
            raise InputError(f"{self.path}: it cannot cut {text!r} into tokens ({error}); {_way_out()}.") from error

    def inputs(self, texts: Sequence[str], length: int = 64) -> np.ndarray:
        """`input_ids`, int64 [texts, length]. Raises `InputError` if there are no texts."""
        if isinstance(texts, str) or not len(texts):
            raise InputError("Give a list of at least one text, even for a single one.")
        return np.stack([text_input(self.ids(text), length, self.eos, self.pad) for text in texts])


def text_input(ids: Sequence[int] | np.ndarray, length: int, eos: int = EOS, pad: int = PAD) -> np.ndarray:
    """One text's token ids as an input, int64 [length]: ended by `eos`, and filled up on the right with `pad`.

    What is filled up or ended already stays as it is. A text that is too long is cut, and its last id is `eos` all the
    same. Source: `tokenize(eos="sticky")` of big_vision. Raises `InputError` if these are no ids.
    """
    if length < 1:
        raise InputError(f"A text of {length} tokens has no place for its end; give a length of at least 1.")
    given = np.asarray(ids)
    if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
        raise InputError(
            f"Token ids must be a list of whole numbers and not {given.dtype} of shape {given.shape}; give one text."
        )
    own = [int(one) for one in given]
    while own and own[-1] == pad:
        own.pop()
    if not own or own[-1] != eos:
        own.append(eos)
    if len(own) > length:
        own = [*own[: length - 1], eos]
    try:
        return np.array([*own, *[pad] * (length - len(own))], np.int64)
    except OverflowError:
        raise InputError(f"The token id {max(own, key=abs)} is no int64; give ids of the vocabulary.") from None


def check_ids(ids: np.ndarray, vocab_size: int) -> None:
    """Raise `InputError` unless all ids are of a vocabulary of this size.

    The graph does not check them: onnxruntime refuses an id that is too large, and takes a negative one from the end
    of the table, without a word.
    """
    if vocab_size < 1:
        raise InputError(f"A vocabulary of {vocab_size} tokens has no ids; give the vocabulary size of the model.")
    if ids.dtype.kind not in "iu":
        raise InputError(f"Token ids must be whole numbers and not {ids.dtype}; convert them to int64.")
    beyond = (ids < 0) | (ids >= vocab_size)
    if beyond.any():
        raise InputError(
            f"The token id {ids[beyond][0]} is not one of the {vocab_size} of the model, 0 to {vocab_size - 1}; take"
            " ids from the tokenizer.json of its checkpoint."
        )


def _way_out() -> str:
    return "give the tokenizer.json that lies beside the checkpoint at Hugging Face"
