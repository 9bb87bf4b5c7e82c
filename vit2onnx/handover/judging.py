"""Judge a graph from the files on it: for its verdict, and once more for its passport, which believes no verdict."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from vit2onnx.errors import InputError, first_few
from vit2onnx.files import read_json, sha256_of
from vit2onnx.onnx_file import bytes_of, metadata
from vit2onnx.packing import pack
from vit2onnx.packing.probes import EXACT, EXCHANGED, ROUNDED, noise, wrong_inputs
from vit2onnx.parity.comparison import Comparison, Row, case_of
from vit2onnx.parity.dense_comparison import BEFORE_NORM, IMPLEMENTATIONS, NORMS, PATCHES, DenseComparison, keys_of
from vit2onnx.parity.divergence import StageComparison
from vit2onnx.parity.finding import Finding
from vit2onnx.parity.metrics import finite
from vit2onnx.parity.packing import PackingComparison, mixed
from vit2onnx.parity.preprocessing import PUBLISHER, lacking_photographs
from vit2onnx.parity.verdict import Verdict, judge_graph
from vit2onnx.runners.packing import LEVELS
from vit2onnx.self_test.verdict import finding_of, judge_self_test
from vit2onnx.spec.case import GOLDEN, MODES, Case
from vit2onnx.spec.subject import TRUTH, WHOLE_INPUTS

# How far figures may be apart that two processors compute from the same arrays, as a share of figure or limit.
TOLERANCE = 0.01


def judge_files(
    evidence: Mapping[str, Path], limits: Mapping[str, Mapping[str, Any]], comparison: Comparison | None = None
) -> Verdict:
    """The verdict by all files of `evidence`: the inputs of the rule `judge_graph`, by name.

    A `comparison` that was made anew is judged instead of the file's. Raises `InputError` if it is of another graph.
    """
    graph, stages, self_test = evidence["graph"], evidence.get("stages"), evidence.get("self_test")
    comparison = comparison or Comparison.read(evidence["comparison"])
    if comparison.graph_sha256 != sha256_of(graph):
        raise InputError(
            f"{evidence['comparison']} is of another {graph.name}; delete features/{graph.name}.npz and run again."
        )
    preprocessing = read_json(evidence["preprocessing"])["differences"]
    photographs = read_json(evidence["photographs"]) if "photographs" in evidence else None
    compared = StageComparison.read(stages) if stages else None
    packing = PackingComparison.read(evidence["packing"]) if "packing" in evidence else None
    dense = DenseComparison.read(evidence["dense"]) if "dense" in evidence else None
    tested = read_json(self_test) if self_test else None
    takes_patches = "spatial_shapes" in metadata(graph).get("tokens", "")
    _check_rows(evidence["preprocessing"], _lacking_preparation(comparison, preprocessing, takes_patches=takes_patches))
    if "preparation" in metadata(graph) and not photographs:
        raise InputError(f"{graph} prepares photographs, and there is no comparison of that; run compare_photographs.")
    if photographs:
        if photographs["graph_sha256"] != comparison.graph_sha256:
            raise InputError(f"{evidence['photographs']} is of another {graph.name}; delete it and run again.")
        names = dict.fromkeys(case.name for case in map(Case.parse, comparison.cases) if case != GOLDEN)
        _check_rows(evidence["photographs"], lacking_photographs(photographs["differences"], names))
        preprocessing = [*preprocessing, *photographs["differences"]]
    if stages and compared:
        _check_rows(stages, lacking_stages(compared))
    tokens = json.loads(metadata(graph).get("tokens", "{}"))
    if "values" in tokens and not packing:
        raise InputError(f"{graph} packs images, and there is no probe of it; run align_packing.")
    for name, other in (("packing", packing), ("dense", dense)):
        if other and other.graph_sha256 != comparison.graph_sha256:
            raise InputError(f"{evidence[name]} is of another {graph.name}; delete it and run again.")
    if packing:
        _check_rows(evidence["packing"], lacking_packing(packing, comparison, tokens["patch_size"]))
    if dense:
        _check_rows(evidence["dense"], lacking_dense(dense, comparison))
    if self_test and tested and (wrong := judge_self_test(tested)) != tested["wrong"]:
        _check_rows(self_test, wrong or ["what it says is wrong"])
    return judge_graph(
        comparison,
        limits,
        read_json(evidence["record"]),
        preprocessing,
        compared,
        finding_of(tested) if tested else None,
        packing,
        dense,
        bytes=bytes_of(graph),
        evidence={os.path.relpath(path, graph.parent): sha256_of(path) for path in evidence.values()},
    )


def _check_rows(path: Path, lacking: Sequence[str]) -> None:
    if lacking:
        raise InputError(
            f"{path} was edited: its rows do not bear out {first_few(lacking, '; ')}; delete it and run again."
        )


def _lacking_preparation(comparison: Comparison, rows: Sequence[Row], *, takes_patches: bool) -> list[str]:
    """Inputs of a graph of which no row says that others prepare them in the same way."""
    if comparison.kind == "text":
        return []
    # Whole inputs are prepared at sizes of their own.
    of_images = [row for row in rows if "image" in row and row["other"] != WHOLE_INPUTS]
    found = {(row["other"], case_of(row)) for row in of_images}
    others = dict.fromkeys([PUBLISHER, *(row["other"] for row in of_images)])
    # A pair is of several images, which its case does not name.
    of_pairs = dict.fromkeys(case_of(row) for row in of_images)
    cases = (
        [case for case in comparison.cases if Case.parse(case) != GOLDEN] if comparison.kind == "image" else of_pairs
    )
    lacking = [f"{case} as {other} prepares it" for other in others for case in cases if (other, case) not in found]
    whole = {row["image"] for row in rows if row["other"] == WHOLE_INPUTS}
    names = dict.fromkeys(Case.parse(case).name for case in cases if takes_patches)
    return lacking + [f"{name} as {WHOLE_INPUTS} prepares it" for name in names if name not in whole]


def lacking_packing(packing: PackingComparison, comparison: Comparison, patch_size: int) -> list[str]:
    """Probes of images, and wrong inputs at levels of optimisation, that were not tried as they should be."""
    cases, others = mixed([case for case in comparison.cases if Case.parse(case) != GOLDEN]), list(noise(patch_size))
    about = ("variant", "export")
    lacking = [name for name in about if getattr(packing, name) != getattr(comparison, name)]
    lacking += [] if list(packing.images) == cases + others else ["all images"]
    grids = {image: Case.parse(image) for image in cases + others}
    exchanged = [image for image, case in grids.items() if case.height // patch_size != case.width // patch_size]
    wanted = {(probe, image) for probe in (*EXACT, *ROUNDED) for image in grids}
    wanted |= {(TRUTH, image) for image in cases} | {("reference", image) for image in cases}
    wanted |= {(EXCHANGED, image) for image in exchanged}
    found = [(row["probe"], row["image"]) for row in packing.rows]
    if len(found) != len(wanted) or {*found} != wanted:
        lacking.append("each image in each probe once")
    if any(row["judged"] != (row["image"] in cases) for row in packing.rows):
        lacking.append("the noise floors of photographs")
    some = pack([np.zeros((3, patch_size, 2 * patch_size), np.float32)], patch_size)
    tried = sorted((row["wrong"], row["level"]) for row in packing.refusals)
    if tried != sorted(product((wrong for wrong, *_ in wrong_inputs(some["pixel_values"], some["grid_thw"])), LEVELS)):
        lacking.append("each wrong input at each level")
    return lacking


def lacking_dense(dense: DenseComparison, comparison: Comparison) -> list[str]:
    """Maps of photographs that were not compared, in every implementation, as they should be."""
    lacking = [name for name in ("variant", "export") if getattr(dense, name) != getattr(comparison, name)]
    cases, compared = list(map(Case.parse, dense.cases)), map(Case.parse, comparison.cases)
    photographs = {case.name for case in compared if case != GOLDEN}
    sizes = {(case.height, case.width) for case in cases}
    if sorted(case.name for case in cases) != sorted(photographs) or len(sizes) != 1:
        lacking.append("each photograph once, all at one size")
    # Every layer has norms, and there is one layer at least.
    layers = sum(name.startswith(f"{NORMS}.") for name in dense.maps) or 1
    if not {PATCHES, BEFORE_NORM, *(f"{NORMS}.{number}" for number in range(layers))} <= {*dense.maps}:
        lacking.append("all maps")
    wanted = sorted(product(IMPLEMENTATIONS, map(str, cases), dense.maps))
    if sorted((row["subject"], case_of(row), row["map"]) for row in dense.rows) != wanted:
        lacking.append("each map of each photograph and implementation once")
    if any(not {*keys_of(row["map"])} <= row.keys() for row in dense.rows):
        lacking.append("all figures of each map")
    figures = (row[key] for row in dense.rows for key in keys_of(row["map"]) if row.get(key) is not None)
    if min(figures, default=0) < 0:
        lacking.append("figures that are no less than zero")
    return lacking


def lacking_stages(comparison: StageComparison) -> list[str]:
    """Stages of pairs of implementations that have no row in both modes; the input of a layer is given in one."""
    found = {(row["mode"], row["stage"], row["subject"], row["other"]) for row in comparison.stages}
    pairs = dict.fromkeys((row["subject"], row["other"]) for row in comparison.stages)
    wanted = product(MODES, comparison.names, pairs)
    return [
        f"{stage} of {' and '.join(pair)}, {mode}"
        for mode, stage, pair in wanted
        if (mode, stage, *pair) not in found and (mode == MODES[0] or not stage.endswith(".input"))
    ] or ([] if comparison.names else ["any stage"])


def check_verdict(path: Path, own: Verdict) -> None:
    """Raise `InputError` if the verdict in a file is not the one that was judged anew, but for rounding and words."""
    told = Verdict.read(path)
    names = sorted({name for name, _ in told.evidence.items() ^ own.evidence.items()})
    if names:
        raise InputError(f"{', '.join(names)} changed after {path} was written; delete {path} and run again.")
    judged = (entry.name for entry in fields(Verdict) if entry.name not in ("findings", "figures"))
    other = [name for name in judged if getattr(told, name) != getattr(own, name)]
    if len(told.findings) != len(own.findings) or not all(map(_agree, told.findings, own.findings)):
        other.append("findings")
    if other:
        raise InputError(
            f"{path} or parity/{own.export}.json was edited: the features give other {', '.join(other)}. Delete"
            " both and run again."
        )


def _agree(a: Finding, b: Finding) -> bool:
    judged = ("leg", "limit_name", "subject", "other", "limit")
    x, y = finite(a.measured), finite(b.measured)
    near = x == y if x is None or y is None else math.isclose(x, y, rel_tol=TOLERANCE, abs_tol=TOLERANCE * b.limit)
    return near and all(getattr(a, name) == getattr(b, name) for name in judged)
