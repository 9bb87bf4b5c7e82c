"""The whole workflow on a tiny variant, as a user runs it: once through, then what a change reruns."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest
from workflow_project import TINY, add_variant, edit_config, python_of, set_limit, snakemake

from vit2onnx.files import read_json, sha256_of, write_json
from vit2onnx.onnx_file import checksum_entry

RESULTS = [
    "checkpoint",
    "checkpoint.json",
    "archive.tar.lz4",
    "ledger.csv",
    "model.eqx",
    "static.onnx",
    "dynamic.onnx",
    "parity/static.json",
    "parity/static.csv",
    "parity/static.semantics.csv",
    "parity/dynamic.json",
    "parity/dynamic.csv",
    "parity/dynamic.semantics.csv",
    "static.verdict.json",
    "dynamic.verdict.json",
    "static.passport.json",
    "dynamic.passport.json",
    "static.sample.npz",
    "dynamic.sample.npz",
    "preprocessing.json",
    "preprocessing.csv",
    "parity.html",
]

# The environment as notebooks, clusters and containers leave it.
LEFT_BEHIND = {
    "JAX_PLATFORMS": "cuda",
    "JAX_ENABLE_X64": "1",
    "JAX_DEFAULT_MATMUL_PRECISION": "bfloat16",
    "XLA_FLAGS": "--no_such_flag",
    "MPLBACKEND": "module://no_such_module",
    "OMP_NUM_THREADS": "junk",
    "PYTHONOPTIMIZE": "2",
    "TMPDIR": "/no/such/folder",
    "HOME": "/dev/null",
    "TERM": "dumb",
    "LC_ALL": "C",
}


def planned(project: Path, *arguments: str) -> dict[str, int]:
    """How many jobs of each rule a run would start."""
    # Without the profile, because its logger is made for people and not for reading back.
    output = snakemake(project, "--dry-run", "--workflow-profile", "none", *arguments)
    table = re.search(r"^job +count\n-+ +-+\n(.*?)^total", output, re.M | re.S)
    rows = re.findall(r"^(\w+) +(\d+)$", table[1], re.M) if table else []
    return {rule: int(count) for rule, count in rows if rule != "all"}


@pytest.fixture(scope="module")
def finished(tiny_project: Path) -> Path:
    """The project after a run that was killed twice on its way."""
    variant = tiny_project / "results" / "synthetic" / TINY
    for last in ("archive.tar.lz4", "static.onnx"):
        process = subprocess.Popen(
            [python_of(tiny_project), "-m", "snakemake", "--cores", "2"],
            cwd=tiny_project,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while not (variant / last).exists():
            assert process.poll() is None, f"the run ended before {last}"
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    # Where the Makefile puts Snakemake's cache for who has no home.
    cache = str(tiny_project / ".snakemake" / "cache")
    output = snakemake(
        tiny_project, "--report", "report.html", "--report-after-run", XDG_CACHE_HOME=cache, **LEFT_BEHIND
    )
    assert "2 of 2 graphs are at parity" in output
    # Without a terminal, jobs are counted.
    done, total = map(int, re.findall(r"^[\d:]+  (\d+) of (\d+) done: ", output, re.M)[-1])
    assert done == total
    return tiny_project


def test_every_promised_file_is_there_and_nothing_half_written(finished: Path) -> None:
    results = finished / "results" / "synthetic"
    assert not [name for name in RESULTS if not (results / TINY / name).is_file()]
    assert all((results / f"summary.{kind}").is_file() for kind in ("csv", "json", "html"))
    # What a killed job was writing is not taken for a result, and goes when the job runs again.
    assert not [path for path in results.rglob("*") if path.name.startswith(".") and path.is_file()]


def test_verdicts_have_all_legs_and_say_what_was_judged(finished: Path) -> None:
    folder = finished / "results/synthetic" / TINY
    for export in ("static", "dynamic"):
        verdict = json.loads((folder / f"{export}.verdict.json").read_text())
        assert verdict["passed"]
        assert {finding["leg"] for finding in verdict["findings"]} == {"reference", "truth", "sanity", "preprocessing"}
        files = (f"{export}.onnx", "checkpoint.json", f"parity/{export}.json", "preprocessing.json")
        assert verdict["evidence"] == {name: sha256_of(folder / name) for name in files}


def test_graphs_are_valid_and_say_that_their_weights_are_synthetic(finished: Path) -> None:
    for export in ("static", "dynamic"):
        path = finished / f"results/synthetic/{TINY}/{export}.onnx"
        onnx.checker.check_model(path, full_check=True)
        metadata = {prop.key: prop.value for prop in onnx.load(path, load_external_data=False).metadata_props}
        assert (metadata["variant"], metadata["weights"]) == (TINY, "synthetic")


def test_graphs_are_verified_by_their_passports(finished: Path) -> None:
    for export in ("static", "dynamic"):
        # The program that is handed over, where nothing of vit2onnx can be imported.
        command = [sys.executable, "-I", "verify.py", f"{export}.onnx"]
        folder = finished / f"results/synthetic/{TINY}"
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.stdout.endswith("is verified against its passport\n"), done.stdout + done.stderr


def test_every_job_left_a_log_and_a_benchmark(finished: Path) -> None:
    assert len(list((finished / "benchmarks/results/synthetic").rglob("*.tsv"))) == 20
    assert len(list((finished / "logs/synthetic").rglob("*.log"))) == 20


def test_second_run_has_nothing_to_do(finished: Path) -> None:
    assert planned(finished) == {}


def test_report_holds_captions_categories_and_pages(finished: Path) -> None:
    report = (finished / "report.html").read_text()
    # The front page begins with the verdict.
    assert "<strong>Passed: 2 of 2 graphs are at parity with transformers (synthetic weights).</strong>" in report
    for caption in ("The verdict on each of", "Every tensor of", "The passport of static.onnx"):
        assert caption in report
    assert TINY in report


def content(project: Path) -> dict[str, str]:
    """The hash of every file and the target of every link of a project, without what Snakemake keeps for itself."""
    found = {}
    for path in project.rglob("*"):
        name = path.relative_to(project)
        if name.parts[0] != ".snakemake" and (path.is_symlink() or path.is_file()):
            found[str(name)] = f"link to {path.readlink()}" if path.is_symlink() else sha256_of(path)
    return found


@pytest.mark.parametrize("weights", ["synthetic", "official"])
def test_reading_the_snakefile_changes_no_file(copied: Path, weights: str) -> None:
    for name in ("checkpoint", "checkpoint.pth", "checkpoint.safetensors"):
        link = copied / "results/official" / TINY / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to("/gone/with/the/disk.pth")
    before = content(copied)
    assert before[f"results/official/{TINY}/checkpoint"] == "link to /gone/with/the/disk.pth"
    report = ["--report", str(copied.with_name("report.html")), f"results/synthetic/{TINY}/ledger.csv"]
    commands = [["--dry-run"], ["--lint"], ["--list-rules"], *([report] if weights == "synthetic" else [])]
    for command in commands:
        snakemake(copied, *command, "--config", f"weights={weights}", PYTHONDONTWRITEBYTECODE="1")
        assert content(copied) == before, command


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    project = tmp_path / "project"
    shutil.copytree(finished, project, symlinks=True)
    return project


def test_image_list_reruns_comparison_alone(copied: Path) -> None:
    edit_config(copied, lambda config: config["images"].pop("coffee"))
    assert set(planned(copied)) == {
        "compare_preprocessing",
        "prepare_inputs",
        "run_reference",
        "run_equinox",
        "run_onnx",
        "compare_outputs",
        "judge_graph",
        "write_passport",
        "render_parity",
        "summarise_parity",
    }


def test_a_folder_of_photographs_is_as_good_as_its_files(copied: Path) -> None:
    # One recipe at one size, because neither has to do with where photographs are.
    edit_config(copied, lambda config: config["exports"].pop("static"))
    edit_config(copied, lambda config: config["parity"].update(sizes=[[48, 112]]))
    edit_config(copied, lambda config: config.update(images={"mine": "resources/images"}))
    results = Path("results/synthetic") / TINY
    asked = [str(results / file) for file in ("parity/dynamic.json", "preprocessing.json")]
    snakemake(copied, *asked)
    comparison, preprocessing = (copied / path for path in asked)
    found = json.loads(comparison.read_text())
    names = {row["image"] for row in found["differences"]}
    assert names == {f"mine-{name}.jpg" for name in ("astronaut", "camera", "chelsea", "coffee")}
    assert all(row["images"] == 4 for row in found["distributions"])
    assert {row["image"] for row in json.loads(preprocessing.read_text())["differences"]} == names
    before = comparison.read_bytes(), preprocessing.read_bytes()
    # The same input gives the same bytes, and no path is in them.
    snakemake(copied, asked[1], "--forcerun", "compare_preprocessing")
    assert preprocessing.read_bytes() == before[1]
    assert str(copied).encode() not in b"".join(before)
    assert planned(copied, *asked) == {}


def test_one_recipe_reruns_that_export_and_what_follows(copied: Path) -> None:
    edit_config(copied, lambda config: config["exports"]["static"].update(opset=24))
    jobs = planned(copied)
    assert (jobs["export_onnx"], jobs["compare_outputs"], jobs["judge_graph"]) == (1, 1, 1)
    assert not jobs.keys() & {"fetch_checkpoint", "convert_checkpoint", "map_weights", "run_reference", "run_equinox"}


PAGES = {"render_parity", "summarise_parity"}


def test_packed_images_are_proven_with_what_is_known_of_single_ones(copied: Path) -> None:
    edit_config(copied, lambda config: config["exports"].update(packed={"interface": "packed", "opset": 23}))
    of_graph = {"export_onnx", "run_onnx", "align_packing", "compare_outputs", "judge_graph", "write_passport"}
    assert planned(copied) == dict.fromkeys({*of_graph, "write_packing", *PAGES}, 1)
    assert "3 of 3 graphs are at parity" in snakemake(copied)
    folder = copied / "results/synthetic" / TINY
    verdict = json.loads((folder / "packed.verdict.json").read_text())
    assert [one for one in verdict["findings"] if one["leg"] == "packing"]
    assert verdict["evidence"]["parity/packed.packing.json"] == sha256_of(folder / "parity/packed.packing.json")
    assert "Images in one call" in (folder / "parity.html").read_text()
    assert (folder / "packing.py").is_file()
    command = [sys.executable, "-I", "verify.py", "packed.onnx"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.stdout.endswith("is verified against its passport\n"), done.stdout + done.stderr


@pytest.mark.parametrize("limit", ["floors", "subspace_angle", "grey_levels"])
def test_limit_reruns_the_verdict_alone(copied: Path, limit: str) -> None:
    set_limit(copied, limit, 2e-5)
    assert set(planned(copied)) == {"judge_graph", "write_passport"} | PAGES


def test_library_room_reruns_what_uses_it(copied: Path) -> None:
    room = copied / "vit2onnx" / "exporting" / "metadata.py"
    room.write_text(room.read_text() + "\n# changed\n")
    jobs = planned(copied)
    assert jobs["export_onnx"] == 2
    assert "convert_checkpoint" not in jobs


def test_failed_verdict_fails_the_run_and_leaves_the_evidence(copied: Path) -> None:
    set_limit(copied, "floors", 1e-3)
    output = snakemake(copied, fails=True)
    assert f"{TINY}/static.onnx did not pass: onnx - truth, error of a token" in output
    folder = copied / "results/synthetic" / TINY
    verdict = json.loads((folder / "static.verdict.json").read_text())
    assert not verdict["passed"]
    assert verdict["diagnosis"].startswith("The Equinox model is off too")
    # Those of the earlier run, in which it passed, are gone.
    assert not list(folder.glob("*.passport.json")) + list(folder.glob("*.sample.npz"))
    assert "FAILED" in (copied / "results/synthetic/summary.csv").read_text()


def test_a_failed_graph_gets_no_passport_by_edited_figures(copied: Path) -> None:
    folder = copied / "results/synthetic" / TINY
    graph, verdict, comparison = (
        folder / name for name in ("static.onnx", "static.verdict.json", "parity/static.json")
    )
    passport = str((folder / "static.passport.json").relative_to(copied))
    model = onnx.load(graph)
    norm = next(node for node in model.graph.node if node.op_type == "LayerNormalization")
    next(attribute for attribute in norm.attribute if attribute.name == "epsilon").f = 1e-3
    onnx.save(model, graph)
    of_graph = " ".join(snakemake(copied, passport, fails=True).split())
    assert "static.onnx is damaged or was changed after it was written" in of_graph
    # Whoever forges it computes its checksum anew, as that of the records below.
    graph.write_bytes(graph.read_bytes()[: -len(checksum_entry("0" * 64))])
    graph.write_bytes(graph.read_bytes() + checksum_entry(sha256_of(graph)))
    snakemake(copied, passport, fails=True)
    data = read_json(verdict)
    assert not data["passed"]
    for finding in data["findings"]:
        finding["measured"] = min(finding["measured"], finding["limit"])
    write_json(verdict, data)
    of_verdict = snakemake(copied, passport, fails=True)
    # And the figures by which it was judged as well.
    text = read_json(comparison)
    for row in text["differences"]:
        row |= {"max_abs": 0.0, "floors": 0.0, "cosine": 1.0} if "floors" in row else {"cosine": 1.0}
    write_json(comparison, text)
    data["evidence"]["parity/static.json"] = sha256_of(comparison)
    write_json(verdict, data)
    for output in (of_verdict, snakemake(copied, passport, fails=True)):
        assert "the features give other findings" in " ".join(output.split())
    assert not (folder / "static.passport.json").exists()


def test_preprocessing_that_fails_fails_the_run_and_leaves_the_evidence(copied: Path) -> None:
    set_limit(copied, "differing_share", 1e-6)
    output = snakemake(copied, fails=True)
    assert f"{TINY}/static.onnx did not pass: ours - publisher, share of values" in output
    variant = copied / "results/synthetic" / TINY
    assert not list(variant.glob("*.passport.json"))
    page = (variant / "parity.html").read_text()
    assert "FAILED: photographs are not prepared as for the original model." in page
    # Not the graphs but what they are given: still, nothing here is to be used.
    assert "A verdict failed the run." in output
    assert "FAILED: 2 of 2 graphs are not at parity" in output
    assert "FAILED" in (copied / "results/synthetic/summary.html").read_text()


def test_an_archive_that_is_not_kept_goes_when_the_model_is_made(copied: Path) -> None:
    edit_config(copied, lambda config: config.update(keep_archive=False))
    folder = copied / "results/synthetic" / TINY
    (folder / "archive.tar.lz4").unlink()
    (folder / "model.eqx").unlink()
    snakemake(copied, f"results/synthetic/{TINY}/model.eqx")
    assert not (folder / "archive.tar.lz4").exists()
    assert planned(copied, f"results/synthetic/{TINY}/model.eqx") == {}


def test_all_variants_are_those_that_have_a_file(copied: Path) -> None:
    assert planned(copied, "--config", "variants=all")["fetch_checkpoint"] == 20 + 17


STAGE_RULES = ("run_reference_stages", "run_equinox_stages", "export_stages", "compare_stages")


def test_stages_are_a_switch(copied: Path) -> None:
    # One recipe, because the other has the same rules.
    edit_config(copied, lambda config: config["exports"].pop("static"))
    snakemake(copied)
    edit_config(copied, lambda config: config["parity"].update(stages=True))
    jobs = planned(copied)
    # Those of the recipe, the verdict and the passport, and the pages that show them.
    assert jobs == dict.fromkeys((*STAGE_RULES, "judge_graph", "write_passport"), 1) | dict.fromkeys(PAGES, 1)
    snakemake(copied)
    results = copied / "results/synthetic" / TINY
    made = {}
    for export, size in (("dynamic", "48x112"),):
        ledger = json.loads((results / f"parity/{export}.stages.json").read_text())
        assert ledger["case"] == f"camera@{size}"
        verdict = json.loads((results / f"{export}.verdict.json").read_text())
        assert [one["limit_name"] for one in verdict["findings"] if one["leg"] == "stages"] == [
            "floors_double",
            "floors",
        ]
        assert verdict["passed"]
        rows = (results / f"parity/{export}.stages.csv").read_text().splitlines()
        assert len(rows) == 1 + len(ledger["stages"])
        made |= {path: path.read_bytes() for path in results.rglob(f"{export}.stages*") if path.is_file()}
    # Comparison, table and two graphs; the arrays have passed.
    assert len(made) == 4
    assert planned(copied) == {}
    for limit in ("floors", "floors_double"):
        found = {"limits": {"float32": {limit: {"limit": 1.0}}}}
        (copied / "limit.yaml").write_text(json.dumps(found))
        # What has passed is not made again to be judged by another limit.
        jobs = planned(copied, "--configfile", "limit.yaml")
        assert set(jobs) == {"judge_graph", "write_passport"} | PAGES
    assert "No stage is wrong" in (results / "parity.html").read_text()
    # Again gives the same bytes.
    verdict = results / "dynamic.verdict.json"
    made |= {verdict: verdict.read_bytes()}
    snakemake(copied, str(verdict.relative_to(copied)), "--forcerun", *STAGE_RULES)
    assert {path: path.read_bytes() for path in made} == made
    # What a layer computes otherwise is named, and the evidence stays.
    set_limit(copied, "floors", 1e-3)
    output = snakemake(copied, "--keep-going", fails=True)
    assert "stages: first divergence: patch_embed, equinox and transformers" in output
    assert (results / "parity/dynamic.stages.json").is_file()
    assert not (results / "dynamic.passport.json").exists()


DENSE_RULES = (
    *("prepare_dense_inputs", "run_dense_reference", "run_dense_equinox", "describe_dense", "retrieve_images"),
    "render_dense",
)
DENSE_RULES_OF_GRAPHS = ("export_stages", "run_dense_onnx", "compare_dense")


def test_dense_maps_are_a_switch(copied: Path) -> None:
    # The graph of a fixed size does not take this grid, so its maps are compared at its own size.
    asked = {"enabled": True, "grid": [4, 6], "layers": [0], "retrieval": "composites"}
    edit_config(copied, lambda config: config["dense"].update(asked))
    assert planned(copied) == {
        **dict.fromkeys((*DENSE_RULES, *PAGES), 1),
        **dict.fromkeys((*DENSE_RULES_OF_GRAPHS, "judge_graph", "write_passport"), 2),
    }
    assert "2 of 2 graphs are at parity" in snakemake(copied)
    assert planned(copied) == {}
    folder = copied / "results/synthetic" / TINY
    for export, size in (("static", "224x224"), ("dynamic", "64x96")):
        comparison = folder / f"parity/{export}.dense.json"
        assert read_json(comparison)["cases"] == [f"{image}@{size}" for image in ("camera", "coffee")]
        verdict = json.loads((folder / f"{export}.verdict.json").read_text())
        assert [one for one in verdict["findings"] if one["leg"] == "dense"]
        assert verdict["evidence"][f"parity/{export}.dense.json"] == sha256_of(comparison)
    made = {path: path.read_bytes() for path in (folder / "dense").rglob("[!.]*") if path.is_file()}
    tables = ["figures.csv", "layers.csv", "norms.csv", "retrieval.csv"]
    others = ["camera.png", "coffee.png", "dense.html", "figures.json", "maps.npz", "retrieval.json"]
    assert sorted(path.name for path in made) == sorted(tables + others)
    assert "RANDOM NUMBERS" in (folder / "dense/dense.html").read_text()
    # Again gives the same bytes, pictures included.
    snakemake(copied, str((folder / "dense/dense.html").relative_to(copied)), "--forcerun", *DENSE_RULES)
    assert {path: path.read_bytes() for path in made} == made
    # What follows from files that are the same but newer.
    snakemake(copied, "--touch")
    # What is only shown in another way is not run again.
    shown = {"foreground": "automatic", "references": {"camera": [0.2, 0.9]}}
    edit_config(copied, lambda config: config["dense"].update(shown))
    assert set(planned(copied)) == {"describe_dense", "render_dense"}
    edit_config(copied, lambda config: config["dense"].update(suppress=2))
    assert set(planned(copied)) == {"describe_dense", "render_dense", "retrieve_images"}
    # Colours that differ fail the graph, and the page says so.
    for name, limit in (("dense_colour", 1e-12), ("floors", 1e-3)):
        set_limit(copied, name, limit)
    page = folder / "parity.html"
    snakemake(copied, str(page.relative_to(copied)))
    verdict = json.loads((folder / "dynamic.verdict.json").read_text())
    assert [fault for fault in verdict["faults"] if "max |difference| of a colour" in fault]
    assert "FAILED" in page.read_text()


def test_two_models_are_compared_at_one_grid(copied: Path) -> None:
    small = {"embed_dim": 32, "depth": 2, "num_heads": 2, "ffn_hidden": 64}
    add_variant(copied, "other_tiny", like="dinov2_vits14_pretrain", architecture=small)
    edit_config(copied, lambda config: config.update(variants=[TINY, "other_tiny"]))
    asked = {"enabled": True, "grid": [4, 6], "compare": [["other_tiny", TINY]]}
    edit_config(copied, lambda config: config["dense"].update(asked))
    folder = copied / f"results/synthetic/dense/other_tiny-{TINY}"
    snakemake(copied, str((folder / "dense.html").relative_to(copied)))
    found = read_json(folder / "figures.json")
    assert found["models"] == ["other_tiny", TINY]
    assert found["grid"] == [4, 6]
    assert 0 <= found["agreement"] <= 1
    assert {path.name for path in (folder / "pictures").glob("[!.]*")} == {"camera.png", "coffee.png"}
    assert (folder / "figures.csv").read_text().startswith("image,agreement,")
    page = (folder / "dense.html").read_text()
    assert "other_tiny" in page and TINY in page


def test_passports_and_pages_wait_for_a_self_test_that_is_asked_for(copied: Path) -> None:
    edit_config(copied, lambda config: config["parity"].update(self_test=True))
    of_self_test = {"plant_faults", "render_self_test"}
    assert set(planned(copied)) == of_self_test | {"judge_graph", "write_passport"} | PAGES


def test_unreadable_image_is_one_sentence_and_no_output(copied: Path) -> None:
    (copied / "resources/images/coffee.jpg").write_text("<html>not found</html>")
    output = snakemake(copied, fails=True)
    assert output.count("resources/images/coffee.jpg: this is not a complete, readable image") == 1
    assert "Traceback" not in output
    assert not (copied / f"results/synthetic/{TINY}/features/images.inputs.npz").exists()


def test_a_changed_bit_is_named_with_its_file(copied: Path) -> None:
    model = copied / "results/synthetic" / TINY / "model.eqx"
    content = bytearray(model.read_bytes())
    content[-1] ^= 64
    model.write_bytes(content)
    output = snakemake(copied, f"results/synthetic/{TINY}/dynamic.passport.json", fails=True)
    assert "model.eqx is damaged within" in " ".join(output.split())
