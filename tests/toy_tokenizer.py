"""A tokenizer.json like Gemma's, but for its few hundred tokens, and the files around it that transformers reads.

Like Gemma's it has no Lowercase of its own, turns spaces into ▁, merges pairs of characters and falls back to bytes.
"""

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
# What has a token of its own; é is among them and É is not, as in Gemma's vocabulary.
CHARACTERS = f"▁{LETTERS}{LETTERS.upper()}éüßσς猫.,!0123456789"
MERGES = [("▁", "a"), ("▁", "c"), ("a", "t"), ("▁c", "at"), ("C", "a"), ("t", "h"), ("th", "e"), ("▁", "the")]


def vocabulary() -> dict[str, int]:
    """Tokens with their ids: special ones first, then bytes, characters and merged pairs."""
    tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *CHARACTERS, *(a + b for a, b in MERGES)]
    return {token: number for number, token in enumerate(tokens)}


def tokenizer() -> Tokenizer:
    """The tokenizer with Gemma's steps, as the publisher's converter sets it: no <bos>, and <eos> at the end."""
    made = Tokenizer(
        models.BPE(vocab=vocabulary(), merges=MERGES, fuse_unk=True, unk_token="<unk>", byte_fallback=True)
    )
    made.normalizer = normalizers.Replace(" ", "▁")
    made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    eos = [("<eos>", 1)]
    made.post_processor = processors.TemplateProcessing(
        single="$A:0 <eos>:0", pair="$A:0 <eos>:0 $B:1 <eos>:1", special_tokens=eos
    )
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.add_special_tokens(list(SPECIAL))
    return made


def write_tokenizer(folder: Path, tokenizer_class: str = "GemmaTokenizer", model_type: str = "siglip2") -> Path:
    """Write tokenizer.json and its companions into a new folder. Returns the path of tokenizer.json."""
    folder.mkdir(parents=True)
    path = folder / "tokenizer.json"
    tokenizer().save(str(path))
    config = {
        "tokenizer_class": tokenizer_class,
        **{f"{token[1:-1]}_token": token for token in SPECIAL},
        "add_bos_token": False,
        "add_eos_token": True,
        "padding_side": "right",
        "model_input_names": ["input_ids"],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return path
