"""Turn the checkpoint of any layout into the Equinox archive, with an account of every tensor."""


rule convert_checkpoint:
    input:
        checkpoint="<results>/{variant}/checkpoint",
        record="<results>/{variant}/checkpoint.json",
    output:
        archive=archive(),
        ledger=report(
            "<results>/{variant}/ledger.csv",
            caption="../report/ledger.rst",
            category="Weights",
            labels={"variant": "{variant}", "file": "ledger of tensors (CSV)"},
        ),
    log:
        "<logs>/{variant}/convert_checkpoint.log",
    benchmark:
        "<benchmarks>/{variant}/convert_checkpoint.tsv"
    conda:
        "../../envs/checkpoint.yaml"
    threads: 2
    resources:
        mem_mb=memory_for(base=800, layers=2),
    params:
        spec=lookup("{variant}", within=VARIANTS),
        code=code_of("convert_checkpoint"),
    message:
        "{wildcards.variant}: converting the checkpoint to the Equinox archive"
    script:
        "../scripts/convert_checkpoint.py"
