"""Trace the model without its weights and write it as ONNX."""


rule export_onnx:
    input:
        model="<results>/{variant}/model.eqx",
        record="<results>/{variant}/checkpoint.json",
        ledger="<results>/{variant}/ledger.csv",
    output:
        graph="<results>/{variant}/{export}.onnx",
    log:
        "<logs>/{variant}/export_onnx_{export}.log",
    benchmark:
        "<benchmarks>/{variant}/export_onnx_{export}.tsv"
    conda:
        "../../envs/jax.yaml"
    threads: 1
    resources:
        mem_mb=memory_for(base=1000, layers=1),
    params:
        spec=lookup("{variant}", within=VARIANTS),
        recipe=lookup("{export}", within=config["exports"]),
        external=weights_are_external,
        code=code_of("export_onnx"),
    message:
        "{wildcards.variant}: exporting {wildcards.export}.onnx"
    script:
        "../scripts/export_onnx.py"
