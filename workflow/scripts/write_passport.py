"""Write the passport of a graph that passed, and the sample by which it can be verified anywhere."""

from pathlib import Path
from typing import Any

from vit2onnx.files import open_arrays, write_arrays, write_json
from vit2onnx.handover.passport import passport_of, sample_of
from vit2onnx.logs import logging_to
from vit2onnx.parity.verdict import Verdict
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec


def write_passport(
    spec: VariantSpec,
    recipe: Recipe,
    *,
    verdict: Path,
    pixel_values: Path,
    reference: Path,
    equinox: Path,
    sample: Path,
    passport: Path,
    **given: Any,
) -> None:
    """Write both files; what else is `given` is for `passport_of`."""
    interface = spec.interface(recipe.interface)
    with open_arrays(pixel_values) as images, open_arrays(reference) as features, open_arrays(equinox) as own:
        write_arrays(sample, sample_of(interface, recipe, images, features, own))
    write_json(passport, passport_of(spec, Verdict.read(verdict), sample=sample, **given))


if __name__ == "__main__":
    with logging_to(snakemake.log[0]):
        write_passport(
            VariantSpec.from_mapping(snakemake.wildcards.variant, snakemake.params.spec),
            Recipe.from_mapping(snakemake.wildcards.export, snakemake.params.recipe),
            official=snakemake.params.official,
            **{name: Path(path) for name, path in (*snakemake.input.items(), *snakemake.output.items())},
        )
