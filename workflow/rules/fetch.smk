"""Get the checkpoint: made from a seed, found on this machine, or downloaded."""


rule fetch_checkpoint:
    input:
        own=own_files,
    output:
        checkpoint="<results>/{variant}/checkpoint",
        record="<results>/{variant}/checkpoint.json",
    log:
        "<logs>/{variant}/fetch_checkpoint.log",
    benchmark:
        "<benchmarks>/{variant}/fetch_checkpoint.tsv"
    conda:
        "../../envs/checkpoint.yaml"
    threads: 1
    resources:
        mem_mb=memory_for(base=800, layers=2),
    params:
        spec=lookup("{variant}", within=VARIANTS),
        weights=config["weights"],
        own_state=own_state,
        synthetic=synthetic_weights,
        configured=lambda wildcards: config["official"]["checkpoints"].get(wildcards.variant),
        check_hash=config["official"]["check_hash"],
        code=code_of("fetch_checkpoint"),
    message:
        "{wildcards.variant}: fetching the checkpoint ({params.weights} weights)"
    script:
        "../scripts/fetch_checkpoint.py"
