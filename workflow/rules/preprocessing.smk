"""Our preprocessing against that of others, apart from the model: measured."""


rule compare_preprocessing:
    input:
        images=list(IMAGES.values()),
        texts=texts,
        tokenizer=tokenizer,
    output:
        comparison=report(
            "<results>/{variant}/preprocessing.json",
            caption="../report/preprocessing.rst",
            category="Tables",
            labels={"variant": "{variant}", "graph": "all", "file": "preprocessing (JSON)"},
        ),
        table=report(
            "<results>/{variant}/preprocessing.csv",
            caption="../report/preprocessing.rst",
            category="Tables",
            labels={"variant": "{variant}", "graph": "all", "file": "preprocessing (CSV)"},
        ),
    log:
        "<logs>/{variant}/compare_preprocessing.log",
    benchmark:
        "<benchmarks>/{variant}/compare_preprocessing.tsv"
    conda:
        "../../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=2500,
    params:
        spec=lookup("{variant}", within=VARIANTS),
        names=list(IMAGES),
        sizes=compared_sizes,
        code=code_of("compare_preprocessing"),
    message:
        "{wildcards.variant}: comparing the preprocessing with that of others"
    script:
        "../scripts/compare_preprocessing.py"


rule compare_photographs:
    input:
        graph="<results>/{variant}/{export}.onnx",
        weights=weights_beside,
        images=list(IMAGES.values()),
    output:
        comparison="<results>/{variant}/parity/{export}.photographs.json",
        table=report(
            "<results>/{variant}/parity/{export}.photographs.csv",
            caption="../report/photographs.rst",
            category="Tables",
            labels={"variant": "{variant}", "graph": "{export}", "file": "photographs (CSV)"},
        ),
    log:
        "<logs>/{variant}/compare_photographs_{export}.log",
    benchmark:
        "<benchmarks>/{variant}/compare_photographs_{export}.tsv"
    conda:
        "../../envs/onnx.yaml"
    threads: 1
    resources:
        mem_mb=memory_for(base=1500, weights=1),
    params:
        spec=lookup("{variant}", within=VARIANTS),
        recipe=lookup("{export}", within=config["exports"]),
        names=list(IMAGES),
        code=code_of("compare_photographs"),
    message:
        "{wildcards.variant}: comparing the photographs that {wildcards.export}.onnx prepares with our preprocessing"
    script:
        "../scripts/compare_photographs.py"
