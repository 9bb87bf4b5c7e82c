"""Judge all gates of a graph, once. The verdict is always written; a graph that fails gets no passport."""


rule judge_graph:
    input:
        **EVIDENCE,
    output:
        verdict="<results>/{variant}/{export}.verdict.json",
    log:
        "<logs>/{variant}/judge_graph_{export}.log",
    benchmark:
        "<benchmarks>/{variant}/judge_graph_{export}.tsv"
    conda:
        "../../envs/onnx.yaml"
    threads: 1
    resources:
        mem_mb=500,
    params:
        limits=limits,
        code=code_of("judge_graph"),
    message:
        "{wildcards.variant}: judging {wildcards.export}.onnx"
    script:
        "../scripts/judge_graph.py"
