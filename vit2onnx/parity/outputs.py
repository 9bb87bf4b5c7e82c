"""Compare what an exported graph gives with the float64 truth, with references and with the Equinox model."""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from vit2onnx.errors import InputError
from vit2onnx.exporting.metadata import statements_of
from vit2onnx.files import open_arrays
from vit2onnx.packing import unpack
from vit2onnx.parity.comparison import Comparison, Pair, pairs_of
from vit2onnx.parity.floors import DOUBLE_TO_SINGLE, ROUNDOFF, UNIT, error, in_floors, noise_floors, rms, token_floors
from vit2onnx.parity.metrics import difference, finite, standard_deviation, token_groups
from vit2onnx.parity.photographs import PHOTOGRAPHS, are_grey, no_evidence, photographs_of, sentence_of
from vit2onnx.parity.semantics import compare_semantics, view
from vit2onnx.spec.case import GOLDEN, Case
from vit2onnx.spec.family import part
from vit2onnx.spec.interface import Interface, Port, cases_in
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.subject import DOUBLE, GRAPH_RUNS, PUBLISHED, TRUTH
from vit2onnx.spec.variant import VariantSpec

# Named arrays as a runner has written them.
Arrays = Mapping[str, np.ndarray]
# What an implementation gives, by case and output.
Outputs = Mapping[str, np.ndarray]
Features = Mapping[Case, Outputs]
# The noise floors of the rows of every output, by case.
Floors = Mapping[Case, Outputs]

# The axes that say how many rows and columns of patches an image has.
GRID = ("grid_height", "grid_width")
# Quantiles that describe a distribution of differences, by name.
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
# The name of the check that there is more than one text.
TEXTS = "texts are evidence"
# The worst photographs that get a map of their error; a page shows no more.
MAX_ERROR_MAPS = 6


@dataclass(frozen=True)
class Check:
    """One question that is answered by yes or no, of the graph as it was run if `subject` names that."""

    name: str
    passed: bool
    detail: str
    subject: str = ""


def check_ports(ports: Mapping[str, Any], interface: Interface, recipe: Recipe, run: str) -> Check:
    """Whether names, types and dimensions of inputs and outputs are the promised ones."""
    seen = {name: f"{dtype} {dimensions(shape)}" for name, (dtype, shape) in ports.items()}
    promised = {
        port.name: f"{port.dtype} {dimensions(interface.shape(port, interface.of_recipe(recipe)))}"
        for port in interface.ports
    }
    wrong = [
        f"{name} is {seen.get(name, 'missing')} instead of {promised.get(name, 'nothing')}"
        for name in promised | seen
        if seen.get(name) != promised.get(name)
    ]
    told = "; ".join(wrong) or ", ".join(f"{name} {port}" for name, port in seen.items())
    return Check("interface", not wrong, told, run)


def dimensions(shape: Iterable[int | str]) -> str:
    """A shape in words."""
    return " x ".join(map(str, shape))


def check_promises(graph: Mapping[str, Any], spec: VariantSpec, recipe: Recipe) -> Check:
    """Whether what a file says of itself is true: its operator set, and all that follows from variant and recipe."""
    wanted = {"opset": recipe.opset, **statements_of(spec, recipe)}
    said = {"opset": graph["operator_sets"].get(""), **graph["metadata"]}
    wrong = [
        f"{name} is {said.get(name)} instead of {value}" for name, value in wanted.items() if said.get(name) != value
    ]
    return Check("metadata", not wrong, "; ".join(wrong) or ", ".join(wanted))


def outputs_of(
    graph: Arrays, run: Mapping[str, Any], interface: Interface
) -> tuple[list[dict[Case, Outputs]], list[Check]]:
    """What one run of a graph gives for every case, and what was seen of its outputs.

    A case that was run more than once, to fill batches, has further outputs, which come as further sets. So every place
    in a batch is looked at. Outputs of a wrong shape are left out, because nothing can be compared with them.
    """
    name, batch = run["run"], run["batch"]
    features: dict[Case, list[Outputs]] = {}
    wrong_shape, infinite = [], []
    wrong_parts: dict[str, list[str]] = {_part_of(port): [] for port in interface.outputs if _part_of(port)}
    for number, given in enumerate(run["batches"]):
        # What only fills a batch has no name.
        places = {place: Case.parse(case) for place, case in enumerate(given) if case}
        first = next(iter(places.values()))
        sizes = _sizes_of_pack(places.values(), interface) or {**interface.sizes(first), "batch": batch}
        keys = {port: f"{name}/{batch}/{number}/{port.name}" for port in interface.outputs}
        arrays = {port.name: graph[key] for port, key in keys.items() if key in graph}
        wrong = []
        for port in interface.outputs:
            array = arrays.get(port.name)
            dtype = "float64" if name.endswith(DOUBLE) else port.dtype
            if array is None:
                wrong.append(f"{first}: {port.name} is missing")
            elif array.shape != interface.shape(port, sizes) or array.dtype != dtype:
                wrong.append(f"{first}: {port.name} {dimensions(array.shape)} {array.dtype}")
        wrong_shape += wrong
        if wrong:
            continue
        for port in interface.outputs:
            if not _is_part(port, arrays):
                wrong_parts[_part_of(port)].append(str(first))
        for case, own in _by_case(places, arrays, interface):
            # Behind the rows that mean something, what is there means nothing, but for a number it must be.
            if not all(np.isfinite(array).all() for array in own.values()):
                infinite.append(str(case))
            ports = interface.compared_as.compared
            compared = {port.name: own[port.name][: interface.rows(port, str(case))] for port in ports}
            features.setdefault(case, []).append(compared)
    most = max(map(len, features.values()), default=1)
    sets = [{case: places[i] for case, places in features.items() if i < len(places)} for i in range(most)]
    passed = f"batch {batch}: {len(features)} inputs" if batch else f"{len(features)} inputs"
    checks = [
        Check("shapes", not wrong_shape, "; ".join(wrong_shape) or passed, name),
        *(Check(what, not cases, "; ".join(cases) or passed, name) for what, cases in wrong_parts.items()),
        Check(
            "finite",
            not infinite and bool(features),
            f"NaN or infinity at {'; '.join(dict.fromkeys(infinite))}" if infinite else passed,
            name,
        ),
    ]
    return sets, checks


def _sizes_of_pack(cases: Collection[Case], interface: Interface) -> dict[str, int]:
    """How many images and patches a pack of cases has; nothing if the interface packs nothing."""
    if not interface.packs:
        return {}
    return {"images": len(cases), "patches": int(_grids(cases, interface.packs).prod(axis=1).sum())}


def _grids(cases: Iterable[Case], single: Interface) -> np.ndarray:
    """The `grid_thw` [images, 3] of cases of single images."""
    return np.array([[1, *(single.size(axis, single.sizes(case)) for axis in GRID)] for case in cases])


def _by_case(places: Mapping[int, Case], arrays: Arrays, interface: Interface) -> Iterator[tuple[Case, Outputs]]:
    """The outputs of a run for each case, by its place in the batch or pack."""
    if not interface.packs:
        for place, case in places.items():
            yield case, {port: array[place] if interface.is_batched else array for port, array in arrays.items()}
        return
    single = interface.packs
    for case, image in zip(places.values(), unpack(arrays, _grids(places.values(), single)), strict=True):
        yield case, {single.compared[0].name: image.tokens}


def _part_of(port: Port) -> str:
    """That an output is a part of another, in words; nothing if it is none."""
    if port.row_of:
        return f"{port.name} is row {port.row_of[1]} of {port.row_of[0]}"
    return f"{port.name} is the transpose of {port.transpose_of}" if port.transpose_of else ""


def _is_part(port: Port, arrays: Arrays) -> bool:
    """Whether an output is the part of another that it should be."""
    if port.row_of:
        return np.array_equal(arrays[port.row_of[0]][:, port.row_of[1]], arrays[port.name])
    return not port.transpose_of or np.array_equal(arrays[port.transpose_of].T, arrays[port.name])


def checks_of_run(run: Mapping[str, Any], checks: list[Check], interface: Interface, recipe: Recipe) -> list[Check]:
    """All that was seen of a run, with `checks` of its outputs."""
    if run["error"]:
        return [Check("runs", False, run["error"], run["run"])]
    return [check_ports(run["ports"], interface, recipe, run["run"]), *checks] if run["ports"] else checks


def by_kind(arrays: Arrays, interface: Interface) -> dict[str, dict[Case, Outputs]]:
    """Outputs by kind (`float32`, `float64`, `native`) and case, from arrays as they stand in files."""
    found: dict[str, dict[Case, Outputs]] = {"float32": {}, "float64": {}, "native": {}}
    names = [port.name for port in interface.compared]
    for key in arrays:
        kind, _, rest = key.partition("/")
        case, _, port = rest.partition("/")
        name = port or names[0]
        # An implementation may have been run for other graphs too, which have more outputs.
        if name in names:
            found[kind].setdefault(Case.parse(case), {})[name] = arrays[key]  # type: ignore[index]
    return found


def wrong_shapes(
    implementations: Mapping[str, Mapping[str, Features]], cases: Iterable[Case], interface: Interface
) -> dict[Case, list[str]]:
    """By input, which outputs of which implementation are not as many rows and channels as they should be."""
    wrong: dict[Case, list[str]] = {}
    for case in cases:
        for port in interface.compared:
            shape = interface.shape(port, interface.sizes(case))[1 if interface.is_batched else 0 :]
            rows = interface.rows(port, str(case))
            wanted = tuple(shape) if rows is None else (rows, *shape[1:])
            for name, kinds in implementations.items():
                for kind, features in kinds.items():
                    found = features[case].get(port.name) if case in features else None
                    if case in features and (found is None or found.shape != wanted):
                        seen = "missing" if found is None else dimensions(found.shape)
                        wrong.setdefault(case, []).append(f"{name} ({kind}) of {case}, {port.name}: {seen}")
    return wrong


def compare_features(
    pair: Pair, a: Features, b: Features, interface: Interface, floors: Floors | None = None
) -> Iterator[dict[str, Any]]:
    """One row per case and group of rows; `scale` is the standard deviation of all that the output has in `b`.

    With `floors`, a row also has the error of its worst token in noise floors. The mean of all patches, which is no
    token, is measured in the smallest floor.
    """
    for case in a:
        for port in interface.compared:
            ours, theirs = (np.atleast_2d(x[case][port.name]) for x in (a, b))
            groups = token_groups(theirs, port)
            units = token_groups(floors[case][port.name], port) if floors else {}
            scale = standard_deviation(theirs)
            for group, tokens in token_groups(ours, port).items():
                row = {"subject": pair.subject, "other": pair.other, **case.columns, "batch": pair.batch}
                row |= {"group": group} | asdict(difference(tokens, groups[group])) | {"scale": scale}
                if floors:
                    own = floors[case][port.name].min() if group.endswith("_mean") else units[group]
                    row |= asdict(in_floors(tokens, groups[group], own))
                if group == "logits":
                    row["probability"] = finite(np.abs(_sigmoid(tokens) - _sigmoid(groups[group])).max())
                if group == "patches":
                    row["columns"] = interface.size("grid_width", interface.sizes(case))
                yield row


def _times(factor: float, floors: Floors) -> Floors:
    return {case: {port: factor * values for port, values in outputs.items()} for case, outputs in floors.items()}


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        probabilities: np.ndarray = 1 / (1 + np.exp(-logits.astype(np.float64)))
    return probabilities


def distribution(pair: Pair, a: Features, b: Features) -> dict[str, Any]:
    """How the differences of all elements of all cases are distributed, and which image has the largest.

    `median_image` is the median over the images of their largest difference. Figures that are not finite are `None`.
    """
    worst: dict[str, float] = {}
    deltas = []
    with np.errstate(invalid="ignore"):
        for case, outputs in a.items():
            own = [np.abs(x.astype(np.float64) - b[case][port]).ravel() for port, x in outputs.items()]
            delta = np.concatenate(own)
            worst[case.name] = max(worst.get(case.name, 0.0), np.nan_to_num(delta.max(), nan=np.inf))
            deltas.append(delta)
    pooled = np.concatenate(deltas)
    is_finite = bool(np.isfinite(pooled).all())
    quantiles = np.quantile(pooled, list(QUANTILES.values())) if is_finite else [np.nan] * len(QUANTILES)
    figures = {**dict(zip(QUANTILES, quantiles, strict=True)), "max": pooled.max()}
    return {
        **{"subject": pair.subject, "other": pair.other, "batch": pair.batch},
        **{"images": len(worst), "count": pooled.size},
        **{name: finite(value) for name, value in figures.items()},
        "worst_image": max(worst, key=worst.__getitem__),
        "median_image": finite(np.median(list(worst.values()))),
    }


def error_maps(pair: Pair, a: Features, truth: Features, floors: Floors, interface: Interface) -> list[dict[str, Any]]:
    """Where in a photograph a graph is off: one map per photograph, at the size where its worst patch is.

    `floors` is a grid [rows][columns] of patches, each with its error in noise floors to three digits, or `None` if
    that is not finite. The worst photographs come first, `MAX_ERROR_MAPS` at most. The published photograph
    is left out, because it is not the user's. There is none where no output has patches.
    """
    found = interface.patches
    if found is None:
        return []
    port, patches_of = found
    worst: dict[str, tuple[float, Case, np.ndarray]] = {}
    for case in a:
        if case == GOLDEN:
            continue
        ours, true = a[case][port.name], truth[case][port.name]
        patches = token_floors(ours, true, floors[case][port.name])[patches_of.start :]
        largest = float(np.nan_to_num(patches, nan=np.inf).max())
        if case.name not in worst or largest > worst[case.name][0]:
            worst[case.name] = largest, case, patches
    maps = []
    for _, case, patches in sorted(worst.values(), key=lambda entry: (-entry[0], entry[1]))[:MAX_ERROR_MAPS]:
        rows, columns = (int(interface.size(axis, interface.sizes(case))) for axis in patches_of.grid or ())
        grid = patches.reshape(rows, columns)
        maps.append(
            {"subject": pair.subject, "other": pair.other, **case.columns, "batch": pair.batch}
            | {"rows": rows, "columns": columns, "patch_size": interface.patch_size}
            | {"floors": [[float(f"{x:.3g}") if np.isfinite(x) else None for x in row] for row in grid]}
        )
    return maps


def compare_golden(subject: str, features: Features, spec: VariantSpec, batch: int) -> Iterator[dict[str, Any]]:
    """One row per token whose features are published, on the image that they are of; none without it."""
    if not spec.golden or GOLDEN not in features:
        return
    (port, *_) = spec.interface().compared
    tokens = features[GOLDEN][port.name]
    for token, values in spec.golden.tokens:
        group = next(group.name for group in reversed(port.groups) if group.start <= token)
        ours = tokens[token : token + 1, : len(values)]
        if ours.shape != (1, len(values)):
            raise InputError(
                f"{spec.name}: `golden` has {len(values)} values of token {token}, and the model has tokens"
                f" {dimensions(tokens.shape)}; correct the file of the variant."
            )
        row = {"subject": subject, "other": PUBLISHED, **GOLDEN.columns, "batch": batch, "group": group}
        yield row | asdict(difference(ours, np.array([values])))


def known_differences(
    cause: str,
    name: str,
    graph: Features,
    reference: Mapping[str, Features],
    equinox: Mapping[str, Features],
    floors: Floors,
) -> Iterator[dict[str, Any]]:
    """One row per case on how far a graph is from a reference that is run as it is by itself, which differs by `cause`.

    The Equinox model in double precision tells the effect of that: `expected`. `unexplained` is the
    largest difference that is left without it, and `floors` that of the worst token, in noise floors.
    """
    for case, outputs in reference["native"].items():
        for port in outputs if case in graph else ():
            expected = equinox["native"][case][port] - equinox["float64"][case][port]
            delta = outputs[port].astype(np.float64) - graph[case][port]
            figures = {"max_abs": delta, "expected": expected, "unexplained": delta - expected}
            yield {
                "reference": name,
                "cause": cause,
                **case.columns,
                **{key: finite(np.abs(value).max()) for key, value in figures.items()},
                **asdict(in_floors(delta, expected, floors[case][port])),
            }


def own_rounding(
    implementations: Mapping[str, Mapping[str, Features]], truth: Features
) -> tuple[list[dict[str, Any]], Floors]:
    """What single precision does to every implementation, against its own double precision, and the noise floors.

    One row per case, output and implementation: the root mean square of its error, and that as a multiple of the first
    one's; both count as one unit in the last place at least. The floors [rows] are by case and output, of the first and
    of Equinox.
    """
    rows: list[dict[str, Any]] = []
    floors: dict[Case, dict[str, np.ndarray]] = {}
    for case, outputs in truth.items():
        floors[case] = {}
        for port, true in outputs.items():
            errors = {
                name: np.atleast_2d(error(kinds["float32"][case][port], kinds["float64"][case][port]))
                for name, kinds in implementations.items()
            }
            of_first = next(iter(errors.values()))
            floors[case][port] = noise_floors(np.atleast_2d(true), (of_first, errors["equinox"]))
            unit = UNIT * rms(true)
            first = max(rms(of_first), unit)
            for name, own in ((name, rms(values)) for name, values in errors.items()):
                multiple = finite(max(own, unit) / first) if 0 < first < np.inf else None
                rows.append({"subject": name, **case.columns, "output": port, "rms": finite(own), "multiple": multiple})
    return rows, floors


def compare_files(
    spec: VariantSpec,
    recipe: Recipe,
    arrays: Mapping[str, Path],
    references: Mapping[str, Path],
    batch_sizes: Sequence[int],
) -> Comparison:
    """The comparison of what runners have written; `arrays` are the files of all but the references."""
    with ExitStack() as stack:
        opened = {name: stack.enter_context(open_arrays(path)) for name, path in {**arrays, **references}.items()}
        named = {name: opened[name] for name in references}
        inputs, interface = opened["inputs"], spec.interface_of(recipe).compared_as
        found = compare_outputs(spec, recipe, cases_in(inputs), named, opened["equinox"], opened["onnx"], batch_sizes)
        return replace(found, checks=[*found.checks, asdict(check_evidence(inputs, spec, interface))])


def check_evidence(inputs: Arrays, spec: VariantSpec, interface: Interface) -> Check:
    """Whether a photograph can show a fault, and which ones cannot; or whether texts differ."""
    images = photographs_of(inputs, interface)
    if images is None:
        texts = {inputs[case].tobytes() for case in cases_in(inputs)}
        return Check(TEXTS, len(texts) > 1, f"{len(texts)} different texts")
    reasons = no_evidence(images, spec.preprocessing)
    names = {case.name for case in map(Case.parse, images) if case != GOLDEN}
    told = f"; not evidence: {sentence_of(reasons)}" if reasons else ""
    count = len(names - reasons.keys())
    if count and are_grey(images, spec.preprocessing):
        told += "; they are all grey, so colours swapped in preparing them would not show"
    return Check(PHOTOGRAPHS, count > 0, f"{count} of {len(names)} photographs can show a fault{told}")


def compare_outputs(
    spec: VariantSpec,
    recipe: Recipe,
    cases: Iterable[str],
    references: Mapping[str, Arrays],
    equinox: Arrays,
    graph: Arrays,
    batch_sizes: Sequence[int],
) -> Comparison:
    """Measure everything that the verdict on a graph needs, from what runners have written; nothing is judged here.

    `references` and `equinox` hold outputs by kind and case, `graph` is what `run_graph` gives. What the first
    reference gives in double precision is the truth. Packed images are compared one by one.
    """
    of_graph = spec.interface_of(recipe)
    interface = of_graph.compared_as
    seen = json.loads(str(graph["seen"]))
    runs = {(run["run"], run["batch"]): run for run in seen["runs"]}
    chosen_by = of_graph.compared_recipe(recipe)
    asked = [case for case in map(Case.parse, cases) if interface.accepts(case, chosen_by)]
    batches = of_graph.batches(recipe, batch_sizes, len(asked))
    pairs = pairs_of(list(references), batches, of_graph.batch_in_double(recipe, len(asked)))

    implementations = {name: by_kind(arrays, interface) for name, arrays in {**references, "equinox": equinox}.items()}
    wrong = wrong_shapes(implementations, asked, interface)
    told = "; ".join(sentence for sentences in wrong.values() for sentence in sentences) or f"{len(asked)} inputs"
    checks = [check_promises(seen["graph"], spec, recipe)]
    checks.append(Check("shapes of reference and Equinox model", not wrong, told))

    def taken(features: Features) -> Features:
        # Nothing can be compared with those of a wrong shape.
        return {case: features[case] for case in asked if case not in wrong}

    first = next(iter(references))
    truth = taken(implementations[first]["float64"])
    single = {name: taken(kinds["float32"]) for name, kinds in implementations.items()}
    others = {TRUTH: truth, **single}
    rounding, floors = own_rounding(implementations, truth)
    units_of = {
        "double": _times(DOUBLE_TO_SINGLE, floors),
        "graph": _times(ROUNDOFF[recipe.precision], floors),
    }

    true_view = view(truth, interface)
    rows: list[dict[str, Any]] = []
    distributions: list[dict[str, Any]] = []
    semantics: list[dict[str, Any]] = []
    known: list[dict[str, Any]] = []
    maps: list[dict[str, Any]] = []
    looked_at: set[str] = set()
    cause = part(spec.family, "architecture").KNOWN_DIFFERENCE or ""
    features: Features
    repeated: Sequence[Features]
    for (subject, batch), own_pairs in groupby(pairs, key=lambda pair: (pair.subject, pair.batch)):
        if run := runs.get((subject, batch)):
            sets, seen_of_outputs = outputs_of(graph, run, of_graph)
            checks += checks_of_run(run, seen_of_outputs, of_graph, recipe)
            features, *repeated = ({case: x for case, x in places.items() if case in truth} for places in sets)
        else:
            name = subject.removesuffix(DOUBLE)
            features, repeated = single.get(subject) or taken(implementations[name]["float64"]), []
        if not subject.endswith(DOUBLE):
            rows += compare_golden(subject, features, spec, batch)
        for pair in own_pairs:
            units = units_of.get(pair.kind, floors) if pair.other == TRUTH else None
            for places in (features, *repeated):
                rows += compare_features(pair, places, others[pair.other], interface, units)
            if features:
                distributions.append(distribution(pair, features, others[pair.other]))
            # The original shows what rounding alone does. Other batches are not looked at, because the differences show
            # that they are near the first.
            if pair.kind in ("original", "graph") and subject not in looked_at:
                whole = view(features, interface) if features.keys() == truth.keys() else None
                semantics.append(compare_semantics(subject, TRUTH, whole, true_view, batch=batch))
                if subject == GRAPH_RUNS[0]:
                    maps = error_maps(pair, features, truth, units_of["graph"], interface)
                    for name in references:
                        kinds = implementations[name], implementations["equinox"]
                        known += known_differences(cause, name, features, *kinds, units_of["graph"])
                looked_at.add(subject)
    return Comparison(
        variant=spec.name,
        export=recipe.name,
        graph_sha256=seen["graph"]["sha256"],
        runtime=seen["runtime"],
        references=list(references),
        cases=list(map(str, asked)),
        pairs=list(map(asdict, pairs)),
        checks=list(map(asdict, checks)),
        rounding=rounding,
        differences=rows,
        distributions=distributions,
        semantics=semantics,
        known_differences=known,
        error_maps=maps,
        kind=interface.kind,
        precision=recipe.precision,
    )
