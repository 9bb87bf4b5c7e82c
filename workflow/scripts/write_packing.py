"""Write the module by which whoever is given a packed graph can make its inputs."""

from vit2onnx.job import snakemake

from pathlib import Path

from vit2onnx.files import write_text
from vit2onnx.handover.alone import packing_alone

if __name__ == "__main__":
    write_text(Path(snakemake.output.module), packing_alone())
