"""Check the configuration before any job runs, so that a typo costs a second and is named."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from vit2onnx.errors import InputError
from vit2onnx.spec.case import GOLDEN, image_files, unsayable
from vit2onnx.spec.cases import cases_of
from vit2onnx.spec.dense_faults import faults_of_dense
from vit2onnx.spec.family import (
    PUBLISHER,
    architecture_schema,
    families,
    has_part,
    incomplete,
    interfaces_of,
    layout_of,
    missing_of,
    part,
    publisher_repository,
    self_test_models,
)
from vit2onnx.spec.interface import Interface
from vit2onnx.spec.recipe import ATTENTION, DEFAULT_ATTENTION, OPERATORS, Recipe
from vit2onnx.spec.schema import faults_of, near
from vit2onnx.spec.texts import texts_file, texts_in
from vit2onnx.spec.variant import VariantSpec, read_variants, variant_file

# In bytes.
LONGEST_LICENCE = 1 << 20


SCHEMAS = Path(__file__).parents[2] / "workflow" / "schemas"


@dataclass(frozen=True)
class Asked:
    """What a config asks for. `root` is the project's folder, and `variants` are all that it has."""

    config: Mapping[str, Any]
    root: Path
    variants: Mapping[str, Mapping[str, Any]]

    @cached_property
    def specs(self) -> list[VariantSpec]:
        """The variants that are asked for."""
        return [VariantSpec.from_mapping(name, self.variants[name]) for name in names_of(self.config, self.variants)]

    @cached_property
    def recipes(self) -> list[Recipe]:
        """All recipes."""
        return [Recipe.from_mapping(name, recipe) for name, recipe in self.config["exports"].items()]

    def takers(self, recipe: Recipe) -> list[VariantSpec]:
        """The variants that are asked for and have the interface of a recipe."""
        return [spec for spec in self.specs if recipe.interface in spec.interfaces]


Check = Callable[[Asked], Iterable[str]]

# How the variants of own checkpoints are made, from the config's `own` and from those that the project has.
Recognise = Callable[[Mapping[str, Any], Mapping[str, Mapping[str, Any]]], dict[str, dict[str, Any]]]


def check_configuration(
    config: Mapping[str, Any], root: Path, recognise: Recognise = lambda own, variants: {}
) -> dict[str, dict[str, Any]]:
    """Check the config and the variant files of the project at `root`, and return what the latter hold, by name.

    With own weights there are also the variants that they are, as `recognise` says. Raises `InputError` that names
    every wrong key of the first file that has one.
    """
    schemas = root / "workflow" / "schemas"
    limits = {key: value for key, value in config.items() if key == "limits"}
    _check("config", {key: value for key, value in config.items() if key not in limits}, schemas / "config.schema.yaml")
    _check("config", limits, schemas / "limits.schema.yaml")
    variants = read_variants(root / "config" / "variants")
    for name, mapping in variants.items():
        file, family = variant_file(mapping["family"], name), mapping["family"]
        own = {key: value for key, value in mapping.items() if key != "family"}
        _check(file, own, schemas / "variant.schema.yaml")
        try:
            schema = architecture_schema(family)
        except InputError as error:
            raise InputError(f"{file}: {error}") from None
        # A family that is not complete is no fault before it is used.
        if schema.is_file():
            _check(file, own["architecture"], schema, "architecture")
    if config["weights"] == "own":
        if not config["own"]:
            raise InputError("config: own: name your checkpoint, as in own: {my_model: path/to/file_or_folder}.")
        found = recognise(config["own"], variants)
        for name, mapping in found.items():
            check_recognised(f"config: own.{name}", mapping)
        variants |= found
    asked = Asked(config, root, variants)
    # The other checks look into variants and families.
    for checks in ([unknown_variants, incomplete_families], CHECKS):
        _raise("config", [fault for check in checks for fault in check(asked)])
    return variants


def check_recognised(where: str, mapping: Mapping[str, Any]) -> None:
    """Raise `InputError` if a variant that was recognised is not as the schemas say, like one in a file."""
    own = {key: mapping[key] for key in ("architecture", "preprocessing")}
    _check(where, own, SCHEMAS / "variant.schema.yaml")
    _check(where, own["architecture"], architecture_schema(mapping["family"]), "architecture")


def names_of(config: Mapping[str, Any], variants: Mapping[str, Any]) -> list[str]:
    """The variants that the config asks for: a list of names, one name, or "all" that have a file; or all own ones."""
    if config["weights"] == "own":
        return list(config["own"])
    named = config["variants"]
    return list(variants) if named == "all" else [named] if isinstance(named, str) else named


def unknown_variants(asked: Asked) -> Iterator[str]:
    """Names for which there is no file."""
    for name in (*names_of(asked.config, asked.variants), *asked.config["official"]["checkpoints"]):
        if name not in asked.variants:
            yield (
                f"variants names {name!r}, but there is no config/variants/*/{name}.yaml"
                f" (there are: {', '.join(asked.variants)})"
            )


def incomplete_families(asked: Asked) -> Iterator[str]:
    """Families that lack something: those of listed variants, and all for the self-test."""
    listed = [name for name in names_of(asked.config, asked.variants) if name in asked.variants]
    used = [asked.variants[name]["family"] for name in listed]
    for family in dict.fromkeys([*used, *(families() if asked.config["parity"]["self_test"] else ())]):
        if sentence := incomplete(family):
            yield sentence.rstrip(".")


def recipes_without_variant(asked: Asked) -> Iterator[str]:
    """Recipes whose interface no family has. Those of families that are not asked for are left out."""
    known = {name: None for family in families() if has_part(family, "interface") for name in interfaces_of(family)}
    for recipe in asked.recipes:
        if recipe.interface not in known:
            yield f"exports.{recipe.name}.interface: {recipe.interface!r} is not one of {', '.join(known)}"


def variants_without_recipe(asked: Asked) -> Iterator[str]:
    """Variants that can take no recipe."""
    for spec in asked.specs:
        if not any(recipe.interface in spec.interfaces for recipe in asked.recipes):
            own = " or ".join(spec.interfaces)
            yield f"variants: no recipe of exports is for {spec.name}, whose interface is {own}"


def meant(key: str, axes: Iterable[str]) -> str:
    """A hint at the known key that an unknown key of a recipe resembles, or an empty text."""
    found = near(key, {*axes, *(field.name for field in fields(Recipe))} - {"name", "sizes"})
    return f"you may mean {found}" if found else ""


def sizes_of_recipes(asked: Asked) -> Iterator[str]:
    """Sizes that a recipe lacks, that its interface does not have, or that are too small or too large."""
    for recipe in asked.recipes:
        for spec in asked.takers(recipe):
            interface = spec.interface(recipe.interface)
            minimum, maximum = interface.minimum, interface.maximum
            where = f"exports.{recipe.name}"
            known = f"the interface {recipe.interface} has {', '.join(minimum)}"
            if interface.packs:
                known = "a packed graph takes any number of images and patches"
            lacking = [axis for axis in minimum if axis not in interface.of_recipe(recipe)]
            # A size that is the model's own may be named, for recipes of several families.
            own = {*interface.fixed.items()}
            surplus = [axis for axis, size in recipe.sizes.items() if axis not in minimum and (axis, size) not in own]
            faults = [*operators_of_recipe(recipe), *attention_of_recipe(recipe, interface)]
            faults += precision_of_recipe(recipe, spec)
            faults += outputs_of_recipe(recipe, spec)
            faults += sizes_of_photographs(recipe, interface)
            faults += [f"{where}: {axis!r} is a required property" for axis in lacking]
            faults += [f"{where}: {axis!r} was unexpected; {meant(axis, minimum) or known}" for axis in surplus]
            sizes = {axis: size for axis, size in recipe.sizes.items() if size is not None}
            faults += [
                f"{where}.{axis}: {size} is smaller than {minimum[axis]}, the least that {spec.name} takes"
                for axis, size in sizes.items()
                if size < minimum.get(axis, size)
            ]
            faults += [
                f"{where}.{axis}: {size} is larger than {maximum[axis]}, the most that {spec.name} takes"
                for axis, size in sizes.items()
                if size > maximum.get(axis, size)
            ]
            yield from faults
            if faults:
                break


def operators_of_recipe(recipe: Recipe) -> Iterator[str]:
    """An operator set that lacks the operators that a recipe asks for."""
    if recipe.opset < OPERATORS[recipe.operators]:
        way_out = "use 23 or newer, or `operators: portable`"
        yield f"exports.{recipe.name}.opset: {recipe.opset} has no Attention and no RotaryEmbedding; {way_out}"


def precision_of_recipe(recipe: Recipe, spec: VariantSpec) -> Iterator[str]:
    """Scales of what is not in int8, scales that depend on the images beside one, and folds in a small precision."""
    where, interface = f"exports.{recipe.name}", spec.interface(recipe.interface)
    if recipe.precision != "int8" and recipe.activations:
        yield f"{where}.activations: only `precision: int8` has it; leave it out"
    if recipe.activations == "dynamic" and interface.packs:
        why = "the features of an image would depend on the images beside it"
        yield f"{where}.activations: with dynamic scales {why}; add `activations: static`"
    if recipe.is_small and recipe.folds:
        yield f"{where}.folds: only `precision: float32` has them; leave it out"


def outputs_of_recipe(recipe: Recipe, spec: VariantSpec) -> Iterator[str]:
    """Outputs that a variant does not have, or that are there twice."""
    for fault in spec.faults_of_outputs(recipe.interface, recipe.outputs):
        yield f"exports.{recipe.name}.outputs: {fault}"


def sizes_of_photographs(recipe: Recipe, interface: Interface) -> Iterator[str]:
    """Where a graph prepares photographs itself: a free size to resize them to, or a size of theirs, which is free."""
    where, single = f"exports.{recipe.name}", interface.prepares
    if single is None:
        return
    for axis in (axis for axis in single.case_axes if axis in recipe.sizes and recipe.sizes[axis] is None):
        yield f"{where}.{axis}: photographs are resized to one size; give a number"
    for axis in (axis for axis in recipe.sizes if axis in interface.minimum.keys() - single.minimum.keys()):
        yield f"{where}.{axis}: photographs are of any size; leave it out"


def attention_of_recipe(recipe: Recipe, interface: Interface) -> Iterator[str]:
    """An attention where no images are packed or that the operator set lacks, and sizes of a pack, which are free."""
    where = f"exports.{recipe.name}"
    if not interface.packs:
        if recipe.attention:
            yield f"{where}.attention: only the interface packed has it; leave it out"
        return
    first = ATTENTION[recipe.attention or DEFAULT_ATTENTION]
    if recipe.operators == "native" and OPERATORS["native"] <= recipe.opset < first:
        yield f"{where}.opset: {recipe.opset} has no {recipe.attention} attention; use {first}"
    for axis in (axis for axis in interface.minimum if recipe.sizes.get(axis)):
        yield f"{where}.{axis}: a packed graph takes any number of {axis}; leave it out"


def cases_of_recipes(asked: Asked) -> Iterator[str]:
    """Sizes of photographs that are too small for a variant, and recipes that no case fits."""
    sizes = [(height, width) for height, width in asked.config["parity"]["sizes"]]
    takers = [(recipe, spec) for recipe in asked.recipes for spec in asked.takers(recipe)]
    of_images = [spec.interface(recipe.interface) for recipe, spec in takers]
    least = max((one.patch_size for one in of_images if one.kind == "image" and not one.fixed), default=1)
    for height, width in sizes:
        if min(height, width) < least:
            yield f"parity.sizes: {height}x{width} is smaller than one patch of {least}x{least} pixels"
    for recipe, spec in takers:
        of_graph = spec.interface(recipe.interface)
        interface, chosen_by = of_graph.compared_as, of_graph.compared_recipe(recipe)
        found = cases_of(
            interface,
            [chosen_by],
            images=["image"],
            texts=["text"],
            sizes=[*sizes, *spec.architecture.telling_sizes],
            pairs=[(images, texts) for images, texts in asked.config["parity"]["pairs"]],
        )
        if not any(interface.accepts(case, chosen_by) for case in found):
            fits = "nothing of parity.sizes fits it, so that it could not be compared"
            ways = f"; make its patches dynamic, or {', '.join(map(str, interface.compared_sizes.get('patches', ())))}"
            yield f"exports.{recipe.name}: {fits}{ways if interface.takes_patches else ''}"


def texts(asked: Asked) -> Iterator[str]:
    """Texts that are not there or no texts, words without a tokenizer, and a tokenizer that is not there."""
    tokenizer = asked.config["tokenizer"]
    if tokenizer and not Path(tokenizer).expanduser().is_file():
        yield f"tokenizer: there is no file {tokenizer}"
    try:
        found = texts_in(texts_file(asked.config, asked.root), asked.config["texts"])
    except InputError as error:
        yield str(error).removeprefix("config: ").rstrip(".")
        return
    if (words := [name for name, text in found.items() if isinstance(text, str)]) and not tokenizer:
        yield f"tokenizer: {words[0]} in texts is in words; name the model's tokenizer.json, or give token ids"
    takers = [
        (spec.name, spec.interface(recipe.interface)) for recipe in asked.recipes for spec in asked.takers(recipe)
    ]
    vocabularies = {name: one.facts["text"]["vocabulary"] for name, one in takers if "text" in one.facts}
    for variant, vocabulary in vocabularies.items():
        for name, text in found.items():
            if isinstance(text, list) and max(text, default=0) >= vocabulary:
                yield f"texts: {name} has the token id {max(text)}, and {variant} knows ids up to {vocabulary - 1}"
    if not vocabularies:
        return
    # Texts that are all the same show no fault, nor does one image with one text.
    if len({str(text) for text in found.values()} - {"", "[]", "0"}) < 2:
        yield "texts: at least two texts must differ, and both must not be empty, or faults would not show"
    if asked.config["parity"]["pairs"] and max(map(max, asked.config["parity"]["pairs"])) == 1:
        yield "parity.pairs: one image with one text does not show which is which; give more of one of them as well"


def layouts(asked: Asked) -> Iterator[str]:
    """A layout of synthetic weights that no listed variant has, or not all."""
    layout = asked.config["synthetic"]["layout"]
    known = {name: None for spec in asked.specs for name in (PUBLISHER, *part(spec.family, "architecture").LAYOUTS)}
    if layout not in known:
        yield f"synthetic.layout: {layout!r} is not one of {', '.join(known)}"
    elif asked.config["weights"] == "synthetic":
        for spec in asked.specs:
            own = part(spec.family, "architecture").LAYOUTS
            if layout_of(spec.family, layout) not in own:
                yield f"synthetic.layout: there is no {layout} layout of {spec.name}, only {', '.join(own)}"


def photographs(asked: Asked) -> Iterator[str]:
    """Photographs that are not there, that Snakemake cannot be given, or whose name is taken."""
    images, faults = image_files(asked.config["images"], asked.root)
    yield from faults
    golden = asked.config["official"]["golden_image"]
    if golden and not Path(golden).expanduser().is_file():
        yield f"official.golden_image: there is no file {golden}"
    elif golden and (fault := unsayable(Path(golden).expanduser())):
        yield f"official.golden_image: {fault}"
    if GOLDEN.name in images:
        yield f"images.{GOLDEN.name}: this name is taken by official.golden_image; choose another"


def unseen_photographs(asked: Asked) -> Iterator[str]:
    """Small precisions with one photograph, by which ranges would be measured and files judged alike."""
    small = [recipe.name for recipe in asked.recipes if recipe.is_small and asked.takers(recipe)]
    images, _ = image_files(asked.config["images"], asked.root)
    if small and len(images) < 2:
        why = f"exports.{small[0]} is in a small precision, and must be judged on photographs that it was not made with"
        yield f"images: {why}; name two at least"


def licences(asked: Asked) -> Iterator[str]:
    """Licences whose text is not there, is a link out of the project, or is too long."""
    for spec in asked.specs:
        if spec.licence:
            path, where = asked.root / spec.licence.text, f"{variant_file(spec.family, spec.name)}: licence.text"
            if not path.is_file():
                yield f"{where}: there is no file {spec.licence.text}"
            elif not path.resolve().is_relative_to(asked.root.resolve()):
                yield f"{where}: {spec.licence.text} is a link to outside of the project; put the text itself there"
            elif path.stat().st_size > LONGEST_LICENCE:
                yield f"{where}: {spec.licence.text} is longer than any licence"


def self_test_variants(asked: Asked) -> Iterator[str]:
    """Variants that the self-test needs and that are not there."""
    if asked.config["parity"]["self_test"]:
        for name in self_test_models().values():
            if name not in asked.variants:
                yield f"parity.self_test: it needs the variant {name}, which has no file in config/variants"


def repositories(asked: Asked) -> Iterator[str]:
    """Clones of publishers' code that no family has, or that are not there."""
    found = {publisher_repository(one) for one in families() if not missing_of(one, "architecture")}
    known = sorted(filter(None, found))
    for name, path in asked.config["reference"]["repositories"].items():
        if name not in known:
            yield f"reference.repositories: {name!r} is not one of {', '.join(known)}"
        elif not Path(path).expanduser().is_dir():
            yield f"reference.repositories.{name}: there is no folder {path}"


def releases(asked: Asked) -> Iterator[str]:
    """Variants without a release, which have no official weights."""
    for spec in asked.specs:
        if asked.config["weights"] == "official" and not spec.released:
            yield (
                f"weights: {spec.name} has no release in its file; use `weights: own` with"
                f" own: {{{spec.name}: path/to/your/checkpoint}}"
            )


def checkpoints(asked: Asked) -> Iterator[str]:
    """Checkpoints that are not there, that Snakemake cannot be given, or where they would be overwritten."""
    for spec in asked.specs:
        if spec.own and (fault := unsayable(Path(spec.own.path))):
            yield f"own.{spec.name}: {fault}"
    names = [spec.name for spec in asked.specs]
    results = Path("results").resolve()
    for spec in asked.specs:
        if spec.own and results in Path(spec.own.path).absolute().parents:
            yield f"own.{spec.name}: {spec.own.path} lies in results/, whose files are made anew; keep it elsewhere"
    for name, path in asked.config["official"]["checkpoints"].items():
        where, place = f"official.checkpoints.{name}", Path(path).expanduser()
        if asked.config["weights"] == "official" and name in names and not place.exists():
            yield f"{where}: there is no file or folder {path}"
        if results in place.absolute().parents:
            yield f"{where}: {path} lies in results/, whose files are made anew; keep it in checkpoints/"


def dense(asked: Asked) -> Iterator[str]:
    """Dense maps that cannot be made."""
    images, _ = image_files(asked.config["images"], asked.root)
    takers = [(recipe, spec) for recipe in asked.recipes for spec in asked.takers(recipe)]
    yield from faults_of_dense(asked.config, list(images), asked.specs, takers)


CHECKS: list[Check] = [
    recipes_without_variant,
    variants_without_recipe,
    sizes_of_recipes,
    cases_of_recipes,
    texts,
    layouts,
    photographs,
    unseen_photographs,
    licences,
    self_test_variants,
    repositories,
    releases,
    checkpoints,
    dense,
]


def _check(file: str, mapping: Mapping[str, Any], schema: Path, *path: str) -> None:
    """Raise `InputError` if what stands at a path of a file is not as a schema says."""
    _raise(file, faults_of(mapping, schema, *path))


def _raise(file: str, faults: Iterable[str]) -> None:
    if sentences := "; ".join(dict.fromkeys(faults)):
        raise InputError(f"{file}: {sentences}.")
