"""Which dense maps a config asks for, and at which sizes. Standard library only, because the Snakefile imports this."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from vit2onnx.errors import InputError
from vit2onnx.spec.case import Case
from vit2onnx.spec.cases import Size
from vit2onnx.spec.interface import Interface
from vit2onnx.spec.labelled import Labelled, labelled_images
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec

# The most patches of a photograph. Attention in double precision takes 134 MB per head for so many.
MOST_PATCHES = 4096
# The set of photographs for retrieval that the project makes.
COMPOSITES = "composites"


def expanded(path: str) -> Path:
    """A path in which `~` is a home. Raises `InputError` if there is no such home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise InputError(f"{path} names the home of a user who is not here; write the whole path.") from None


def mapped_interface(spec: VariantSpec) -> Interface | None:
    """The interface of single images by which a variant gives maps of patches; `None` if it has none."""
    interfaces = map(spec.interface, spec.interfaces)
    return next((one for one in interfaces if one.patches and one.layers and one.compared_as is one), None)


def described_size(interface: Interface, grid: Sequence[int]) -> Size:
    """The height and width of photographs with a `grid` of patches, or those that the model fixes."""
    if "height" in interface.fixed:
        return interface.fixed["height"], interface.fixed["width"]
    rows, columns = grid
    return rows * interface.patch_size, columns * interface.patch_size


def described_grid(interface: Interface, grid: Sequence[int]) -> tuple[int, int]:
    """The rows and columns of patches at that size."""
    height, width = described_size(interface, grid)
    return height // interface.patch_size, width // interface.patch_size


def compared_size(interface: Interface, recipe: Recipe, grid: Sequence[int]) -> Size | None:
    """The size at which the maps of a graph are compared: that of the grid, or one that it takes instead.

    `None` if it has no maps, or if it is in a small precision.
    """
    single, chosen_by = interface.compared_as, interface.compared_recipe(recipe)
    # The figures of maps are held to single precision.
    if not single.layers or recipe.is_small:
        return None
    height, width = described_size(single, grid)
    set_by = single.of_recipe(chosen_by)
    # Of a graph with a fixed number of patches, a square of as many.
    side = math.isqrt(set_by.get("patches") or 0) * single.patch_size
    sizes = ((height, width), (set_by.get("height") or height, set_by.get("width") or width), (side, side))
    return next((size for size in sizes if min(size) and single.accepts(Case("", *size), chosen_by)), None)


def dense_cases(images: Iterable[str], sizes: Iterable[Size]) -> list[Case]:
    """Every photograph at every size."""
    sizes = sorted(set(sizes))
    return [Case(name, *size) for name in images for size in sizes]


def layer_numbers(interface: Interface, layers: Iterable[int]) -> list[int]:
    """The numbers of layers that may be counted from the end, each once and in order.

    Raises `InputError` if there is no such layer.
    """
    count = len(interface.layers)
    for number in layers:
        if not -count <= number < count:
            raise InputError(f"there is no layer {number}, only 0 to {count - 1}, or -1 to {-count} from the end")
    return sorted({number % count for number in layers})


@dataclass(frozen=True)
class DenseMaps:
    """The dense maps that a config asks for.

    `config` is its part `dense`, `spec_of` gives a variant by name, `recipes` are by name as well, and `images` are the
    names of photographs.
    """

    config: Mapping[str, Any]
    spec_of: Callable[[str], VariantSpec]
    recipes: Mapping[str, Recipe]
    images: Sequence[str]

    @property
    def enabled(self) -> bool:
        """Whether they are part of what is made and judged."""
        return bool(self.config["enabled"])

    def has_maps(self, variant: str) -> bool:
        """Whether a variant has maps."""
        return mapped_interface(self.spec_of(variant)) is not None

    def interface(self, variant: str) -> Interface:
        """The interface by which a variant gives its maps. Raises `InputError` if it has none."""
        interface = mapped_interface(self.spec_of(variant))
        if interface is None:
            raise InputError(f"{variant} has no patches, and so no dense maps; ask for another variant.")
        return interface

    def size(self, variant: str) -> Size:
        """The height and width of photographs at which the maps of a variant are described."""
        return described_size(self.interface(variant), self.config["grid"])

    def size_of_graph(self, variant: str, export: str) -> Size | None:
        """The height and width at which the maps of a graph are compared; `None` if it has none."""
        recipe = self.recipes[export]
        return compared_size(self.spec_of(variant).interface(recipe.interface), recipe, self.config["grid"])

    def is_judged(self, variant: str, export: str) -> bool:
        """Whether the maps of a graph are part of its verdict."""
        return self.enabled and self.size_of_graph(variant, export) is not None

    def described_cases(self, variant: str) -> list[str]:
        """The cases whose maps are described."""
        return list(map(str, dense_cases(self.images, [self.size(variant)])))

    def cases_of_graph(self, variant: str, export: str) -> list[str]:
        """The cases on which the maps of a graph are compared."""
        size = self.size_of_graph(variant, export)
        return list(map(str, dense_cases(self.images, [size] if size else [])))

    def cases(self, variant: str) -> list[str]:
        """All cases of a variant: those described, and those of graphs that do not take the grid."""
        interfaces = self.spec_of(variant).interfaces
        exports = [name for name, recipe in self.recipes.items() if recipe.interface in interfaces]
        sizes = [self.size_of_graph(variant, export) for export in exports]
        return list(map(str, dense_cases(self.images, [self.size(variant), *filter(None, sizes)])))

    def layers(self, variant: str) -> list[int]:
        """The numbers of further layers."""
        return layer_numbers(self.interface(variant), self.config["layers"])

    @property
    def pairs(self) -> dict[str, Sequence[str]]:
        """Pairs of variants that are compared, by the names of their folders."""
        return {"-".join(pair): pair for pair in self.config["compare"]}

    @cached_property
    def labelled(self) -> list[Labelled]:
        """The photographs of the user's folder for retrieval; none if composites are made, or nothing."""
        folder, masks = self.config["retrieval"], self.config["retrieval_masks"]
        if folder in (None, COMPOSITES):
            return []
        return labelled_images(expanded(folder), expanded(masks) if masks else None)
