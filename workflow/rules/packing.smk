"""See that the images of a packed graph do not depend on each other, and that it refuses wrong inputs."""


rule align_packing:
    input:
        graph="<results>/{variant}/{export}.onnx",
        weights=weights_beside,
        inputs=of_graph("inputs"),
        reference=of_graph("transformers"),
        equinox=of_graph("equinox"),
    output:
        comparison="<results>/{variant}/parity/{export}.packing.json",
        table=report(
            "<results>/{variant}/parity/{export}.packing.csv",
            caption="../report/packing.rst",
            category="Tables",
            labels={"variant": "{variant}", "graph": "{export}", "file": "packing (CSV)"},
        ),
    log:
        "<logs>/{variant}/align_packing_{export}.log",
    benchmark:
        "<benchmarks>/{variant}/align_packing_{export}.tsv"
    conda:
        "../../envs/onnx.yaml"
    threads: 2
    resources:
        mem_mb=memory_for(base=1200, weights=packed_weights, cases=6),
    params:
        spec=lookup("{variant}", within=VARIANTS),
        recipe=lookup("{export}", within=config["exports"]),
        code=code_of("align_packing"),
    message:
        "{wildcards.variant}: probing the packing of {wildcards.export}.onnx"
    script:
        "../scripts/align_packing.py"
