"""Put together what is uploaded to the Hugging Face hub: all graphs of a variant under the names that tools look for.

Only the target `package` asks for it. A graph that did not pass has no passport, so there is no package with it.
"""


rule package_model:
    input:
        graphs=in_package("<results>/{variant}/{export}.onnx"),
        passports=in_package("<results>/{variant}/{export}.passport.json"),
        samples=in_package("<results>/{variant}/{export}.sample.npz"),
        weights=in_package(weights_beside),
        program="<results>/{variant}/verify.py",
        licence=licence_of,
        tokenizer=lambda _: str(Path(config["tokenizer"]).expanduser()) if config["tokenizer"] else [],
    output:
        # The last of its folder that is written. The others may be links to files of the variant, whose times
        # Snakemake must not change.
        card="<results>/{variant}/package/README.md",
    log:
        "<logs>/{variant}/package_model.log",
    benchmark:
        "<benchmarks>/{variant}/package_model.tsv"
    conda:
        "../../envs/onnx.yaml"
    threads: 1
    resources:
        mem_mb=memory_for(base=500),
    params:
        spec=lookup("{variant}", within=VARIANTS),
        recipes=config["exports"],
        code=code_of("package_model"),
    message:
        "{wildcards.variant}: packaging its graphs for the Hugging Face hub"
    script:
        "../scripts/package_model.py"


rule package:
    input:
        expand("<results>/{variant}/package/README.md", variant=LISTED),
    message:
        "The packages are in results/{config[weights]}/*/package/."
