"""The gate: the run fails where a comparison does not pass. Its evidence is written before, by `compare_outputs`."""


rule judge_parity:
    input:
        comparison="<results>/{variant}/parity/{export}.json",
    output:
        verdict="<results>/{variant}/parity/{export}.verdict.json",
    log:
        "<logs>/{variant}/judge_parity_{export}.log",
    benchmark:
        "<benchmarks>/{variant}/judge_parity_{export}.tsv"
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=500,
    params:
        limits=config["parity"]["limits"],
        code=code_digest("variants", "files", "onnx_file", "parity"),
    message:
        "{wildcards.variant}: judging {wildcards.export}.onnx"
    script:
        "../scripts/judge_parity.py"
