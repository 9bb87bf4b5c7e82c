"""Show the result: a page per variant, a summary of all graphs, and a table at the end of the run."""


rule render_parity:
    input:
        verdicts=lambda wildcards: per_graph("<results>/{variant}/{export}.verdict.json", [wildcards.variant]),
        comparisons=lambda wildcards: per_graph("<results>/{variant}/parity/{export}.json", [wildcards.variant]),
        record="<results>/{variant}/checkpoint.json",
        ledger="<results>/{variant}/ledger.csv",
        preprocessing="<results>/{variant}/preprocessing.json",
        graphs=lambda wildcards: per_graph("<results>/{variant}/{export}.onnx", [wildcards.variant]),
        stages=lambda wildcards: (
            per_graph("<results>/{variant}/parity/{export}.stages.json", [wildcards.variant])
            if config["parity"]["stages"]
            else []
        ),
        packing=lambda wildcards: [
            f"<results>/{{variant}}/parity/{export}.packing.json" for export in packed_exports_of(wildcards.variant)
        ],
        dense=lambda wildcards: [
            f"<results>/{{variant}}/parity/{export}.dense.json"
            for export in exports_of(wildcards.variant)
            if compared_size_of(wildcards.variant, export)
        ],
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


onsuccess:
    show_summary(complete=True)


onerror:
    show_summary(complete=False)
