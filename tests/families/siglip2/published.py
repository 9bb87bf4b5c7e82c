"""Names and shapes of SigLIP2's published files, written by hand from facts about them, apart from the key tables."""

from tests.checkpoints.names import Shapes, affine, under
from vit2onnx.families.siglip2.architecture import Architecture

# Tensors of Hugging Face's file and parameters, as counted on transformers' models.
RELEASES = {
    "siglip2_base_patch32_256": (408, 376_856_066),
    "siglip2_base_patch16_224": (408, 375_187_970),
    "siglip2_base_patch16_256": (408, 375_234_050),
    "siglip2_base_patch16_384": (408, 375_479_810),
    "siglip2_base_patch16_512": (408, 375_823_874),
    "siglip2_large_patch16_256": (792, 881_526_786),
    "siglip2_large_patch16_384": (792, 881_854_466),
    "siglip2_large_patch16_512": (792, 882_313_218),
    "siglip2_so400m_patch14_224": (888, 1_135_463_602),
    "siglip2_so400m_patch14_384": (888, 1_136_008_498),
    "siglip2_so400m_patch16_256": (888, 1_135_670_962),
    "siglip2_so400m_patch16_384": (888, 1_136_039_602),
    "siglip2_so400m_patch16_512": (888, 1_136_555_698),
    "siglip2_giant_opt_patch16_256": (1096, 1_871_393_906),
    "siglip2_giant_opt_patch16_384": (1096, 1_871_885_426),
    "siglip2_base_patch16_naflex": (408, 375_234_050),
    "siglip2_so400m_patch16_naflex": (888, 1_135_670_962),
}


def huggingface(arch: Architecture) -> Shapes:
    """Whole models have a prefix per tower, towers alone have none."""
    both = arch.depth and arch.text_depth
    shapes: Shapes = {"logit_scale": (1,), "logit_bias": (1,)} if both else {}
    if arch.depth:
        dim, hidden, patch = arch.embed_dim, arch.ffn_hidden, arch.patch_size
        kernel = (dim, 3, patch, patch) if arch.image_size else (dim, 3 * patch * patch)
        tower: Shapes = {
            **affine("embeddings.patch_embedding", *kernel),
            "embeddings.position_embedding.weight": (arch.position_grid**2, dim),
            **affine("post_layernorm", dim),
            "head.probe": (1, 1, dim),
            "head.attention.in_proj_weight": (3 * dim, dim),
            "head.attention.in_proj_bias": (3 * dim,),
            **affine("head.attention.out_proj", dim, dim),
            **affine("head.layernorm", dim),
            **affine("head.mlp.fc1", hidden, dim),
            **affine("head.mlp.fc2", dim, hidden),
            **_huggingface_layers(arch.depth, dim, hidden),
        }
        shapes |= under("vision_model", tower) if both else tower
    if arch.text_depth:
        dim = arch.text_dim
        tower = {
            "embeddings.token_embedding.weight": (arch.vocab_size, dim),
            "embeddings.position_embedding.weight": (arch.text_length, dim),
            **affine("final_layer_norm", dim),
            **affine("head", arch.projection_dim, dim),
            **_huggingface_layers(arch.text_depth, dim, arch.text_hidden),
        }
        shapes |= under("text_model", tower) if both else tower
    return shapes


def _huggingface_layers(depth: int, dim: int, hidden: int) -> Shapes:
    shapes: Shapes = {}
    for i in range(depth):
        layer = affine("layer_norm1", dim) | affine("layer_norm2", dim)
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            layer |= affine(f"self_attn.{name}", dim, dim)
        layer |= affine("mlp.fc1", hidden, dim) | affine("mlp.fc2", dim, hidden)
        shapes |= under(f"encoder.layers.{i}", layer)
    return shapes


def big_vision(arch: Architecture) -> Shapes:
    """The publisher's own names, of layers that are not stacked."""
    shapes: Shapes = {"params/t": (1,), "params/b": (1,)} if arch.depth and arch.text_depth else {}
    if arch.depth:
        dim, hidden, heads, patch, grid = (
            getattr(arch, name) for name in ("embed_dim", "ffn_hidden", "num_heads", "patch_size", "position_grid")
        )
        fixed = bool(arch.image_size)
        shapes |= {
            "params/img/embedding/kernel": (patch, patch, 3, dim) if fixed else (3 * patch * patch, dim),
            "params/img/embedding/bias": (dim,),
            "params/img/pos_embedding": (1, grid**2, dim) if fixed else (grid, grid, dim),
            "params/img/MAPHead_0/probe": (1, 1, dim),
            **_flax_attention("params/img/MAPHead_0", dim, heads),
            **_flax_norm("params/img/MAPHead_0/LayerNorm_0", dim),
            **_flax_mlp("params/img/MAPHead_0", dim, hidden),
            **_flax_encoder("params/img/Transformer", arch.depth, dim, hidden, heads),
        }
    if arch.text_depth:
        dim = arch.text_dim
        shapes |= {
            "params/txt/Embed_0/embedding": (arch.vocab_size, dim),
            "params/txt/pos_embedding": (1, arch.text_length, dim),
            "params/txt/head/kernel": (dim, arch.projection_dim),
            "params/txt/head/bias": (arch.projection_dim,),
            **_flax_encoder("params/txt/Encoder_0", arch.text_depth, dim, arch.text_hidden, arch.text_heads),
        }
    return shapes


def _flax_norm(name: str, dim: int) -> Shapes:
    return {f"{name}/scale": (dim,), f"{name}/bias": (dim,)}


def _flax_attention(name: str, dim: int, heads: int) -> Shapes:
    name = f"{name}/MultiHeadDotProductAttention_0"
    shapes: Shapes = {f"{name}/out/kernel": (heads, dim // heads, dim), f"{name}/out/bias": (dim,)}
    for one in ("query", "key", "value"):
        shapes |= {f"{name}/{one}/kernel": (dim, heads, dim // heads), f"{name}/{one}/bias": (heads, dim // heads)}
    return shapes


def _flax_mlp(name: str, dim: int, hidden: int) -> Shapes:
    name = f"{name}/MlpBlock_0"
    return {
        f"{name}/Dense_0/kernel": (dim, hidden),
        f"{name}/Dense_0/bias": (hidden,),
        f"{name}/Dense_1/kernel": (hidden, dim),
        f"{name}/Dense_1/bias": (dim,),
    }


def _flax_encoder(name: str, depth: int, dim: int, hidden: int, heads: int) -> Shapes:
    shapes = _flax_norm(f"{name}/encoder_norm", dim)
    for i in range(depth):
        block = f"{name}/encoderblock_{i}"
        shapes |= _flax_norm(f"{block}/LayerNorm_0", dim) | _flax_norm(f"{block}/LayerNorm_1", dim)
        shapes |= _flax_attention(block, dim, heads) | _flax_mlp(block, dim, hidden)
    return shapes
