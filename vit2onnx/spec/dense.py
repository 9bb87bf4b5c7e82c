"""At which sizes dense maps are looked at. Standard library only, because the Snakefile imports this module."""

from collections.abc import Iterable, Sequence

from vit2onnx.errors import InputError
from vit2onnx.spec.case import Case
from vit2onnx.spec.cases import Size, fixed_size
from vit2onnx.spec.interface import Interface
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec

# The most patches of a photograph. Attention in double precision takes 134 MB per head for so many.
MOST_PATCHES = 4096
# The set of photographs for retrieval that the project makes.
COMPOSITES = "composites"


def mapped_interface(spec: VariantSpec) -> Interface | None:
    """The interface of single images by which a variant gives maps of patches; `None` if it has none."""
    interfaces = map(spec.interface, spec.interfaces)
    return next((one for one in interfaces if one.patches and one.layers and not one.packs), None)


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
    """The size at which the maps of a graph are compared: that of the grid, or its own if it takes no other.

    `None` if it has no maps, or takes neither.
    """
    single, chosen_by = interface.compared_as, interface.compared_recipe(recipe)
    if not single.layers:
        return None
    sizes = (described_size(single, grid), fixed_size(single, chosen_by))
    return next((size for size in sizes if size and single.accepts(Case("", *size), chosen_by)), None)


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
