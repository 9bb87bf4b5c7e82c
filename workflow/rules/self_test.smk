"""Put the checks to the test: plant faults in small models, and see that each is caught and named where it is."""


rule self_test:
    input:
        "<results>/self_test.html",
        "<results>/self_test.verdict.json",


rule plant_faults:
    input:
        # Not the photographs of the config, because these are known to show the faults.
        photographs=[bundled("resources/images/chelsea.jpg"), bundled("resources/images/coffee.jpg")],
    output:
        result=report(
            "<results>/self_test.json",
            caption="../report/self_test.rst",
            category="Self-test",
            labels={"file": "table (JSON)"},
        ),
        table=report(
            "<results>/self_test.csv",
            caption="../report/self_test.rst",
            category="Self-test",
            labels={"file": "table (CSV)"},
        ),
    log:
        "<logs>/plant_faults.log",
    benchmark:
        "<benchmarks>/plant_faults.tsv"
    conda:
        "../../envs/self_test.yaml"
    threads: 1
    resources:
        mem_mb=2500,
    params:
        specs=lambda _: {name: VARIANTS[name] for name in self_test_models().values() if name in VARIANTS},
        # So many healthy models of each kind.
        seeds=30,
        limits=config["limits"]["float32"],
        preprocessing_limits=config["limits"]["preprocessing"],
        code=code_digest("plant_faults", *families()),
    message:
        "Planting faults in small models, to test the checks"
    script:
        "../scripts/plant_faults.py"


rule render_self_test:
    input:
        result="<results>/self_test.json",
    output:
        page=report(
            "<results>/self_test.html",
            caption="../report/self_test.rst",
            category="Self-test",
            labels={"file": "page"},
        ),
    log:
        "<logs>/render_self_test.log",
    benchmark:
        "<benchmarks>/render_self_test.tsv"
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=1000,
    params:
        code=code_digest("render_self_test"),
    message:
        "Rendering the page on the self-test"
    script:
        "../scripts/render_self_test.py"


rule judge_self_test:
    input:
        result="<results>/self_test.json",
    output:
        verdict="<results>/self_test.verdict.json",
    log:
        "<logs>/judge_self_test.log",
    benchmark:
        "<benchmarks>/judge_self_test.tsv"
    conda:
        "../../envs/onnx.yaml"
    threads: 1
    resources:
        mem_mb=500,
    params:
        code=code_digest("judge_self_test"),
    message:
        "Judging the self-test"
    script:
        "../scripts/judge_self_test.py"
