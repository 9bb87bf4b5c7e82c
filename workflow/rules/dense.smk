"""Describe the dense maps of photographs, compare them, and show them on a page. Asked for by dense.enabled."""


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
        interface=mapped_interface_of,
        cases=cases_of_maps,
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
        mem_mb=memory_for_maps(base=1200, layers=5, weights=own_model, maps=6),
    params:
        spec=lookup("{variant}", within=VARIANTS),
        interface=mapped_interface_of,
        layers=layers_of_maps,
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
        mem_mb=memory_for_maps(base=1200, layers=5, maps=6),
    params:
        spec=lookup("{variant}", within=VARIANTS),
        interface=mapped_interface_of,
        layers=layers_of_maps,
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
        mem_mb=memory_for_maps(base=1200, weights=2, maps=6),
    params:
        spec=lookup("{variant}", within=VARIANTS),
        recipe=lookup("{export}", within=config["exports"]),
        cases=cases_of_graph_maps,
        layers=layers_of_maps,
        code=code_of("run_dense_onnx"),
    message:
        "{wildcards.variant}: running {wildcards.export}.onnx for dense maps"
    script:
        "../scripts/run_dense_onnx.py"


rule compare_dense:
    input:
        graph="<results>/{variant}/{export}.onnx",
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
        cases=cases_of_graph_maps,
        high_norm=config["dense"]["high_norm"],
        code=code_of("compare_dense"),
    message:
        "{wildcards.variant}: comparing the dense maps of {wildcards.export}.onnx"
    script:
        "../scripts/compare_dense.py"


rule describe_dense:
    input:
        reference="<results>/{variant}/features/dense/transformers.npz",
        equinox="<results>/{variant}/features/dense/equinox.npz",
        masks=[str(Path(config["dense"]["masks"][name]).expanduser()) for name in MASKED],
    output:
        figures="<results>/{variant}/dense/figures.json",
        maps="<results>/{variant}/dense/maps.npz",
        table=report(
            "<results>/{variant}/dense/figures.csv",
            caption="../report/dense.rst",
            category="Dense",
            labels={"models": "{variant}", "file": "figures (CSV)"},
        ),
        layers="<results>/{variant}/dense/layers.csv",
        norms="<results>/{variant}/dense/norms.csv",
    log:
        "<logs>/{variant}/describe_dense.log",
    benchmark:
        "<benchmarks>/{variant}/describe_dense.tsv"
    conda:
        "../../envs/onnx.yaml"
    # Two threads of BLAS wait for each other, and sum up in another order than one.
    threads: 1
    resources:
        mem_mb=memory_for_maps(base=900, maps=8),
    params:
        spec=lookup("{variant}", within=VARIANTS),
        interface=mapped_interface_of,
        weights=config["weights"],
        cases=described_cases,
        masked=MASKED,
        settings={name: config["dense"][name] for name in ("basis", "foreground", "references", "high_norm")},
        code=code_of("describe_dense"),
    message:
        "{wildcards.variant}: describing its dense maps"
    script:
        "../scripts/describe_dense.py"


rule retrieve_images:
    input:
        model="<results>/{variant}/model.eqx",
        images=retrieval_files("path"),
        masks=retrieval_files("mask"),
    output:
        figures="<results>/{variant}/dense/retrieval.json",
        table=report(
            "<results>/{variant}/dense/retrieval.csv",
            caption="../report/dense.rst",
            category="Dense",
            labels={"models": "{variant}", "file": "retrieval (CSV)"},
        ),
    log:
        "<logs>/{variant}/retrieve_images.log",
    benchmark:
        "<benchmarks>/{variant}/retrieve_images.tsv"
    conda:
        "../../envs/jax.yaml"
    threads: 2
    resources:
        mem_mb=memory_for_maps(base=1500, layers=5, maps=1),
    params:
        spec=lookup("{variant}", within=VARIANTS),
        interface=mapped_interface_of,
        size=described_size_of,
        retrieval=config["dense"]["retrieval"],
        labels=[one.label for one in LABELLED],
        suppress=config["dense"]["suppress"],
        resources=str(ROOT / "resources"),
        code=code_of("retrieve_images"),
    message:
        "{wildcards.variant}: retrieving images by their features"
    script:
        "../scripts/retrieve_images.py"


rule compare_models:
    input:
        figures=of_pair("<results>/{variant}/dense/figures.json"),
        maps=of_pair("<results>/{variant}/dense/maps.npz"),
        features=of_pair("<results>/{variant}/features/dense/transformers.npz"),
    output:
        figures="<results>/dense/{pair}/figures.json",
        maps="<results>/dense/{pair}/maps.npz",
        table=report(
            "<results>/dense/{pair}/figures.csv",
            caption="../report/dense.rst",
            category="Dense",
            labels={"models": "{pair}", "file": "figures (CSV)"},
        ),
    log:
        "<logs>/dense/compare_models_{pair}.log",
    benchmark:
        "<benchmarks>/dense/compare_models_{pair}.tsv"
    conda:
        "../../envs/onnx.yaml"
    # Two threads of BLAS wait for each other, and sum up in another order than one.
    threads: 1
    resources:
        mem_mb=2000,
    params:
        code=code_digest("compare_models"),
    message:
        "{wildcards.pair}: comparing the dense maps of two models"
    script:
        "../scripts/compare_models.py"


rule render_dense:
    input:
        images=list(IMAGES.values()),
        figures="<results>/{variant}/dense/figures.json",
        maps="<results>/{variant}/dense/maps.npz",
        retrieval=branch(config["dense"]["retrieval"], then="<results>/{variant}/dense/retrieval.json"),
    output:
        page=report(
            "<results>/{variant}/dense/dense.html",
            caption="../report/dense.rst",
            category="Dense",
            labels={"models": "{variant}", "file": "page"},
        ),
        pictures=expand("<results>/{{variant}}/dense/{image}.png", image=IMAGES),
    log:
        "<logs>/{variant}/render_dense.log",
    benchmark:
        "<benchmarks>/{variant}/render_dense.tsv"
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=1500,
    params:
        names=list(IMAGES),
        code=code_of("render_dense"),
    message:
        "{wildcards.variant}: rendering its dense maps"
    script:
        "../scripts/render_dense.py"


rule render_pair:
    input:
        images=list(IMAGES.values()),
        figures=of_pair("<results>/{variant}/dense/figures.json"),
        maps=of_pair("<results>/{variant}/dense/maps.npz"),
        retrieval=branch(config["dense"]["retrieval"], then=of_pair("<results>/{variant}/dense/retrieval.json")),
        pair_figures="<results>/dense/{pair}/figures.json",
        pair_maps="<results>/dense/{pair}/maps.npz",
    output:
        page=report(
            "<results>/dense/{pair}/dense.html",
            caption="../report/dense.rst",
            category="Dense",
            labels={"models": "{pair}", "file": "page"},
        ),
        pictures=expand("<results>/dense/{{pair}}/{image}.png", image=IMAGES),
    log:
        "<logs>/dense/render_pair_{pair}.log",
    benchmark:
        "<benchmarks>/dense/render_pair_{pair}.tsv"
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=1500,
    params:
        names=list(IMAGES),
        code=code_digest("render_pair"),
    message:
        "{wildcards.pair}: rendering the dense maps of two models"
    script:
        "../scripts/render_pair.py"
