"""Bring the archive into the shape of an inference model."""


rule map_weights:
    input:
        archive="<results>/{variant}/archive.tar.lz4",
    output:
        model="<results>/{variant}/model.eqx",
    log:
        "<logs>/{variant}/map_weights.log",
    benchmark:
        "<benchmarks>/{variant}/map_weights.tsv"
    conda:
        "../../envs/jax.yaml"
    threads: 2
    resources:
        mem_mb=memory_for(base=600, layers=2),
    params:
        spec=lookup("{variant}", within=VARIANTS),
        code=code_of("map_weights"),
    message:
        "{wildcards.variant}: mapping the archive to the inference model"
    script:
        "../scripts/map_weights.py"


rule map_jax2onnx_example:
    input:
        archive="<results>/{variant}/archive.tar.lz4",
    output:
        model="<results>/{variant}/jax2onnx_example.eqx",
    log:
        "<logs>/{variant}/map_jax2onnx_example.log",
    benchmark:
        "<benchmarks>/{variant}/map_jax2onnx_example.tsv"
    conda:
        "../../envs/jax.yaml"
    threads: 2
    resources:
        mem_mb=memory_for(base=600, layers=2),
    params:
        spec=lookup("{variant}", within=VARIANTS),
        code=code_of("map_jax2onnx_example"),
    message:
        "{wildcards.variant}: mapping the archive to the example class of jax2onnx"
    script:
        "../scripts/map_jax2onnx_example.py"
