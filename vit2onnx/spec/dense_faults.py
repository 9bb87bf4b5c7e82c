"""Faults in the part `dense` of the config. Standard library only, because the Snakefile imports this module."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from vit2onnx.errors import InputError, first_few
from vit2onnx.spec.case import unsayable
from vit2onnx.spec.dense import (
    COMPOSITES,
    MOST_PATCHES,
    compared_size,
    described_grid,
    expanded,
    layer_numbers,
    mapped_interface,
)
from vit2onnx.spec.interface import Interface
from vit2onnx.spec.labelled import labelled_images
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec


def faults_of_dense(
    config: Mapping[str, Any],
    images: Sequence[str],
    specs: Iterable[VariantSpec],
    takers: Iterable[tuple[Recipe, VariantSpec]],
) -> Iterator[str]:
    """Photographs, layers, variants or labels that are not there, and grids that do not fit, each in a sentence.

    `config` is the whole config, `images` are the names of photographs, `specs` the listed variants, and `takers` all
    recipes with variants that take them.
    """
    dense = config["dense"]
    rows, columns = dense["grid"]
    if rows * columns > MOST_PATCHES:
        yield f"dense.grid: {rows}x{columns} has {rows * columns} patches; use {MOST_PATCHES} at most"
    for key in ("references", "masks"):
        for name in (name for name in dense[key] if name not in images):
            yield f"dense.{key}: {name!r} is no photograph of images, only {first_few(images)}"
    yield from _masks(dense, images)
    mapped = {spec.name: interface for spec in specs if (interface := mapped_interface(spec))}
    for name, interface in mapped.items():
        try:
            layer_numbers(interface, dense["layers"])
        except InputError as error:
            yield f"dense.layers: {name}: {error}"
    yield from _pairs(config, mapped)
    yield from _retrieval(dense, mapped)
    if dense["enabled"]:
        if not mapped:
            yield "dense: no listed variant has patches"
        yield from _graphs(dense, takers)


def _masks(dense: Mapping[str, Any], images: Iterable[str]) -> Iterator[str]:
    """Masks that are not there, or that nothing uses."""
    if dense["foreground"] != "masks":
        if dense["masks"]:
            yield "dense.masks: nothing uses them; set foreground: masks, or leave them out"
        return
    for name in (name for name in images if name not in dense["masks"]):
        yield f"dense.masks: there is no mask of {name}; name one, or choose another foreground"
    for name, path in dense["masks"].items():
        if fault := _fault_of(path, "file"):
            yield f"dense.masks.{name}: {fault}"


def _fault_of(path: str, what: str) -> str | None:
    """Why Snakemake cannot be given a file or folder; `None` if it can."""
    try:
        found = expanded(path)
    except InputError as error:
        return str(error).rstrip(".")
    if not (found.is_dir() if what == "folder" else found.is_file()):
        return f"there is no {what} {path}"
    return unsayable(found)


def _pairs(config: Mapping[str, Any], mapped: Mapping[str, Interface]) -> Iterator[str]:
    """Pairs of variants that are not listed, whose folders have one name, or whose grids are not equal."""
    dense = config["dense"]
    folders = Counter("-".join(pair) for pair in dense["compare"])
    for name in (name for name, count in folders.items() if count > 1):
        yield f"dense.compare: {name} names two pairs; rename a variant"
    for pair in dense["compare"]:
        if unknown := [name for name in pair if name not in mapped]:
            is_own = unknown[0] in config["own"] and config["weights"] != "own"
            way_out = "; set weights: own" if is_own else f", only {', '.join(mapped)}"
            yield f"dense.compare: {unknown[0]} is no listed variant with patches{way_out}"
            continue
        grids = {name: described_grid(mapped[name], dense["grid"]) for name in pair}
        for (first, one), (second, other) in pairwise(grids.items()):
            if one != other:
                told = f"{first} has {one[0]}x{one[1]} patches and {second} has {other[0]}x{other[1]} patches"
                fixed = [grid for name, grid in grids.items() if "height" in mapped[name].fixed]
                way_out = f"set dense.grid: {list(fixed[0])}" if len(fixed) == 1 else "compare others"
                yield f"dense.compare: {told}; maps of other grids cannot be compared, so {way_out}"


def _retrieval(dense: Mapping[str, Any], mapped: Mapping[str, Interface]) -> Iterator[str]:
    """A folder of labelled photographs that is none, masks without one, and more directions than there are."""
    folder, masks = dense["retrieval"], dense["retrieval_masks"]
    if folder is None and not masks:
        return
    for name, interface in mapped.items():
        channels = interface.patches[0].axes[-1] if interface.patches else 0
        if int(channels) <= dense["suppress"]:
            yield f"dense.suppress: {name} has {channels} channels, of which fewer than {channels} can be suppressed"
    if folder in (None, COMPOSITES):
        if masks:
            yield "dense.retrieval_masks: they are those of a folder; name it in dense.retrieval, or leave them out"
        return
    found = [
        f"dense.{key}: {fault}"
        for key in ("retrieval", "retrieval_masks")
        if dense[key] and (fault := _fault_of(dense[key], "folder"))
    ]
    yield from found
    if not found:
        try:
            labelled_images(expanded(folder), expanded(masks) if masks else None)
        except InputError as error:
            yield f"dense.retrieval: {str(error).rstrip('.')}"


def _graphs(dense: Mapping[str, Any], takers: Iterable[tuple[Recipe, VariantSpec]]) -> Iterator[str]:
    """Graphs whose maps are too large, or that take no size at which they could be compared."""
    for recipe, spec in takers:
        interface = spec.interface(recipe.interface)
        # Maps of small precisions are not compared.
        if recipe.is_small or not interface.compared_as.layers:
            continue
        size = compared_size(interface, recipe, dense["grid"])
        rows, columns = (
            described_grid(interface.compared_as, dense["grid"])
            if size is None
            else (side // interface.patch_size for side in size)
        )
        if size is None:
            yield f"dense: {recipe.name}.onnx of {spec.name} takes no grid that is known; make its sizes dynamic"
        elif not 2 <= rows * columns <= MOST_PATCHES:
            yield (
                f"dense: {recipe.name}.onnx of {spec.name} has a map of {rows}x{columns} patches, and maps have 2 to"
                f" {MOST_PATCHES}; choose another size in exports.{recipe.name}, or set dense.enabled: false"
            )
