"""Compare all implementations at every stage of every block, to see where they part. Asked for by parity.stages."""


rule run_reference_stages:
    input:
        checkpoint="<results>/{variant}/checkpoint",
        inputs=of_graph("inputs"),
        # All implementations are given the inputs of transformers.
        first=branch(
            lambda wildcards: wildcards.reference != "transformers",
            then="<results>/{variant}/features/{export}.transformers.stages.npz",
        ),
    output:
        stages=temp("<results>/{variant}/features/{export}.{reference}.stages.npz"),
    log:
        "<logs>/{variant}/run_reference_stages_{export}_{reference}.log",
    benchmark:
        "<benchmarks>/{variant}/run_reference_stages_{export}_{reference}.tsv"
    conda:
        "../../envs/torch.yaml"
    threads: 2
    resources:
        # One layer at a time, however deep the model.
        mem_mb=memory_for(base=1200, layers=5, weights=own_model),
    params:
        spec=lookup("{variant}", within=VARIANTS),
        interface=compared_interface_of,
        case=stages_case,
        repository=repository_of,
        code=code_of("run_reference_stages"),
    message:
        "{wildcards.variant}: running the reference ({wildcards.reference}) stage by stage"
    script:
        "../scripts/run_reference_stages.py"


rule run_equinox_stages:
    input:
        model="<results>/{variant}/model.eqx",
        inputs=of_graph("inputs"),
        reference="<results>/{variant}/features/{export}.transformers.stages.npz",
    output:
        stages=temp("<results>/{variant}/features/{export}.equinox.stages.npz"),
    log:
        "<logs>/{variant}/run_equinox_stages_{export}.log",
    benchmark:
        "<benchmarks>/{variant}/run_equinox_stages_{export}.tsv"
    conda:
        "../../envs/jax.yaml"
    threads: 2
    resources:
        # One layer at a time, however deep the model.
        mem_mb=memory_for(base=1200, layers=5),
    params:
        spec=lookup("{variant}", within=VARIANTS),
        interface=compared_interface_of,
        case=stages_case,
        code=code_of("run_equinox_stages"),
    message:
        "{wildcards.variant}: running the Equinox model stage by stage"
    script:
        "../scripts/run_equinox_stages.py"


rule export_stages:
    input:
        model="<results>/{variant}/model.eqx",
        graph="<results>/{variant}/{export}.onnx",
    output:
        accumulated="<results>/{variant}/{export}.stages.onnx",
        injected="<results>/{variant}/{export}.stages.injected.onnx",
    log:
        "<logs>/{variant}/export_stages_{export}.log",
    benchmark:
        "<benchmarks>/{variant}/export_stages_{export}.tsv"
    conda:
        "../../envs/jax.yaml"
    threads: 1
    resources:
        mem_mb=1500,
    params:
        spec=lookup("{variant}", within=VARIANTS),
        recipe=lookup("{export}", within=config["exports"]),
        code=code_of("export_stages"),
    message:
        "{wildcards.variant}: exporting the stages of {wildcards.export}.onnx"
    script:
        "../scripts/export_stages.py"


rule compare_stages:
    input:
        # Holds the weights of both graphs.
        model="<results>/{variant}/model.eqx",
        accumulated="<results>/{variant}/{export}.stages.onnx",
        injected="<results>/{variant}/{export}.stages.injected.onnx",
        inputs=of_graph("inputs"),
        references=lambda wildcards: expand(
            "<results>/{variant}/features/{export}.{reference}.stages.npz",
            variant=wildcards.variant,
            export=wildcards.export,
            reference=references(wildcards),
        ),
        equinox="<results>/{variant}/features/{export}.equinox.stages.npz",
    output:
        comparison="<results>/{variant}/parity/{export}.stages.json",
        table=report(
            "<results>/{variant}/parity/{export}.stages.csv",
            caption="../report/stages.rst",
            category="Tables",
            labels={"variant": "{variant}", "graph": "{export}", "file": "all stages (CSV)"},
        ),
    log:
        "<logs>/{variant}/compare_stages_{export}.log",
    benchmark:
        "<benchmarks>/{variant}/compare_stages_{export}.tsv"
    conda:
        "../../envs/onnx.yaml"
    threads: 2
    resources:
        mem_mb=memory_for(base=1500, weights=1),
    params:
        spec=lookup("{variant}", within=VARIANTS),
        references=references,
        interface=interface_of,
        case=stages_case,
        code=code_of("compare_stages"),
    message:
        "{wildcards.variant}: comparing the stages of {wildcards.export}.onnx with {params.references}"
    script:
        "../scripts/compare_stages.py"
