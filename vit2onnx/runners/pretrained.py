"""The user's own model as transformers itself builds and fills it, so that a wrong reading of ours shows."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from torch import nn
from transformers import MODEL_MAPPING, AutoConfig, AutoModel
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from vit2onnx.checkpoints.heads import files_of, read_mapping
from vit2onnx.errors import InputError
from vit2onnx.spec.variant import Own
from vit2onnx.weights.keytable import LazyTensor

# The most characters of a message of transformers that are told.
LONGEST = 200


def pretrained(own: Own, tensors: Mapping[str, LazyTensor]) -> nn.Module:
    """The model of the `config.json` beside a checkpoint, with all its weights in float32.

    If the backbone is a part of the file, transformers gets the `tensors` of that part. Raises `InputError` if the
    model lacks one, or with the words of transformers if that cannot make it.
    """
    file = Path(own.path).absolute()
    config = file.parent / "config.json"
    try:
        found = None if own.is_part or own.config else _from_files(file, config)
        # A prefix that is not one of transformers' own.
        if found is None and (own.prefix or own.is_part or own.config):
            found = _from_tensors(config, own.config or "", tensors)
    except MemoryError:
        raise
    # Any other, because the exceptions of transformers have nothing in common.
    except Exception as error:
        raise InputError(f"{config}: transformers cannot make this model, because {_short(error)}.") from error
    if found is None:
        raise InputError(f"{config}: transformers does not find all tensors of this model in {file.name}.")
    return found


def _from_files(file: Path, config: Path) -> nn.Module | None:
    """The model from links to the checkpoint's files, under the names that transformers looks for."""
    files = files_of(file)
    with TemporaryDirectory() as folder:
        for one in [config, *files]:
            Path(folder, one.name).symlink_to(one.absolute())
        if len(files) == 1:
            with file.open("rb") as opened:
                is_safe = opened.read(9)[8:] == b"{"
            Path(folder, file.name).rename(Path(folder, "model.safetensors" if is_safe else "pytorch_model.bin"))
        return _load(folder)


def _from_tensors(config: Path, key: str, tensors: Mapping[str, LazyTensor]) -> nn.Module | None:
    """The model from a part of a checkpoint, written anew with names that lack the prefix."""
    whole = read_mapping(config)
    with TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(whole[key] if key else whole))
        state = {name: torch.from_numpy(tensor.read().astype(np.float32)) for name, tensor in tensors.items()}
        save_file(state, Path(folder, "model.safetensors"))
        return _load(folder)


def _load(folder: str) -> nn.Module | None:
    """The model as transformers loads it; `None` if it misses a tensor for inference."""
    set_verbosity_error()
    disable_progress_bar()
    how: dict[str, Any] = {"dtype": torch.float32, "trust_remote_code": False, "local_files_only": True}
    model, told = _class_of(folder).from_pretrained(folder, output_loading_info=True, **how)
    missing = [name for name in told["missing_keys"] if not name.endswith("mask_token")]
    return None if missing or told["mismatched_keys"] else model.eval()


def _class_of(folder: str) -> Any:
    """The class of transformers for a folder. `AutoModel` does not know every tower that has one."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if type(config) in MODEL_MAPPING:
        return AutoModel
    return getattr(transformers, f"{type(config).__name__.removesuffix('Config')}Model", AutoModel)


def _short(error: Exception) -> str:
    """The first sentence of transformers, because some list all its models."""
    words = re.split(r"(?<=[.!?:])\s*\n|(?<=[.!?])\s+(?=[A-Z])", str(error).strip())[0]
    words = " ".join(words.split()).rstrip(".:")
    return words if len(words) <= LONGEST else f"{words[:LONGEST]} …"
