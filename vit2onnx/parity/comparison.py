"""Compare an exported graph with the float64 truth, with references and with the Equinox model."""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from vit2onnx.files import sha256_of
from vit2onnx.onnx_file import is_external, metadata, operator_sets
from vit2onnx.parity.divergence import DOUBLE, TRUTH
from vit2onnx.parity.floors import DOUBLE_TO_SINGLE, UNIT, error, in_floors, noise_floors, rms, token_floors
from vit2onnx.parity.metrics import difference, finite, standard_deviation, token_groups
from vit2onnx.parity.semantics import compare_semantics, view
from vit2onnx.parity.verdict import DOUBLE_GRAPH, GRAPH_RUNS, PUBLISHED
from vit2onnx.runners.onnx import session_of
from vit2onnx.runners.onnx_double import run_in_double
from vit2onnx.spec.case import GOLDEN, Case
from vit2onnx.spec.family import part
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec

logger = logging.getLogger(__name__)
Features = Mapping[Case, np.ndarray]

# How the graph is run. As users run it, with all of onnxruntime's optimisations; and as it is written, so that a
# fault of the optimiser and a fault of the export are told apart.
LEVELS = (ort.GraphOptimizationLevel.ORT_ENABLE_ALL, ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
RUNS = dict(zip(GRAPH_RUNS, LEVELS, strict=True))
# The distribution of differences is told by these quantiles, by their names.
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
# So many photographs, the worst, have a map of their error; each takes some kilobytes, and a page shows no more.
MAX_ERROR_MAPS = 6
# Of numpy's names for types.
ORT_NAMES = {"float32": "float", "int64": "int64"}


@dataclass(frozen=True)
class Check:
    """One question that is answered by yes or no, of the graph as it was run if `subject` names that."""

    name: str
    passed: bool
    detail: str
    subject: str = ""


def interface(session: ort.InferenceSession, spec: VariantSpec, recipe: Recipe) -> Check:
    """Whether names, types and dimensions of inputs and outputs are the promised ones."""
    found = {
        value.name: f"{value.type} {dimensions(value.shape)}"
        for value in (*session.get_inputs(), *session.get_outputs())
    }
    promised = spec.interface(recipe.interface)
    wanted = {
        port.name: f"tensor({ORT_NAMES[port.dtype]}) {dimensions(promised.shape(port, recipe.sizes))}"
        for port in promised.ports
    }
    wrong = [
        f"{name} is {found.get(name, 'missing')} instead of {wanted.get(name, 'nothing')}"
        for name in wanted | found
        if found.get(name) != wanted.get(name)
    ]
    return Check("interface", not wrong, "; ".join(wrong) or ", ".join(f"{name} {x}" for name, x in found.items()))


def dimensions(shape: Iterable[int | str]) -> str:
    """A shape in words."""
    return " x ".join(map(str, shape))


def promises(path: Path, spec: VariantSpec, recipe: Recipe) -> Check:
    """Whether what a file says of itself is true: its operator set, its variant, and how its input is prepared."""
    own = metadata(path)
    interface, prepared = spec.interface(recipe.interface), spec.preprocessing
    wanted = {
        "opset": recipe.opset,
        "variant": spec.name,
        "export": recipe.name,
        "mean": list(prepared.mean),
        "std": list(prepared.std),
        "interpolation": prepared.interpolation,
        **interface.facts,
    }
    facts = {key: json.loads(own.get(key, "null")) for key in interface.facts}
    structured = {**json.loads(own.get("preprocessing", "{}")), **facts}
    said = {**own, **structured, "opset": operator_sets(path).get("")}
    wrong = [
        f"{name} is {said.get(name)} instead of {value}" for name, value in wanted.items() if said.get(name) != value
    ]
    return Check("metadata", not wrong, "; ".join(wrong) or ", ".join(wanted))


def run_graph(
    session: ort.InferenceSession, pixel_values: Features, batch: int, spec: VariantSpec
) -> tuple[list[dict[Case, np.ndarray]], list[Check]]:
    """Features of every case, run in batches of one size, and what was seen of the outputs' shapes.

    The last batch is filled up with images from the front, so that every place in a batch is looked at: what these give
    there comes as further sets of features. Features of a wrong shape are left out, because nothing can be compared
    with them.
    """
    interface = spec.interface()
    (image,), (last, pooler) = interface.inputs, interface.outputs
    results: dict[Case, list[np.ndarray]] = {}
    wrong_shape, wrong_pooler = [], []
    sizes = dict.fromkeys((case.height, case.width) for case in pixel_values)
    for size in sizes:
        cases = [case for case in pixel_values if (case.height, case.width) == size]
        for start in range(0, len(cases), batch):
            chunk = [cases[i % len(cases)] for i in range(start, start + batch)]
            feed = {image.name: np.stack([pixel_values[case] for case in chunk])}
            tokens, pooled = session.run([last.name, pooler.name], feed)
            sizes_of_chunk = {"batch": batch, **chunk[0].sizes}
            if tokens.shape != interface.shape(last, sizes_of_chunk) or tokens.dtype != np.float32:
                wrong_shape.append(f"{chunk[0]}: {dimensions(tokens.shape)} {tokens.dtype}")
                continue
            if not np.array_equal(tokens[:, 0], pooled):
                wrong_pooler.append(str(chunk[0]))
            for case, one in zip(chunk, tokens, strict=True):
                results.setdefault(case, []).append(one)
    infinite = [str(case) for case, found in results.items() if not all(np.isfinite(x).all() for x in found)]
    most = max(map(len, results.values()), default=1)
    sets = [{case: found[i] for case, found in results.items() if i < len(found)} for i in range(most)]
    passed = f"batch {batch}: {len(results)} inputs"
    return sets, [
        Check("shapes", not wrong_shape, "; ".join(wrong_shape) or passed),
        Check("pooler_output is CLS", not wrong_pooler, "; ".join(wrong_pooler) or passed),
        Check(
            "finite",
            not infinite and bool(results),
            f"NaN or infinity at {'; '.join(infinite)}" if infinite else passed,
        ),
    ]


def try_graph(
    path: Path,
    level: ort.GraphOptimizationLevel,
    threads: int,
    pixel_values: Features,
    batch: int,
    spec: VariantSpec,
    recipe: Recipe,
) -> tuple[list[dict[Case, np.ndarray]], list[Check]]:
    """Features of every case and what was seen; a graph that does not load or run is a finding, not an end.

    The session ends with the call, so that no two are in memory at once.
    """
    try:
        session = session_of(path, level, threads)
        sets, seen = run_graph(session, pixel_values, batch, spec)
    # Any exception, because onnxruntime has none in common to all of its own.
    except Exception as problem:
        return [{}], [_does_not_run(path, problem)]
    return sets, [interface(session, spec, recipe), *seen]


def try_in_double(
    path: Path, pixel_values: Features, spec: VariantSpec, recipe: Recipe
) -> tuple[dict[Case, np.ndarray], Check]:
    """Features of every case in double precision; features of a wrong shape are left out."""
    try:
        found = run_in_double(path, {str(case): x for case, x in pixel_values.items()}, recipe.batch or 1)
    # Any exception, because a faulty graph makes numpy raise what it likes.
    except Exception as problem:
        return {}, _does_not_run(path, problem)
    features = {Case.parse(case): x for case, x in found.items()}
    wrong = wrong_shapes({DOUBLE_GRAPH: {"float64": features}}, pixel_values, spec)
    detail = "; ".join(sentence for sentences in wrong.values() for sentence in sentences) or f"{len(found)} inputs"
    return {case: x for case, x in features.items() if case not in wrong}, Check("shapes", not wrong, detail)


def _does_not_run(path: Path, problem: Exception) -> Check:
    logger.error("%s does not run", path, exc_info=problem)
    return Check("runs", False, f"{type(problem).__name__}: {problem}")


def by_kind(arrays: Mapping[str, np.ndarray]) -> dict[str, dict[Case, np.ndarray]]:
    """Features as they stand in files, `float32/{case}`, `float64/{case}` and `native/{case}`, by kind and case."""
    features: dict[str, dict[Case, np.ndarray]] = {"float32": {}, "float64": {}, "native": {}}
    for key, array in arrays.items():
        kind, _, case = key.partition("/")
        features[kind][Case.parse(case)] = array
    return features


def wrong_shapes(
    implementations: Mapping[str, Mapping[str, Features]], pixel_values: Features, spec: VariantSpec
) -> dict[Case, list[str]]:
    """By input, which features of which implementation are not as many tokens and channels as they should be."""
    interface = spec.interface()
    wrong: dict[Case, list[str]] = {}
    for name, kinds in implementations.items():
        for kind, features in kinds.items():
            for case in pixel_values:
                _, *shape = interface.shape(interface.features, case.sizes)
                if case in features and features[case].shape != tuple(shape):
                    wrong.setdefault(case, []).append(f"{name} ({kind}) of {case}: {dimensions(features[case].shape)}")
    return wrong


def compare_features(
    subject: str,
    other: str,
    a: Features,
    b: Features,
    spec: VariantSpec,
    batch: int,
    floors: Mapping[Case, np.ndarray] | None = None,
) -> Iterator[dict[str, Any]]:
    """One row per case and group of tokens; `scale` is the standard deviation of all features of `b`.

    With `floors`, a row also has the error of its worst token in noise floors. The mean of all patches, which is no
    token, is measured in the smallest floor.
    """
    interface = spec.interface()
    port = interface.features
    for case in a:
        groups = token_groups(b[case], port)
        units = token_groups(floors[case], port) | {"patches_mean": floors[case].min()} if floors else {}
        scale = standard_deviation(b[case])
        for group, tokens in token_groups(a[case], port).items():
            row = {"subject": subject, "other": other, **asdict(case), "batch": batch, "group": group}
            row |= asdict(difference(tokens, groups[group])) | {"scale": scale}
            if units:
                row |= asdict(in_floors(tokens, groups[group], units[group]))
            if group == "patches":
                row["columns"] = interface.size("grid_width", case.sizes)
            yield row


def distribution(subject: str, other: str, a: Features, b: Features, batch: int) -> dict[str, Any]:
    """How the differences of all elements of all cases are distributed, and which image has the largest.

    `median_image` is the median over the images of their largest difference. Figures that are not finite are `None`.
    """
    worst: dict[str, float] = {}
    deltas = []
    with np.errstate(invalid="ignore"):
        for case, features in a.items():
            delta = np.abs(features.astype(np.float64) - b[case]).ravel()
            worst[case.image] = max(worst.get(case.image, 0.0), np.nan_to_num(delta.max(), nan=np.inf))
            deltas.append(delta)
    pooled = np.concatenate(deltas)
    is_finite = bool(np.isfinite(pooled).all())
    quantiles = np.quantile(pooled, list(QUANTILES.values())) if is_finite else [np.nan] * len(QUANTILES)
    figures = {**dict(zip(QUANTILES, quantiles, strict=True)), "max": pooled.max()}
    return {
        **{"subject": subject, "other": other, "batch": batch, "images": len(worst), "count": pooled.size},
        **{name: finite(value) for name, value in figures.items()},
        "worst_image": max(worst, key=worst.__getitem__),
        "median_image": finite(np.median(list(worst.values()))),
    }


def error_maps(
    subject: str,
    a: Features,
    truth: Features,
    floors: Mapping[Case, np.ndarray],
    spec: VariantSpec,
    batch: int,
) -> list[dict[str, Any]]:
    """Where in a photograph a graph is off: one map per photograph, at the size where its worst patch is.

    `floors` is a grid [rows][columns] of patches, each with its error in noise floors to three digits, or `None` if
    that is not finite. The worst photographs come first, `MAX_ERROR_MAPS` at most. That whose features are published
    is none of the user's.
    """
    interface = spec.interface()
    patches_of = next(group for group in interface.features.groups if group.grid)
    worst: dict[str, tuple[float, Case, np.ndarray]] = {}
    for case in a:
        if case == GOLDEN:
            continue
        patches = token_floors(a[case], truth[case], floors[case])[patches_of.start :]
        largest = float(np.nan_to_num(patches, nan=np.inf).max())
        if case.image not in worst or largest > worst[case.image][0]:
            worst[case.image] = largest, case, patches
    found = []
    for _, case, patches in sorted(worst.values(), key=lambda one: (-one[0], one[1]))[:MAX_ERROR_MAPS]:
        rows, columns = (int(interface.size(axis, case.sizes)) for axis in patches_of.grid or ())
        grid = patches.reshape(rows, columns)
        found.append(
            {"subject": subject, "other": TRUTH, **asdict(case), "batch": batch}
            | {"rows": rows, "columns": columns, "patch_size": interface.least["height"]}
            | {"floors": [[float(f"{x:.3g}") if np.isfinite(x) else None for x in row] for row in grid]}
        )
    return found


def compare_golden(subject: str, features: Features, spec: VariantSpec, batch: int) -> Iterator[dict[str, Any]]:
    """Two rows, CLS and the first patch, on the image whose features are published; none without it."""
    if not spec.golden or GOLDEN not in features:
        return
    published = {
        "cls": (0, spec.golden.cls),
        "patches": (spec.interface().features.groups[-1].start, spec.golden.patch),
    }
    for group, (token, values) in published.items():
        found = features[GOLDEN][token : token + 1, : len(values)]
        row = {"subject": subject, "other": PUBLISHED, **asdict(GOLDEN), "batch": batch, "group": group}
        yield row | asdict(difference(found, np.array([values])))


def known_differences(
    cause: str,
    name: str,
    graph: Features,
    reference: Mapping[str, Features],
    equinox: Mapping[str, Features],
    floors: Mapping[Case, np.ndarray],
) -> Iterator[dict[str, Any]]:
    """One row per case on how far a graph is from a reference that is run as it is by itself, which differs by `cause`.

    What that changes is known from the Equinox model in double precision: `expected`. `unexplained` is the
    largest difference that is left without it, and `floors` that of the worst token, in noise floors.
    """
    for case, native in reference["native"].items():
        if case in graph:
            expected = equinox["native"][case] - equinox["float64"][case]
            delta = native.astype(np.float64) - graph[case]
            figures = {"max_abs": delta, "expected": expected, "unexplained": delta - expected}
            yield {
                "reference": name,
                "cause": cause,
                **asdict(case),
                **{key: finite(np.abs(value).max()) for key, value in figures.items()},
                **asdict(in_floors(delta, expected, floors[case])),
            }


def own_rounding(
    implementations: Mapping[str, Mapping[str, Features]], truth: Features
) -> tuple[list[dict[str, Any]], dict[Case, np.ndarray]]:
    """What single precision does to every implementation, against its own double precision, and the noise floors.

    One row per case and implementation: the root mean square of its error, and that as a multiple of the first one's;
    both count as one unit in the last place at least. The floors [tokens] are by case, of the first and of Equinox.
    """
    rows, floors = [], {}
    for case, true in truth.items():
        errors = {
            name: error(kinds["float32"][case], kinds["float64"][case]) for name, kinds in implementations.items()
        }
        of_first = next(iter(errors.values()))
        floors[case] = noise_floors(true, (of_first, errors["equinox"]))
        unit = UNIT * rms(true)
        first = max(rms(of_first), unit)
        for name, own in ((name, rms(one)) for name, one in errors.items()):
            multiple = finite(max(own, unit) / first) if 0 < first < np.inf else None
            rows.append({"subject": name, **asdict(case), "rms": finite(own), "multiple": multiple})
    return rows, floors


def compare_outputs(
    spec: VariantSpec,
    recipe: Recipe,
    graph: Path,
    pixel_values: Features,
    references: Mapping[str, Mapping[str, Features]],
    equinox: Mapping[str, Features],
    batch_sizes: Sequence[int],
    threads: int,
) -> dict[str, Any]:
    """Measure everything that the verdict on a graph needs; nothing is judged here.

    `references` and `equinox` hold features by kind. The float64 features of the first reference are the truth. The
    result is plain data: rows of differences and answers to checks.
    """
    pixel_values = {case: x for case, x in pixel_values.items() if recipe.accepts(case.sizes)}
    asked = [str(case) for case in pixel_values]
    checks = [promises(graph, spec, recipe)]
    implementations = {**references, "equinox": equinox}
    wrong = wrong_shapes(implementations, pixel_values, spec)
    detail = "; ".join(found for sentences in wrong.values() for found in sentences) or f"{len(asked)} inputs"
    checks.append(Check("shapes of reference and Equinox model", not wrong, detail))
    # Nothing can be compared with those.
    pixel_values = {case: x for case, x in pixel_values.items() if case not in wrong}
    first = next(iter(references))

    def taken(features: Features) -> Features:
        return {case: features[case] for case in pixel_values}

    truth = taken(references[first]["float64"])
    rounding, floors = own_rounding(implementations, truth)
    # What double precision does to one.
    double_floors = {case: DOUBLE_TO_SINGLE * x for case, x in floors.items()}
    rows: list[dict[str, Any]] = []
    distributions: list[dict[str, Any]] = []

    def compare(subject: str, other: str, a: Features, b: Features, batch: int = 1) -> None:
        units = None if other != TRUTH else double_floors if subject.endswith(DOUBLE) else floors
        rows.extend(compare_features(subject, other, a, b, spec, batch, units))
        if a:
            distributions.append(distribution(subject, other, a, b, batch))

    for name, features in implementations.items():
        single = taken(features["float32"])
        compare(name, TRUTH, single, truth)
        rows += compare_golden(name, features["float32"], spec, 1)
        if name != first:
            compare(f"{name}{DOUBLE}", TRUTH, taken(features["float64"]), truth)
            compare(name, first, single, references[first]["float32"])
    for name in (name for name in references if name != first):
        compare("equinox", name, taken(equinox["float32"]), references[name]["float32"])
    in_double, check = try_in_double(graph, pixel_values, spec, recipe)
    checks.append(replace(check, subject=DOUBLE_GRAPH))
    compare(DOUBLE_GRAPH, TRUTH, in_double, truth)

    prefix, patch = spec.interface().features.groups[-1].start, spec.interface().least["height"]
    true_view = view(truth, prefix, patch)
    # What rounding alone does, to hold the graph's figures against.
    semantics = [
        compare_semantics(name, TRUTH, view(taken(features["float32"]), prefix, patch), true_view, batch=1)
        for name, features in references.items()
    ]
    known: list[dict[str, Any]] = []
    cause = part(spec.family, "architecture").KNOWN_DIFFERENCE or ""
    maps: list[dict[str, Any]] = []
    batches = list(batch_sizes) if recipe.batch is None else [recipe.batch]
    for run, level in RUNS.items():
        for batch in batches:
            (found, *again), seen = try_graph(graph, level, threads, pixel_values, batch, spec, recipe)
            checks += [replace(check, subject=run) for check in seen]
            for repeated in again:
                rows.extend(compare_features(run, TRUTH, repeated, truth, spec, batch, floors))
                for name, features in references.items():
                    rows.extend(compare_features(run, name, repeated, features["float32"], spec, batch))
            compare(run, TRUTH, found, truth, batch)
            compare(run, "equinox", found, equinox["float32"], batch)
            rows += compare_golden(run, found, spec, batch)
            for name, features in references.items():
                compare(run, name, found, features["float32"], batch)
            if run == GRAPH_RUNS[0] and not known:
                known = [
                    row
                    for name, features in references.items()
                    for row in known_differences(cause, name, found, features, equinox, floors)
                ]
            if (run, batch) == (GRAPH_RUNS[0], batches[0]):
                maps = error_maps(run, found, truth, floors, spec, batch)
            # Other batches are near enough to the first for that, as the differences tell.
            if batch == batches[0]:
                seen_by_users = view(found, prefix, patch) if found.keys() == pixel_values.keys() else None
                semantics.append(compare_semantics(run, TRUTH, seen_by_users, true_view, batch=batch))
    return {
        "variant": spec.name,
        "export": recipe.name,
        "graph_sha256": sha256_of(graph),
        "references": list(references),
        "asked": {"cases": asked, "batches": batches},
        "runtime": {
            "onnxruntime": ort.__version__,
            "provider": "CPUExecutionProvider",
            "threads": threads,
            "packed_weights": not is_external(graph),
        },
        "checks": [asdict(check) for check in checks],
        "rounding": rounding,
        "differences": rows,
        "distributions": distributions,
        "semantics": semantics,
        "known_differences": known,
        "error_maps": maps,
    }
