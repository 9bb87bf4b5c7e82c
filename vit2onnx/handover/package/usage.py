"""How to use the files of a package, in code that the tests run as it stands."""

from collections.abc import Mapping, Sequence
from typing import Any

from vit2onnx.handover.package.files import DTYPES, ELSEWHERE, FURTHER, PackageFile
from vit2onnx.spec.interface import Interface
from vit2onnx.spec.variant import VariantSpec

# Pillow's filters by their numbers, and the same of sharp, which transformers.js brings along.
PILLOW = {2: "BILINEAR", 3: "BICUBIC"}
SHARP = {2: "linear", 3: "cubic"}

PHOTOGRAPH = """\
// Not by the processor, which resizes without antialiasing: sharp resizes as in training.
const photo = sharp("photo.jpg").toColourspace("srgb").removeAlpha();
{size}
const {{ data, info }} = await photo
  .resize({{ ...size, fit: "fill", kernel: "{kernel}", fastShrinkOnLoad: false }})
  .raw().toBuffer({{ resolveWithObject: true }});
const image = new RawImage(new Uint8ClampedArray(data), info.width, info.height, 3);
const processor = await AutoImageProcessor.from_pretrained(name);
const {{ pixel_values }} = await processor(image);"""
SQUASHED_SIZE = "const size = {{ width: {width}, height: {height} }};"
COVERING_SIZE = """\
const {{ width, height }} = await photo.metadata();
const covering = (side) => Math.floor(({whole} * side) / Math.min(width, height));
const size = {{ width: covering(width), height: covering(height) }};"""
WHOLE_PHOTOGRAPH = """\
// The graph takes photographs of any size, and resizes and normalises them as in training.
const original = (await RawImage.read("photo.jpg")).rgb();
const photographs = new Tensor("uint8", new Uint8Array(original.data), [1, original.height, original.width, 3]);"""
TEXTS = """\
// In lower case, as in training.
const tokenizer = await AutoTokenizer.from_pretrained(name);
const texts = ["a photo of a cat", "a photo of a cup"].map((text) => text.toLowerCase());
const {{ input_ids }} = tokenizer(texts, {{ padding: "max_length", truncation: true, max_length: {length} }});"""
DTYPE_NOTE = (
    "Without `dtype`, transformers.js takes `q8` in browsers and `fp32` elsewhere. Where the package lacks that file,"
    " its `config.json` names another. In Node, the processor of transformers.js resizes without antialiasing, and in"
    " browsers by the browser's own filter. Both give other features than the sizes and filters of training."
)
IDS = """\
// The package has no tokenizer. Put the token ids of two texts here.
const input_ids = new Tensor("int64", new BigInt64Array(2 * {length}), [2, {length}]);"""
PYTHON = """\
import numpy as np
import onnxruntime
from PIL import Image

image = Image.open("photo.jpg").convert("RGB")
{resize}
pixels = np.asarray(image, np.float32) / 255
pixels = (pixels - np.array({mean}, np.float32)) / np.array({std}, np.float32)
session = onnxruntime.InferenceSession("onnx/{file}")
{names} = session.run(None, {{"pixel_values": pixels.transpose(2, 0, 1)[None]}})"""
SQUASHED = "image = image.resize(({width}, {height}), Image.Resampling.{filter})"
CROPPED = """\
whole = [{whole} * side // min(image.size) for side in image.size]
image = image.resize(whole, Image.Resampling.{filter})
left, top = (round((side - {side}) / 2) for side in whole)
image = image.crop((left, top, left + {side}, top + {side}))"""


def in_javascript(
    spec: VariantSpec, files: Sequence[PackageFile], prepared: Mapping[str, Any] | None, *, has_tokenizer: bool
) -> str:
    """Prose and code for transformers.js, with the first precision of each graph that there is."""
    graphs = _first_of_each(files)
    interfaces = {file.stem: spec.interface_of(file.recipe) for file in graphs}
    taken = {port.name for interface in interfaces.values() for port in interface.inputs}
    if "spatial_shapes" in taken:
        return _of_patches(graphs)
    steps, used = [], {"AutoModel"}
    if "pixel_values" in taken and prepared:
        steps.append(_photograph(prepared))
        used |= {"AutoImageProcessor", "RawImage"}
    if "photographs" in taken:
        steps.append(WHOLE_PHOTOGRAPH)
        used |= {"RawImage", "Tensor"}
    if "input_ids" in taken:
        length = next(one.maximum["length"] for one in interfaces.values() if "length" in one.maximum)
        steps.append((TEXTS if has_tokenizer else IDS).format(length=length))
        used |= {"AutoTokenizer"} if has_tokenizer else {"Tensor"}
    steps += [_call(file, interfaces[file.stem]) for file in graphs]
    head = f'import {{ {", ".join(sorted(used))} }} from "@huggingface/transformers";\n'
    head += 'import sharp from "sharp";\n' if "pixel_values" in taken else ""
    head += f'\nconst name = "{spec.name}"; // this repository, or a folder in env.localModelPath'
    code = "\n\n".join([head, *steps])
    return f"```js\n{code}\n```\n\n{DTYPE_NOTE}"


def _of_patches(files: Sequence[PackageFile]) -> str:
    names = ", ".join(f"`{file.stem}`" for file in files)
    return (
        "transformers.js 4 knows neither the model type `siglip2` nor its image processor. `AutoModel.from_pretrained`"
        f" opens the graphs all the same, with a warning, by `model_file_name` ({names}). Give it patches,"
        " `pixel_attention_mask` and `spatial_shapes`, as the Python code below makes them."
    )


def _first_of_each(files: Sequence[PackageFile]) -> list[PackageFile]:
    """Of each graph, the file of the highest precision."""
    ordered = sorted(files, key=lambda file: ELSEWHERE.index(file.recipe.precision))
    first: dict[str, PackageFile] = {}
    for file in ordered:
        first.setdefault(file.stem, file)
    return [first[stem] for stem in dict.fromkeys(file.stem for file in files)]


def _photograph(prepared: Mapping[str, Any]) -> str:
    whole = prepared["size"].get("shortest_edge")
    size = COVERING_SIZE.format(whole=whole) if whole else SQUASHED_SIZE.format(**prepared["size"])
    return PHOTOGRAPH.format(size=size, kernel=SHARP[prepared["resample"]])


def _call(file: PackageFile, interface: Interface) -> str:
    inputs, outputs = (", ".join(port.name for port in ports) for ports in (interface.inputs, interface.outputs))
    options = "" if file.stem == "model" else f'model_file_name: "{file.stem}", '
    options += f'dtype: "{DTYPES[file.recipe.precision][0]}"'
    return (
        f"const {file.stem} = await AutoModel.from_pretrained(name, {{ {options} }});\n"
        f"const {file.stem}_outputs = await {file.stem}({{ {inputs} }}); // {outputs}"
    )


def in_python(spec: VariantSpec, files: Sequence[PackageFile], prepared: Mapping[str, Any] | None) -> str:
    """Prose and code for onnxruntime in Python."""
    graphs = _first_of_each([file for file in files if file.stem not in FURTHER.values()])
    file = next((file for file in graphs if spec.interface_of(file.recipe).kind == "image"), graphs[0])
    interface = spec.interface_of(file.recipe)
    names = ", ".join(port.name for port in interface.outputs)
    if interface.kind != "image" or prepared is None:
        return f'`onnxruntime.InferenceSession("onnx/{file.name}")` gives {names}.'
    if interface.takes_patches:
        return _patches_in_python(file, names)
    filter_ = PILLOW[prepared["resample"]]
    if whole := prepared["size"].get("shortest_edge"):
        side = prepared["crop_size"]["height"]
        resize = CROPPED.format(whole=whole, side=side, filter=filter_)
    else:
        resize = SQUASHED.format(**prepared["size"], filter=filter_)
    constants = {"mean": prepared["image_mean"], "std": prepared["image_std"]}
    return f"```python\n{PYTHON.format(resize=resize, file=file.name, names=names, **constants)}\n```"


def _patches_in_python(file: PackageFile, names: str) -> str:
    return f"""```python
import onnxruntime
from PIL import Image
from transformers import AutoImageProcessor

processor = AutoImageProcessor.from_pretrained(".")
inputs = processor(Image.open("photo.jpg").convert("RGB"), return_tensors="np")
session = onnxruntime.InferenceSession("onnx/{file.name}")
types = {{"tensor(float)": "float32", "tensor(int32)": "int32", "tensor(int64)": "int64"}}
given = {{port.name: inputs[port.name].astype(types[port.type]) for port in session.get_inputs()}}
{names} = session.run(None, given)
```"""
