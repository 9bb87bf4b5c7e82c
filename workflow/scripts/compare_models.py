"""Compare the dense maps of two models on the same photographs."""

from vit2onnx.job import snakemake

from collections.abc import Mapping, Sequence
from pathlib import Path

from vit2onnx.dense.description import Described, compare_models, flat
from vit2onnx.files import open_arrays, write_arrays, write_json, write_text
from vit2onnx.parity.tables import csv_of


def compare(
    figures: Sequence[Path], maps: Sequence[Path], features: Sequence[Path], outputs: Mapping[str, Path]
) -> None:
    models = list(map(Described.read, figures, maps))
    patches = []
    for model, path in zip(models, features, strict=True):
        cases = {row["image"]: row["case"] for row in model.figures["photographs"]}
        with open_arrays(path) as arrays:
            patches.append({image: arrays[f"float64/{case}/patches"] for image, case in cases.items()})
    found = compare_models(*models, patches)
    write_json(outputs["figures"], found.figures)
    write_arrays(outputs["maps"], found.maps)
    write_text(outputs["table"], csv_of(flat(row) for row in found.figures["rows"]))


if __name__ == "__main__":
    given = (list(map(Path, snakemake.input[name])) for name in ("figures", "maps", "features"))
    compare(*given, {name: Path(path) for name, path in snakemake.output.items()})
