"""A stand-in for the publisher's code: its names for the model, its options, tensors and outputs, and nothing else.

Written for the tests from the paper and from facts about the checkpoints, so that they need no clone and contain
nothing of one.
"""

import math

import torch
from torch import nn
from torch.nn import functional


class DinoVisionTransformer(nn.Module):
    """Holds every tensor under the publisher's name for it and computes from them by plain functions."""

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
        pos_embed_rope_dtype: str,
        ffn_layer: str,
        untie_global_and_local_cls_norm: bool,
    ):
        super().__init__()
        assert mask_k_bias
        assert layerscale_init
        assert norm_layer == "layernormbf16"
        self.patch_size, self.depth, self.num_heads = patch_size, depth, num_heads
        self.qkv_bias, self.swiglu = qkv_bias, {"mlp": False, "swiglu": True}[ffn_layer]
        hidden = int(embed_dim * ffn_ratio)
        if self.swiglu:
            # Two thirds, rounded up to a multiple of eight.
            hidden = -(-int(hidden * 2 / 3) // 8) * 8
        shapes = {
            "cls_token": (1, 1, embed_dim),
            "storage_tokens": (1, n_storage_tokens, embed_dim),
            "mask_token": (1, embed_dim),
            "rope_embed.periods": (embed_dim // num_heads // 4,),
            "patch_embed.proj.weight": (embed_dim, 3, patch_size, patch_size),
            "patch_embed.proj.bias": (embed_dim,),
            "norm.weight": (embed_dim,),
            "norm.bias": (embed_dim,),
        }
        if untie_global_and_local_cls_norm:
            shapes |= {"local_cls_norm.weight": (embed_dim,), "local_cls_norm.bias": (embed_dim,)}
        wide, narrow = (hidden, embed_dim), (embed_dim, hidden)
        ffn = {"w1": wide, "w2": wide, "w3": narrow} if self.swiglu else {"fc1": wide, "fc2": narrow}
        maps = {"attn.proj": (embed_dim, embed_dim), **{f"mlp.{name}": shape for name, shape in ffn.items()}}
        for i in range(depth):
            shapes |= {
                f"blocks.{i}.{norm}.{leaf}": (embed_dim,) for norm in ("norm1", "norm2") for leaf in ("weight", "bias")
            }
            shapes |= {f"blocks.{i}.{scale}.gamma": (embed_dim,) for scale in ("ls1", "ls2")}
            shapes[f"blocks.{i}.attn.qkv.weight"] = (3 * embed_dim, embed_dim)
            if qkv_bias:
                shapes |= {f"blocks.{i}.attn.qkv.{leaf}": (3 * embed_dim,) for leaf in ("bias", "bias_mask")}
            for name, (rows, columns) in maps.items():
                shapes |= {f"blocks.{i}.{name}.weight": (rows, columns), f"blocks.{i}.{name}.bias": (rows,)}
        for name, shape in shapes.items():
            *path, leaf = name.split(".")
            module = self
            for part in path:
                if part not in module._modules:
                    module.add_module(part, nn.Module())
                module = module.get_submodule(part)
            module.register_buffer(leaf, torch.full(shape, torch.nan))
        self.rope_embed.dtype = {"fp32": torch.float32}[pos_embed_rope_dtype]

    def forward_features(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        p = self.state_dict()

        def linear(x: torch.Tensor, name: str) -> torch.Tensor:
            bias = p.get(f"{name}.bias")
            return functional.linear(
                x, p[f"{name}.weight"], None if bias is None else bias * p.get(f"{name}.bias_mask", 1)
            )

        def norm(x: torch.Tensor, name: str) -> torch.Tensor:
            return functional.layer_norm(x, x.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"], 1e-5)

        weight, bias = p["patch_embed.proj.weight"], p["patch_embed.proj.bias"]
        patches = functional.conv2d(images, weight, bias, stride=self.patch_size)
        cos, sin = self.rotation(*patches.shape[2:])
        first_patch = 1 + p["storage_tokens"].shape[1]

        def rotate(x: torch.Tensor) -> torch.Tensor:
            prefix, x = x[:, :, :first_patch], x[:, :, first_patch:]
            left, right = x.to(cos.dtype).chunk(2, -1)
            turned = torch.cat([left * cos - right * sin, right * cos + left * sin], -1)
            return torch.cat([prefix, turned.to(x.dtype)], 2)

        prefix = torch.cat([p["cls_token"], p["storage_tokens"]], 1).expand(len(images), -1, -1)
        tokens = torch.cat([prefix, patches.flatten(2).mT], 1)
        for i in range(self.depth):
            block = f"blocks.{i}"
            fused = linear(norm(tokens, f"{block}.norm1"), f"{block}.attn.qkv")
            heads = [part.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for part in fused.chunk(3, 2)]
            mixed = functional.scaled_dot_product_attention(rotate(heads[0]), rotate(heads[1]), heads[2])
            mixed = linear(mixed.transpose(1, 2).flatten(2), f"{block}.attn.proj")
            tokens = tokens + mixed * p[f"{block}.ls1.gamma"]
            normed = norm(tokens, f"{block}.norm2")
            if self.swiglu:
                hidden = functional.silu(linear(normed, f"{block}.mlp.w1")) * linear(normed, f"{block}.mlp.w2")
            else:
                hidden = functional.gelu(linear(normed, f"{block}.mlp.fc1"))
            tokens = tokens + linear(hidden, f"{block}.mlp.{'w3' if self.swiglu else 'fc2'}") * p[f"{block}.ls2.gamma"]
        tokens = norm(tokens, "norm")
        return {
            "x_norm_clstoken": tokens[:, 0],
            "x_storage_tokens": tokens[:, 1:first_patch],
            "x_norm_patchtokens": tokens[:, first_patch:],
        }

    def rotation(self, grid_height: int, grid_width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines [patches, half_head_dim], computed in the precision that `rope_embed.dtype` says."""
        dtype = self.rope_embed.dtype
        sizes = grid_height, grid_width
        centres = torch.cartesian_prod(*(2 * (torch.arange(n, dtype=dtype) + 0.5) / n - 1 for n in sizes))
        angles = (2 * math.pi * centres[:, :, None] / self.rope_embed.periods.to(dtype)).flatten(1)
        return torch.cos(angles), torch.sin(angles)
