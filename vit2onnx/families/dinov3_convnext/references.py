"""DINOv3's ConvNeXt in PyTorch, as Hugging Face and as its publisher wrote it; code and names are not ours.

The publisher's own code is run when the user has a clone of it. Nothing of it is part of this project.
"""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn
from transformers import DINOv3ConvNextConfig, DINOv3ConvNextModel

from vit2onnx.errors import InputError
from vit2onnx.families.dinov3_convnext.architecture import REPOSITORY, Architecture
from vit2onnx.families.preparation import Channels, Prepare, bilinear_preparations, own_preparations
from vit2onnx.families.recognition import HIDDEN_ACTS
from vit2onnx.families.reference import (
    HIDDEN,
    Reader,
    Reference,
    Step,
    Tap,
    check_names,
    import_from,
    native_convolutions,
    publisher_state,
    reader,
    renamed,
)
from vit2onnx.spec.variant import VariantSpec
from vit2onnx.weights.keytable import LazyTensor

# From the names of a file to those of transformers 5; the first pattern is a name that only this layout has. Written
# apart from the key tables in layouts.py, because a reference that is filled through the table under test would repeat
# its mistakes.
RENAMES = (
    (
        r"^downsample_layers\.0\.0\.weight$",
        (
            (r"^downsample_layers\.(\d+)\.", r"model.stages.\1.downsample_layers."),
            (r"^stages\.(\d+)\.(\d+)\.", r"model.stages.\1.layers.\2."),
            (r"\.dwconv\.", ".depthwise_conv."),
            (r"\.pwconv([12])\.", r".pointwise_conv\1."),
            (r"(\.layers\.\d+)\.norm\.", r"\1.layer_norm."),
            (r"^norm\.", "layer_norm."),
        ),
    ),
    (
        r"^stem\.0\.weight$",
        (
            (r"^stem\.", "model.stages.0.downsample_layers."),
            (r"^stages\.(\d+)\.downsample\.", r"model.stages.\1.downsample_layers."),
            (r"^stages\.(\d+)\.blocks\.(\d+)\.", r"model.stages.\1.layers.\2."),
            (r"\.conv_dw\.", ".depthwise_conv."),
            (r"\.mlp\.fc([12])\.", r".pointwise_conv\1."),
            (r"(\.layers\.\d+)\.norm\.", r"\1.layer_norm."),
            (r"^head\.norm\.", "layer_norm."),
        ),
    ),
    (r"^stages\.0\.layers\.0\.gamma$", ((r"^stages\.", "model.stages."),)),
    (r"^model\.stages\.0\.layers\.0\.gamma$", ()),
)
# Held by some files and known to no inference model.
TRAINING_ONLY = r"norms\.\d+\..*"

# Mean and standard deviation of the data that the releases were trained on, from the publisher's README; kept apart
# from those of config/variants, which are to be checked.
PUBLISHED = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def convnext_taps(dwconv: nn.Module, norm: nn.Module, pwconv2: nn.Module, drop_path: nn.Module) -> dict[str, Tap]:
    """The stages of a ConvNeXt block, seen at these of its modules."""
    return {
        "input": Tap(is_input=True, axis=1),
        "dwconv": Tap(dwconv, axis=1),
        "norm": Tap(norm),
        "raw": Tap(pwconv2),
        # Given to a module that does nothing in inference.
        "scaled": Tap(drop_path, is_input=True, axis=1),
        "output": Tap(axis=1),
    }


def downsample_taps(first: nn.Module, *, is_stem: bool) -> dict[str, Tap]:
    """The stages of a downsampling, seen at the first of its two modules."""
    if is_stem:
        return {"conv": Tap(first, axis=1), "output": Tap(axis=1)}
    return {"input": Tap(is_input=True, axis=1), "norm": Tap(first, axis=1), "output": Tap(axis=1)}


def transformers_model(arch: Architecture) -> nn.Module:
    """Transformers' model, without memory for its weights."""
    config = DINOv3ConvNextConfig(
        hidden_sizes=list(arch.embed_dims),
        depths=list(arch.depths),
        layer_norm_eps=arch.norm_eps,
        hidden_act=HIDDEN_ACTS[arch.act],
    )
    with torch.device("meta"):
        return DINOv3ConvNextModel(config).eval()


def to_transformers(tensors: Mapping[str, LazyTensor]) -> dict[str, Reader]:
    """A checkpoint's tensors under the names of transformers 5."""
    names = renamed(tensors, RENAMES).items()
    return {name: reader(tensors[key]) for key, name in names if not re.fullmatch(TRAINING_ONLY, key)}


def transformers_steps(model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> Sequence[Step]:
    """The ConvNeXt step by step."""
    # PARITY: not oneDNN's convolutions, whose sums are two to three times as far from float64: as far as the limit.
    natively = native_convolutions()

    def downsample_step(index: int, first: nn.Module, second: nn.Module) -> Step:
        taps = downsample_taps(first, is_stem=index == 0)
        path, run = f"model.stages.{index}.downsample_layers", natively(nn.Sequential(first, second))
        return Step.of_layer(path, run, f"stages.{index}.downsample", taps, axis=1)

    def layer_step(index: int, number: int, layer: nn.Module) -> Step:
        taps = convnext_taps(layer.depthwise_conv, layer.layer_norm, layer.pointwise_conv2, layer.drop_path)
        path, name = f"model.stages.{index}.layers.{number}", f"stages.{index}.blocks.{number}"
        return Step.of_layer(path, natively(layer), name, taps, axis=1)

    def head(x: torch.Tensor) -> torch.Tensor:
        tokens = torch.cat([model.pool(x).flatten(2), x.flatten(2)], 2).transpose(1, 2)
        return model.layer_norm(tokens)

    steps: list[Step] = []
    for index, stage in enumerate(model.model.stages):
        steps.append(downsample_step(index, *stage.downsample_layers))
        steps += [layer_step(index, number, layer) for number, layer in enumerate(stage.layers)]
    final = {"norm_in": Tap(model.layer_norm, is_input=True), "norm": Tap()}
    return [*steps, Step(("layer_norm",), head, "norm", final, axis=1, port=HIDDEN)]


def transformers(spec: VariantSpec, name: str, tensors: Mapping[str, LazyTensor], _: Path | None) -> Reference:
    """Hugging Face's model of a variant."""
    arch: Architecture = spec.architecture  # type: ignore[assignment]
    state, model = to_transformers(tensors), transformers_model(arch)
    check_names(f"{name} does not fit transformers' model of {spec.name}", model, state)
    return Reference(model, state, partial(transformers_steps, model))


def from_transformers(_: VariantSpec, model: nn.Module, state: Mapping[str, Reader]) -> Reference:
    """A model that transformers has built and filled by itself."""
    return Reference(model, state, partial(transformers_steps, model))


def publisher_model(arch: Architecture, repository: Path | None) -> nn.Module:
    """The publisher's model, without memory for its weights. Raises `InputError` if there is no clone of its code."""
    import_from(repository, "dinov3/models/convnext.py", REPOSITORY)
    if arch.act != "gelu":
        raise InputError(f"The publisher's code has no {arch.act}; leave reference.repositories empty.")
    with torch.device("meta"):
        from dinov3.models.convnext import ConvNeXt

        return ConvNeXt(depths=list(arch.depths), dims=list(arch.embed_dims)).eval()


def publisher_steps(model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> Sequence[Step]:
    """The ConvNeXt step by step."""
    # PARITY: as in transformers_steps.
    natively = native_convolutions()

    def downsample_step(index: int, downsample: nn.Module) -> Step:
        taps = downsample_taps(downsample[0], is_stem=index == 0)
        path, name = f"downsample_layers.{index}", f"stages.{index}.downsample"
        return Step.of_layer(path, natively(downsample), name, taps, axis=1)

    def block_step(index: int, number: int, block: nn.Module) -> Step:
        taps = convnext_taps(block.dwconv, block.norm, block.pwconv2, block.drop_path)
        path, name = f"stages.{index}.{number}", f"stages.{index}.blocks.{number}"
        return Step.of_layer(path, natively(block), name, taps, axis=1)

    def head(x: torch.Tensor) -> torch.Tensor:
        tokens = torch.cat([x.mean((-2, -1))[:, None], x.flatten(2).transpose(1, 2)], 1)
        return model.norm(tokens)

    steps: list[Step] = []
    for index, (downsample, blocks) in enumerate(zip(model.downsample_layers, model.stages, strict=True)):
        steps.append(downsample_step(index, downsample))
        steps += [block_step(index, number, block) for number, block in enumerate(blocks)]
    final = {"norm_in": Tap(model.norm, is_input=True), "norm": Tap()}
    return [*steps, Step(("norm",), head, "norm", final, axis=1, port=HIDDEN)]


def publisher(spec: VariantSpec, name: str, tensors: Mapping[str, LazyTensor], repository: Path | None) -> Reference:
    """The publisher's model of a variant. Raises `InputError` for a checkpoint in another layout than its own."""
    arch: Architecture = spec.architecture  # type: ignore[assignment]
    model = publisher_model(arch, repository)
    state = publisher_state(name, model, tensors)
    return Reference(model, state, partial(publisher_steps, model))


REFERENCES = {"transformers": transformers, "publisher": publisher}


def published_constants(spec: VariantSpec) -> tuple[Channels, Channels]:
    """Mean and standard deviation per channel that the publisher names for the releases."""
    return PUBLISHED if spec.released else (spec.preprocessing.mean, spec.preprocessing.std)


def preparations(spec: VariantSpec) -> dict[str, Prepare]:
    """By name, how the publisher and transformers prepare photographs."""
    if spec.released is None:
        return own_preparations(spec.preprocessing)
    return bilinear_preparations(*published_constants(spec))
