"""Plant every fault in turn, run healthy models beside, and note what the checks say of each."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle, product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vit2onnx.checkpoints.reading import open_checkpoint
from vit2onnx.errors import InputError
from vit2onnx.families.fault import PREPARED, InChain, InModel, InPreprocessing, InWeights, Prepare
from vit2onnx.images import preprocess
from vit2onnx.inputs import image_inputs, pair_inputs
from vit2onnx.parity.finding import Finding
from vit2onnx.parity.metrics import finite, worst
from vit2onnx.parity.preprocessing import compare_preprocessing, judge_preprocessing
from vit2onnx.parity.verdict import faults_of
from vit2onnx.self_test.chain import Chain, Outcome, recipe_of, shrink
from vit2onnx.self_test.verdict import judge_self_test
from vit2onnx.spec.case import Case
from vit2onnx.spec.cases import PAIRS, fixed_size
from vit2onnx.spec.family import families, interfaces_of, part, self_test_models
from vit2onnx.spec.variant import VariantSpec
from vit2onnx.texts import text_input

# Height and width, neither square nor multiples of the patch.
SIZE = (70, 101)

# Sizes of photographs for NaFlex: few patches, many (8 x 31), and one column (40 x 1).
SIZES = [(70, 101), (128, 496), (640, 16)]
# With texts, photographs are cut into more patches than the publisher's own preprocessing makes.
MANY_PATCHES = "-patches300"

# A photograph of one colour, beside the others: a flat input amplifies rounding.
GREY = Image.new("RGB", (300, 200), (128, 120, 110))

# Token ids of the smallest vocabulary: a text that is filled up, one that is cut, and one that is all but empty. Stages
# are those of the first, whose padding shows.
TEXTS = [[3 + 7 * number % 500 for number in range(count)] for count in (9, 80, 0)]

# Published features are of the releases alone.
NOT_TRIPPED = ("golden",)
# In each precision in which a fault shows, the outputs alone must trip one of these limits.
TELLING = {"single": ("floors", "rounding_ratio"), "double": ("floors_double",)}

Limits = Mapping[str, float]
Photographs = Mapping[str, Image.Image]


def plant_faults(
    specs: Mapping[str, VariantSpec],
    photographs: Photographs,
    limits: Limits,
    preprocessing_limits: Limits,
    seeds: int,
    folder: Path,
    threads: int = 1,
) -> dict[str, Any]:
    """Rows on every fault and on healthy models, of so many seeds each, and what is wrong with the checks; plain data.

    `specs` are those of the released variants, which are made small. `folder` takes what is written on the way. Raises
    `InputError` if a variant is missing.
    """
    if missing := [variant for variant in dict.fromkeys(self_test_models().values()) if variant not in specs]:
        raise InputError(
            f"The self-test needs {', '.join(missing)} in config/variants; put them back, or do not ask for it."
        )
    planted: list[dict[str, Any]] = []
    healthy: list[dict[str, Any]] = []
    prepared: list[Finding] = []
    in_preprocessing: list[dict[str, Any]] = []
    for family in families():
        faults, models = part(family, "faults"), part(family, "architecture").MODELS
        for (model, variant), interface in product(models.items(), interfaces_of(family)):
            spec = shrink(specs[variant])
            own = [fault for fault in faults.FAULTS if (fault.model, fault.interface) == (model, interface)]
            if interface not in spec.interfaces:
                continue
            # Packed graphs are tested for models with planted packing faults only; other models add no new code. What
            # prepares photographs has a comparison of its own.
            ports = spec.interface(interface)
            if ports.prepares or (ports.packs and not own):
                continue
            inputs = small_inputs(spec, interface, {**photographs, "grey": GREY})
            recipe, graphs = recipe_of(spec, interface), None
            for seed in range(seeds):
                own_folder = folder / f"{family}_{len(healthy)}"
                amplify = faults.AMPLIFIED.get(model)
                chain = Chain(spec, seed, own_folder, recipe, inputs, limits, amplify, threads)
                name = model if interface == "images" else f"{model}, {interface}"
                healthy.append(healthy_row(name, seed, chain.examine(chain.folder, graphs=graphs)))
                # Graphs hold no weights, so one export serves all seeds, unless constants were folded from weights.
                graphs = graphs or chain.folder
                for fault in own if seed == 0 else ():
                    outcome = examine(chain, fault, folder / f"fault_{len(planted)}")
                    planted.append(chain_row(fault, outcome))
        # The first release: its constants differ from those that the faults plant.
        spec = specs[next(iter(models.values()))]
        prepared += judge_with(preprocess, spec, photographs, preprocessing_limits)
        in_preprocessing += [
            preprocessing_row(fault, spec, photographs, preprocessing_limits) for fault in faults.PREPROCESSING
        ]
    planted += in_preprocessing
    result = {
        "limits": dict(limits),
        "preprocessing_limits": dict(preprocessing_limits),
        "tripped": {
            name: sum(name in row["tripped"] for row in planted)
            for name in (*limits, *preprocessing_limits)
            if name not in NOT_TRIPPED
        },
        "nearest": {
            name: finite(worst(row["shares"][name] for row in healthy if name in row["shares"]))
            for name in limits
            if name not in NOT_TRIPPED
        },
        "faults": planted,
        "healthy": healthy,
        "healthy_preprocessing": {"flagged": faults_of(prepared)},
    }
    return result | {"wrong": judge_self_test(result)}


def small_inputs(spec: VariantSpec, interface: str, photographs: Photographs) -> dict[str, np.ndarray]:
    """Inputs for a small model: every photograph, every text, or all of both together."""
    of_graph = spec.interface(interface)
    ports = of_graph.compared_as
    length = ports.recipe_defaults.get("length") or 0
    if ports.kind == "pair":
        name = PAIRS + (MANY_PATCHES if ports.takes_patches else "")
        case, texts = Case(name, len(photographs), len(TEXTS)), [text_input(ids, length) for ids in TEXTS]
        return pair_inputs(spec, ports, case, photographs.values(), texts)
    if ports.kind == "text":
        return {str(Case(f"text{number}", 1, length)): text_input(ids, length) for number, ids in enumerate(TEXTS)}
    # Patches are of images of any size; others have one, so that they are in one batch.
    one_size = fixed_size(ports, of_graph.compared_recipe(recipe_of(spec, interface))) or SIZE
    sizes = list(map(ports.whole_patches, SIZES)) if ports.takes_patches or of_graph.packs else [one_size]
    found: dict[str, np.ndarray] = {}
    for (name, one), size in zip(photographs.items(), cycle(sizes), strict=False):
        found |= image_inputs(spec, ports, Case(name, *size), one)
    return found


def examine(chain: Chain, fault: InChain, folder: Path) -> Outcome:
    """What the checks say of a healthy chain, whose graphs are made already, with a fault."""
    if isinstance(fault, InModel):
        return chain.examine(folder, model=fault.plant(chain.model))
    if isinstance(fault, InWeights):
        ours = {name: tensor.read() for name, tensor in chain.tensors.items()}
        theirs = {name: tensor.read() for name, tensor in open_checkpoint(chain.checkpoint).items()}
        return chain.examine(folder, graphs=chain.folder, weights=fault.plant(ours, theirs))
    return chain.examine(folder, graphs=chain.folder, graph=fault.change)


def chain_row(fault: InChain, outcome: Outcome) -> dict[str, Any]:
    """Whether outputs alone tell of a fault, in single and in double precision, and whether the stages place it."""
    parted = outcome.divergence
    right = parted is not None and (parted.stage, parted.subject, parted.other) == (fault.stage, *fault.between)
    told = tripped(outcome.of_outputs)
    not_told = [precision for precision in fault.shows_in if not set(TELLING[precision]) & set(told)]
    row = {"fault": fault.name, "planted_in": fault.planted_in, "model": fault.model, "stage": fault.stage}
    row |= caught_by(outcome.of_outputs) | {
        "tripped": tripped(outcome.findings),
        **{name: outcome.measured(name) for name in ("floors", "floors_double", "rounding_ratio")},
        "named_stage": parted.stage if parted else None,
        "between": f"{parted.subject} and {parted.other}" if parted else None,
        "stage_floors": parted.floors if parted else None,
        "shows_in": fault.shows_in,
        "not_told": not_told,
    }
    return row | {"passed": right and not not_told}


def preprocessing_row(
    fault: InPreprocessing, spec: VariantSpec, photographs: Photographs, limits: Limits
) -> dict[str, Any]:
    """Whether a fault in the preparation of photographs is caught; no model sees it, so no stage is named."""
    row = {"fault": fault.name, "planted_in": fault.planted_in, "model": None, "stage": PREPARED}
    findings = judge_with(fault.plant, spec, photographs, limits)
    # By what catches it most clearly: some limits are a grey level, and some faults are not much more.
    row |= caught_by(sorted(findings, key=lambda finding: finding.measured / finding.limit, reverse=True))
    return row | {
        "tripped": tripped(findings),
        **dict.fromkeys(("floors", "floors_double", "rounding_ratio", "named_stage", "between", "stage_floors")),
        "shows_in": (),
        "not_told": [],
        "passed": row["caught"],
    }


def judge_with(prepare: Prepare, spec: VariantSpec, photographs: Photographs, limits: Limits) -> Sequence[Finding]:
    """The findings on a way to prepare photographs."""
    rows = compare_preprocessing(photographs.items(), [SIZE], spec, part(spec.family, "references"), prepare)
    return judge_preprocessing(rows, limits)


def caught_by(findings: Sequence[Finding]) -> dict[str, Any]:
    """The first finding that did not pass, if there is one."""
    by = next((finding for finding in findings if not finding.passed), None)
    return {
        "caught": by is not None,
        "caught_by": by and by.what,
        "measured": finite(by.measured) if by else None,
        "limit": by and by.limit,
    }


def tripped(findings: Iterable[Finding]) -> list[str]:
    """The names of the limits beyond which something is."""
    return sorted({finding.limit_name for finding in findings if finding.limit_name and not finding.passed})


def healthy_row(model: str, seed: int, outcome: Outcome) -> dict[str, Any]:
    """What the checks say of a model without a fault, which should be nothing, and how near each limit it is."""
    return {
        "model": model,
        "seed": seed,
        "flagged": outcome.verdict.faults,
        "max_abs": outcome.max_abs,
        "floors": outcome.measured("floors"),
        "floors_double": outcome.measured("floors_double"),
        "stage_floors": finite(outcome.stages.largest_floors),
        "shares": outcome.shares,
    }
