"""The gates: the run fails where something does not pass. The evidence is written before, by other rules."""


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
        code=code_of("judge_parity"),
    message:
        "{wildcards.variant}: judging {wildcards.export}.onnx"
    script:
        "../scripts/judge_parity.py"


rule judge_preprocessing:
    input:
        comparison="<results>/{variant}/preprocessing.json",
    output:
        verdict="<results>/{variant}/preprocessing.verdict.json",
    log:
        "<logs>/{variant}/judge_preprocessing.log",
    benchmark:
        "<benchmarks>/{variant}/judge_preprocessing.tsv"
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=500,
    params:
        limits=config["parity"]["preprocessing"],
        code=code_of("judge_preprocessing"),
    message:
        "{wildcards.variant}: judging the preprocessing"
    script:
        "../scripts/judge_preprocessing.py"


rule judge_stages:
    input:
        ledger="<results>/{variant}/parity/{export}.stages.json",
    output:
        verdict="<results>/{variant}/parity/{export}.stages.verdict.json",
    log:
        "<logs>/{variant}/judge_stages_{export}.log",
    benchmark:
        "<benchmarks>/{variant}/judge_stages_{export}.tsv"
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=500,
    params:
        limits=config["parity"]["limits"],
        code=code_of("judge_stages"),
    message:
        "{wildcards.variant}: judging the stages of {wildcards.export}.onnx"
    script:
        "../scripts/judge_stages.py"


rule judge_self_test:
    input:
        result="<results>/self_test.json",
    output:
        verdict="<results>/self_test.verdict.json",
    log:
        "<logs>/judge_self_test.log",
    benchmark:
        "<benchmarks>/judge_self_test.tsv"
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=500,
    params:
        code=code_digest("judge_self_test"),
    message:
        "Judging the self-test"
    script:
        "../scripts/judge_self_test.py"
