"""Everything between a checkpoint and its verdict, for a small model, so that a fault can be planted anywhere in it."""

import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx.numpy_helper import to_array

from vit2onnx import spine
from vit2onnx.checkpoints.fetch import fetch_synthetic
from vit2onnx.exporting.graph import export
from vit2onnx.exporting.stages import write_stages
from vit2onnx.families.fault import Amplify
from vit2onnx.families.reference import Reference
from vit2onnx.nn.model import Model
from vit2onnx.parity.comparison import Comparison, largest
from vit2onnx.parity.dense import compare_dense
from vit2onnx.parity.dense_comparison import DENSE, DenseComparison
from vit2onnx.parity.divergence import Divergence, StageComparison
from vit2onnx.parity.finding import Finding
from vit2onnx.parity.metrics import finite, worst
from vit2onnx.parity.stages import compare_implementations
from vit2onnx.parity.verdict import LEGS, Verdict, judge
from vit2onnx.runners import equinox as equinox_runner
from vit2onnx.runners import onnx_dense
from vit2onnx.runners import torch as torch_runner
from vit2onnx.runners.onnx_constants import origin_of_constants
from vit2onnx.runners.onnx_stages import run_stage_graphs
from vit2onnx.spec.case import layer_inputs
from vit2onnx.spec.family import PUBLISHER, layout_of, part
from vit2onnx.spec.interface import cases_in
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec
from vit2onnx.weights.keytable import LazyTensor
from vit2onnx.weights.model_file import open_model, write_model


def recipe_of(spec: VariantSpec, interface: str) -> Recipe:
    """The recipe of a small model, in which everything that can be free is."""
    ports = spec.interface(interface)
    free = dict.fromkeys(axis for axis in ports.minimum if axis not in ports.recipe_defaults)
    return Recipe("dynamic", opset=23, sizes=free, interface=interface)


Tensors = Mapping[str, np.ndarray]


def shrink(spec: VariantSpec) -> VariantSpec:
    """The variant with all that sets it apart from the others, but narrow and shallow."""
    return replace(spec, architecture=part(spec.family, "faults").shrink(spec.architecture))


@dataclass(frozen=True)
class Outcome:
    """What the checks say of a chain with some limits: of its outputs, its stages, and its dense maps if it has any."""

    comparison: Comparison
    stages: StageComparison
    limits: Mapping[str, float]
    dense: DenseComparison | None = None

    @cached_property
    def of_outputs(self) -> tuple[Finding, ...]:
        return judge(self.comparison, self.limits)

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        of_maps = tuple(self.dense.judge(self.limits)) if self.dense else ()
        return self.of_outputs + self.stages.judge(self.limits) + of_maps

    @property
    def verdict(self) -> Verdict:
        return Verdict(self.findings, asked=(*LEGS, "stages", *([DENSE] if self.dense else [])))

    @property
    def divergence(self) -> Divergence | None:
        """The first stage at which two implementations part."""
        return self.stages.first_divergence("injected", self.limits["floors"])

    def measured(self, limit_name: str) -> float | None:
        """The largest figure of the outputs that a limit judges."""
        return finite(worst(one.measured for one in self.of_outputs if one.limit_name == limit_name))

    @property
    def shares(self) -> dict[str, float | None]:
        """The largest figure of outputs, stages and dense maps under each limit, as a share of the limit."""
        findings = [finding for finding in self.findings if finding.limit_name]
        names = dict.fromkeys(finding.limit_name for finding in findings)
        return {name: finite(worst(_share(one) for one in findings if one.limit_name == name)) for name in names}

    @property
    def max_abs(self) -> float | None:
        """The largest difference between the graph and the reference."""
        return finite(largest(self.comparison.of_graph()))


def _share(finding: Finding) -> float:
    # The limit is zero if the config asks for a cosine of one.
    return finding.measured / finding.limit if finding.limit else math.nan


def graphs_in(folder: Path) -> dict[str, Path]:
    """The graph of a folder, and the two that show its stages."""
    return {name: folder / f"{name}.onnx" for name in ("exported", "accumulated", "injected")}


def _fits(graph: Path, tensors: Mapping[str, LazyTensor]) -> bool:
    """Whether the constants that were folded into a graph were computed from these tensors."""
    origin = origin_of_constants(graph)
    # Others are numbers of the graph itself, such as sizes.
    used = [one for one in (origin.graph.initializer if origin else ()) if one.name in tensors]
    return all(np.array_equal(to_array(one), tensors[one.name].read()) for one in used)


class Chain:
    """A small model with synthetic weights: its checkpoint, reference, Equinox model and graphs, all in a folder.

    `inputs` of the recipe's interface are called as `key_of` says; stages are those of the first case. `limits` are the
    numbers of the config, `amplify` changes the tensors of the checkpoint. The graphs hold no weights, which stay in
    model.eqx beside them, and are run with so many `threads`.
    """

    def __init__(
        self,
        spec: VariantSpec,
        seed: int,
        folder: Path,
        recipe: Recipe,
        inputs: Mapping[str, np.ndarray],
        limits: Mapping[str, float],
        amplify: Amplify | None = None,
        threads: int = 1,
    ):
        self.spec, self.folder, self.limits, self.threads = spec, folder, limits, threads
        self.recipe, self.inputs = recipe, inputs
        # References and the Equinox model are run on single images, whatever the graph takes.
        self.of_graph = spec.interface(self.recipe.interface)
        self.interface = self.of_graph.compared_as
        self.cases = cases_in(inputs)
        self.first = self.interface.inputs_of(inputs, self.cases[0])
        folder.mkdir()
        self.checkpoint = folder / "checkpoint.pth"
        self.record = fetch_synthetic(spec, self.checkpoint, seed=seed, layout=layout_of(spec.family, PUBLISHER))
        if amplify:
            tensors = torch.load(self.checkpoint, weights_only=True)
            amplify(tensors)
            torch.save(tensors, self.checkpoint)
        spine.convert(spec, self.checkpoint, folder)
        self.model, self.tensors = open_model(folder / "model.eqx")
        self.reference = dict(torch_runner.stages(self.load, self.first, self.interface))
        self.reference_features = torch_runner.features(self.load(), inputs, self.interface)
        self.reference_maps = (
            dict(torch_runner.dense_features(self.load(), inputs, self.interface)) if self.interface.layers else {}
        )
        self.of_layers = layer_inputs(self.reference)

    def load(self) -> Reference:
        """The reference with the weights of the checkpoint."""
        return torch_runner.reference_of(self.spec, "transformers", self.checkpoint)

    def export(self, model: Model, folder: Path) -> None:
        """Write a model's graph and the two that show its stages, beside the file of its weights."""
        weights, paths = folder / "model.eqx", graphs_in(folder)
        export(self.spec, self.recipe, weights, paths["exported"], self.record, model=model, external=True)
        _, tensors = open_model(weights)
        write_stages(model, self.spec, self.recipe, tensors, weights=weights, **paths)

    def examine(
        self,
        folder: Path,
        *,
        graphs: Path | None = None,
        model: Model | None = None,
        weights: Tensors | None = None,
        graph: Callable[[onnx.ModelProto], None] | None = None,
    ) -> Outcome:
        """What the checks say of the chain with another `model` of the same parameters, other `weights` of it, or a
        change of its `graph`.

        What this makes goes to `folder`. Where the model is the same, `graphs` may be a folder that has its graphs;
        they are taken if their constants are computed from the same parameters.
        """
        folder.mkdir(exist_ok=True)
        if folder != self.folder:
            values = {name: tensor.read() for name, tensor in self.tensors.items()} | dict(weights or {})
            write_model(folder / "model.eqx", self.spec, values.items())
        _, tensors = open_model(folder / "model.eqx")
        if model is not None or graphs is None or not _fits(graphs_in(graphs)["exported"], tensors):
            self.export(model or self.model, folder)
        elif graphs != folder:
            for path in graphs_in(graphs).values():
                shutil.copy(path, folder)
        exported, accumulated, injected = paths = graphs_in(folder).values()
        if graph:
            for path in paths:
                proto = onnx.load(path, load_external_data=False)
                graph(proto)
                onnx.save(proto, path)
        ours = model or self.model
        equinox = dict(equinox_runner.stages(ours, tensors, self.first, self.of_layers, self.interface))
        features = equinox_runner.features(ours, tensors, self.inputs, self.interface)
        references, batches = {"transformers": self.reference_features}, [len(self.cases)]
        comparison = spine.compare(
            self.spec, self.recipe, exported, self.inputs, references, features, batches, self.threads
        )
        implementations = {
            "transformers": self.reference,
            "equinox": equinox,
            "onnx": run_stage_graphs(accumulated, injected, self.first, self.of_layers, self.threads, self.of_graph),
        }
        about = {"variant": self.spec.name, "export": self.recipe.name}
        stages = compare_implementations(about | {"case": self.cases[0]}, implementations)
        if not self.interface.layers:
            return Outcome(comparison, stages, self.limits)
        graph_maps = onnx_dense.dense_features(
            exported, accumulated, self.of_graph, self.recipe, self.inputs, [], self.threads
        )
        maps = {
            "transformers": self.reference_maps,
            "equinox": dict(equinox_runner.dense_features(ours, tensors, self.inputs, self.interface, ablate=False)),
            "onnx": dict(graph_maps),
        }
        dense = compare_dense(about | {"graph_sha256": comparison.graph_sha256}, self.cases, maps)
        return Outcome(comparison, stages, self.limits, dense)
