"""Limits of slices that systemd sets, compared with what the kernel has.

systemd 257 reads a changed slice on daemon-reload and goes on without telling the kernel; 252 tells it.
"""

from __future__ import annotations

import mmap
import re
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ansible.module_utils.slice_limits import LimitError, Tree

#: Where ``systemctl set-property --runtime`` writes.
RUNTIME = Path("run/systemd/system.control")
#: Microseconds of the units in which systemd prints a time.
UNITS = {"us": 1, "ms": 10**3, "s": 10**6, "min": 60 * 10**6, "h": 3600 * 10**6}


@dataclass(frozen=True)
class Untold:
    """A limit that systemd holds for set and the kernel has not, in the kernel's words."""

    slice: str
    path: Path
    has: str
    wanted: str
    #: what to give to ``systemctl set-property``
    assignment: str

    def __str__(self) -> str:
        return f"{self.path}: {self.has}, not {self.wanted} as systemd has it for {self.slice}"


@dataclass(frozen=True)
class _Property:
    """How a property of systemd is called in cgroups of version 1 and 2, and how it is written there."""

    name: str
    controller: str
    #: files of version 1 and 2; None where systemd sets nothing
    files: tuple[str | None, str]
    #: the kernel's text for systemd's, by version
    kernel: Callable[[str, int], str]
    #: what to assign for systemd's text
    assign: Callable[[str], str]


def _bytes(shown: str, version: int) -> str:
    if shown == "infinity":
        # of version 1: the largest number of whole pages
        return "max" if version == 2 else str((2**63 - 1) // mmap.PAGESIZE * mmap.PAGESIZE)
    return str(int(shown) // mmap.PAGESIZE * mmap.PAGESIZE)


def _tasks(shown: str, _version: int) -> str:
    return "max" if shown == "infinity" else shown


def microseconds(shown: str) -> int:
    """Return a time that systemd prints, as 1.500000s or 1min 30s."""
    parts = re.findall(r"([\d.]+)(us|ms|s|min|h)\b", shown)
    return round(sum(float(number) * UNITS[unit] for number, unit in parts))


def _quota(shown: str, version: int) -> str:
    # of a period of 100 ms, systemd's own
    if shown == "infinity":
        return "max 100000" if version == 2 else "-1"
    quota = microseconds(shown) // 10
    return f"{quota} 100000" if version == 2 else str(quota)


def _weight(shown: str, version: int) -> str:
    weight = 100 if shown == "[not set]" else int(shown)
    return str(weight) if version == 2 else str(max(2, weight * 1024 // 100))


def _percent(shown: str) -> str:
    return "CPUQuota=" if shown == "infinity" else f"CPUQuota={microseconds(shown) / 10000:g}%"


PROPERTIES = (
    _Property("MemoryMax", "memory", ("memory.limit_in_bytes", "memory.max"), _bytes, "MemoryMax={}".format),
    _Property("MemorySwapMax", "memory", (None, "memory.swap.max"), _bytes, "MemorySwapMax={}".format),
    _Property("TasksMax", "pids", ("pids.max", "pids.max"), _tasks, "TasksMax={}".format),
    _Property("CPUQuotaPerSecUSec", "cpu", ("cpu.cfs_quota_us", "cpu.max"), _quota, _percent),
    _Property(
        "CPUWeight",
        "cpu",
        ("cpu.shares", "cpu.weight"),
        _weight,
        lambda shown: f"CPUWeight={'' if shown == '[not set]' else shown}",
    ),
)


def _shown(slices: Iterable[str]) -> list[dict[str, str]]:
    """Return the properties of the slices that are active."""
    names = ",".join(["Id", "ActiveState", *(entry.name for entry in PROPERTIES)])
    try:
        out = subprocess.run(
            ["systemctl", "show", f"--property={names}", *slices], capture_output=True, text=True, check=False
        ).stdout
    except FileNotFoundError:
        return []
    units = [dict(line.partition("=")[::2] for line in block.splitlines()) for block in out.strip().split("\n\n")]
    return [unit for unit in units if unit.get("ActiveState") == "active"]


def untold(tree: Tree, slices: Iterable[str]) -> list[Untold]:
    """Return the limits that the kernel has not as systemd has them."""
    found = []
    for unit in _shown(slices):
        for entry in PROPERTIES:
            file = entry.files[tree.version - 1]
            shown = unit.get(entry.name, "")
            if file is None or not shown:
                continue
            path = tree.directory(entry.controller, unit["Id"]) / file
            wanted = entry.kernel(shown, tree.version)
            unlimited = entry.kernel("[not set]" if entry.name == "CPUWeight" else "infinity", tree.version)
            # a group without the file has no limit
            has = path.read_text(encoding="ascii").strip() if path.exists() else unlimited
            if has != wanted:
                found.append(Untold(unit["Id"], path, has, wanted, entry.assign(shown)))
    return found


def tell(tree: Tree, limits: Iterable[Untold]) -> None:
    """Have systemd set these limits, and read them back. Raises LimitError when the kernel does not take one."""
    limits = list(limits)
    for name in sorted({limit.slice for limit in limits}):
        directory = tree.root / RUNTIME / f"{name}.d"
        before = set(directory.glob("*.conf"))
        assignments = [limit.assignment for limit in limits if limit.slice == name]
        done = subprocess.run(
            ["systemctl", "set-property", "--runtime", name, *assignments], capture_output=True, text=True, check=False
        )
        # what it writes would hide the slice's own file from now on
        for path in set(directory.glob("*.conf")) - before:
            path.unlink()
        if directory.exists() and not any(directory.iterdir()):
            directory.rmdir()
        subprocess.run(["systemctl", "daemon-reload"], check=False)
        if done.returncode:
            raise LimitError(f"{name}: systemd does not set {', '.join(assignments)}: {done.stderr.strip()}")
    left = untold(tree, {limit.slice for limit in limits})
    if left:
        raise LimitError(
            f"{'; '.join(map(str, left))}: the kernel does not take it; processes in it may use more than that already"
        )
