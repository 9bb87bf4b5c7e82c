"""What can go wrong with a toy."""

from vit2onnx.families.fault import InChain, InGraph, InWeights, attribute, edit, off
from vit2onnx.families.toy.architecture import Architecture

AMPLIFIED = {}
PREPROCESSING = ()
FAULTS: tuple[InChain, ...] = (
    InWeights("a bias off by 1e-3", "toy", "blocks.1.mlp_raw", edit("blocks.1.mlp.fc2.bias", off(1e-3))),
    InGraph("tanh GELU", "toy", "blocks.1.mlp_raw", "Gelu", 1, attribute("approximate", "tanh")),
)


def shrink(arch: Architecture) -> Architecture:
    return arch
