"""Write the passport of a graph that passed, and the sample by which it can be verified anywhere."""

from vit2onnx.job import snakemake

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vit2onnx.files import open_arrays, write_arrays, write_json
from vit2onnx.handover.judging import check_verdict, judge_files
from vit2onnx.handover.passport import passport_of, sample_of
from vit2onnx.parity.outputs import compare_files
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec


def write_passport(
    spec: VariantSpec,
    recipe: Recipe,
    arrays: Mapping[str, Path],
    references: Mapping[str, Path],
    evidence: Mapping[str, Path],
    *,
    batch_sizes: Sequence[int],
    limits: Mapping[str, Mapping[str, Any]],
    verdict: Path,
    sample: Path,
    passport: Path,
    **given: Any,
) -> None:
    """Judge once more, and write both files; what else is `given` is for `passport_of`."""
    judged = judge_files(evidence, limits, compare_files(spec, recipe, arrays, references, batch_sizes))
    check_verdict(verdict, judged)
    files = arrays["inputs"], next(iter(references.values())), arrays["equinox"]
    with open_arrays(files[0]) as inputs, open_arrays(files[1]) as reference, open_arrays(files[2]) as equinox:
        write_arrays(sample, sample_of(spec.interface_of(recipe), recipe, inputs, reference, equinox))
    files_of_graph = {name: evidence[name] for name in ("graph", "record")}
    write_json(passport, passport_of(spec, recipe, judged, sample=sample, **files_of_graph, **given))


if __name__ == "__main__":
    lists = ("references", "tokenizer")
    # An input function that finds nothing gives an empty list.
    files = {name: Path(path) for name, path in snakemake.input.items() if path and name not in lists}
    write_passport(
        VariantSpec.from_mapping(snakemake.wildcards.variant, snakemake.params.spec),
        Recipe.from_mapping(snakemake.wildcards.export, snakemake.params.recipe),
        {name: files[name] for name in ("inputs", "equinox", "onnx")},
        dict(zip(snakemake.params.references, map(Path, snakemake.input.references), strict=True)),
        {name: files[name] for name in snakemake.params.evidence if name in files},
        batch_sizes=snakemake.params.batch_sizes,
        limits=snakemake.params.limits,
        whose=snakemake.params.whose,
        tokenizer=next(map(Path, snakemake.input.tokenizer), None),
        plan=files.get("plan"),
        threads=snakemake.threads,
        **{name: files[name] for name in ("verdict", "checkpoint", "ledger", "model")},
        **{name: Path(path) for name, path in snakemake.output.items()},
    )
