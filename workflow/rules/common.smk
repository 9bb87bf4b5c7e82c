"""Configuration, checked before any job runs, and what rule files ask about it."""

import atexit
import os
import re
import shlex
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger
from vit2onnx.checkpoints.heads import files_of
from vit2onnx.checkpoints.own import own_variants
from vit2onnx.spec.case import Case, image_files, unread_photographs
from vit2onnx.spec.cases import case_of_stages, cases_of, sizes_of
from vit2onnx.spec.configuration import check_configuration, names_of
from vit2onnx.spec.dense import DenseMaps, expanded
from vit2onnx.errors import InputError
from vit2onnx.handover.package.files import lacking, package_files
from vit2onnx.machine import check_folder, free_memory, settle
from vit2onnx.onnx_file import LICENCE_FILE
from vit2onnx.provenance import code_digest
from vit2onnx.reporting.progress import InOneLine
from vit2onnx.spec.family import families, layout_of, publisher_repository, self_test_models
from vit2onnx.spec.limits import limits_of
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.texts import texts_file, texts_in
from vit2onnx.spec.settings import settings_of
from vit2onnx.spec.variant import VariantSpec

# Not workflow.basedir, which is the user's own folder where this workflow is a module of theirs.
ROOT = Path(workflow.current_basedir).parents[1]

# Every job inherits it.
settle(os.environ)
# Snakemake writes this path into the command of every job without quotes, so a blank in it would end the command.
if os.path.isfile(sys.executable):
    sys.executable = shlex.quote(sys.executable)

# The handlers of the logger `rich`, which needs a terminal, or Snakemake's own.
for handler in workflow.logger_manager.get_log_handlers() or logger.handlers:
    if getattr(handler, "writes_to_stream", True) and not any(isinstance(it, InOneLine) for it in handler.filters):
        is_rich = handler not in logger.handlers
        handler.addFilter(InOneLine(progress=is_rich and not workflow.dryrun and not sys.stderr.isatty()))

try:
    check_folder(Path.cwd())
    config = settings_of(config, ROOT, workflow.config_settings.config, map(Path, workflow.configfiles))
    VARIANTS = check_configuration(config, ROOT, own_variants)
    TEXTS_FILE = texts_file(config, ROOT)
    TEXTS = texts_in(TEXTS_FILE, config["texts"])
except InputError as error:
    raise WorkflowError(str(error)) from None

# What the config asks for: names of variants, and photographs by name.
LISTED = names_of(config, VARIANTS)
IMAGES, _ = image_files(config["images"], ROOT)
if workflow.is_main_process and (unread := unread_photographs(config["images"])):
    logger.warning(f"Left out: {', '.join(unread)}. Save them as JPEG or PNG to have them compared.")
RECIPES = {name: Recipe.from_mapping(name, recipe) for name, recipe in config["exports"].items()}


def spec_of(variant):
    return VariantSpec.from_mapping(variant, VARIANTS[variant])


DENSE = DenseMaps(config["dense"], spec_of, RECIPES, list(IMAGES))

# Jobs on this machine share the memory that is free, unless --resources mem_mb=… says otherwise; one that asks for more
# runs alone.
if workflow.local_exec and "mem_mb" not in workflow.global_resources:
    workflow.register_resource("mem_mb", free_memory() // 10**6)


wildcard_constraints:
    variant="|".join(map(re.escape, VARIANTS)),
    export="|".join(map(re.escape, config["exports"])),
    # Besides clones, the config has a key for each further reference that any variant has.
    reference="|".join(["transformers", "publisher", *sorted(config["reference"].keys() - {"repositories"})]),
    # Not those of the recipes, because a packed graph is compared on cases of another interface.
    interface="[a-z]+",
    pair="|".join(map(re.escape, DENSE.pairs)) or "(?!)",


def bundled(path):
    """The path of a file of the project, as it is written where Snakemake runs in the project's folder."""
    return path if ROOT == Path.cwd() else str(ROOT / path)


def exports_of(variant):
    """The names of the recipes that a variant can take."""
    return [name for name, recipe in RECIPES.items() if recipe.interface in spec_of(variant).interfaces]


def compared_as(variant, export):
    """The interface on whose cases a graph is compared, and the recipe by which these are chosen."""
    interface = spec_of(variant).interface_of(RECIPES[export])
    return interface.compared_as, interface.compared_recipe(RECIPES[export])


def packed_exports_of(variant):
    """The names of those recipes of a variant that pack images."""
    return [name for name in exports_of(variant) if spec_of(variant).interface(RECIPES[name].interface).packs]


def packing_of(wildcards):
    """The comparison of the images of a packed graph; nothing for other graphs."""
    is_packed = wildcards.export in packed_exports_of(wildcards.variant)
    return "<results>/{variant}/parity/{export}.packing.json" if is_packed else []


def photographs_of(wildcards):
    """The comparison of the photographs that a graph prepares itself; nothing for other graphs."""
    interface = spec_of(wildcards.variant).interface(RECIPES[wildcards.export].interface)
    return "<results>/{variant}/parity/{export}.photographs.json" if interface.prepares else []


def dense_of(wildcards):
    """The comparison of the dense maps of a graph; nothing for a graph that has none."""
    is_judged = DENSE.is_judged(wildcards.variant, wildcards.export)
    return "<results>/{variant}/parity/{export}.dense.json" if is_judged else []


def stages_of(wildcards):
    """The comparison of the stages of a graph, if asked for; nothing in small precisions, which have other nodes."""
    is_asked = config["parity"]["stages"] and not RECIPES[wildcards.export].is_small
    return "<results>/{variant}/parity/{export}.stages.json" if is_asked else []


def ranges_of(wildcards):
    """How large values in a graph of small precision become; nothing for others."""
    return "<results>/{variant}/ranges/{export}.npz" if RECIPES[wildcards.export].is_small else []


def plan_of(wildcards):
    """What half precision may hold of the values in such a graph; nothing for others."""
    is_half = RECIPES[wildcards.export].precision == "float16"
    return "<results>/{variant}/ranges/{export}.plan.json" if is_half else []


def of_all_graphs(file_of):
    """The files of one kind of all graphs of a variant; `file_of` gives that of a graph, or nothing."""
    return lambda wildcards: of_graphs(file_of, wildcards.variant, exports_of(wildcards.variant))


def of_graphs(file_of, variant, names):
    """The files of one kind of some graphs, each once; `file_of` is a pattern, or gives that of a graph, or nothing."""
    files = {
        name: file_of(SimpleNamespace(variant=variant, export=name)) if callable(file_of) else file_of for name in names
    }
    return list(dict.fromkeys(file.replace("{export}", name) for name, file in files.items() if file))


# What the verdict on a graph is made from, by name.
EVIDENCE = {
    "graph": "<results>/{variant}/{export}.onnx",
    "record": "<results>/{variant}/checkpoint.json",
    "comparison": "<results>/{variant}/parity/{export}.json",
    "preprocessing": "<results>/{variant}/preprocessing.json",
    "packing": packing_of,
    "photographs": photographs_of,
    "dense": dense_of,
    "stages": stages_of,
}
if config["parity"]["self_test"]:
    EVIDENCE["self_test"] = "<results>/self_test.json"


def recipes_of(variant):
    """The recipes by which the cases of a variant are chosen."""
    return [compared_as(variant, export)[1] for export in exports_of(variant)]


def interfaces_of(variant):
    """The names of the interfaces on whose cases the graphs of a variant are compared."""
    return sorted({recipe.interface for recipe in recipes_of(variant)})


def per_graph(pattern, variants=LISTED):
    """Paths of a file that every graph has, of some variants."""
    return [path for variant in variants for path in expand(pattern, variant=variant, export=exports_of(variant))]


def clone_of(variant):
    """The user's clone of the code of a variant's publisher, if there is one."""
    return config["reference"]["repositories"].get(publisher_repository(VARIANTS[variant]["family"]))


def references(wildcards):
    """Names of the implementations that a variant's exports are compared with. Every variant has the first."""
    further = spec_of(wildcards.variant).architecture.further_references
    asked = [name for name in further if config["reference"][name]]
    return ["transformers", *(["publisher"] if clone_of(wildcards.variant) else []), *asked]


def interface_of(wildcards):
    """The name of the interface of a graph."""
    return RECIPES[wildcards.export].interface


def compared_interface_of(wildcards):
    """The name of the interface on whose cases a graph is compared."""
    return compared_as(wildcards.variant, wildcards.export)[0].name


def interfaces_at(wildcards):
    """The interfaces that a job is about: that of its graph, the one that it names, or all of its variant."""
    if hasattr(wildcards, "export"):
        return [compared_as(wildcards.variant, wildcards.export)[0]]
    names = [wildcards.interface] if hasattr(wildcards, "interface") else interfaces_of(wildcards.variant)
    return [spec_of(wildcards.variant).interface(name, asked_outputs(wildcards.variant, name)) for name in names]


def asked_outputs(variant, interface):
    """What a variant's graphs that are compared as an interface give besides what it has by itself, all together."""
    return list(spec_of(variant).interface(interface).asked_outputs(recipes_of(variant)))


def of_graph(name):
    """The arrays that a graph is compared by: inputs, or features of an implementation."""
    return lambda wildcards: f"<results>/{{variant}}/features/{compared_interface_of(wildcards)}.{name}.npz"


def features_of_references(wildcards):
    """The features of all references of a variant that a graph is compared with."""
    pattern = "<results>/{variant}/features/{interface}.{reference}.npz"
    names = {"interface": compared_interface_of(wildcards), "reference": references(wildcards)}
    return expand(pattern, variant=wildcards.variant, **names)


def repository_of(wildcards):
    """The clone that a reference is run from, if it is the publisher's code."""
    return clone_of(wildcards.variant) if wildcards.reference == "publisher" else None


def synthetic_weights(wildcards):
    """How a variant's synthetic weights are made, if they are asked for."""
    layout = layout_of(VARIANTS[wildcards.variant]["family"], config["synthetic"]["layout"])
    return config["synthetic"] | {"layout": layout} if config["weights"] == "synthetic" else None


def own_files(wildcards):
    """The files of the user's own checkpoint, if the variant is one."""
    own = VARIANTS[wildcards.variant].get("own")
    return list(map(str, files_of(Path(own["path"])))) if own else []


def own_state(wildcards):
    """What changes if another file is put where the user's own checkpoint is, also with an older time."""
    states = [Path(file).stat() for file in own_files(wildcards)]
    return [f"{state.st_size} {state.st_mtime_ns} {state.st_ino}" for state in states]


def own_model(wildcards):
    """How many copies of the weights a reference holds: transformers fills a user's own model with all at once."""
    return 2 if VARIANTS[wildcards.variant].get("own") else 0


def golden_image():
    """The photograph by whose published features official weights are known, if it is there."""
    image = config["official"]["golden_image"] if config["weights"] == "official" else None
    return [str(Path(image).expanduser())] if image else []


def listed_sizes():
    return [tuple(size) for size in config["parity"]["sizes"]]


def texts(wildcards):
    """The file of texts, for jobs that have texts."""
    return [str(TEXTS_FILE)] if any(one.kind != "image" for one in interfaces_at(wildcards)) else []


def tokenizer(wildcards):
    """The tokenizer by which words become token ids, where there are texts in words."""
    in_words = any(isinstance(text, str) for text in TEXTS.values())
    return [str(Path(config["tokenizer"]).expanduser())] if in_words and texts(wildcards) else []


def asked_cases(variant):
    """What the config asks to compare a variant on, as `cases_of` takes it."""
    sizes = [*listed_sizes(), *spec_of(variant).architecture.telling_sizes]
    pairs = [tuple(pair) for pair in config["parity"]["pairs"]]
    return {"images": list(IMAGES), "texts": list(TEXTS), "sizes": sizes, "pairs": pairs}


def compared_cases(wildcards):
    """The cases that graphs of an interface are compared on, as texts."""
    (interface,) = interfaces_at(wildcards)
    return list(map(str, cases_of(interface, recipes_of(wildcards.variant), **asked_cases(wildcards.variant))))


def compared_sizes(wildcards):
    """The sizes of images at which a variant's graphs are compared."""
    asked = asked_cases(wildcards.variant)["sizes"]
    of_images = [one for one in interfaces_at(wildcards) if one.kind == "image"]
    return sorted({size for one in of_images for size in sizes_of(one, recipes_of(wildcards.variant), asked)})


def stages_case(wildcards):
    """The case on which the stages of a graph are compared."""
    asked = asked_cases(wildcards.variant) | {"sizes": listed_sizes()}
    return str(case_of_stages(*compared_as(wildcards.variant, wildcards.export), **asked))


def of_pair(pattern):
    """A file of both variants of a pair."""
    return lambda wildcards: expand(pattern, variant=DENSE.pairs[wildcards.pair])


def limits(wildcards):
    """The limits by which a graph is judged, by name, and those of the preprocessing."""
    return limits_of(config["limits"], RECIPES[wildcards.export].precision)


def code_of(script):
    """The digest of the code that a script runs for a variant: that of the engines, and of the variant's family."""
    return lambda wildcards: code_digest(script, VARIANTS[wildcards.variant]["family"])


def memory_for(base, layers=0, weights=0, cases=0):
    """Memory in MB: `base`, and so many copies of a variant's largest layer, of all its weights, and of the inputs and
    outputs of all cases.

    About 1.5 times the memory measured for ViT-S to H+ (max_rss in the benchmarks). `weights` may be a function of the
    wildcards.
    """

    def memory(wildcards):
        spec, asked = spec_of(wildcards.variant), asked_cases(wildcards.variant)
        elements = sum(
            interface.elements(case)
            for interface in interfaces_at(wildcards)
            for case in cases_of(interface, recipes_of(wildcards.variant), **asked)
        )
        copies = weights(wildcards) if callable(weights) else weights
        numbers = layers * spec.architecture.layer_parameters + copies * spec.parameters + cases * elements
        return base + round(4 * numbers / 1e6)

    return memory


def memory_for_maps(base, layers=0, weights=0, maps=0, heads=0):
    """Memory in MB, as `memory_for`, and so many copies of the last maps of all cases, and the attention of so many heads
    within the largest case, in double precision.
    """
    of_weights = memory_for(base, layers, weights)

    def memory(wildcards):
        interface = DENSE.interface(wildcards.variant)
        channels = interface.patches[0].axes[-1]
        sizes = [interface.sizes(Case.parse(case)) for case in DENSE.cases(wildcards.variant)]
        patches = [size["grid_height"] * size["grid_width"] for size in sizes]
        copies = maps + 2 * len(config["dense"]["layers"])
        numbers = copies * sum(patches) * channels + heads * max(patches) ** 2
        return of_weights(wildcards) + round(8 * numbers / 1e6)

    return memory


def memory_for_pair(base, maps):
    """Memory in MB for a job on two models: `base`, and so many copies of the maps of both."""
    of_one = memory_for_maps(0, maps=maps)

    def memory(wildcards):
        return base + sum(of_one(SimpleNamespace(variant=one)) for one in DENSE.pairs[wildcards.pair])

    return memory


def archive():
    """The archive's path, which is deleted after use if the config does not keep it."""
    path = "<results>/{variant}/archive.tar.lz4"
    return path if config["keep_archive"] else temp(path)


def weights_of_graph(wildcards):
    """How many parameters a graph holds."""
    (interface,) = interfaces_at(wildcards)
    return spec_of(wildcards.variant).parameters_of(interface)


def weights_are_external(wildcards):
    """Whether a graph's weights are in a file beside it, because they are large."""
    size = RECIPES[wildcards.export].bytes_per_weight * weights_of_graph(wildcards)
    return size > 1e6 * config["external_weights_above_mb"]


def weights_beside(wildcards):
    """The file that holds external weights: model.eqx for all graphs in single precision, or a graph's own."""
    if not weights_are_external(wildcards):
        return []
    is_own = RECIPES[wildcards.export].is_small
    return "<results>/{variant}/{export}.onnx_data" if is_own else "<results>/{variant}/model.eqx"


def packed_weights(wildcards):
    """How many copies of a graph's weights onnxruntime holds: external weights are mapped from their file."""
    return 0 if weights_are_external(wildcards) else 2


def in_package(file_of):
    """The files of one kind of all graphs that go into the package of a variant; `file_of` gives that of a graph."""

    def paths(wildcards):
        return of_graphs(file_of, wildcards.variant, packaged(wildcards.variant))

    return paths


@cache
def packaged(variant):
    """The recipes whose graphs go into the package of a variant. Warns of files that it lacks."""
    # Here, because only the target package needs it, and every job on a cluster reads the Snakefile.
    from vit2onnx.handover.package.config import processor_config

    files = package_files(spec_of(variant), RECIPES.values())
    # Refuses graphs whose inputs one file cannot describe.
    processor_config(spec_of(variant), files)
    if workflow.is_main_process and (missing := lacking(spec_of(variant), files)):
        logger.warning(missing)
    return [file.recipe.name for file in files]


def licence_of(wildcards):
    """The licence that goes along with a variant's weights; nothing for random ones."""
    is_licensed = VARIANTS[wildcards.variant].get("licence") and config["weights"] != "synthetic"
    return f"<results>/{{variant}}/{LICENCE_FILE}" if is_licensed else []


def dense_pages():
    """The pages on dense maps of all variants that have any, and of pairs; none if they are not asked for."""
    if not DENSE.enabled:
        return []
    variants = [variant for variant in LISTED if DENSE.has_maps(variant)]
    return [
        *expand("<results>/{variant}/dense/dense.html", variant=variants),
        *expand("<results>/dense/{pair}/dense.html", pair=DENSE.pairs),
    ]


def show_summary(complete):
    """Show the verdicts at the very end, because the logger's live display would be drawn over them."""
    # Here, because it takes a second, and every job on a cluster reads the Snakefile.
    from vit2onnx.reporting.terminal import print_summary

    # Not relative, because Snakemake goes back to where it was called from before it exits.
    folder = Path("results", config["weights"]).absolute()
    judged = {
        folder / variant / f"{export}.verdict.json": limits(SimpleNamespace(export=export))
        for variant in LISTED
        for export in exports_of(variant)
    }
    maps = [path for path in judged if DENSE.is_judged(path.parent.name, path.name.removesuffix(".verdict.json"))]
    pages = [folder / page.removeprefix("<results>/") for page in dense_pages()]
    of_self_test = limits_of(config["limits"], "float32")
    asked = config["parity"]
    atexit.register(print_summary, folder, judged, of_self_test, asked, maps=maps, pages=pages, complete=complete)


def everything_asked_for():
    of_graph = ["{export}.onnx", "{export}.passport.json"]
    per_run = ["summary.csv", "summary.html"]
    if config["parity"]["self_test"]:
        per_run.append("self_test.html")
    licensed = [name for name in LISTED if VARIANTS[name].get("licence") and config["weights"] != "synthetic"]
    beside = {name: of_graphs(weights_beside, name, exports_of(name)) for name in LISTED}
    return [
        *(path for file in of_graph for path in per_graph(f"<results>/{{variant}}/{file}")),
        *(path for name, files in beside.items() for path in expand(files, variant=name)),
        *expand("<results>/{variant}/{file}", variant=LISTED, file=["parity.html", "verify.py"]),
        *expand("<results>/{variant}/packing.py", variant=filter(packed_exports_of, LISTED)),
        *expand(f"<results>/{{variant}}/{LICENCE_FILE}", variant=licensed),
        *dense_pages(),
        *expand("<results>/{file}", file=per_run),
    ]
