"""Transformers' DINOv3 ViT for images of any sizes in one call, without padding. Needs torch and transformers.

The modules and weights are those of transformers. All tokens go through them as one sequence; only attention is
confined to each image.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad, scaled_dot_product_attention
from transformers import DINOv3ViTModel, PreTrainedConfig
from transformers.models.dinov3_vit.modeling_dinov3_vit import rotate_half

from vit2onnx.errors import InputError, first_few, shortened
from vit2onnx.packing.arrays import CHANNELS, check_fit, frames

# What `config.json` calls such models.
MODEL_TYPE = "dinov3_vit"
EXAMPLE = "facebook/dinov3-vits16-pretrain-lvd1689m"
# The most characters of a message of transformers that are told.
LONGEST = 200


class DINOv3ViTPacking(nn.Module):
    """A DINOv3 ViT of Hugging Face that takes the patches of many images as one sequence.

    `ckpt` is a folder that `save_pretrained` wrote, or the id of a model on Hugging Face; `patch_size` is the side of
    a patch in pixels. The model is for inference: it stays in evaluation mode, and its weights need no gradient. Use
    `dtype` for its precision, because `.half()` would round the frequencies of the rotary positions too. Raises
    `InputError` if `ckpt` is no complete DINOv3 ViT.
    """

    def __init__(self, ckpt: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32):
        super().__init__()
        self.model = _load(ckpt, dtype).to(device).requires_grad_(False)
        self.patch_size: int = self.model.embeddings.patch_embeddings.weight.shape[-1]
        self.train(False)

    def train(self, mode: bool = True) -> "DINOv3ViTPacking":
        """Stay in evaluation mode, as a part of a larger model too: training would move the positions at random."""
        super().train(False)
        return self

    def forward(self, hidden_states: Any, grid_thw: Any) -> Tensor:
        """The features [patches, embed_dim] of all patches after the final norm, in the order of the input.

        `hidden_states` [patches, 3 * patch_size**2] are normalised pixels, image by image and row by row; each patch
        holds its rows of columns of channels. `grid_thw` [images, 3] says of each image: frames, rows of patches,
        columns of patches. Every frame of a clip is an image by itself. Both are brought to the model's device, and
        the pixels to its precision. Raises `InputError` if they do not fit the model or each other; rows and columns
        that are exchanged cannot be seen.
        """
        return self.features(hidden_states, grid_thw)["last_hidden_state"]

    def features(self, hidden_states: Any, grid_thw: Any) -> dict[str, Tensor]:
        """What a packed graph gives for the same input as `forward`, by its names.

        `last_hidden_state` [patches, embed_dim], `pooler_output` [images, embed_dim] (CLS tokens), and `registers`
        [images, registers, embed_dim]. Every frame of a clip counts as an image. Raises `InputError` as `forward` does.
        """
        grids = self._grids(hidden_states, grid_thw)
        patch_counts = [rows * columns for rows, columns in grids]
        embeddings = self.model.embeddings
        kernel = embeddings.patch_embeddings
        weight = kernel.weight.permute(0, 2, 3, 1).flatten(1)
        patches = linear(hidden_states.to(weight), weight, kernel.bias).split(patch_counts)
        prefix = torch.cat([embeddings.cls_token, embeddings.register_tokens], 1)[0]
        tokens = torch.cat([part for image in patches for part in (prefix, image)])

        token_counts = [len(prefix) + count for count in patch_counts]
        attend = _attention(tokens, token_counts)
        cos, sin = self._positions(grids, len(prefix))
        for layer in self.model.model.layer:
            mixed = _mix(layer.attention, layer.norm1(tokens), cos, sin, attend)
            tokens = layer.layer_scale1(mixed) + tokens
            tokens = layer.layer_scale2(layer.mlp(layer.norm2(tokens))) + tokens

        images = self.model.norm(tokens).split(token_counts)
        prefixes = torch.stack([image[: len(prefix)] for image in images])
        return {
            "last_hidden_state": torch.cat([image[len(prefix) :] for image in images]),
            "pooler_output": prefixes[:, 0],
            "registers": prefixes[:, 1:],
        }

    def _grids(self, hidden_states: Any, grid_thw: Any) -> list[tuple[int, int]]:
        """Rows and columns of patches of each frame."""
        for name, value in (("hidden_states", hidden_states), ("grid_thw", grid_thw)):
            if not isinstance(value, Tensor):
                raise InputError(f"{name} must be a tensor and is {type(value).__name__}; use torch.as_tensor.")
        if not hidden_states.is_floating_point():
            raise InputError(f"hidden_states are {hidden_states.dtype}; give normalised pixels as floating point.")
        if grid_thw.dtype not in (torch.int32, torch.int64):
            raise InputError(f"grid_thw is {grid_thw.dtype}; give it as torch.int64.")
        grid = grid_thw.cpu().numpy()
        check_fit(hidden_states.shape, grid, self.patch_size, "hidden_states")
        return [(rows, columns) for _, rows, columns in frames(grid).tolist()]

    def _positions(self, grids: Sequence[tuple[int, int]], prefix: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines [tokens, 1, head_dim] of the rotary positions, as transformers computes them by image.

        The tokens of a prefix are rotated by nothing.
        """
        # Transformers reads an image's shape, type and device only.
        pixel = self.model.embeddings.cls_token.new_empty(1)
        tables = {}
        for grid in dict.fromkeys(grids):
            height, width = (side * self.patch_size for side in grid)
            cos, sin = self.model.rope_embeddings(pixel.expand(1, CHANNELS, height, width))
            tables[grid] = pad(cos, (0, 0, prefix, 0), value=1.0), pad(sin, (0, 0, prefix, 0))
        cos, sin = (torch.cat(parts)[:, None] for parts in zip(*(tables[grid] for grid in grids), strict=True))
        return cos, sin


def _mix(attention: Any, x: Tensor, cos: Tensor, sin: Tensor, attend: Callable[..., Tensor]) -> Tensor:
    """Transformers' attention of normed tokens [tokens, embed_dim], each image by itself."""
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    query, key, value = (project(x).unflatten(-1, (attention.num_heads, -1)) for project in projections)
    query, key = (one * cos + rotate_half(one) * sin for one in (query, key))
    return attention.o_proj(attend(query, key, value, scale=attention.scaling).flatten(-2))


def _attention(tokens: Tensor, counts: list[int]) -> Callable[..., Tensor]:
    """Attention of query, key and value [tokens, heads, head_dim] within images of so many tokens."""
    varlen_attn = _varlen_attn_for(tokens)
    if varlen_attn is None:
        return partial(_by_image, counts=counts)
    ends = torch.tensor([0, *accumulate(counts)], dtype=torch.int32, device=tokens.device)
    longest = max(counts)
    return partial(varlen_attn, cu_seq_q=ends, cu_seq_k=ends, max_q=longest, max_k=longest)


def _varlen_attn_for(tokens: Any) -> Callable[..., Tensor] | None:
    """Torch's attention within many images by one kernel, which there is for half precision on CUDA only."""
    if not tokens.is_cuda or tokens.dtype not in (torch.float16, torch.bfloat16):
        return None
    # Not at the top, because only this path needs it, and older versions of torch lack it.
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn


def _by_image(query: Tensor, key: Tensor, value: Tensor, *, counts: list[int], scale: float) -> Tensor:
    """Attention [tokens, heads, head_dim] with one call of the kernel for each image."""
    images = zip(*(one.transpose(0, 1)[None].split(counts, dim=2) for one in (query, key, value)), strict=True)
    mixed = [scaled_dot_product_attention(q, k, v, scale=scale) for q, k, v in images]
    return torch.cat(mixed, dim=2)[0].transpose(0, 1)


def _load(ckpt: str | Path, dtype: torch.dtype) -> nn.Module:
    """Transformers' model with all its weights in a precision."""
    path, way_out = Path(ckpt), f"give the folder of a DINOv3 ViT or an id of Hugging Face, such as {EXAMPLE}"
    is_folder = path.is_dir()
    if not is_folder and (path.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(ckpt))):
        raise InputError(f"{ckpt} is no folder; {way_out}.")
    try:
        config, _ = PreTrainedConfig.get_config_dict(ckpt, local_files_only=is_folder)
        found = config.get("model_type")
        if found == MODEL_TYPE:
            model, told = DINOv3ViTModel.from_pretrained(
                ckpt, dtype=dtype, local_files_only=is_folder, output_loading_info=True
            )
    except MemoryError:
        raise
    # Any other, because the exceptions of transformers have nothing in common.
    except Exception as error:
        if is_folder:
            said = shortened(" ".join(str(error).split()).rstrip("."), LONGEST)
            raise InputError(f"{ckpt}: transformers cannot load this model, because {said}; {way_out}.") from error
        # Without its words and the exception itself, which may quote a token.
        said = f"{ckpt} is neither a folder nor a model that Hugging Face gave ({type(error).__name__})"
        raise InputError(f"{said}; run hf download {ckpt} --local-dir FOLDER and give that folder.") from None
    if not found:
        raise InputError(f"{ckpt} has no config.json that names a type of model; {way_out}.")
    if found != MODEL_TYPE:
        raise InputError(f"{ckpt} is a model of type {found}, which is not packed here; {way_out}.")
    if missing := [name for name in told["missing_keys"] if not name.endswith("mask_token")]:
        raise InputError(f"{ckpt} lacks {first_few(sorted(missing))}; save the whole model once more.")
    channels, height, width = model.embeddings.patch_embeddings.weight.shape[1:]
    if channels != CHANNELS or height != width:
        raise InputError(f"{ckpt} has patches of {channels} x {height} x {width}; only square RGB ones are packed.")
    return model


# By which the project finds it.
Packing = DINOv3ViTPacking
