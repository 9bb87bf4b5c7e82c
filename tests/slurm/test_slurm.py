"""Two variants through a real Slurm, one of each family: the same files as without it."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from workflow_project import TINY, add_variant, edit_config, make_tiny_project, set_limit, snakemake

VARIANTS = (TINY, "dinov3_convnext_minute")
FILES = (
    "archive.tar.lz4",
    "ledger.csv",
    "model.eqx",
    *(f"{export}.onnx" for export in ("static", "dynamic")),
    *(f"{export}.verdict.json" for export in ("static", "dynamic")),
)
SUMMARY = re.compile(r"graphs (?:are|is)(?: not)? at parity")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with two variants, in which nothing has run yet."""
    project = tmp_path_factory.mktemp("project")
    make_tiny_project(project)
    add_variant(
        project,
        VARIANTS[1],
        like="dinov3_convnext_tiny_pretrain_lvd1689m",
        architecture={"embed_dims": [8, 12, 16, 20], "depths": [1, 1, 2, 1]},
    )
    edit_config(project, lambda config: config.update(variants=list(VARIANTS)))
    return project


@pytest.fixture(scope="module")
def through_slurm(slurm: Mapping[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a project's workflow as its README says for clusters, but poll as often as the plugin can."""
    # Ended by the kernel should these tests be killed, as the daemons are.
    command = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "snakemake", "--workflow-profile", "slurm"]
    options = ["--slurm-init-seconds-before-status-checks", "1", "--slurm-keep-successful-logs"]
    return lambda project: subprocess.run(
        [*command, *options],
        cwd=project,
        env={**os.environ, **slurm},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=1800,
    )


@pytest.fixture(scope="module")
def cluster(project: Path, through_slurm: Callable, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A copy of the project that ran through Slurm, and what was printed where it was started."""
    copy = tmp_path_factory.mktemp("cluster") / "project"
    shutil.copytree(project, copy)
    done = through_slurm(copy)
    assert done.returncode == 0, done.stdout
    return copy, done.stdout


@pytest.fixture(scope="module")
def local(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project that ran without Slurm."""
    copy = tmp_path_factory.mktemp("local") / "project"
    shutil.copytree(project, copy)
    snakemake(copy)
    return copy


@pytest.fixture(scope="module")
def jobs(cluster: tuple[Path, str], slurm: Mapping[str, str]) -> list[list[str]]:
    """What Slurm's controller says of each job of that run: rule, state, cores, memory, time limit."""
    name = re.search(r"SLURM run ID: (\S+)", cluster[1])[1]
    command = ["squeue", "--noheader", "--states=all", "--format=%k|%T|%C|%m|%l", f"--name={name}"]
    lines = subprocess.check_output(command, env={**os.environ, **slurm}, text=True).splitlines()
    return [[re.sub(r"^rule_(\w+?)(_wildcards_.*)?$", r"\1", field) for field in line.split("|")] for line in lines]


def hashes(project: Path) -> dict[str, str]:
    results = project / "results" / "synthetic"
    files = sorted(path for path in results.rglob("*") if path.is_file())
    return {str(path.relative_to(results)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def slurm_logs(project: Path) -> list[Path]:
    return sorted((project / "logs" / "slurm").rglob("*.log"))


def test_every_file_has_the_hash_of_the_local_run(cluster: tuple[Path, str], local: Path) -> None:
    found = hashes(cluster[0])
    assert found == hashes(local)
    assert {f"{variant}/{file}" for variant in VARIANTS for file in FILES} < found.keys()


def test_every_job_went_through_slurm(cluster: tuple[Path, str], jobs: list[list[str]]) -> None:
    table = re.search(r"^job +count\n-+ +-+\n(.*?)^total", cluster[1], re.M | re.S)[1]
    planned = {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", table, re.M)}
    # The one rule that has nothing to run.
    del planned["all"]
    assert Counter(rule for rule, *_ in jobs) == planned
    assert {state for _, state, *_ in jobs} == {"COMPLETED"}
    assert len(slurm_logs(cluster[0])) == len(jobs)


def test_jobs_ask_for_cores_memory_and_time(jobs: list[list[str]]) -> None:
    cores = {rule: int(count) for rule, _, count, *_ in jobs}
    assert (cores["run_reference"], cores["judge_graph"]) == (2, 1)
    assert all(int(memory.removesuffix("M")) >= 100 for *_, memory, _ in jobs)
    assert {limit for *_, limit in jobs} == {"15:00", "20:00", "30:00", "1:00:00", "4:00:00", "6:00:00"}


def test_summary_is_printed_once_and_not_on_the_nodes(cluster: tuple[Path, str]) -> None:
    project, printed = cluster
    assert len(SUMMARY.findall(printed)) == 1
    assert printed.rstrip().endswith("Passed: 4 of 4 graphs are at parity with transformers (synthetic weights)")
    assert not [path for path in slurm_logs(project) if SUMMARY.search(path.read_text())]


def test_a_job_that_fails_on_a_node_fails_the_run_and_says_where_to_look(
    cluster: tuple[Path, str], through_slurm: Callable, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    shutil.copytree(cluster[0], project)
    set_limit(project, "floors", 1e-3)
    done = through_slurm(project)
    assert done.returncode != 0
    assert re.search(r"SLURM-job '\d+' failed, SLURM status is: 'FAILED'", done.stdout)
    logs = [path for path in slurm_logs(project) if f"log: {path})" in done.stdout and "write_passport" in str(path)]
    assert len(logs) == 4
    assert all("did not pass: onnx - truth, error of a token" in path.read_text() for path in logs)
    assert done.stdout.count("graphs are not at parity") == 1
    assert not [path for path in slurm_logs(project) if SUMMARY.search(path.read_text())]
