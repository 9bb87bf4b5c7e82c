"""Write what goes along with a graph that passed: its passport, a sample and a program to verify it by, and the
weights' licence.

The passport is the gate: the graph is judged once more from its features and run on the sample. A graph that does not
pass gets none, and fails the run.
"""


rule write_passport:
    input:
        **EVIDENCE,
        checkpoint="<results>/{variant}/checkpoint",
        ledger="<results>/{variant}/ledger.csv",
        verdict="<results>/{variant}/{export}.verdict.json",
        model="<results>/{variant}/model.eqx",
        weights=weights_beside,
        inputs=of_graph("inputs"),
        references=features_of_references,
        equinox=of_graph("equinox"),
        onnx="<results>/{variant}/features/{export}.onnx.npz",
        tokenizer=tokenizer,
        plan=plan_of,
    output:
        passport=report(
            "<results>/{variant}/{export}.passport.json",
            caption="../report/passport.rst",
            category="Weights",
            labels={"variant": "{variant}", "graph": "{export}", "file": "passport (JSON)"},
        ),
        sample="<results>/{variant}/{export}.sample.npz",
    log:
        "<logs>/{variant}/write_passport_{export}.log",
    benchmark:
        "<benchmarks>/{variant}/write_passport_{export}.tsv"
    conda:
        "../../envs/checkpoint.yaml"
    threads: 1
    resources:
        # Of the weights, the checkpoint's are read one by one; onnxruntime holds those that are not external.
        mem_mb=memory_for(base=1200, layers=2, weights=packed_weights, cases=13),
    params:
        spec=lookup("{variant}", within=VARIANTS),
        recipe=lookup("{export}", within=config["exports"]),
        whose=config["weights"],
        references=references,
        batch_sizes=config["parity"]["batch_sizes"],
        evidence=list(EVIDENCE),
        limits=limits,
        code=code_of("write_passport"),
    message:
        "{wildcards.variant}: writing the passport of {wildcards.export}.onnx"
    script:
        "../scripts/write_passport.py"


rule write_verify:
    output:
        program="<results>/{variant}/verify.py",
    log:
        "<logs>/{variant}/write_verify.log",
    benchmark:
        "<benchmarks>/{variant}/write_verify.tsv"
    localrule: True
    conda:
        "../../envs/onnx.yaml"
    params:
        code=code_digest("write_verify"),
    message:
        "{wildcards.variant}: writing the program that verifies its graphs"
    script:
        "../scripts/write_verify.py"


rule write_packing:
    output:
        module="<results>/{variant}/packing.py",
    log:
        "<logs>/{variant}/write_packing.log",
    benchmark:
        "<benchmarks>/{variant}/write_packing.tsv"
    localrule: True
    conda:
        "../../envs/onnx.yaml"
    params:
        code=code_digest("write_packing"),
    message:
        "{wildcards.variant}: writing the module that packs images"
    script:
        "../scripts/write_packing.py"


# The licence demands that a copy of it goes along with the weights.
rule copy_licence:
    input:
        licence=lambda wildcards: bundled(VARIANTS[wildcards.variant]["licence"]["text"]),
    output:
        licence=f"<results>/{{variant}}/{LICENCE_FILE}",
    log:
        "<logs>/{variant}/copy_licence.log",
    localrule: True
    conda:
        "../../envs/report.yaml"
    message:
        "{wildcards.variant}: copying the licence of its weights"
    shell:
        "cp -- {input.licence:q} {output.licence:q} 2> {log:q}"
