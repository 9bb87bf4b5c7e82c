"""The passport of an ONNX file: what it is, where its weights come from, and how far it is from the original."""

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from onnx.numpy_helper import to_array

from vit2onnx.checkpoints.convert import sha256
from vit2onnx.checkpoints.detect import fitted
from vit2onnx.checkpoints.identity import describe
from vit2onnx.checkpoints.reading import Opened, open_variant
from vit2onnx.errors import InputError, InternalError, first_few
from vit2onnx.exporting.metadata import statements_of, statements_on_weights
from vit2onnx.files import read_json, sha256_of
from vit2onnx.onnx_file import FLOORS, PASSPORT_FORMAT, check_file, described, initializers, metadata
from vit2onnx.packing import pack
from vit2onnx.parity.floors import ROUNDOFF, error, noise_floors
from vit2onnx.parity.verdict import Verdict
from vit2onnx.photographs import given_to
from vit2onnx.precision.statement import reduction_of, tensors_of
from vit2onnx.provenance import versions
from vit2onnx.runners.onnx_constants import computed_constants, origin_of_constants
from vit2onnx.spec.case import Case, of_first_image
from vit2onnx.spec.interface import Interface, cases_in, key_of
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec
from vit2onnx.verify import check_metadata, check_sample
from vit2onnx.weights.keytable import Assignment, LazyTensor, assign, raise_faults, value_of
from vit2onnx.weights.leaves import array_shapes
from vit2onnx.weights.model_file import model_table, open_model, skeleton_of

# Of an output: its values, and the noise floors of its rows.
Values = tuple[np.ndarray, np.ndarray]


def weights_of(spec: VariantSpec, interface: Interface, checkpoint: Path, graph: Path, model: Path) -> dict[str, Any]:
    """Every initializer of a graph: those that are the checkpoint's tensors, with the way from there, and constants.

    Nothing is taken on trust from the steps between: each tensor is read from the checkpoint once more, brought through
    the declared transforms and compared by hash with what the graph holds. Of tensors that are folded, only constants
    are left: these are proved to be computed from what the graph says, and that to be the checkpoint's. Raises
    `InputError` with every weight that differs, and in which file: `model` if it differs there already, from which the
    graph was made.
    """
    opened = open_variant(spec, checkpoint)
    leaves = {one.target: one for one in fitted(spec, opened).assignments}
    stored, (_, of_model), recorded = initializers(graph), open_model(model), origin_of_constants(graph)
    origins = {one.name: to_array(one) for one in recorded.graph.initializer} if recorded else {}
    ways: dict[str, Way] = {}

    # A tensor is needed twice in a row: for the parameter, and for its own hash.
    @lru_cache(maxsize=1)
    def sources_of(name: str) -> dict[str, np.ndarray]:
        return {opened.name(key): opened.tensors[key].read() for key in ways[name].leaf.sources}

    for assignment in assign(model_table(spec), array_shapes(skeleton_of(spec.family, spec.architecture))):
        if assignment.target.startswith(interface.parameter_prefixes):
            (leaf,) = (leaves[source] for source in assignment.sources)
            ways[assignment.target] = Way(leaf, assignment, partial(sources_of, assignment.target))
    reduction = reduction_of(metadata(graph))
    entries = reduction["weights"] if reduction else {}
    of_checkpoint = {name: LazyTensor(way.assignment.shape, "float32", way.value) for name, way in ways.items()}
    wanted = tensors_of(reduction, of_checkpoint) if reduction else of_checkpoint
    weights: dict[str, Any] = {}
    folded: dict[str, Any] = {}
    faults = []
    for name, tensor in wanted.items():
        source = entries[name].get("of", "") if name in entries else name
        held, origin, digest = stored.get(name), origins.get(name), sha256(tensor.read())
        proven = held is not None or origin is not None
        proven &= held is None or (held.shape, held.sha256()) == (tensor.shape, digest)
        proven &= origin is None or sha256(origin) == digest
        if not proven:
            is_in_model = not source or sha256(of_model[source].read()) == sha256(of_checkpoint[source].read())
            file, told = graph if is_in_model else model, ways[source].told if source else "reduction"
            faults.append(f"{name} in {file.name} is not what the checkpoint's {told} gives")
        if source:
            told_of = ways[source].described | {"shape": tensor.shape, "sha256": digest}
            told_of["transforms"] += [entries[name]["as"]] if name in entries else []
            (weights if held else folded)[name] = told_of
    # Another tensor under the name of a parameter would pass for a constant.
    others = [name for name in stored if name in of_checkpoint and name not in wanted]
    faults += [f"{name} in {graph.name} is not what its reduction says" for name in others]
    raise_faults(f"{graph}; delete the file that is named and run again", faults)
    constants = {name: one.sha256() for name, one in stored.items() if name not in weights}
    computed_constants(graph)
    return {"weights": weights, "constants": constants, "folded": folded}


@dataclass(frozen=True)
class Way:
    """The way of a tensor from a checkpoint to a parameter: to a leaf of the archive, and from there."""

    leaf: Assignment
    assignment: Assignment
    # Reads the checkpoint's tensors, by name.
    sources: Callable[[], dict[str, np.ndarray]]

    def value(self) -> np.ndarray:
        """The parameter."""
        return value_of(self.assignment, [value_of(self.leaf, list(self.sources().values()))])

    @property
    def told(self) -> str:
        """Where it comes from, in words."""
        return ", ".join(self.leaf.sources) or self.leaf.transform.name

    @property
    def described(self) -> dict[str, Any]:
        """For a passport: the hashes of its sources, and what was done to them."""
        return {
            "sources": {name: sha256(array) for name, array in self.sources().items()},
            "transforms": [one.transform.name for one in (self.leaf, self.assignment) if one.transform.name != "copy"],
        }


def check_ledger(ledger: Path, opened: Opened, ways: Iterable[Mapping[str, Any]]) -> None:
    """Raise `InputError` if a ledger says of a tensor that it has another hash than it has, or leaves one out.

    `ways` tell of the tensors that have been read already.
    """
    known = {key: digest for way in ways for key, digest in way["sources"].items()}
    with ledger.open(newline="") as file:
        told = {row.get("source"): row.get("sha256") for row in csv.DictReader(file)}
    # Ignored tensors are in the ledger, and no weight comes from them.
    tensors = {opened.name(key): tensor for key, tensor in opened.tensors.items()}
    others = {key: tensor for key, tensor in tensors.items() if key in told and key not in known}
    found = known | {key: sha256(tensor.read()) for key, tensor in others.items()}
    if wrong := [key for key, digest in found.items() if told.get(key) != digest]:
        raise InputError(
            f"{ledger} was edited: it does not have the hash of {first_few(wrong)}; delete it and run again."
        )


def passport_of(
    spec: VariantSpec,
    recipe: Recipe,
    verdict: Verdict,
    *,
    graph: Path,
    checkpoint: Path,
    model: Path,
    record: Path,
    ledger: Path,
    sample: Path,
    whose: str,
    tokenizer: Path | None = None,
    plan: Path | None = None,
    threads: int = 0,
) -> dict[str, Any]:
    """The passport of a graph, which is the gate that it must pass.

    `record` is the file that says what the checkpoint is. Its weights are `whose`: `official`, `own` or `synthetic`.
    `sample` is the file of the graph's recorded inputs, outputs and noise floors, `tokenizer` made the token ids of
    texts in words, and `plan` says which values half precision holds. Raises `InputError` if a weight is not the
    checkpoint's, if the graph did not pass or does not compute its sample, or if a file is not the one that it says it
    is.
    """
    told = read_json(record)
    described_anew = describe(spec, checkpoint, origin=told["origin"], weights=whose)
    if described_anew != told:
        raise InputError(
            f"{record} says something else of {checkpoint} than is true ({described_anew['identity']}); delete"
            f" {record} and run again."
        )
    check_file(graph)
    weights = weights_of(spec, spec.interface_of(recipe), checkpoint, graph, model)
    check_ledger(ledger, open_variant(spec, checkpoint), [*weights["weights"].values(), *weights["folded"].values()])
    if not verdict.passed:
        raise InputError(
            f"{spec.name}/{graph.name} did not pass: {'; '.join(verdict.faults)}. All that was found is in"
            f" {graph.with_suffix('.verdict.json')}."
        )
    stated = metadata(graph)
    wanted = statements_of(spec, recipe) | statements_on_weights(spec, told, sha256_of(ledger))
    other = sorted(key for key, text in wanted.items() if stated.get(key) != text)
    if other == ["checkpoint"]:
        raise InputError(f"{record} says something else of {checkpoint} than {graph} does; delete both and run again.")
    if other == ["ledger_sha256"]:
        raise InputError(f"{ledger} is not the one from which {graph} was made; delete both and run again.")
    if other:
        raise InputError(f"The metadata of {graph} was edited ({', '.join(other)}); delete it and run again.")
    own = described(graph)
    passport = {
        **{key: value for key, value in own.items() if key not in ("version", "weights")},
        "passport": PASSPORT_FORMAT,
        "file": {
            "name": graph.name,
            "bytes": graph.stat().st_size,
            "sha256": sha256_of(graph),
            "external": sorted({one.file.name for one in initializers(graph).values()} - {graph.name}),
        },
        "checkpoint": told,
        "parity": {
            "references": verdict.references,
            "runtime": verdict.runtime,
            **({"tokenizer_sha256": sha256_of(tokenizer)} if tokenizer else {}),
            "findings": [finding.as_data() for finding in verdict.findings],
        },
        "sample": {
            "bytes": sample.stat().st_size,
            "sha256": sha256_of(sample),
            "limit_in_floors": verdict.limits["floors"]["limit"],
            # Noise floors of small precisions are wide.
            **({"least_cosine": verdict.limits["cosine"]["limit"]} if verdict.precision != "float32" else {}),
        },
        "versions": own["versions"] | versions(["equimo", "numpy", "torch"]) | {"vit2onnx": own["version"]},
        **({"certificate": _certificate(plan, graph)} if plan else {}),
        **weights,
    }
    if wrong := [sentence for good, sentence in check_metadata(graph, passport) if not good]:
        raise InternalError(f"{graph} would not be verified by this passport: {'; '.join(wrong)}")
    if wrong := [sentence for good, sentence in check_sample(graph, passport, threads) if not good]:
        raise InputError(f"{graph} does not compute its sample: {'; '.join(wrong)}; delete features/ and run again.")
    return passport


def _certificate(plan: Path, graph: Path) -> dict[str, Any]:
    """The plan of a graph in float16. Raises `InputError` if the graph was made by another."""
    found: dict[str, Any] = read_json(plan)
    reduction = reduction_of(metadata(graph))
    if reduction is None or reduction.get("float32") != found["float32"]:
        raise InputError(f"{graph} was not made by {plan}; delete both and run again.")
    return found


def sample_of(
    interface: Interface,
    recipe: Recipe,
    inputs: Mapping[str, np.ndarray],
    reference: Mapping[str, np.ndarray],
    equinox: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """The first image, text or pair at all sizes that a graph accepts, every output for it in double precision, rounded
    to single, and the noise floors of the output's rows.

    `inputs` are called as `key_of` says; the outputs of reference and Equinox model are too, with the kind before it.
    Noise floors are those of the graph's precision.
    """
    single, chosen_by = interface.compared_as, interface.compared_recipe(recipe)
    first = of_first_image(cases_in(inputs))
    cases = [case for case in first if single.accepts(Case.parse(case), chosen_by)]
    sample: dict[str, np.ndarray] = {}
    exact_by_case: list[dict[str, Values]] = []
    for case in cases:
        given = given_to(interface, single.inputs_of(inputs, case))
        sample |= {f"{port}/{case}": values for port, values in given.items()}
        exact: dict[str, Values] = {}
        for port in single.compared:
            key = key_of(case, port, single.compared)
            truth = reference[f"float64/{key}"]
            errors = [(reference[f"float32/{key}"], truth), (equinox[f"float32/{key}"], equinox[f"float64/{key}"])]
            own = [np.atleast_2d(error(a, b)) for a, b in errors]
            exact[port.name] = truth, ROUNDOFF[recipe.precision] * noise_floors(np.atleast_2d(truth), own)
        exact_by_case.append(exact)
    if interface.packs:
        name = f"{Case.parse(cases[0]).name} at {len(cases)} sizes"
        images = [sample[f"{single.inputs[0].name}/{case}"] for case in cases]
        sample = {f"{port}/{name}": values for port, values in pack(images, interface.patch_size).items()}
        found = {name: _packed_outputs(interface, exact_by_case)}
    else:
        found = {case: _outputs(interface, exact) for case, exact in zip(cases, exact_by_case, strict=True)}
    for case, outputs in found.items():
        for output, (values, floors) in outputs.items():
            sample[f"{output}/{case}"] = values.astype(np.float32)
            sample[f"{FLOORS}/{output}/{case}"] = floors
    return sample


def _outputs(interface: Interface, exact: Mapping[str, Values]) -> dict[str, Values]:
    """All outputs for a case, from those that are compared."""
    found = dict(exact)
    for port in interface.outputs:
        if port.transpose_of:
            # Whose rows are the columns of the other, so that all have its largest floor.
            values, floors = exact[port.transpose_of]
            found[port.name] = values.T, np.full(values.shape[1], floors.max())
        elif port.row_of:
            name, row = port.row_of
            values, floors = exact[name]
            found[port.name] = values[row], np.atleast_1d(floors[row])
    return found


def _packed_outputs(interface: Interface, exact_by_case: Sequence[Mapping[str, Values]]) -> dict[str, Values]:
    """All outputs for a pack of cases, from the tokens of each: CLS, registers, patches."""
    single = interface.compared_as
    (port,) = single.compared
    groups = {group.name: slice(group.start, group.stop) for group in port.groups}
    by_output = {"last_hidden_state": "patches", "pooler_output": "cls", "registers": "registers"}
    found: dict[str, Values] = {}
    for output in interface.outputs:
        rows = groups[by_output[output.name]]
        values, floors = (np.concatenate([exact[port.name][part][rows] for exact in exact_by_case]) for part in (0, 1))
        found[output.name] = values.reshape(-1, *map(int, output.axes[1:])), floors
    return found
