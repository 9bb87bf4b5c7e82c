"""A toy in PyTorch."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn

from vit2onnx.families.preparation import Channels, Prepare, bilinear_preparations
from vit2onnx.families.reference import HIDDEN, Reader, Reference, Step, Tap, check_names, reader
from vit2onnx.families.toy.architecture import Architecture
from vit2onnx.spec.variant import VariantSpec
from vit2onnx.weights.keytable import LazyTensor

HALF = (0.5, 0.5, 0.5)


class Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.add_module("fc1", nn.Linear(width, 2 * width))
        self.mlp.add_module("act", nn.GELU())
        self.mlp.add_module("fc2", nn.Linear(2 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.mlp(self.norm(x))


class Toy(nn.Module):
    def __init__(self, arch: Architecture):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, arch.embed_dim, arch.patch_size, arch.patch_size)
        self.cls_token = nn.Parameter(torch.empty(1, 1, arch.embed_dim))
        self.blocks = nn.ModuleList(Block(arch.embed_dim) for _ in range(arch.depth))
        self.norm = nn.LayerNorm(arch.embed_dim)

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        patches = self.patch_embed(x).flatten(2).transpose(1, 2)
        return torch.cat([self.cls_token.expand(len(x), -1, -1), patches], 1)


def steps(model: Toy, _: Mapping[str, torch.Tensor]) -> Sequence[Step]:
    def block_step(index: int, block: Block) -> Step:
        taps = {"input": Tap(is_input=True), "mlp_in": Tap(block.norm), "mlp_raw": Tap(block.mlp), "output": Tap()}
        return Step.of_layer(f"blocks.{index}", block, f"blocks.{index}", taps, axis=-1)

    return [
        Step(("patch_embed", "cls_token"), model.embed, "patch_embed", {"patch_embed": Tap()}),
        *(block_step(index, block) for index, block in enumerate(model.blocks)),
        Step(("norm",), model.norm, "norm", {"norm": Tap()}, port=HIDDEN),
    ]


def toy(spec: VariantSpec, name: str, tensors: Mapping[str, LazyTensor], _: Path | None) -> Reference:
    with torch.device("meta"):
        model = Toy(spec.architecture).eval()
    state = {key: reader(tensor) for key, tensor in tensors.items()}
    check_names(f"{name} does not fit the toy", model, state)
    return Reference(model, state, partial(steps, model))


def from_transformers(_spec: VariantSpec, model: nn.Module, state: Mapping[str, Reader]) -> Reference:
    return Reference(model, state, partial(steps, model))


REFERENCES = {"transformers": toy}


def published_constants(_: VariantSpec) -> tuple[Channels, Channels]:
    return HALF, HALF


def preparations(spec: VariantSpec) -> dict[str, Prepare]:
    return bilinear_preparations(*published_constants(spec))
