"""The JSON files by which tools of Hugging Face know a model and prepare its inputs."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vit2onnx.checkpoints.heads import read_mapping
from vit2onnx.errors import InputError
from vit2onnx.handover.package.files import FURTHER, PackageFile, loading
from vit2onnx.spec.family import part
from vit2onnx.spec.variant import VariantSpec

# Filters as Pillow numbers them.
RESAMPLE = {"bilinear": 2, "bicubic": 3}
# Height and width of inputs where neither recipe nor model sets them, which is what publishers name: rounded to whole
# patches.
USUAL_SIZE = 224
# The processor of transformers that keeps the aspect ratio and takes the middle.
CROPPING = "BitImageProcessor"


def model_config(spec: VariantSpec, files: Iterable[PackageFile]) -> dict[str, Any]:
    """The `config.json` of a package: that of the user's own checkpoint if it has one, else what the family says.

    `transformers.js_config` names the precision to load where the usual one is not in the package.
    """
    own = spec.own
    if own is not None and own.config is not None:
        config = read_mapping(Path(own.path).parent / "config.json")
        config = dict(config[own.config]) if own.config else config
    else:
        config = part(spec.family, "package").config(spec.architecture)
    told = loading(files)
    return config | ({"transformers.js_config": told} if told else {})


def processor_config(spec: VariantSpec, files: Iterable[PackageFile]) -> dict[str, Any] | None:
    """The `preprocessor_config.json` of a package; `None` if no graph takes prepared images.

    Raises `InputError` if one file cannot describe how the inputs of all graphs are prepared.
    """
    graphs = [file for file in files if file.stem not in FURTHER.values()]
    interfaces = [spec.interface(file.recipe.interface) for file in graphs]
    of_images = [one for one in interfaces if any(port.name == "pixel_values" for port in one.inputs)]
    if not of_images:
        return None
    prepared = spec.preprocessing
    values = {
        "do_convert_rgb": True,
        "do_resize": True,
        "resample": RESAMPLE[prepared.interpolation],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(prepared.mean),
        "image_std": list(prepared.std),
    }
    kind = part(spec.family, "package").processor(spec.architecture)
    if of_images[0].takes_patches:
        return kind | values
    height, width = (_side(spec, graphs, axis) for axis in ("height", "width"))
    size = {"height": height, "width": width}
    if prepared.crop_pct is None:
        return kind | values | {"size": size}
    if height != width:
        raise InputError(
            f"preprocessor_config.json cannot say how photographs are cut to {height}x{width} for {spec.name}; leave"
            " height and width dynamic, or make them equal."
        )
    whole = {"shortest_edge": round(height / prepared.crop_pct)}
    cropped = {"size": whole, "do_center_crop": True, "crop_size": size}
    return kind | values | cropped | {"image_processor_type": CROPPING}


def _side(spec: VariantSpec, files: Iterable[PackageFile], axis: str) -> int:
    """The one size of an axis that all graphs accept."""
    fixed: dict[int, str] = {}
    patch = 0
    for file in files:
        interface = spec.interface(file.recipe.interface)
        size = {**interface.of_recipe(file.recipe), **interface.fixed}.get(axis)
        patch = patch or interface.patch_size
        if size is not None:
            fixed.setdefault(size, file.recipe.name)
    if len(fixed) > 1:
        said = " and ".join(f"{size} in {name}" for size, name in fixed.items())
        raise InputError(
            f"A package needs one {axis} for all graphs, but exports has {said}; make it equal or dynamic."
        )
    return next(iter(fixed), USUAL_SIZE // patch * patch or patch)


def tokenizer_config(spec: VariantSpec, tokenizer: Path) -> dict[str, Any]:
    """The `tokenizer_config.json` of a package: the one beside the user's `tokenizer.json`, set up as for our graphs.

    Published ones name no length that tools could fill texts up to.
    """
    beside = tokenizer.with_name("tokenizer_config.json")
    own = read_mapping(beside) if beside.is_file() else {}
    family = part(spec.family, "package")
    return family.tokenizer_defaults() | own | family.tokenizer_settings(spec.architecture)
