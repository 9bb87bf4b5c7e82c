"""What this machine has, and what of its environment jobs may see."""

import os
import re
from collections.abc import MutableMapping
from pathlib import Path

import psutil

from vit2onnx.errors import InputError

# Of a container, in the second and the first version of control groups.
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")

# What notebooks, clusters and containers leave behind that changes numbers, pictures or Python itself. Caches, tokens,
# proxies and the places of Python's packages are the user's.
FOREIGN = re.compile(
    r"JAX_(?!COMPILATION_CACHE|PERSISTENT_CACHE)|XLA_|(DNNL|ONEDNN)_DEFAULT_FPMATH_MODE$|MPLBACKEND$|MATPLOTLIBRC$"
    r"|PYTHON(?!PATH$|HOME$|USERBASE$|NOUSERSITE$|DONTWRITEBYTECODE$)"
)


def settle(environment: MutableMapping[str, str]) -> None:
    """Make an environment that of all jobs: without what changes their results, and with JAX on the CPU."""
    for name in [name for name in environment if FOREIGN.match(name)]:
        del environment[name]
    # All implementations are compared on one processor. Named, because JAX would look for others, and warn.
    environment["JAX_PLATFORMS"] = "cpu"
    # Names of photographs may be of any script, whatever the locale is.
    environment["PYTHONUTF8"] = "1"


def check_folder(folder: Path) -> None:
    """Raise `InputError` if results cannot be written to a folder."""
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(
            f"{folder} cannot be written, and results, logs and .snakemake belong there; copy the project, or run"
            " snakemake with --directory and another folder."
        )


def free_memory() -> int:
    """Bytes of memory that are free, or that the container allows, whatever is less."""
    texts = [Path(limit).read_text().strip() for limit in LIMITS if Path(limit).is_file()]
    return min([psutil.virtual_memory().available, *(int(text) for text in texts if text.isdigit())])
