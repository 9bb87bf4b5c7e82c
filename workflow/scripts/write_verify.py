"""Write the program by which whoever is given a graph can verify it."""

from vit2onnx.job import snakemake

from pathlib import Path

from vit2onnx.files import write_text
from vit2onnx.handover.alone import verify_alone

if __name__ == "__main__":
    write_text(Path(snakemake.output.program), verify_alone())
