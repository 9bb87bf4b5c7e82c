"""A stand-in for the publisher's ConvNeXt: its names for the tensors and outputs, and nothing else.

Written for the tests from the ConvNeXt paper and from facts about the checkpoints.
"""

import itertools

import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    """A depthwise convolution, a norm and two maps of the channels."""

    def __init__(self, dim: int):
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, 1e-6)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(torch.full((dim,), torch.nan))
        self.drop_path = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        y = self.gamma * self.pwconv2(functional.gelu(self.pwconv1(y)))
        return x + self.drop_path(y.permute(0, 3, 1, 2))


class FirstNorm(nn.LayerNorm):
    """A norm over the channels of a map that has them first."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    """Its final norm stands twice among its modules, and so in its files."""

    def __init__(self, *, depths: list[int], dims: list[int]):
        super().__init__()
        stem = nn.Sequential(nn.Conv2d(3, dims[0], 4, 4), FirstNorm(dims[0], 1e-6))
        later = [
            nn.Sequential(FirstNorm(before, 1e-6), nn.Conv2d(before, dim, 2, 2))
            for before, dim in itertools.pairwise(dims)
        ]
        self.downsample_layers = nn.ModuleList([stem, *later])
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(dim) for _ in range(depth))) for dim, depth in zip(dims, depths, strict=True)
        )
        self.norm = nn.LayerNorm(dims[-1], 1e-6)
        self.norms = nn.ModuleList([*(nn.Identity() for _ in dims[1:]), self.norm])

    def forward_features(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(downsample(x))
        tokens = self.norm(torch.cat([x.mean((2, 3))[:, None], x.flatten(2).mT], 1))
        return {
            "x_norm_clstoken": tokens[:, 0],
            "x_storage_tokens": tokens[:, 1:1],
            "x_norm_patchtokens": tokens[:, 1:],
        }
