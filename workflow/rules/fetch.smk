"""Get the checkpoint: made from a seed, found on this machine, or downloaded."""


rule fetch_checkpoint:
    output:
        checkpoint="<results>/{variant}/checkpoint.pth",
        record="<results>/{variant}/checkpoint.json",
    log:
        "<logs>/{variant}/fetch_checkpoint.log",
    benchmark:
        "<benchmarks>/{variant}/fetch_checkpoint.tsv"
    wildcard_constraints:
        variant=variants_with_suffix(".pth"),
    conda:
        "../../envs/checkpoint.yaml"
    threads: 1
    resources:
        mem_mb=memory_for(base=800, layers=2),
    params:
        spec=lookup("{variant}", within=VARIANTS),
        weights=config["weights"],
        synthetic=config["synthetic"] if config["weights"] == "synthetic" else None,
        configured=lambda wildcards: config["official"]["checkpoints"].get(wildcards.variant),
        check_hash=config["official"]["check_hash"],
        code=code_digest("fetch_checkpoint"),
    message:
        "{wildcards.variant}: fetching the checkpoint ({params.weights} weights)"
    script:
        "../scripts/fetch_checkpoint.py"


# A name that ends otherwise, because the layout decides the format; everything else is the same.
use rule fetch_checkpoint as fetch_checkpoint_safetensors with:
    output:
        checkpoint="<results>/{variant}/checkpoint.safetensors",
        record="<results>/{variant}/checkpoint.json",
    wildcard_constraints:
        variant=variants_with_suffix(".safetensors"),
