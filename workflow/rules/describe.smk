"""Describe the dense maps of a model, and of two models beside each other, by figures and arrays."""


rule describe_dense:
    input:
        reference="<results>/{variant}/features/dense/transformers.npz",
        equinox="<results>/{variant}/features/dense/equinox.npz",
        record="<results>/{variant}/checkpoint.json",
        masks=[str(expanded(path)) for path in config["dense"]["masks"].values()],
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
        interface=lambda wildcards: DENSE.interface(wildcards.variant).name,
        cases=lambda wildcards: DENSE.described_cases(wildcards.variant),
        masked=list(config["dense"]["masks"]),
        settings={name: config["dense"][name] for name in ("basis", "foreground", "references", "high_norm")},
        code=code_of("describe_dense"),
    message:
        "{wildcards.variant}: describing its dense maps"
    script:
        "../scripts/describe_dense.py"


rule retrieve_images:
    input:
        model="<results>/{variant}/model.eqx",
        images=[str(one.path) for one in DENSE.labelled],
        masks=[str(one.mask) for one in DENSE.labelled if one.mask],
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
        mem_mb=memory_for_maps(base=1500, layers=5, maps=1, heads=32),
    params:
        spec=lookup("{variant}", within=VARIANTS),
        interface=lambda wildcards: DENSE.interface(wildcards.variant).name,
        size=lambda wildcards: DENSE.size(wildcards.variant),
        retrieval=config["dense"]["retrieval"],
        labels=[one.label for one in DENSE.labelled],
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
        mem_mb=memory_for_pair(base=900, maps=6),
    params:
        code=code_digest("compare_models"),
    message:
        "{wildcards.pair}: comparing the dense maps of two models"
    script:
        "../scripts/compare_models.py"
