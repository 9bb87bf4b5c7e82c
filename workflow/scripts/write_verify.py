"""Write the program by which whoever is given a graph can verify it."""

from pathlib import Path

from vit2onnx.files import write_text
from vit2onnx.handover.alone import verify_alone
from vit2onnx.logs import logging_to

if __name__ == "__main__":
    with logging_to(snakemake.log[0]):
        write_text(Path(snakemake.output.program), verify_alone())
