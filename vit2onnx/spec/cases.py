"""Which cases an interface is compared on. Standard library only, because the Snakefile imports it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from vit2onnx.spec.case import Case
from vit2onnx.spec.interface import Interface
from vit2onnx.spec.recipe import Recipe

Size = tuple[int, int]
# How the name of a case of images with texts begins.
PAIRS = "pairs"


def cases_of(
    interface: Interface,
    recipes: Iterable[Recipe],
    *,
    images: Sequence[str],
    texts: Sequence[str],
    sizes: Iterable[Size],
    pairs: Iterable[Size],
) -> list[Case]:
    """The cases on which graphs of an interface are compared: every image or text at every size that a recipe accepts.

    `sizes` are heights and widths of images, `pairs` numbers of images and texts.
    """
    own = [interface.of_recipe(recipe) for recipe in recipes if recipe.interface == interface.name]
    if interface.kind == "pair":
        return list(dict.fromkeys(case for sizes in own for case in _pairs(interface, sizes, list(pairs))))
    if interface.kind == "text":
        lengths = {sizes["length"] for sizes in own}
        if None in lengths:
            lengths = (lengths - {None}) | {*interface.compared_sizes["length"]}
        return [Case(name, 1, length) for name in texts for length in sorted(filter(None, lengths))]
    return [Case(name, *size) for name in images for size in sizes_of(interface, recipes, sizes)]


def _pairs(interface: Interface, recipe: Mapping[str, int | None], pairs: Sequence[Size]) -> Iterator[Case]:
    """For one recipe: all `pairs` at the usual sizes, and the smallest pair at each further size of every free axis."""
    usual = {**interface.recipe_defaults, **interface.case_defaults}
    asked = {axis: recipe[axis] or usual[axis] for axis in interface.compared_sizes}
    least = min(pairs, key=lambda pair: (pair[0], pair[0] * pair[1]))
    free = [axis for axis in asked if recipe[axis] is None]
    other = [asked | {axis: size} for axis in free for size in interface.compared_sizes[axis]]
    for sizes, of in ((asked, pairs), *((one, [least]) for one in other)):
        name = PAIRS + "".join(f"-{axis}{size}" for axis, size in sizes.items() if size != usual[axis])
        yield from (Case(name, *pair) for pair in of)


def sizes_of(interface: Interface, recipes: Iterable[Recipe], sizes: Iterable[Size]) -> list[Size]:
    """The sizes of images to compare at.

    They are the listed ones that a recipe of the interface accepts, and the fixed sizes of its recipes.
    """
    recipes = [recipe for recipe in recipes if recipe.interface == interface.name]
    listed = set() if interface.fixed else {interface.whole_patches(size) for size in sizes}
    accepted = {size for size in listed if any(interface.accepts(Case("", *size), recipe) for recipe in recipes)}
    return sorted({size for one in recipes if (size := fixed_size(interface, one))} | accepted)


def fixed_size(interface: Interface, recipe: Recipe) -> Size | None:
    """The height and width of a recipe that accepts only one."""
    sizes = {**interface.of_recipe(recipe), **interface.fixed}
    height, width = sizes.get("height"), sizes.get("width")
    return None if height is None or width is None else (height, width)


def case_of_stages(
    interface: Interface,
    recipe: Recipe,
    *,
    images: Sequence[str],
    texts: Sequence[str],
    sizes: Iterable[Size],
    pairs: Iterable[Size],
) -> Case:
    """The case on which the stages of a graph are compared.

    It is the first image at the first listed size that is not square, or the first text. A square image does not tell
    rows from columns; if a graph accepts only square images, the first accepted case is taken.
    """
    if interface.kind == "image":
        fixed = fixed_size(interface, recipe)
        cases = [Case(images[0], *size) for size in ([fixed] if fixed else map(interface.whole_patches, sizes))]
    else:
        cases = cases_of(interface, [recipe], images=images, texts=texts, sizes=sizes, pairs=pairs)
    accepted = [case for case in cases if interface.accepts(case, recipe)]
    return next((case for case in accepted if case.height != case.width), accepted[0])
