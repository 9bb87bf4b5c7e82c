"""vit2onnx: from a vision-transformer checkpoint to verified ONNX files."""

from pathlib import Path

from snakemake.utils import min_version

min_version("9.19")


if Path("config/config.yaml").is_file():

    configfile: "config/config.yaml"


if Path("config/limits.yaml").is_file():

    configfile: "config/limits.yaml"


include: "workflow/rules/common.smk"


pathvars:
    results=f"results/{config['weights']}",
    logs=f"logs/{config['weights']}",
    benchmarks=f"benchmarks/results/{config['weights']}",


report: "workflow/report/workflow.rst"


include: "workflow/rules/fetch.smk"
include: "workflow/rules/convert.smk"
include: "workflow/rules/map.smk"
include: "workflow/rules/export.smk"
include: "workflow/rules/compare.smk"
include: "workflow/rules/preprocessing.smk"
include: "workflow/rules/stages.smk"
include: "workflow/rules/packing.smk"
include: "workflow/rules/dense.smk"
include: "workflow/rules/describe.smk"
include: "workflow/rules/judge.smk"
include: "workflow/rules/self_test.smk"
include: "workflow/rules/passport.smk"
include: "workflow/rules/package.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        everything_asked_for(),
