"""Show the result: a page per variant, a summary of all graphs, and a table at the end of the run."""

import atexit

from vit2onnx.reporting.terminal import measured_by, print_summary


rule render_parity:
    input:
        comparisons=lambda wildcards: per_graph("<results>/{variant}/parity/{export}.json", [wildcards.variant]),
        record="<results>/{variant}/checkpoint.json",
        ledger="<results>/{variant}/ledger.csv",
        preprocessing="<results>/{variant}/preprocessing.json",
        graphs=lambda wildcards: per_graph("<results>/{variant}/{export}.onnx", [wildcards.variant]),
        stages=lambda wildcards: stage_ledgers([wildcards.variant]),
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
    # Evidence before the gate, whose failure ends the run.
    priority: 1
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=1500,
    params:
        names=list(IMAGES),
        exports=lambda wildcards: exports_of(wildcards.variant),
        limits=config["parity"],
        code=code_of("render_parity"),
    message:
        "{wildcards.variant}: rendering the parity page"
    script:
        "../scripts/render_parity.py"


rule summarise_parity:
    input:
        comparisons=per_graph("<results>/{variant}/parity/{export}.json"),
        graphs=per_graph("<results>/{variant}/{export}.onnx"),
        # Beside the graphs, where they are looked for.
        records=expand("<results>/{variant}/checkpoint.json", variant=LISTED),
        preprocessing=expand("<results>/{variant}/preprocessing.json", variant=LISTED),
        stages=stage_ledgers(LISTED),
        self_test=branch(config["parity"]["self_test"], then="<results>/self_test.json"),
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
        # Which workflow.rst, the front page of the report, includes.
        verdict="<results>/verdict.rst",
    log:
        "<logs>/summarise_parity.log",
    benchmark:
        "<benchmarks>/summarise_parity.tsv"
    priority: 1
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=1000,
    params:
        limits=config["parity"],
        weights=config["weights"],
        code=code_digest("summarise_parity"),
    message:
        "Summarising the verdicts on all graphs"
    script:
        "../scripts/summarise_parity.py"


onsuccess:
    # At the very end, because the logger's live display would be drawn over it.
    atexit.register(print_summary, measured_by(workflow.dag), config["parity"], config["weights"])


onerror:
    atexit.register(print_summary, measured_by(workflow.dag), config["parity"], config["weights"], complete=False)
