"""The user's own model as transformers itself builds and fills it, so that a wrong reading of ours shows."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModel
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from vit2onnx.checkpoints.heads import files_of, read_mapping
from vit2onnx.errors import InputError
from vit2onnx.spec.variant import Own
from vit2onnx.weights.keytable import LazyTensor


def pretrained(own: Own, tensors: Mapping[str, LazyTensor]) -> nn.Module:
    """The model of the `config.json` beside a checkpoint, with all its weights in float32.

    If transformers cannot open the file as it is, for instance because the backbone is a part of it, it gets the
    `tensors` of that part. Raises `InputError` if the model still lacks one.
    """
    file = Path(own.path).absolute()
    config = file.parent / "config.json"
    found = _from_files(file, config) if not own.config else None
    found = found or _from_tensors(config, own.config or "", tensors)
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
    """The model as transformers loads it; `None` if it misses a tensor for inference, or cannot open the file."""
    set_verbosity_error()
    disable_progress_bar()
    how: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "sdpa", "trust_remote_code": False}
    try:
        model, told = AutoModel.from_pretrained(folder, local_files_only=True, output_loading_info=True, **how)
    except MemoryError:
        raise
    # Any other, because the exceptions of transformers have nothing in common. The tensors are then written anew.
    except Exception:
        logging.getLogger(__name__).info("transformers cannot open the file as it is", exc_info=True)
        return None
    missing = [name for name in told["missing_keys"] if not name.endswith("mask_token")]
    return None if missing or told["mismatched_keys"] else model.eval()
