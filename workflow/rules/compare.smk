"""Run reference, Equinox model and ONNX graph on the same inputs and measure how far they are apart."""


rule prepare_inputs:
    input:
        images=list(IMAGES.values()),
        texts=texts,
        tokenizer=tokenizer,
        golden=golden_image(),
    output:
        inputs="<results>/{variant}/features/{interface}.inputs.npz",
    log:
        "<logs>/{variant}/prepare_inputs_{interface}.log",
    benchmark:
        "<benchmarks>/{variant}/prepare_inputs_{interface}.tsv"
    conda:
        "../../envs/onnx.yaml"
    threads: 1
    resources:
        mem_mb=memory_for(base=900, cases=2),
    params:
        spec=lookup("{variant}", within=VARIANTS),
        names=list(IMAGES),
        cases=compared_cases,
        code=code_of("prepare_inputs"),
    message:
        "{wildcards.variant}: preparing the inputs of {wildcards.interface}"
    script:
        "../scripts/prepare_inputs.py"


rule run_reference:
    input:
        checkpoint="<results>/{variant}/checkpoint",
        inputs="<results>/{variant}/features/{interface}.inputs.npz",
    output:
        features="<results>/{variant}/features/{interface}.{reference}.npz",
    log:
        "<logs>/{variant}/run_reference_{interface}_{reference}.log",
    benchmark:
        "<benchmarks>/{variant}/run_reference_{interface}_{reference}.tsv"
    conda:
        "../../envs/torch.yaml"
    threads: 2
    resources:
        # One layer at a time, however deep the model.
        mem_mb=memory_for(base=1200, layers=5, weights=own_model, cases=8),
    params:
        spec=lookup("{variant}", within=VARIANTS),
        outputs=lambda wildcards: asked_outputs(wildcards.variant, wildcards.interface),
        repository=repository_of,
        code=code_of("run_reference"),
    message:
        "{wildcards.variant}: running the reference ({wildcards.reference}, {wildcards.interface})"
    script:
        "../scripts/run_reference.py"


rule run_equinox:
    input:
        model="<results>/{variant}/model.eqx",
        inputs="<results>/{variant}/features/{interface}.inputs.npz",
    output:
        features="<results>/{variant}/features/{interface}.equinox.npz",
    log:
        "<logs>/{variant}/run_equinox_{interface}.log",
    benchmark:
        "<benchmarks>/{variant}/run_equinox_{interface}.tsv"
    conda:
        "../../envs/jax.yaml"
    threads: 2
    resources:
        # One layer at a time, however deep the model.
        mem_mb=memory_for(base=1200, layers=5, cases=8),
    params:
        spec=lookup("{variant}", within=VARIANTS),
        outputs=lambda wildcards: asked_outputs(wildcards.variant, wildcards.interface),
        code=code_of("run_equinox"),
    message:
        "{wildcards.variant}: running the Equinox model ({wildcards.interface})"
    script:
        "../scripts/run_equinox.py"


rule run_onnx:
    input:
        graph="<results>/{variant}/{export}.onnx",
        weights=weights_beside,
        inputs=of_graph("inputs"),
    output:
        outputs="<results>/{variant}/features/{export}.onnx.npz",
    log:
        "<logs>/{variant}/run_onnx_{export}.log",
    benchmark:
        "<benchmarks>/{variant}/run_onnx_{export}.tsv"
    conda:
        "../../envs/onnx.yaml"
    threads: 2
    resources:
        mem_mb=memory_for(base=1200, weights=packed_weights, cases=6),
    params:
        spec=lookup("{variant}", within=VARIANTS),
        recipe=lookup("{export}", within=config["exports"]),
        batch_sizes=config["parity"]["batch_sizes"],
        code=code_of("run_onnx"),
    message:
        "{wildcards.variant}: running {wildcards.export}.onnx"
    script:
        "../scripts/run_onnx.py"


rule compare_outputs:
    input:
        inputs=of_graph("inputs"),
        references=features_of_references,
        equinox=of_graph("equinox"),
        onnx="<results>/{variant}/features/{export}.onnx.npz",
    output:
        comparison=report(
            "<results>/{variant}/parity/{export}.json",
            caption="../report/comparison.rst",
            category="Tables",
            labels={"variant": "{variant}", "graph": "{export}", "file": "all numbers (JSON)"},
        ),
        differences=report(
            "<results>/{variant}/parity/{export}.csv",
            caption="../report/comparison.rst",
            category="Tables",
            labels={"variant": "{variant}", "graph": "{export}", "file": "differences (CSV)"},
        ),
        semantics=report(
            "<results>/{variant}/parity/{export}.semantics.csv",
            caption="../report/comparison.rst",
            category="Tables",
            labels={"variant": "{variant}", "graph": "{export}", "file": "semantics (CSV)"},
        ),
    log:
        "<logs>/{variant}/compare_outputs_{export}.log",
    benchmark:
        "<benchmarks>/{variant}/compare_outputs_{export}.tsv"
    conda:
        "../../envs/onnx.yaml"
    threads: 1
    resources:
        mem_mb=memory_for(base=700, cases=13),
    params:
        spec=lookup("{variant}", within=VARIANTS),
        recipe=lookup("{export}", within=config["exports"]),
        references=references,
        batch_sizes=config["parity"]["batch_sizes"],
        code=code_of("compare_outputs"),
    message:
        "{wildcards.variant}: comparing {wildcards.export}.onnx with {params.references}"
    script:
        "../scripts/compare_outputs.py"
