"""How much memory a host may use: what the machine has, or less where a cgroup says so."""

from __future__ import annotations

import re
from pathlib import Path


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def memory_bytes(root: Path) -> int:
    """Return the memory in bytes that processes of this host share; 0 when nothing tells.

    ``root`` is where the host's /proc and /sys are. A host that is a container has the limits of its cgroup and of
    those above it, which /proc/meminfo does not show.
    """
    found = re.search(r"^MemTotal:\s+(\d+)", _read(root / "proc/meminfo"), re.MULTILINE)
    lowest = int(found[1]) * 1024 if found else 0
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and "memory" not in controllers.split(","):
            continue
        base, name = ("memory", "memory.limit_in_bytes") if controllers else ("", "memory.max")
        for directory in (Path(path), *Path(path).parents):
            limit = _read(root / "sys/fs/cgroup" / base / str(directory).lstrip("/") / name).strip()
            if limit.isdigit():
                lowest = min(lowest, int(limit))
    return lowest
