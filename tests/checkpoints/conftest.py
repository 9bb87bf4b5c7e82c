"""Names and shapes of the published files, written by hand as in MODELS.md C.3 and C.4, apart from the key tables."""

from collections.abc import Callable

import pytest

from tests.checkpoints.names import Shapes, affine, under
from tests.families.dinov2.published import shapes_by_layout
from vit2onnx.families.dinov2.architecture import Architecture as Dinov2
from vit2onnx.families.dinov3_convnext.architecture import Architecture as ConvNeXt
from vit2onnx.families.dinov3_vit.architecture import Architecture as ViT
from vit2onnx.spec.variant import VariantSpec


def vit_meta(arch: ViT) -> Shapes:
    dim, hidden = arch.embed_dim, arch.ffn_hidden
    shapes: Shapes = {
        "cls_token": (1, 1, dim),
        "storage_tokens": (1, 4, dim),
        "mask_token": (1, dim),
        "rope_embed.periods": (dim // arch.num_heads // 4,),
        **affine("patch_embed.proj", dim, 3, 16, 16),
        **affine("norm", dim),
    }
    if arch.local_cls_norm:
        shapes |= affine("local_cls_norm", dim)
    for i in range(arch.depth):
        block: Shapes = {
            **affine("norm1", dim),
            "attn.qkv.weight": (3 * dim, dim),
            **affine("attn.proj", dim, dim),
            "ls1.gamma": (dim,),
            **affine("norm2", dim),
            "ls2.gamma": (dim,),
        }
        if arch.qkv_bias:
            block |= {"attn.qkv.bias": (3 * dim,), "attn.qkv.bias_mask": (3 * dim,)}
        if arch.ffn == "swiglu":
            block |= affine("mlp.w1", hidden, dim) | affine("mlp.w2", hidden, dim) | affine("mlp.w3", dim, hidden)
        else:
            block |= affine("mlp.fc1", hidden, dim) | affine("mlp.fc2", dim, hidden)
        shapes |= under(f"blocks.{i}", block)
    return shapes


def vit_huggingface(arch: ViT, layer: str) -> Shapes:
    dim, hidden = arch.embed_dim, arch.ffn_hidden
    shapes: Shapes = {
        "embeddings.cls_token": (1, 1, dim),
        "embeddings.register_tokens": (1, 4, dim),
        "embeddings.mask_token": (1, 1, dim),
        **affine("embeddings.patch_embeddings", dim, 3, 16, 16),
        **affine("norm", dim),
    }
    for i in range(arch.depth):
        block: Shapes = {
            **affine("norm1", dim),
            "attention.q_proj.weight": (dim, dim),
            "attention.k_proj.weight": (dim, dim),
            "attention.v_proj.weight": (dim, dim),
            **affine("attention.o_proj", dim, dim),
            "layer_scale1.lambda1": (dim,),
            **affine("norm2", dim),
            **affine("mlp.up_proj", hidden, dim),
            **affine("mlp.down_proj", dim, hidden),
            "layer_scale2.lambda1": (dim,),
        }
        if arch.qkv_bias:
            block |= {"attention.q_proj.bias": (dim,), "attention.v_proj.bias": (dim,)}
        if arch.ffn == "swiglu":
            block |= affine("mlp.gate_proj", hidden, dim)
        shapes |= under(f"{layer}.{i}", block)
    return shapes


def vit_timm(arch: ViT, *, qv_bias: bool) -> Shapes:
    dim, hidden = arch.embed_dim, arch.ffn_hidden
    shapes: Shapes = {
        "cls_token": (1, 1, dim),
        "reg_token": (1, 4, dim),
        **affine("patch_embed.proj", dim, 3, 16, 16),
        **affine("norm", dim),
    }
    for i in range(arch.depth):
        block: Shapes = {
            **affine("norm1", dim),
            "attn.qkv.weight": (3 * dim, dim),
            **affine("attn.proj", dim, dim),
            "gamma_1": (dim,),
            **affine("norm2", dim),
            **affine("mlp.fc2", dim, hidden),
            "gamma_2": (dim,),
        }
        if qv_bias and arch.qkv_bias:
            block |= {"attn.q_bias": (dim,), "attn.v_bias": (dim,)}
        if arch.ffn == "swiglu":
            block |= affine("mlp.fc1_g", hidden, dim) | affine("mlp.fc1_x", hidden, dim)
        else:
            block |= affine("mlp.fc1", hidden, dim)
        shapes |= under(f"blocks.{i}", block)
    return shapes


def convnext_meta(arch: ConvNeXt) -> Shapes:
    first, second, third, last = arch.embed_dims
    shapes: Shapes = {
        **affine("downsample_layers.0.0", first, 3, 4, 4),
        **affine("downsample_layers.0.1", first),
        **affine("downsample_layers.1.0", first),
        **affine("downsample_layers.1.1", second, first, 2, 2),
        **affine("downsample_layers.2.0", second),
        **affine("downsample_layers.2.1", third, second, 2, 2),
        **affine("downsample_layers.3.0", third),
        **affine("downsample_layers.3.1", last, third, 2, 2),
        **affine("norm", last),
        **affine("norms.3", last),
    }
    for i, (dim, depth) in enumerate(zip(arch.embed_dims, arch.depths, strict=True)):
        for j in range(depth):
            block = affine("dwconv", dim, 1, 7, 7) | affine("norm", dim) | {"gamma": (dim,)}
            block |= affine("pwconv1", 4 * dim, dim) | affine("pwconv2", dim, 4 * dim)
            shapes |= under(f"stages.{i}.{j}", block)
    return shapes


def convnext_huggingface(arch: ConvNeXt, stages: str) -> Shapes:
    first, second, third, last = arch.embed_dims
    shapes: Shapes = {
        **affine(f"{stages}.0.downsample_layers.0", first, 3, 4, 4),
        **affine(f"{stages}.0.downsample_layers.1", first),
        **affine(f"{stages}.1.downsample_layers.0", first),
        **affine(f"{stages}.1.downsample_layers.1", second, first, 2, 2),
        **affine(f"{stages}.2.downsample_layers.0", second),
        **affine(f"{stages}.2.downsample_layers.1", third, second, 2, 2),
        **affine(f"{stages}.3.downsample_layers.0", third),
        **affine(f"{stages}.3.downsample_layers.1", last, third, 2, 2),
        **affine("layer_norm", last),
    }
    for i, (dim, depth) in enumerate(zip(arch.embed_dims, arch.depths, strict=True)):
        for j in range(depth):
            block = affine("depthwise_conv", dim, 1, 7, 7) | affine("layer_norm", dim) | {"gamma": (dim,)}
            block |= affine("pointwise_conv1", 4 * dim, dim) | affine("pointwise_conv2", dim, 4 * dim)
            shapes |= under(f"{stages}.{i}.layers.{j}", block)
    return shapes


def convnext_timm(arch: ConvNeXt) -> Shapes:
    first, second, third, last = arch.embed_dims
    shapes: Shapes = {
        **affine("stem.0", first, 3, 4, 4),
        **affine("stem.1", first),
        **affine("stages.1.downsample.0", first),
        **affine("stages.1.downsample.1", second, first, 2, 2),
        **affine("stages.2.downsample.0", second),
        **affine("stages.2.downsample.1", third, second, 2, 2),
        **affine("stages.3.downsample.0", third),
        **affine("stages.3.downsample.1", last, third, 2, 2),
        **affine("head.norm", last),
    }
    for i, (dim, depth) in enumerate(zip(arch.embed_dims, arch.depths, strict=True)):
        for j in range(depth):
            block = affine("conv_dw", dim, 1, 7, 7) | affine("norm", dim) | {"gamma": (dim,)}
            block |= affine("mlp.fc1", 4 * dim, dim) | affine("mlp.fc2", dim, 4 * dim)
            shapes |= under(f"stages.{i}.blocks.{j}", block)
    return shapes


@pytest.fixture(scope="session")
def published() -> Callable[[VariantSpec], dict[str, Shapes]]:
    """The names and shapes of a variant's file in every layout."""

    def shapes(spec: VariantSpec) -> dict[str, Shapes]:
        arch = spec.architecture
        if isinstance(arch, Dinov2):
            return shapes_by_layout(arch)
        if isinstance(arch, ConvNeXt):
            return {
                "meta": convnext_meta(arch),
                "huggingface": convnext_huggingface(arch, "stages"),
                "huggingface5": convnext_huggingface(arch, "model.stages"),
                "timm": convnext_timm(arch),
            }
        return {
            "meta": vit_meta(arch),
            "huggingface": vit_huggingface(arch, "layer"),
            "huggingface5": vit_huggingface(arch, "model.layer"),
            "timm": vit_timm(arch, qv_bias=False),
            "timm_qkvb": vit_timm(arch, qv_bias=True),
        }

    return shapes
