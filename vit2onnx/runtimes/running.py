"""Run a graph in a runtime, in a process of its own that may crash or hang."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vit2onnx.files import write_arrays
from vit2onnx.runtimes.programs.protocol import DONE, STARTING, how_it_ended, sets_of
from vit2onnx.runtimes.register import FOLDER, OWN, ROOT, Runtime

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Run:
    """What became of a graph in a runtime.

    `facts` are what the program has said up to its end, `outputs` those of the sets of inputs that it has run, and
    `log` all that was printed. `ended` says how the program ended if it stopped early. `absent` says why it was not
    run at all.
    """

    facts: Mapping[str, Any] = field(default_factory=dict)
    outputs: Sequence[Arrays] = ()
    log: str = ""
    ended: str = ""
    absent: str = ""

    @property
    def step(self) -> str:
        """How far the program came."""
        return str(self.facts.get("step", STARTING))

    @property
    def is_done(self) -> bool:
        """Whether all sets of inputs were run."""
        return self.step == DONE

    @property
    def opens(self) -> bool:
        """Whether the runtime took the graph, whatever it computes."""
        return bool(self.facts.get("seconds_to_open"))


def python_of(runtime: Runtime, folder: Path = FOLDER) -> Path:
    """The Python that runs a program: of the runtime's environment, or this one."""
    python = folder / runtime.environment / "bin" / "python"
    # Environments of npm have none.
    return Path(sys.executable) if runtime.environment == OWN or not python.exists() else python


def absence_of(runtime: Runtime, folder: Path = FOLDER) -> str:
    """Why a runtime cannot be run here; empty if it can."""
    if runtime.lacks:
        return f"no {runtime.lacks} here"
    environment = folder / runtime.environment
    return "" if runtime.environment == OWN or environment.is_dir() else "not installed"


def run_in(
    runtime: Runtime,
    graph: Path,
    sets: Sequence[Arrays],
    outputs: Sequence[str],
    *,
    threads: int = 1,
    seconds: float = 300,
    folder: Path = FOLDER,
) -> Run:
    """Run a graph on sets of inputs, for so many seconds at most. Nothing that a runtime does is an error here."""
    if absent := absence_of(runtime, folder):
        return Run(absent=absent)
    options = {
        **{"inputs": list(sets[0]), "outputs": list(outputs), "threads": threads},
        **{"modules": str(folder / runtime.environment / "node_modules"), **runtime.options},
    }
    with tempfile.TemporaryDirectory(prefix="vit2onnx_") as place:
        inputs, answers = Path(place) / "inputs.npz", Path(place)
        write_arrays(inputs, ((f"{n}/{name}", array) for n, one in enumerate(sets) for name, array in one.items()))
        command = [str(python_of(runtime, folder)), "-m", runtime.program, str(graph.resolve()), str(inputs), place]
        ended, log = _watched([*command, json.dumps(options)], answers, seconds)
        facts = _read(answers / "facts.json")
        return Run(facts, _outputs(answers / "outputs.npz", len(facts.get("seconds_to_run", ()))), log, ended)


def _watched(command: Sequence[str], place: Path, seconds: float) -> tuple[str, str]:
    """Run a program and all that it starts; returns how it ended, empty for status 0, and what was printed."""
    # The programs import this package from here, whatever their environment is.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    log = place / "log.txt"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, cwd=place, env=environment, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            ended = how_it_ended(process.wait(seconds))
        except subprocess.TimeoutExpired:
            ended = f"no answer within {seconds:g} s"
        finally:
            _end(process)
    return ended, log.read_text(encoding="utf-8", errors="replace")


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a program's whole session: converters and browsers too."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _read(path: Path) -> dict[str, Any]:
    """Facts as a program wrote them; none if it was killed before or while it wrote."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def _outputs(path: Path, count: int) -> list[Arrays]:
    """Outputs of so many sets of inputs as a program wrote them, likewise."""
    try:
        return sets_of(path, count)
    # Any exception, because a killed program leaves what it likes.
    except Exception:
        return []
