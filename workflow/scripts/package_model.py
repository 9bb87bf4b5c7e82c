"""Put together the folder of a variant for the Hugging Face hub."""

from vit2onnx.job import snakemake

from collections.abc import Sequence
from pathlib import Path

from vit2onnx.handover.package.files import package_files
from vit2onnx.handover.package.folder import write_package
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec


def package_model(
    spec: VariantSpec,
    recipes: Sequence[Recipe],
    card: Path,
    *,
    program: Path,
    licence: Path | None,
    tokenizer: Path | None,
) -> None:
    """Write the folder of a `card` beside the graphs."""
    files = package_files(spec, recipes)
    folder = card.parent
    write_package(folder, spec, files, folder.parent, program=program, licence=licence, tokenizer=tokenizer)


if __name__ == "__main__":
    # An input function that finds nothing gives an empty list.
    files = {name: Path(snakemake.input[name]) for name in ("program", "licence", "tokenizer") if snakemake.input[name]}
    package_model(
        VariantSpec.from_mapping(snakemake.wildcards.variant, snakemake.params.spec),
        [Recipe.from_mapping(name, recipe) for name, recipe in snakemake.params.recipes.items()],
        Path(snakemake.output.card),
        program=files["program"],
        licence=files.get("licence"),
        tokenizer=files.get("tokenizer"),
    )
