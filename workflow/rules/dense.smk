"""Run and compare the dense maps of all implementations. Asked for by dense.enabled."""


rule prepare_dense_inputs:
    input:
        images=list(IMAGES.values()),
    output:
        inputs="<results>/{variant}/features/dense/inputs.npz",
    log:
        "<logs>/{variant}/prepare_dense_inputs.log",
    benchmark:
        "<benchmarks>/{variant}/prepare_dense_inputs.tsv"
    conda:
        "../../envs/onnx.yaml"
    threads: 1
    resources:
        mem_mb=memory_for_maps(base=900, maps=1),
    params:
        spec=lookup("{variant}", within=VARIANTS),
        names=list(IMAGES),
        interface=lambda wildcards: DENSE.interface(wildcards.variant).name,
        cases=lambda wildcards: DENSE.cases(wildcards.variant),
        code=code_of("prepare_dense_inputs"),
    message:
        "{wildcards.variant}: preparing photographs for dense maps"
    script:
        "../scripts/prepare_dense_inputs.py"


rule run_dense_reference:
    input:
        checkpoint="<results>/{variant}/checkpoint",
        inputs="<results>/{variant}/features/dense/inputs.npz",
    output:
        features="<results>/{variant}/features/dense/transformers.npz",
    log:
        "<logs>/{variant}/run_dense_reference.log",
    benchmark:
        "<benchmarks>/{variant}/run_dense_reference.tsv"
    conda:
        "../../envs/torch.yaml"
    threads: 2
    resources:
        mem_mb=memory_for_maps(base=1200, layers=5, weights=own_model, maps=6, heads=32),
    params:
        spec=lookup("{variant}", within=VARIANTS),
        interface=lambda wildcards: DENSE.interface(wildcards.variant).name,
        layers=lambda wildcards: DENSE.layers(wildcards.variant),
        code=code_of("run_dense_reference"),
    message:
        "{wildcards.variant}: running the reference for dense maps"
    script:
        "../scripts/run_dense_reference.py"


rule run_dense_equinox:
    input:
        model="<results>/{variant}/model.eqx",
        inputs="<results>/{variant}/features/dense/inputs.npz",
    output:
        features="<results>/{variant}/features/dense/equinox.npz",
    log:
        "<logs>/{variant}/run_dense_equinox.log",
    benchmark:
        "<benchmarks>/{variant}/run_dense_equinox.tsv"
    conda:
        "../../envs/jax.yaml"
    threads: 2
    resources:
        mem_mb=memory_for_maps(base=1200, layers=5, maps=6, heads=32),
    params:
        spec=lookup("{variant}", within=VARIANTS),
        interface=lambda wildcards: DENSE.interface(wildcards.variant).name,
        layers=lambda wildcards: DENSE.layers(wildcards.variant),
        code=code_of("run_dense_equinox"),
    message:
        "{wildcards.variant}: running the Equinox model for dense maps, also without registers"
    script:
        "../scripts/run_dense_equinox.py"


rule run_dense_onnx:
    input:
        graph="<results>/{variant}/{export}.onnx",
        # Gives the layers that the graph itself does not give.
        stages="<results>/{variant}/{export}.stages.onnx",
        # Holds the weights of the copy.
        model="<results>/{variant}/model.eqx",
        inputs="<results>/{variant}/features/dense/inputs.npz",
    output:
        features="<results>/{variant}/features/dense/{export}.onnx.npz",
    log:
        "<logs>/{variant}/run_dense_onnx_{export}.log",
    benchmark:
        "<benchmarks>/{variant}/run_dense_onnx_{export}.tsv"
    conda:
        "../../envs/onnx.yaml"
    threads: 2
    resources:
        mem_mb=memory_for_maps(base=1200, weights=2, maps=6, heads=32),
    params:
        spec=lookup("{variant}", within=VARIANTS),
        recipe=lookup("{export}", within=config["exports"]),
        cases=lambda wildcards: DENSE.cases_of_graph(wildcards.variant, wildcards.export),
        layers=lambda wildcards: DENSE.layers(wildcards.variant),
        code=code_of("run_dense_onnx"),
    message:
        "{wildcards.variant}: running {wildcards.export}.onnx for dense maps"
    script:
        "../scripts/run_dense_onnx.py"


rule compare_dense:
    input:
        reference="<results>/{variant}/features/dense/transformers.npz",
        equinox="<results>/{variant}/features/dense/equinox.npz",
        onnx="<results>/{variant}/features/dense/{export}.onnx.npz",
    output:
        comparison="<results>/{variant}/parity/{export}.dense.json",
        table=report(
            "<results>/{variant}/parity/{export}.dense.csv",
            caption="../report/dense_parity.rst",
            category="Tables",
            labels={"variant": "{variant}", "graph": "{export}", "file": "dense maps (CSV)"},
        ),
    log:
        "<logs>/{variant}/compare_dense_{export}.log",
    benchmark:
        "<benchmarks>/{variant}/compare_dense_{export}.tsv"
    conda:
        "../../envs/onnx.yaml"
    # Two threads of BLAS wait for each other, and sum up in another order than one.
    threads: 1
    resources:
        mem_mb=memory_for_maps(base=900, maps=8),
    params:
        cases=lambda wildcards: DENSE.cases_of_graph(wildcards.variant, wildcards.export),
        high_norm=config["dense"]["high_norm"],
        code=code_of("compare_dense"),
    message:
        "{wildcards.variant}: comparing the dense maps of {wildcards.export}.onnx"
    script:
        "../scripts/compare_dense.py"
