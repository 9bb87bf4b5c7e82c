"""A stand-in for the publisher's code: its names for the modules, its options, tensors and outputs, and nothing else.

Written for the tests from the paper and from facts about the checkpoints, so that they need no clone and contain
nothing of one. All tensors are NaN until they are loaded.
"""

import math

import torch
from torch import nn
from torch.nn import functional

Rope = tuple[torch.Tensor, torch.Tensor]


class Tensors(nn.Module):
    """A module with tensors of given shapes."""

    def __init__(self, **shapes: tuple[int, ...]):
        super().__init__()
        for name, shape in shapes.items():
            self.register_buffer(name, torch.full(shape, torch.nan))


class Norm(Tensors):
    def __init__(self, dim: int):
        super().__init__(weight=(dim,), bias=(dim,))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(x, x.shape[-1:], self.weight, self.bias, 1e-5)


class Map(Tensors):
    """A linear map. Where it has a mask, only what that lets through of its bias is added."""

    def __init__(self, inner: int, outer: int, **more: tuple[int, ...]):
        super().__init__(weight=(outer, inner), **more)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tensors = dict(self.named_buffers())
        bias = tensors.get("bias")
        return functional.linear(x, self.weight, None if bias is None else bias * tensors.get("bias_mask", 1))


class Scale(Tensors):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gamma


class Attention(nn.Module):
    def __init__(self, dim: int, num_heads: int, qkv_bias: bool, mask_k_bias: bool):
        super().__init__()
        self.num_heads = num_heads
        biases = {name: (3 * dim,) for name in ("bias", *(["bias_mask"] if mask_k_bias else [])) if qkv_bias}
        self.qkv, self.proj = Map(dim, 3 * dim, **biases), Map(dim, dim, bias=(dim,))

    def forward(self, x: torch.Tensor, rope: Rope) -> torch.Tensor:
        q, k, v = (part.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, 2))
        mixed = functional.scaled_dot_product_attention(rotate(q, *rope), rotate(k, *rope), v)
        return self.proj(mixed.transpose(1, 2).flatten(2))


def rotate(x: torch.Tensor, sin: torch.Tensor, cos: torch.Tensor) -> torch.Tensor:
    """Only those tokens that have angles, which are the last."""
    prefix, x = x[:, :, : -len(sin)], x[:, :, -len(sin) :]
    left, right = x.to(cos.dtype).chunk(2, -1)
    turned = torch.cat([left * cos - right * sin, right * cos + left * sin], -1)
    return torch.cat([prefix, turned.to(x.dtype)], 2)


class Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1, self.fc2 = Map(dim, hidden, bias=(hidden,)), Map(hidden, dim, bias=(dim,))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(functional.gelu(self.fc1(x)))


class SwiGlu(nn.Module):
    def __init__(self, dim: int, hidden: int):
        super().__init__()
        # Two thirds, rounded up to a multiple of eight.
        hidden = -(-int(hidden * 2 / 3) // 8) * 8
        self.w1, self.w2 = Map(dim, hidden, bias=(hidden,)), Map(dim, hidden, bias=(hidden,))
        self.w3 = Map(hidden, dim, bias=(dim,))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.w3(functional.silu(self.w1(x)) * self.w2(x))


class Block(nn.Module):
    def __init__(self, dim: int, num_heads: int, qkv_bias: bool, mask_k_bias: bool, mlp: nn.Module):
        super().__init__()
        self.norm1, self.norm2 = Norm(dim), Norm(dim)
        self.attn, self.mlp = Attention(dim, num_heads, qkv_bias, mask_k_bias), mlp
        self.ls1, self.ls2 = Scale(gamma=(dim,)), Scale(gamma=(dim,))

    def forward(self, x: torch.Tensor, rope_or_rope_list: Rope) -> torch.Tensor:
        x = x + self.ls1(self.attn(self.norm1(x), rope_or_rope_list))
        return x + self.ls2(self.mlp(self.norm2(x)))


class RopeEmbed(Tensors):
    """Sines and cosines [patches, half_head_dim], computed in the precision that `dtype` says."""

    dtype = torch.float32

    def forward(self, *, H: int, W: int) -> Rope:  # noqa: N803  the publisher's names
        centres = torch.cartesian_prod(*(2 * (torch.arange(n, dtype=self.dtype) + 0.5) / n - 1 for n in (H, W)))
        angles = (2 * math.pi * centres[:, :, None] / self.periods.to(self.dtype)).flatten(1)
        return torch.sin(angles), torch.cos(angles)


class PatchEmbed(nn.Module):
    def __init__(self, dim: int, patch_size: int):
        super().__init__()
        self.proj = Tensors(weight=(dim, 3, patch_size, patch_size), bias=(dim,))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        weight = self.proj.weight
        return functional.conv2d(images, weight, self.proj.bias, stride=weight.shape[-1]).permute(0, 2, 3, 1)


class DinoVisionTransformer(Tensors):
    """The model with all its options that this project uses."""

    def __init__(
        self,
        *,
        patch_size: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
        ffn_ratio: float,
        qkv_bias: bool,
        n_storage_tokens: int,
        layerscale_init: float,
        norm_layer: str,
        mask_k_bias: bool,
        pos_embed_rope_base: float,
        pos_embed_rope_dtype: str,
        ffn_layer: str,
        untie_global_and_local_cls_norm: bool,
    ):
        registers = {"storage_tokens": (1, n_storage_tokens, embed_dim)} if n_storage_tokens else {}
        super().__init__(cls_token=(1, 1, embed_dim), **registers, mask_token=(1, embed_dim))
        self.n_storage_tokens = n_storage_tokens
        assert pos_embed_rope_base
        assert layerscale_init
        assert norm_layer == "layernormbf16"
        assert pos_embed_rope_dtype == "fp32"
        self.patch_size = patch_size
        self.patch_embed = PatchEmbed(embed_dim, patch_size)
        self.rope_embed = RopeEmbed(periods=(embed_dim // num_heads // 4,))
        mlp, hidden = {"mlp": Mlp, "swiglu": SwiGlu}[ffn_layer], int(embed_dim * ffn_ratio)
        blocks = [Block(embed_dim, num_heads, qkv_bias, mask_k_bias, mlp(embed_dim, hidden)) for _ in range(depth)]
        self.blocks, self.norm = nn.ModuleList(blocks), Norm(embed_dim)
        if untie_global_and_local_cls_norm:
            self.local_cls_norm = Norm(embed_dim)

    def prepare_tokens_with_masks(self, images: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        patches = self.patch_embed(images)
        registers = [self.storage_tokens] if self.n_storage_tokens else []
        prefix = torch.cat([self.cls_token, *registers], 1).expand(len(images), -1, -1)
        return torch.cat([prefix, patches.flatten(1, 2)], 1), patches.shape[1:3]

    def forward_features(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        tokens, (grid_height, grid_width) = self.prepare_tokens_with_masks(images)
        for block in self.blocks:
            tokens = block(tokens, self.rope_embed(H=grid_height, W=grid_width))
        tokens, first_patch = self.norm(tokens), 1 + self.n_storage_tokens
        return {
            "x_norm_clstoken": tokens[:, 0],
            "x_storage_tokens": tokens[:, 1:first_patch],
            "x_norm_patchtokens": tokens[:, first_patch:],
        }
