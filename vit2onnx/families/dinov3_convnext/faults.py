"""What conversions of a DINOv3 ConvNeXt are known to get wrong, and where each fault has to be found.

Blocks are counted from zero.
"""

import dataclasses
from collections.abc import Mapping

import jax
import numpy as np
from jaxtyping import Array

from vit2onnx.families.dinov3_convnext import model as convnext
from vit2onnx.families.dinov3_convnext.architecture import MODELS, Architecture
from vit2onnx.families.fault import (
    Amplify,
    InChain,
    InGraph,
    InModel,
    InPreprocessing,
    InWeights,
    attribute,
    edit,
    flipped,
    in_parts,
    of_class,
    off,
    other_epsilon,
    transposed,
)
from vit2onnx.nn.primitives import mean_tokens

(CONVNEXT,) = MODELS


def shrink(arch: Architecture) -> Architecture:
    """An architecture with all that sets it apart from others, but narrow and shallow."""
    return dataclasses.replace(arch, embed_dims=(8, 12, 16, 20), depths=(1, 1, 2, 1))


IN_WEIGHTS = (
    InWeights(
        "depthwise kernel flipped",
        CONVNEXT,
        "stages.2.blocks.1.dwconv",
        edit("stages.2.blocks.1.dwconv.weight", flipped),
    ),
    InWeights("gamma skipped", CONVNEXT, "stages.2.blocks.0.scaled", edit("stages.2.blocks.0.gamma", np.ones_like)),
    InWeights(
        "a bias of downsampling's norm off by 1e-3",
        CONVNEXT,
        "stages.1.downsample.norm",
        edit("stages.1.downsample.norm.bias", off(1e-3)),
    ),
    InWeights(
        "downsampling's kernel transposed",
        CONVNEXT,
        "stages.3.downsample.output",
        edit("stages.3.downsample.conv.weight", transposed),
    ),
    InWeights(
        "the stem's bias off by 1e-3",
        CONVNEXT,
        "stages.0.downsample.conv",
        edit("stages.0.downsample.conv.bias", off(1e-3)),
    ),
)


class MeanOfNormed(convnext.Model):
    """With CLS as the mean of the normed map instead of the norm of its mean."""

    def head_stages(self, x: Array, context: None) -> dict[str, Array]:
        found = super().head_stages(x, context)
        patches = found["norm"][:, 1:]
        return found | {"norm": jax.lax.concatenate([mean_tokens(patches), patches], 1)}


IN_MODEL = (
    InModel("CLS is the mean of what is normed", CONVNEXT, "norm", lambda m: of_class(MeanOfNormed, m)),
    InModel(
        "epsilon 1e-5",
        CONVNEXT,
        "stages.0.blocks.0.norm",
        in_parts(lambda m: [block.norm for stage in m.stages for block in stage.blocks], other_epsilon),
    ),
)

IN_GRAPH = (InGraph("tanh GELU", CONVNEXT, "stages.2.blocks.0.raw", "Gelu", 2, attribute("approximate", "tanh")),)

AMPLIFIED: Mapping[str, Amplify] = {}
PREPROCESSING: tuple[InPreprocessing, ...] = ()
FAULTS: tuple[InChain, ...] = (*IN_WEIGHTS, *IN_MODEL, *IN_GRAPH)
