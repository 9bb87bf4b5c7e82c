"""SigLIP2 in the layouts of Hugging Face and of big_vision; targets are the leaves of our own model.

Equimo has no such model, so that the archive has the export model's tree.
"""

import re
from dataclasses import asdict
from typing import Any

import equinox as eqx
import numpy as np

from vit2onnx.families.siglip2.architecture import Architecture
from vit2onnx.families.siglip2.model import Model
from vit2onnx.weights.keytable import (
    COPY,
    TRANSPOSE,
    Entry,
    Ignored,
    KeyTable,
    Transform,
    chained,
    part_of,
    reshaping,
)

COUNTS = "counts the positions"

HWIO = Transform(
    "channels_first",
    shapes=lambda target: ((target[2], target[3], target[1], target[0]),),
    apply=lambda sources, target: sources[0].transpose(3, 2, 0, 1),
    invert=lambda value: [value.transpose(2, 3, 1, 0)],
)


def _shaped(*shape: int) -> Transform:
    """From a source of a shape."""
    return reshaping("reshape", lambda _: shape)


def _split_heads(heads: int) -> Transform:
    """From a source whose last axis is one of heads and one of channels of a head."""
    return reshaping("merge_heads", lambda target: (*target[:-1], heads, target[-1] // heads))


def _split_heads_first(heads: int) -> Transform:
    """From a source whose first axis is one of heads and one of channels of a head."""
    return reshaping("merge_heads", lambda target: (heads, target[0] // heads, *target[1:]))


def _affine(target: str, source: str, weight: str, transform: Transform = COPY) -> tuple[Entry, Entry]:
    """Lines for weight and bias; `weight` is what the source calls the weight."""
    return Entry(f"{target}.weight", (f"{source}{weight}",), transform), Entry(f"{target}.bias", (f"{source}bias",))


def _huggingface_linears(target: str, source: str, **names: str) -> tuple[Entry, ...]:
    """Linear maps of one module, by the names that both sides give them."""
    return tuple(
        entry
        for ours, theirs in names.items()
        for entry in _affine(f"{target}.{ours}", f"{source}.{theirs}.", "weight", TRANSPOSE)
    )


def _huggingface_encoder(target: str, source: str) -> tuple[Entry, ...]:
    """The blocks of a tower."""
    block, layer = f"{target}.blocks.{{i}}", f"{source}encoder.layers.{{i}}"
    return (
        *_affine(f"{block}.norm1", f"{layer}.layer_norm1.", "weight"),
        *_huggingface_linears(f"{block}.attn", f"{layer}.self_attn", q="q_proj", k="k_proj", v="v_proj"),
        *_huggingface_linears(f"{block}.attn", f"{layer}.self_attn", proj="out_proj"),
        *_affine(f"{block}.norm2", f"{layer}.layer_norm2.", "weight"),
        *_huggingface_linears(f"{block}.mlp", f"{layer}.mlp", fc1="fc1", fc2="fc2"),
    )


def _huggingface_vision(arch: Architecture, source: str) -> tuple[Entry, ...]:
    head = f"{source}head"
    fused: list[Entry] = []
    for index, name in enumerate(("q", "k", "v")):
        part = part_of(f"take_{name}", index)
        target, attention = f"vision.head.attn.{name}", f"{head}.attention"
        fused += [
            Entry(f"{target}.weight", (f"{attention}.in_proj_weight",), chained(part, TRANSPOSE)),
            Entry(f"{target}.bias", (f"{attention}.in_proj_bias",), part),
        ]
    return (
        *_affine(
            "vision.patch_embed",
            f"{source}embeddings.patch_embedding.",
            "weight",
            TRANSPOSE if arch.is_naflex else COPY,
        ),
        Entry(
            "vision.positions",
            (f"{source}embeddings.position_embedding.weight",),
            _shaped(arch.position_grid**2, arch.embed_dim),
        ),
        *_huggingface_encoder("vision", source),
        *_affine("vision.norm", f"{source}post_layernorm.", "weight"),
        Entry("vision.head.probe", (f"{head}.probe",)),
        *fused,
        *_huggingface_linears("vision.head.attn", f"{head}.attention", proj="out_proj"),
        *_affine("vision.head.norm", f"{head}.layernorm.", "weight"),
        *_huggingface_linears("vision.head.mlp", f"{head}.mlp", fc1="fc1", fc2="fc2"),
    )


def _huggingface_text(arch: Architecture, source: str) -> tuple[Entry, ...]:
    return (
        Entry("text.token_embedding", (f"{source}embeddings.token_embedding.weight",)),
        Entry(
            "text.positions",
            (f"{source}embeddings.position_embedding.weight",),
            _shaped(arch.text_length, arch.text_dim),
        ),
        *_huggingface_encoder("text", source),
        *_affine("text.norm", f"{source}final_layer_norm.", "weight"),
        *_affine("text.head", f"{source}head.", "weight", TRANSPOSE),
    )


def _joint(arch: Architecture, scale: str, bias: str) -> tuple[Entry, ...]:
    """What only a model of both towers has."""
    if not (arch.depth and arch.text_depth):
        return ()
    return Entry("logit_scale", (scale,), _shaped(1)), Entry("logit_bias", (bias,), _shaped(1))


def huggingface(arch: Architecture) -> KeyTable:
    """The publisher's files on Hugging Face; those of a tower alone, whose names have no prefix, are transformers'."""
    both = arch.depth and arch.text_depth
    entries: tuple[Entry, ...] = _joint(arch, "logit_scale", "logit_bias")
    lengths: dict[str, int] = {}
    if arch.depth:
        source = "vision_model." if both else ""
        entries += _huggingface_vision(arch, source)
        # NaFlex has none, because the number of patches differs.
        lengths |= {} if arch.is_naflex else {source: arch.position_grid**2}
    if arch.text_depth:
        source = "text_model." if both else ""
        entries += _huggingface_text(arch, source)
        lengths[source] = arch.text_length
    # Older files may hold them.
    ignored = {
        f"{source}embeddings.position_ids": Ignored(COUNTS, (1, length), dtypes=("int64",), counts=True)
        for source, length in lengths.items()
    }
    return KeyTable("huggingface", entries, ignored)


def _flax_attention(target: str, source: str, heads: int) -> tuple[Entry, ...]:
    """Attention, whose kernels have an axis of heads."""
    source = f"{source}/MultiHeadDotProductAttention_0"
    return (
        *(
            Entry(f"{target}.{ours}.{ours_leaf}", (f"{source}/{theirs}/{leaf}",), _split_heads(heads))
            for ours, theirs in (("q", "query"), ("k", "key"), ("v", "value"))
            for ours_leaf, leaf in (("weight", "kernel"), ("bias", "bias"))
        ),
        *_affine(f"{target}.proj", f"{source}/out/", "kernel", _split_heads_first(heads)),
    )


def _flax_mlp(target: str, source: str) -> tuple[Entry, ...]:
    return (
        *_affine(f"{target}.fc1", f"{source}/MlpBlock_0/Dense_0/", "kernel"),
        *_affine(f"{target}.fc2", f"{source}/MlpBlock_0/Dense_1/", "kernel"),
    )


def _flax_encoder(target: str, source: str, heads: int) -> tuple[Entry, ...]:
    """The blocks of a tower and its final norm."""
    block, layer = f"{target}.blocks.{{i}}", f"{source}/encoderblock_{{i}}"
    return (
        *_affine(f"{block}.norm1", f"{layer}/LayerNorm_0/", "scale"),
        *_flax_attention(f"{block}.attn", layer, heads),
        *_affine(f"{block}.norm2", f"{layer}/LayerNorm_1/", "scale"),
        *_flax_mlp(f"{block}.mlp", layer),
        *_affine(f"{target}.norm", f"{source}/encoder_norm/", "scale"),
    )


def _flax_vision(arch: Architecture) -> tuple[Entry, ...]:
    source, grid, dim = "params/img", arch.position_grid, arch.embed_dim
    head = f"{source}/MAPHead_0"
    table = (grid, grid, dim) if arch.is_naflex else (1, grid**2, dim)
    return (
        *_affine("vision.patch_embed", f"{source}/embedding/", "kernel", COPY if arch.is_naflex else HWIO),
        Entry("vision.positions", (f"{source}/pos_embedding",), _shaped(*table)),
        *_flax_encoder("vision", f"{source}/Transformer", arch.num_heads),
        Entry("vision.head.probe", (f"{head}/probe",)),
        *_flax_attention("vision.head.attn", head, arch.num_heads),
        *_affine("vision.head.norm", f"{head}/LayerNorm_0/", "scale"),
        *_flax_mlp("vision.head.mlp", head),
    )


def _flax_text(arch: Architecture) -> tuple[Entry, ...]:
    source = "params/txt"
    return (
        Entry("text.token_embedding", (f"{source}/Embed_0/embedding",)),
        Entry("text.positions", (f"{source}/pos_embedding",), _shaped(1, arch.text_length, arch.text_dim)),
        *_flax_encoder("text", f"{source}/Encoder_0", arch.text_heads),
        *_affine("text.head", f"{source}/head/", "kernel"),
    )


def big_vision(arch: Architecture) -> KeyTable:
    """The publisher's own files."""
    entries: tuple[Entry, ...] = _joint(arch, "params/t", "params/b")
    entries += _flax_vision(arch) if arch.depth else ()
    entries += _flax_text(arch) if arch.text_depth else ()
    return KeyTable("big_vision", entries)


def tables(arch: Architecture) -> tuple[KeyTable, ...]:
    """All layouts of an architecture."""
    return huggingface(arch), big_vision(arch)


def model_table(_: Architecture) -> KeyTable:
    """From the archive's tree to the model's, which is the same."""
    return KeyTable("archive", (Entry("{path}", ("{path}",)),))


def archive_config(arch: Architecture) -> dict[str, Any]:
    """The dimensions of the model, because Equimo has no such model."""
    return asdict(arch)


def archive_skeleton(arch: Architecture) -> Any:
    """Our own model with a shape in place of every array."""
    return eqx.filter_eval_shape(Model, arch)


def unusable(target: str, value: np.ndarray) -> str:
    """Why a finite parameter would make outputs infinite; empty if it would not."""
    if target != "logit_scale" or not np.isfinite(value).all():
        return ""
    with np.errstate(over="ignore"):
        if np.isfinite(np.exp(value)).all():
            return ""
    return f"is {value.item():g}, and its exponential overflows single precision"


# What enters the residual stream of a block.
INTO_STREAM = re.compile(r"\.blocks\.\d+\.(attn\.proj|mlp\.fc2)\.")
# What is added up before the first norm.
EMBEDDED = ("vision.patch_embed.", "vision.positions", "text.token_embedding", "text.positions")
SHARP = re.compile(r"^vision\.head\.attn\.[qk]\.weight$")


def synthetic_value(name: str, noise: np.ndarray) -> np.ndarray | None:
    """The value of an archive leaf that is made in another way than others, from noise of its shape; else `None`."""
    if name in ("logit_scale", "logit_bias"):
        # A temperature above 100, as in the releases, so that one that is cut there shows. Not their bias of some -16,
        # because all probabilities would be nearly zero.
        return 0.1 * np.abs(noise) + np.float32({"logit_scale": 4.7, "logit_bias": -2.0}[name])
    if re.search(r"norm\d?\.weight$", name):
        return 1 + 0.2 * noise
    scale = 1.0
    if name.endswith(".bias") and not name.startswith(EMBEDDED):
        scale = 0.2
    elif name.endswith(".weight"):
        # Linear maps are stored as [in, out]; the fixed model's patches are convolved.
        scale = float(np.prod(noise.shape[1:] if noise.ndim == 4 else noise.shape[:1])) ** -0.5
    if name.startswith(EMBEDDED):
        # What enters the first norm is small, as in the releases, so that another epsilon shows there.
        scale *= 0.3
    elif INTO_STREAM.search(name):
        # There is no LayerScale, so that the stream would grow with the number of blocks.
        scale *= 0.3
    elif SHARP.search(name):
        # Otherwise the probe would attend to all patches nearly alike, and another one would give the same.
        scale *= 2
    # In place, because a table of tokens has a gigabyte.
    noise *= np.float32(scale)
    return noise
