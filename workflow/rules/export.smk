"""Trace the model without its weights and write it as ONNX, in a smaller precision if its recipe says so."""


rule measure_ranges:
    input:
        model="<results>/{variant}/model.eqx",
        inputs=of_graph("inputs"),
    output:
        ranges="<results>/{variant}/ranges/{export}.npz",
    log:
        "<logs>/{variant}/measure_ranges_{export}.log",
    benchmark:
        "<benchmarks>/{variant}/measure_ranges_{export}.tsv"
    conda:
        "../../envs/jax.yaml"
    threads: 2
    resources:
        # One parameter at a time, in double precision.
        mem_mb=memory_for(base=1200, layers=2, cases=24),
    params:
        spec=lookup("{variant}", within=VARIANTS),
        recipe=lookup("{export}", within=config["exports"]),
        code=code_of("measure_ranges"),
    message:
        "{wildcards.variant}: measuring the ranges of {wildcards.export}.onnx"
    script:
        "../scripts/measure_ranges.py"


rule plan_precision:
    input:
        model="<results>/{variant}/model.eqx",
        inputs=of_graph("inputs"),
        ranges="<results>/{variant}/ranges/{export}.npz",
    output:
        plan="<results>/{variant}/ranges/{export}.plan.json",
    log:
        "<logs>/{variant}/plan_precision_{export}.log",
    benchmark:
        "<benchmarks>/{variant}/plan_precision_{export}.tsv"
    conda:
        "../../envs/jax.yaml"
    threads: 2
    resources:
        mem_mb=memory_for(base=1200, layers=2, cases=24),
    params:
        spec=lookup("{variant}", within=VARIANTS),
        recipe=lookup("{export}", within=config["exports"]),
        least=config["limits"]["float16"]["cosine"]["limit"],
        code=code_of("plan_precision"),
    message:
        "{wildcards.variant}: planning the half precision of {wildcards.export}.onnx"
    script:
        "../scripts/plan_precision.py"


# The weights of a graph in a small precision that are too large for its file.
rule export_weights:
    input:
        model="<results>/{variant}/model.eqx",
        ranges=ranges_of,
        plan=plan_of,
    output:
        data="<results>/{variant}/{export}.onnx_data",
    log:
        "<logs>/{variant}/export_weights_{export}.log",
    benchmark:
        "<benchmarks>/{variant}/export_weights_{export}.tsv"
    conda:
        "../../envs/jax.yaml"
    threads: 1
    resources:
        mem_mb=memory_for(base=1000, layers=3),
    params:
        spec=lookup("{variant}", within=VARIANTS),
        recipe=lookup("{export}", within=config["exports"]),
        code=code_of("export_weights"),
    message:
        "{wildcards.variant}: exporting the weights of {wildcards.export}.onnx"
    script:
        "../scripts/export_weights.py"


rule export_onnx:
    input:
        model="<results>/{variant}/model.eqx",
        record="<results>/{variant}/checkpoint.json",
        ledger="<results>/{variant}/ledger.csv",
        ranges=ranges_of,
        plan=plan_of,
    output:
        graph="<results>/{variant}/{export}.onnx",
    log:
        "<logs>/{variant}/export_onnx_{export}.log",
    benchmark:
        "<benchmarks>/{variant}/export_onnx_{export}.tsv"
    conda:
        "../../envs/jax.yaml"
    threads: 1
    resources:
        mem_mb=memory_for(base=1000, layers=1),
    params:
        spec=lookup("{variant}", within=VARIANTS),
        recipe=lookup("{export}", within=config["exports"]),
        external=weights_are_external,
        code=code_of("export_onnx"),
    message:
        "{wildcards.variant}: exporting {wildcards.export}.onnx"
    script:
        "../scripts/export_onnx.py"
