"""SigLIP2 in PyTorch, as kornia wrote it; code and names are not ours.

Kornia names its modules and tensors as transformers does, so its model is run in the same steps. By itself it clamps
the temperature of the logits. Here it does so only where the reference is run as installed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from vit2onnx.errors import InputError
from vit2onnx.families.recognition import HIDDEN_ACTS
from vit2onnx.families.reference import Reader, Reference, Step, check_names
from vit2onnx.families.siglip2.architecture import KORNIA_SCALES, Architecture
from vit2onnx.families.siglip2.references import VISION, to_transformers, transformers_steps
from vit2onnx.spec.variant import VariantSpec
from vit2onnx.weights.keytable import LazyTensor

WAY_OUT = "set reference.kornia to false"
POSITIONS = f"{VISION}embeddings.position_embedding"


def kornia_model(spec: VariantSpec) -> nn.Module:
    """Kornia's model, without memory for its weights. Raises `InputError` if kornia is not there or has no such one."""
    try:
        from kornia.models.siglip2 import SigLip2Config, SigLip2Model
        from kornia.models.siglip2.config import SigLip2TextConfig, SigLip2VisionConfig
    except ImportError as error:
        raise InputError(
            f"reference.kornia: kornia cannot be imported ({error}); run `pip install kornia==0.9.0`, or {WAY_OUT}."
        ) from error
    arch: Architecture = spec.architecture  # type: ignore[assignment]
    if arch.is_naflex or not arch.embed_dim == arch.text_dim == arch.projection_dim or "gelu" not in arch.activation:
        raise InputError(
            f"Kornia has no model like {spec.name}: its images are of one size, its towers of one width and its"
            f" activations GELUs; {WAY_OUT}."
        )
    common = {"hidden_act": HIDDEN_ACTS[arch.activation], "layer_norm_eps": arch.norm_eps}
    with torch.device("meta"):
        model: nn.Module = SigLip2Model(
            SigLip2Config(
                vision_config=SigLip2VisionConfig(
                    image_size=arch.image_size,
                    patch_size=arch.patch_size,
                    hidden_size=arch.embed_dim,
                    num_hidden_layers=arch.depth,
                    num_attention_heads=arch.num_heads,
                    intermediate_size=arch.ffn_hidden,
                    **common,
                ),
                text_config=SigLip2TextConfig(
                    vocab_size=arch.vocab_size,
                    hidden_size=arch.text_dim,
                    num_hidden_layers=arch.text_depth,
                    num_attention_heads=arch.text_heads,
                    intermediate_size=arch.text_hidden,
                    max_position_embeddings=arch.text_length,
                    **common,
                ),
                projection_dim=arch.projection_dim,
            )
        )
    return model.eval()


def to_kornia(arch: Architecture, tensors: Mapping[str, LazyTensor]) -> dict[str, Reader]:
    """A checkpoint's tensors under kornia's names: transformers', but for one, and with scalars for vectors of one."""
    state = to_transformers(arch, tensors)
    if f"{POSITIONS}.weight" in state:
        state[POSITIONS] = state.pop(f"{POSITIONS}.weight")
    return state | {name: partial(_scalar, state[name]) for name in ("logit_scale", "logit_bias") if name in state}


def _scalar(read: Reader) -> torch.Tensor:
    return read().reshape(())


def kornia_reference(spec: VariantSpec, name: str, tensors: Mapping[str, LazyTensor]) -> Reference:
    """Kornia's model of a variant, without its clamp of the temperature."""
    arch: Architecture = spec.architecture  # type: ignore[assignment]
    model, state = kornia_model(spec), to_kornia(arch, tensors)
    check_names(f"{name} does not fit kornia's model of {spec.name}", model, state)
    least, most = KORNIA_SCALES
    unbounded = {"min": -math.inf, "max": math.inf}
    bounds = dict(unbounded)

    def logits(images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        temperature = model.logit_scale.clamp(**bounds).exp()
        found: torch.Tensor = torch.matmul(texts, images.t()) * temperature + model.logit_bias
        return found

    def steps(inputs: Mapping[str, torch.Tensor]) -> Sequence[Step]:
        found = transformers_steps(model, inputs)
        return [replace(step, run=logits) if step.name == "joint" else step for step in found]

    def natively() -> None:
        bounds.update(min=least, max=model.logit_scale_max_log)

    def in_double() -> None:
        # Undoes `natively`; nothing of kornia stays in single precision.
        bounds.update(unbounded)

    # In single precision, in which a temperature of just 100 is not changed.
    scale = state["logit_scale"]()
    is_other = bool(scale.clamp(least, most) != scale)
    return Reference(model, state, steps, in_double, natively if is_other else None)
