"""Judge all that was measured of a graph; the verdict is written whether it passes or not."""

from vit2onnx.job import snakemake

from pathlib import Path

from vit2onnx.files import write_json
from vit2onnx.handover.judging import judge_files

if __name__ == "__main__":
    # An input function that finds nothing gives an empty list.
    evidence = {name: Path(path) for name, path in snakemake.input.items() if path}
    write_json(Path(snakemake.output.verdict), judge_files(evidence, snakemake.params.limits).as_data())
