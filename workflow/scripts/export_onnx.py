"""Export the inference model of a variant by one recipe."""

from vit2onnx.job import snakemake

from pathlib import Path

from vit2onnx.exporting.graph import export
from vit2onnx.files import read_json, sha256_of
from vit2onnx.precision.reduction import Basis
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec


def export_onnx(
    spec: VariantSpec,
    recipe: Recipe,
    model: Path,
    record: Path,
    ledger: Path,
    graph: Path,
    *,
    ranges: Path | None,
    plan: Path | None,
    external: bool,
) -> None:
    written, digest = read_json(record), sha256_of(ledger)
    basis = Basis.read(ranges, plan) if ranges else None
    export(spec, recipe, model, graph, written, ledger_sha256=digest, external=external, basis=basis)


if __name__ == "__main__":
    export_onnx(
        VariantSpec.from_mapping(snakemake.wildcards.variant, snakemake.params.spec),
        Recipe.from_mapping(snakemake.wildcards.export, snakemake.params.recipe),
        Path(snakemake.input.model),
        Path(snakemake.input.record),
        Path(snakemake.input.ledger),
        Path(snakemake.output.graph),
        # Empty for a graph in single precision, and the plan also for one in int8.
        **{name: Path(snakemake.input[name]) if snakemake.input[name] else None for name in ("ranges", "plan")},
        external=snakemake.params.external,
    )
