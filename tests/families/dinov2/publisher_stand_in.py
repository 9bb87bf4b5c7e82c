"""A stand-in for the publisher's code: its names for the modules, its options, tensors and outputs, and nothing else.

Written for the tests from the papers and from facts about the checkpoints, so that they need no clone and contain
nothing of one. All tensors are NaN until they are loaded. The table is resized by PyTorch, in single precision as in
the publisher's code, and sizes that are no multiple of the patch are refused.
"""

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional


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
        return functional.layer_norm(x, x.shape[-1:], self.weight, self.bias, 1e-6)


class Map(Tensors):
    def __init__(self, inner: int, outer: int):
        super().__init__(weight=(outer, inner), bias=(outer,))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, self.weight, self.bias)


class Scale(Tensors):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gamma


class MemEffAttention(nn.Module):
    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv, self.proj = Map(dim, 3 * dim), Map(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (part.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, 2))
        return self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int, act_layer: Any):
        super().__init__()
        self.fc1, self.act, self.fc2 = Map(dim, hidden), act_layer(), Map(hidden, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.act(self.fc1(x)))


class SwiGlu(nn.Module):
    def __init__(self, dim: int, hidden: int, act_layer: Any):
        super().__init__()
        # Two thirds, rounded up to a multiple of eight.
        hidden = -(-int(hidden * 2 / 3) // 8) * 8
        self.w12, self.w3 = Map(dim, 2 * hidden), Map(hidden, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, value = self.w12(x).chunk(2, -1)
        return self.w3(functional.silu(gate) * value)


class NestedTensorBlock(nn.Module):
    def __init__(self, dim: int, num_heads: int, mlp: nn.Module, attn_class: Any):
        super().__init__()
        self.norm1, self.norm2 = Norm(dim), Norm(dim)
        self.attn, self.mlp = attn_class(dim, num_heads), mlp
        self.ls1, self.ls2 = Scale(gamma=(dim,)), Scale(gamma=(dim,))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    def __init__(self, dim: int, patch_size: int):
        super().__init__()
        self.proj = Tensors(weight=(dim, 3, patch_size, patch_size), bias=(dim,))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        weight = self.proj.weight
        assert images.shape[2] % weight.shape[2] == images.shape[3] % weight.shape[3] == 0
        return functional.conv2d(images, weight, self.proj.bias, stride=weight.shape[-1]).flatten(2).transpose(1, 2)


class DinoVisionTransformer(Tensors):
    """The model with all its options that this project uses."""

    def __init__(
        self,
        *,
        img_size: int,
        patch_size: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        ffn_layer: str,
        init_values: float,
        act_layer: Any,
        block_fn: "partial[NestedTensorBlock]",
        block_chunks: int,
        num_register_tokens: int,
        interpolate_antialias: bool,
        interpolate_offset: float,
    ):
        self.side, self.patch_size = img_size // patch_size, patch_size
        registers = {"register_tokens": (1, num_register_tokens, embed_dim)} if num_register_tokens else {}
        super().__init__(
            cls_token=(1, 1, embed_dim),
            pos_embed=(1, self.side**2 + 1, embed_dim),
            mask_token=(1, embed_dim),
            **registers,
        )
        assert init_values
        assert not block_chunks
        if not num_register_tokens:
            self.register_tokens = None
        self.antialias, self.offset = interpolate_antialias, interpolate_offset
        self.patch_embed = PatchEmbed(embed_dim, patch_size)
        mlp, hidden = {"mlp": Mlp, "swiglufused": SwiGlu}[ffn_layer], int(embed_dim * mlp_ratio)
        blocks = [block_fn(embed_dim, num_heads, mlp(embed_dim, hidden, act_layer)) for _ in range(depth)]
        self.blocks, self.norm = nn.ModuleList(blocks), Norm(embed_dim)

    def interpolate_pos_encoding(self, x: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        grid = rows // self.patch_size, columns // self.patch_size
        if grid == (self.side, self.side):
            return self.pos_embed
        table = self.pos_embed.float()
        square = table[:, 1:].reshape(1, self.side, self.side, -1).permute(0, 3, 1, 2)
        if self.offset:
            size: dict[str, Any] = {"scale_factor": tuple((n + self.offset) / self.side for n in grid)}
        else:
            size = {"size": grid}
        resized = functional.interpolate(square, mode="bicubic", antialias=self.antialias, **size)
        return torch.cat([table[:, :1], resized.permute(0, 2, 3, 1).flatten(1, 2)], 1).to(x.dtype)

    def prepare_tokens_with_masks(self, images: torch.Tensor) -> torch.Tensor:
        patches = self.patch_embed(images)
        tokens = torch.cat([self.cls_token.expand(len(images), -1, -1), patches], 1)
        tokens = tokens + self.interpolate_pos_encoding(tokens, *images.shape[2:])
        if self.register_tokens is None:
            return tokens
        registers = self.register_tokens.expand(len(images), -1, -1)
        return torch.cat([tokens[:, :1], registers, tokens[:, 1:]], 1)

    def forward_features(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        tokens = self.prepare_tokens_with_masks(images)
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.norm(tokens)
        first_patch = 1 if self.register_tokens is None else 1 + self.register_tokens.shape[1]
        return {
            "x_norm_clstoken": tokens[:, 0],
            "x_norm_regtokens": tokens[:, 1:first_patch],
            "x_norm_patchtokens": tokens[:, first_patch:],
        }
