"""Show the result: pages per variant, a summary of all graphs, and a table at the end of the run."""


rule render_parity:
    input:
        verdicts=lambda wildcards: per_graph("<results>/{variant}/{export}.verdict.json", [wildcards.variant]),
        comparisons=lambda wildcards: per_graph("<results>/{variant}/parity/{export}.json", [wildcards.variant]),
        record="<results>/{variant}/checkpoint.json",
        ledger="<results>/{variant}/ledger.csv",
        preprocessing="<results>/{variant}/preprocessing.json",
        graphs=lambda wildcards: per_graph("<results>/{variant}/{export}.onnx", [wildcards.variant]),
        stages=of_all_graphs(stages_of),
        packing=of_all_graphs(packing_of),
        plans=of_all_graphs(plan_of),
        dense=of_all_graphs(dense_of),
        images=list(IMAGES.values()),
        self_test=branch(config["parity"]["self_test"], then="<results>/self_test.json"),
    output:
        page=report(
            "<results>/{variant}/parity.html",
            caption="../report/parity.rst",
            category="Parity",
            labels={"variant": "{variant}"},
        ),
    log:
        "<logs>/{variant}/render_parity.log",
    benchmark:
        "<benchmarks>/{variant}/render_parity.tsv"
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=1500,
    params:
        names=list(IMAGES),
        exports=lambda wildcards: exports_of(wildcards.variant),
        code=code_of("render_parity"),
    message:
        "{wildcards.variant}: rendering the parity page"
    script:
        "../scripts/render_parity.py"


rule summarise_parity:
    input:
        verdicts=per_graph("<results>/{variant}/{export}.verdict.json"),
    output:
        table=report(
            "<results>/summary.csv",
            caption="../report/summary.rst",
            category="Summary",
            labels={"file": "table (CSV)"},
        ),
        data=report(
            "<results>/summary.json",
            caption="../report/summary.rst",
            category="Summary",
            labels={"file": "table (JSON)"},
        ),
        page=report(
            "<results>/summary.html",
            caption="../report/summary.rst",
            category="Summary",
            labels={"file": "page"},
        ),
        # Included by workflow.rst, the front page of the report.
        verdict="<results>/verdict.rst",
    log:
        "<logs>/summarise_parity.log",
    benchmark:
        "<benchmarks>/summarise_parity.tsv"
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=1000,
    params:
        code=code_digest("summarise_parity"),
    message:
        "Summarising the verdicts on all graphs"
    script:
        "../scripts/summarise_parity.py"


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
        pictures=directory("<results>/{variant}/dense/pictures"),
    log:
        "<logs>/{variant}/render_dense.log",
    benchmark:
        "<benchmarks>/{variant}/render_dense.tsv"
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=memory_for_maps(base=1500, maps=2),
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
        pictures=directory("<results>/dense/{pair}/pictures"),
    log:
        "<logs>/dense/render_pair_{pair}.log",
    benchmark:
        "<benchmarks>/dense/render_pair_{pair}.tsv"
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=memory_for_pair(base=1500, maps=2),
    params:
        names=list(IMAGES),
        code=code_digest("render_dense"),
    message:
        "{wildcards.pair}: rendering the dense maps of two models"
    script:
        "../scripts/render_dense.py"


onsuccess:
    show_summary(complete=True)


onerror:
    show_summary(complete=False)
