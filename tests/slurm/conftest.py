"""A real Slurm on this machine alone, for as long as the tests run."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from string import Template

import pytest

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "setpriv")
# Where Debian puts daemons, which is not always on the path, not even on root's.
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


def wait_for(what: str, holds: Callable[[], bool], folder: Path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            logs = {path.name: path.read_text(errors="replace")[-2000:] for path in folder.glob("*.log")}
            raise TimeoutError(f"{what}: not within {seconds} s. " + "\n".join(f"{k}:\n{v}" for k, v in logs.items()))
        time.sleep(0.2)


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """The environment in which Slurm's commands and Snakemake reach a cluster that ends with the tests."""
    if os.geteuid() != 0:
        pytest.skip("Slurm's daemons run as root only: sudo make test-slurm")
    if missing := [name for name in NEEDED if not shutil.which(name, path=PATH)]:
        pytest.skip(f"no {', '.join(missing)} here: apt-get install --no-install-recommends slurm-wlm munge util-linux")

    folder = tmp_path_factory.mktemp("slurm")
    environment = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{folder / 'bin'}:{PATH}"}
    everything = {**os.environ, **environment}

    def ask(*command: str) -> str:
        return subprocess.run(command, env=everything, capture_output=True, text=True, check=False).stdout.strip()

    controller_port, node_port = free_ports(2)
    configuration = Template(Path(__file__).with_name("slurm.conf").read_text()).substitute(
        folder=folder,
        host=socket.gethostname().partition(".")[0],
        node=ask("slurmd", "-C").splitlines()[0],
        controller_port=controller_port,
        node_port=node_port,
    )
    (folder / "slurm.conf").write_text(configuration)
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o400)
    # The plugin takes SLURM_* out of a job's environment before it calls srun there, SLURM_CONF as well.
    (folder / "bin").mkdir()
    srun = folder / "bin" / "srun"
    srun.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {shutil.which("srun", path=PATH)} "$@"\n')
    srun.chmod(0o755)

    with ExitStack() as daemons:

        def start(*command: str) -> None:
            log = daemons.enter_context((folder / f"{command[0]}.log").open("w"))
            # The kernel ends the daemon should these tests be killed.
            daemon = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", *command], env=everything, stdout=log, stderr=log, cwd=folder
            )
            daemons.callback(stop, daemon)

        # By force, because a socket in a folder of root's is out of reach for others. It should be.
        files = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "log", "pid", "seed")]
        start("munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *files)
        wait_for("munged", (folder / "munge.socket").exists, folder)
        start("slurmctld", "-D", "-f", f"{folder}/slurm.conf")
        start("slurmd", "-D", "-f", f"{folder}/slurm.conf")
        wait_for("an idle node", lambda: ask("sinfo", "--noheader", "--format=%T") == "idle", folder)
        daemons.callback(wait_for, "the end of all jobs", lambda: not ask("squeue", "--noheader"), folder)
        daemons.callback(ask, "scancel", "--user=root")
        yield environment


def stop(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(20)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()
