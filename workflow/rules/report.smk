"""Show the result: a page per variant, a summary of all graphs, and a table at the end of the run."""

import atexit

from vit2onnx.reporting.terminal import compared_graphs, print_summary


rule render_parity:
    input:
        comparisons=expand("<results>/{{variant}}/parity/{export}.json", export=config["exports"]),
        record="<results>/{variant}/checkpoint.json",
        ledger="<results>/{variant}/ledger.csv",
        preprocessing="<results>/{variant}/preprocessing.json",
    output:
        page=report(
            "<results>/{variant}/parity.html",
            caption="../report/parity.rst",
            category="Parity",
            labels={"variant": "{variant}", "graph": "all", "file": "page"},
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
        mem_mb=1000,
    params:
        limits={key: config["parity"][key] for key in ("limits", "preprocessing")},
        code=code_digest("variants", "files", "reporting", "parity"),
    message:
        "{wildcards.variant}: rendering the parity page"
    script:
        "../scripts/render_parity.py"


rule summarise_parity:
    input:
        comparisons=expand(
            "<results>/{variant}/parity/{export}.json", variant=config["variants"], export=config["exports"]
        ),
        graphs=expand("<results>/{variant}/{export}.onnx", variant=config["variants"], export=config["exports"]),
    output:
        table=report(
            "<results>/summary.csv",
            caption="../report/summary.rst",
            category="Summary",
            labels={"file": "table (CSV)"},
        ),
        page=report(
            "<results>/summary.html",
            caption="../report/summary.rst",
            category="Summary",
            labels={"file": "page"},
        ),
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
        limits=config["parity"]["limits"],
        weights=config["weights"],
        code=code_digest("variants", "files", "reporting", "parity"),
    message:
        "Summarising the verdicts on all graphs"
    script:
        "../scripts/summarise_parity.py"


onsuccess:
    # At the very end, because the logger's live display would be drawn over it.
    atexit.register(print_summary, compared_graphs(workflow.dag), config["parity"]["limits"], config["weights"])


onerror:
    atexit.register(
        print_summary, compared_graphs(workflow.dag), config["parity"]["limits"], config["weights"], complete=False
    )
