"""What goes into a graph and what comes out of it, as data. Standard library only, because the Snakefile imports this.

A family declares its interfaces in `interface.py`. From them follow the traced shapes, the checks of a graph, its
metadata, the sample that it is verified by, and what is compared with what.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from vit2onnx.spec.case import Case, path_of
from vit2onnx.spec.recipe import Recipe

if TYPE_CHECKING:
    from vit2onnx.spec.variant import Preprocessing

Sizes = Mapping[str, int | None]
# How the name of an output of a layer ends that is taken after the final norm.
NORMED = "_norm"
# A dimension is a number, or the name of an axis whose size is not fixed.
Shape = tuple[int | str, ...]


@dataclass(frozen=True)
class Group:
    """Rows of an output that users take together, from `start` up to `stop`, or to the last if that is `None`.

    `grid` names the axes that say how many rows and columns of patches these are, if they lie in an image.
    """

    name: str
    start: int
    stop: int | None
    grid: tuple[str, str] | None = None


@dataclass(frozen=True)
class Port:
    """An input or output of a graph: `axes` are numbers or names of axes, of which the last is that of the channels.

    `groups` say what the rows of an output are. `row_of` names the output of which this one is a row, and which
    row; `transpose_of` the one whose transpose it is. `rows` names the axis that counts the rows that mean something,
    where those behind them are padding. `layer` is the stage whose tokens an output holds, or the pixels of whose map,
    row by row; if it is `normed`, after the final norm.
    """

    name: str
    axes: Shape
    meaning: str
    groups: tuple[Group, ...] = ()
    row_of: tuple[str, int] | None = None
    transpose_of: str = ""
    rows: str = ""
    dtype: str = "float32"
    layer: str = ""
    normed: bool = False


@dataclass(frozen=True)
class Derived:
    """An axis whose size follows from that of others."""

    of: tuple[str, ...]
    size: Callable[..., int]


def key_of(case: str, port: Port, ports: Sequence[Port]) -> str:
    """What the array of a case is called in files: by the case, and in all but the first of the `ports` by the port."""
    return case if port.name == ports[0].name else f"{case}/{port.name}"


def cases_in(arrays: Iterable[str]) -> list[str]:
    """The names of the cases among the keys of a file's arrays."""
    return [key for key in arrays if "/" not in key]


def of_cases(arrays: Mapping[str, Any], cases: Collection[str]) -> dict[str, Any]:
    """The arrays of some of the cases."""
    return {key: arrays[key] for key in arrays if key.partition("/")[0] in cases}


@dataclass(frozen=True)
class Interface:
    """What goes into graphs of one kind and comes out of them, as data."""

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    # The axes whose sizes a recipe sets, each with its smallest size.
    minimum: Mapping[str, int]
    # The largest sizes of some of them.
    maximum: Mapping[str, int] = field(default_factory=dict)
    # Sizes that a recipe may leave out.
    recipe_defaults: Mapping[str, int | None] = field(default_factory=dict)
    # Sizes of the model, which no recipe sets.
    fixed: Mapping[str, int] = field(default_factory=dict)
    # Axes whose sizes follow from those of others.
    derived: Mapping[str, Derived] = field(default_factory=dict)
    # What one case is: an `image`, a `text` or a `pair` of both.
    kind: str = "image"
    # The axes of which a case gives the sizes, and the sizes of others that it may leave out.
    case_axes: tuple[str, str] = ("height", "width")
    case_defaults: Mapping[str, int] = field(default_factory=dict)
    # Sizes at which graphs with a free axis are compared, for axes of which the config lists none.
    compared_sizes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    # The towers of the model that graphs hold, and the weights outside of all towers. Together they have so many
    # parameters, 0 for those of the whole model.
    towers: tuple[str, ...] = ("",)
    joint_parameters: tuple[str, ...] = ()
    num_parameters: int = 0
    # In pixels, 0 without images.
    patch_size: int = 0
    # The stages that are maps of an image, from the first layer to what the final norm takes.
    layers: tuple[str, ...] = ()
    # The outputs that a recipe may ask for besides, in the order of the layers.
    further: tuple[Port, ...] = ()
    # What else the metadata of a file says, by key.
    facts: Mapping[str, Any] = field(default_factory=dict)
    # The interface of single images, of which these graphs take many at once. They are compared on its cases.
    packs: "Interface | None" = None
    # The interface of prepared images, to which these graphs prepare photographs themselves, and how they do. They are
    # compared on its cases too.
    prepares: "Interface | None" = None
    preprocessing: "Preprocessing | None" = None

    @property
    def compared_as(self) -> "Interface":
        """The interface on whose cases graphs are compared: that of single, prepared images, or else itself."""
        return self.packs or self.prepares or self

    @property
    def of_model(self) -> str:
        """The name of the interface that the model has of its own, whatever the graph does before."""
        return self.prepares.name if self.prepares else self.name

    def compared_recipe(self, recipe: Recipe) -> Recipe:
        """A recipe by which cases are chosen: for packed images that of single ones of any size, for photographs that
        of prepared images of the same size, else the same.
        """
        if self.packs:
            return replace(recipe, interface=self.packs.name, sizes=dict.fromkeys(self.packs.minimum))
        if self.prepares:
            sizes = {axis: size for axis, size in recipe.sizes.items() if axis in self.prepares.minimum}
            return replace(recipe, interface=self.prepares.name, sizes=sizes)
        return recipe

    def with_outputs(self, names: Collection[str]) -> "Interface":
        """The interface that has some of the `further` outputs as well, in the order of the names."""
        by_name = {port.name: port for port in self.further}
        asked = tuple(by_name[name] for name in names)
        prepares = self.prepares.with_outputs(names) if self.prepares else None
        return replace(self, outputs=self.outputs + asked, prepares=prepares)

    @property
    def told_further(self) -> str:
        """The names of the `further` outputs in words; nothing if there are none."""
        plain, normed = ([port.name for port in self.further if port.normed == which] for which in (False, True))
        if not plain:
            return ""
        told = " to ".join(dict.fromkeys([plain[0], plain[-1]]))
        if len(normed) == len(plain):
            return f"{told}, each also with {NORMED} at the end"
        return f"{told} and {' and '.join(normed)}, because the final norm fits no other"

    @property
    def ports(self) -> tuple[Port, ...]:
        """Inputs, then outputs."""
        return self.inputs + self.outputs

    @property
    def compared(self) -> tuple[Port, ...]:
        """The outputs that are compared row by row; what is a part of another is only checked to be that."""
        return tuple(port for port in self.outputs if not (port.row_of or port.transpose_of))

    @property
    def patches(self) -> tuple[Port, Group] | None:
        """The output that has patches, and which of its rows they are; `None` if there is none."""
        found = ((port, group) for port in self.compared for group in port.groups if group.grid)
        return next(found, None)

    @property
    def pooled(self) -> tuple[Port, int | None]:
        """The output that has one vector for a whole input, and which of its rows that is; `None` if it has no rows."""
        pooled = next(port for port in self.outputs if port.name == "pooler_output")
        if not pooled.row_of:
            return pooled, None
        name, row = pooled.row_of
        return next(port for port in self.outputs if port.name == name), row

    @property
    def is_batched(self) -> bool:
        """Whether the first axis of all ports counts inputs that have nothing to do with each other."""
        return "batch" in self.minimum

    @property
    def takes_patches(self) -> bool:
        """Whether images are cut into patches before they go in, so that they are of any size."""
        return any(port.name == "spatial_shapes" for port in self.inputs)

    @property
    def parameter_prefixes(self) -> tuple[str, ...]:
        """How the names of all weights begin that such graphs hold; "" stands for any name."""
        return (*(path_of(tower, "") for tower in self.towers), *self.joint_parameters)

    def size(self, axis: int | str, sizes: Sizes) -> int | str:
        """The size of an axis if it follows from `sizes`, or else its name; a size of `None` is free."""
        if isinstance(axis, int):
            return axis
        if known := self.fixed.get(axis) or sizes.get(axis):
            return known
        if axis in self.derived:
            derived = self.derived[axis]
            of = [self.fixed.get(name) or sizes.get(name) for name in derived.of]
            return axis if None in of else derived.size(*of)
        return axis

    def sizes(self, case: Case) -> dict[str, int]:
        """The sizes of a case by the names of the axes, with all that follows from them."""
        given = dict(zip(self.case_axes, (case.height, case.width), strict=True))
        if self.kind == "pair":
            usual = {axis: size for axis, size in self.recipe_defaults.items() if size}
            given = {**usual, **self.case_defaults, **case.further_sizes, **given}
        return given | {axis: int(size) for axis in self.derived if isinstance(size := self.size(axis, given), int)}

    def asked_outputs(self, recipes: Iterable[Recipe]) -> tuple[str, ...]:
        """The further outputs that any of the recipes of this interface asks for, in the order of the layers."""
        asked = {name for recipe in recipes if recipe.interface == self.name for name in recipe.outputs}
        return tuple(port.name for port in self.further if port.name in asked)

    def whole_patches(self, size: tuple[int, int]) -> tuple[int, int]:
        """A size of images cut to whole patches, for graphs that take patches; for others the size as it is."""
        if not self.takes_patches:
            return size
        height, width = (max(side // self.patch_size, 1) * self.patch_size for side in size)
        return height, width

    def batches(self, recipe: Recipe, sizes: Sequence[int], cases: int) -> list[int]:
        """The batch sizes to run a graph with: its own, or `sizes` if that is free; 0 if a case is a whole batch.

        A packed graph is run on all `cases` at once first.
        """
        if self.packs:
            return list(dict.fromkeys([cases, *(size for size in sizes if size < cases)]))
        if not self.is_batched:
            return [0]
        return list(sizes) if recipe.batch is None else [recipe.batch]

    def batch_in_double(self, recipe: Recipe, cases: int) -> int | None:
        """The batch size to run a graph with in double precision: its own, or two cases that could mix, or all.

        `None` if it is in a smaller precision, because what is rounded on purpose is not what it approximates.
        """
        if recipe.is_small:
            return None
        if self.packs:
            return cases
        return (recipe.batch or 2) if self.is_batched else 0

    def accepts(self, case: Case, recipe: Recipe) -> bool:
        """Whether a case fits the graph of a recipe."""
        wanted = {**self.of_recipe(recipe), **self.fixed}
        return all(wanted.get(axis) in (None, size) for axis, size in self.sizes(case).items())

    def of_recipe(self, recipe: Recipe) -> dict[str, int | None]:
        """The sizes that a recipe sets, with the defaults for those that it leaves out."""
        return {**self.recipe_defaults, **recipe.sizes}

    def inputs_of(self, arrays: Mapping[str, Any], case: str) -> dict[str, Any]:
        """The inputs of a case by their ports, from arrays as files have them; see `key_of`."""
        return {port.name: arrays[key_of(case, port, self.inputs)] for port in self.inputs}

    def outputs_of(self, arrays: Mapping[str, Any], case: str) -> dict[str, Any]:
        """What is compared of a case by its ports, likewise."""
        return {port.name: arrays[key_of(case, port, self.compared)] for port in self.compared}

    def rows(self, port: Port, case: str) -> int | None:
        """How many rows of an output mean something for a case; `None` if all do."""
        return int(self.size(port.rows, self.sizes(Case.parse(case)))) if port.rows else None

    def elements(self, case: Case) -> int:
        """How many numbers go in and come out at once for a case."""
        sizes = {**dict.fromkeys(self.minimum, 1), **self.recipe_defaults, **self.case_defaults, **self.sizes(case)}
        return sum(math.prod(map(int, self.shape(port, sizes))) for port in self.ports)

    def shape(self, port: Port, sizes: Sizes) -> Shape:
        """The shape of a port, as far as it follows from `sizes`."""
        return tuple(self.size(axis, sizes) for axis in port.axes)
