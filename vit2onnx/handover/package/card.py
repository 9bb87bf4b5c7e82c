"""The model card of a package: what its files are, how far they are from the original, and how to use them."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from vit2onnx.errors import printable
from vit2onnx.handover.package.files import DTYPES, FURTHER, PackageFile
from vit2onnx.handover.package.usage import in_javascript, in_python
from vit2onnx.onnx_file import LICENCE_FILE
from vit2onnx.spec.variant import VariantSpec

# The implementation whose figures are those of a file: onnxruntime as users run it.
RUN = "onnx"
# Licences that the hub knows by a name of its own.
KNOWN_LICENCES = {"Apache-2.0": "apache-2.0"}
TASKS = {"pair": "zero-shot-image-classification", "text": "feature-extraction"}
IMAGE_TASK = "image-feature-extraction"


def model_card(
    spec: VariantSpec,
    files: Sequence[PackageFile],
    passports: Mapping[str, Mapping[str, Any]],
    prepared: Mapping[str, Any] | None,
    *,
    has_licence: bool,
    has_tokenizer: bool,
) -> str:
    """The text of `README.md`, in Markdown with the metadata that the hub reads.

    `passports` are those of the files by name, and `prepared` is the content of `preprocessor_config.json`.
    """
    checkpoint = passports[files[0].name]["checkpoint"]
    sections = [
        f"# {spec.name} in ONNX",
        _origin(spec, checkpoint, has_licence),
        "## Files\n\n" + _files(spec, files, passports),
        "## Distance from the original\n\n" + _figures(files, passports),
        "## In transformers.js\n\n" + in_javascript(spec, files, prepared, has_tokenizer=has_tokenizer),
        "## In Python\n\n" + in_python(spec, files, prepared),
        "## Verify\n\n" + _verification(files),
    ]
    return _front_matter(spec, files, checkpoint) + "\n\n".join(sections) + "\n"


def _front_matter(spec: VariantSpec, files: Sequence[PackageFile], checkpoint: Mapping[str, Any]) -> str:
    """What the hub reads. Random weights have neither a licence nor a model that they are from."""
    interfaces = {file.recipe.interface for file in files}
    task = next((name for interface, name in TASKS.items() if interface in interfaces), IMAGE_TASK)
    task = IMAGE_TASK if "vision" in interfaces and "pair" not in interfaces else task
    told: dict[str, Any] = {"library_name": "transformers.js", "pipeline_tag": task, "tags": ["onnx", "vit2onnx"]}
    is_real = checkpoint["weights"] != "synthetic"
    if is_real and spec.licence:
        known = KNOWN_LICENCES.get(spec.licence.id)
        other = {"license": "other", "license_name": spec.licence.id.lower(), "license_link": LICENCE_FILE}
        told |= {"license": known} if known else other
    if is_real and spec.released:
        told["base_model"] = spec.released.huggingface
    return f"---\n{yaml.safe_dump(told, sort_keys=False)}---\n\n"


def _origin(spec: VariantSpec, checkpoint: Mapping[str, Any], has_licence: bool) -> str:
    if checkpoint["weights"] == "synthetic":
        return "The weights are random numbers. This package is for tests of tools and gives no useful features."
    said = [f"The weights are from: {printable(checkpoint['identity'])}."]
    if spec.departure:
        said.append(f"Changed by choice: {spec.departure}.")
    if spec.licence:
        text = f"; its text is in [{LICENCE_FILE}]({LICENCE_FILE})" if has_licence else ""
        said.append(f"Licence of the weights: [{spec.licence.id}]({spec.licence.url}){text}.")
    return " ".join(said)


def _files(spec: VariantSpec, files: Sequence[PackageFile], passports: Mapping[str, Mapping[str, Any]]) -> str:
    rows = ["| file | precision | `dtype` | inputs | MB | recipe |", "|---|---|---|---|---|---|"]
    for file in files:
        interface, recipe = spec.interface_of(file.recipe), file.recipe
        sizes = {**interface.of_recipe(recipe), **interface.fixed}
        inputs = "; ".join(
            f"`{port.name}` {port.dtype} [{', '.join(map(str, interface.shape(port, sizes)))}]"
            for port in interface.inputs
        )
        megabytes = passports[file.name]["file"]["bytes"] / 1e6
        dtype = DTYPES[recipe.precision][0]
        row = [f"`onnx/{file.name}`", recipe.precision, f"`{dtype}`", inputs, f"{megabytes:.1f}", f"`{recipe.name}`"]
        rows.append(f"| {' | '.join(row)} |")
    said = ["\n".join(rows), "Inputs and outputs are in float32 in every precision."]
    if external := sorted({name for one in passports.values() for name in one["file"]["external"]}):
        names = ", ".join(f"`onnx/{name}`" for name in external)
        said.append(f"The weights of large graphs are in {names}; keep these names, beside the graphs.")
    outputs = {port.name: port.meaning for file in files for port in spec.interface_of(file.recipe).outputs}
    said.append("\n".join(f"- `{name}`: {meaning}" for name, meaning in outputs.items()))
    return "\n\n".join(said)


def _figures(files: Sequence[PackageFile], passports: Mapping[str, Mapping[str, Any]]) -> str:
    """The worst of what was measured on each file in onnxruntime, with its limit, and how much was judged in all."""
    rows = ["| file | measured | value | limit |", "|---|---|---|---|"]
    for file in files:
        for finding in worst_findings(passports[file.name]):
            figures = f"{finding['measured']:.2g} | {finding['limit']:.2g}"
            against = f", against {finding['other']}" if finding["other"] else ""
            rows.append(f"| `{file.name}` | {finding['measure']}{against} | {figures} |")
    counts = ", ".join(f"{len(passports[file.name]['parity']['findings'])} of `{file.name}`" for file in files)
    return "\n".join(rows) + (
        f"\n\nEvery finding is within its limit: {counts}. The passports beside the files list them all. `truth` is the"
        " original in double precision; a noise floor is the error of the original in single precision."
    )


def worst_findings(passport: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Of each limit of the config, the finding on the file itself that is nearest to it."""
    worst: dict[str, Mapping[str, Any]] = {}
    for finding in passport["parity"]["findings"]:
        name = finding["limit_name"]
        if name and finding["subject"] == RUN and finding["measured"] >= worst.get(name, {"measured": -1})["measured"]:
            worst[name] = finding
    return list(worst.values())


def _verification(files: Sequence[PackageFile]) -> str:
    name = next(file.name for file in files if file.stem not in FURTHER.values())
    return (
        f"```bash\npython verify.py onnx/{name}\n```\n\nshows that a file is the one that was judged, and that it"
        " computes here what the original computes. It needs numpy and onnxruntime only. Passport and sample lie beside"
        " each file."
    )
