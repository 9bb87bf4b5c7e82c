"""vit2onnx: from a vision-transformer checkpoint to verified ONNX files."""

from snakemake.utils import min_version

min_version("9.19")


configfile: "config/config.yaml"


pathvars:
    results=f"results/{config.get('weights')}",
    logs=f"logs/{config.get('weights')}",
    benchmarks=f"benchmarks/results/{config.get('weights')}",


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/fetch.smk"
include: "workflow/rules/convert.smk"
include: "workflow/rules/map.smk"
include: "workflow/rules/export.smk"
include: "workflow/rules/compare.smk"
include: "workflow/rules/preprocessing.smk"
include: "workflow/rules/stages.smk"
include: "workflow/rules/judge.smk"
include: "workflow/rules/self_test.smk"
include: "workflow/rules/passport.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        everything_asked_for(),
