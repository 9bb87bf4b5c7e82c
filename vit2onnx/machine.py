"""What this machine has."""

from pathlib import Path

import psutil

# Of a container, in the second and the first version of control groups.
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def free_memory() -> int:
    """Bytes of memory that are free, or that the container allows, whatever is less."""
    texts = [Path(limit).read_text().strip() for limit in LIMITS if Path(limit).is_file()]
    return min([psutil.virtual_memory().available, *(int(text) for text in texts if text.isdigit())])
