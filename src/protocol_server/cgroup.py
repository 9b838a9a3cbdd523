"""What a process's cgroup counts, version 1 and 2: memory, deaths for want of it, and CPU time.

The counters tell an out-of-memory kill apart from any other SIGKILL. Docker 20.10 reports `OOMKilled=false` for such
kills on version 1, so the kernel is asked. The counters vanish with the cgroup, some 10 ms after the process: they
have to be read as soon as its end is known.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

#: What is read of a cgroup, by version. Not memory.failcnt: Linux 6.18 was seen to leave it at 0 in real kills.
_FILES: Final = {
    1: ("memory.oom_control", "memory.max_usage_in_bytes", "memory.limit_in_bytes"),
    2: ("memory.events",),
}
#: Charges come in batches, so the greatest use may stay a little below the limit.
_SLACK_BYTES: Final = 1024 * 1024


@dataclass(frozen=True)
class MemoryEvents:
    """What happened in a cgroup so far: processes killed for want of memory, and whether its own limit was hit."""

    kills: int
    limit_hit: bool


@dataclass(frozen=True)
class Usage:
    """What a sandbox uses now, None where that is not known; memory is without cache that would be dropped first."""

    memory_bytes: int | None
    cpu_s: float | None


def _find_mount(mountinfo: str, kind: str, controller: str) -> list[tuple[PurePosixPath, Path]]:
    """Mounts of a controller as (root inside the hierarchy, mount point)."""
    found = []
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        before, after = left.split(), right.split()
        if len(before) < 5 or len(after) < 3 or after[0] != kind:
            continue
        if kind == "cgroup2" or controller in after[2].split(","):
            found.append((PurePosixPath(before[3]), Path(before[4])))
    return found


def controller_directory(pid: int, controller: str, proc: Path = Path("/proc")) -> tuple[Path, int] | None:
    """Where a controller counts for a process's cgroup, and the cgroup version; None when out of sight."""
    try:
        groups = (proc / str(pid) / "cgroup").read_text(encoding="utf-8")
        mountinfo = (proc / "self" / "mountinfo").read_text(encoding="utf-8")
    except OSError:
        return None
    # A hybrid host lists both; where version 1 has the controller, version 2 has not.
    by_version: dict[int, str] = {}
    for line in groups.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller in controllers.split(","):
            by_version[1] = path
        elif not controllers:
            by_version[2] = path
    for version, path in sorted(by_version.items()):
        for root, mount in _find_mount(mountinfo, "cgroup" if version == 1 else "cgroup2", controller):
            if PurePosixPath(path).is_relative_to(root):
                return mount / PurePosixPath(path).relative_to(root), version
    return None


def memory_directory(pid: int, proc: Path = Path("/proc")) -> tuple[Path, int] | None:
    """The directory with the memory counters of a process's cgroup, and the cgroup version; None when out of sight."""
    return controller_directory(pid, "memory", proc)


def systemd_root(proc: Path = Path("/proc")) -> PurePosixPath:
    """Where systemd's slices begin, told by its own place (init.scope): the root, unless a container is the host."""
    groups: dict[str, str] = {}
    for line in _text(proc / "1" / "cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        groups[controllers] = path
    path = groups.get("name=systemd", groups.get("", ""))
    return PurePosixPath(path).parent if path.endswith("/init.scope") else PurePosixPath("/")


def usage_of_process(pid: int, proc: Path = Path("/proc")) -> Usage:
    """What the cgroup uses that a process is in."""
    found = (controller_directory(pid, name, proc) for name in ("memory", "cpuacct"))
    return read_usage([directory for directory, _ in filter(None, found)])


def read_usage(directories: Iterable[Path]) -> Usage:
    """What a cgroup uses that has these directories: one per controller in version 1, one in version 2."""
    memory: int | None = None
    cpu_s: float | None = None
    for directory in directories:
        for name, cache in (("memory.usage_in_bytes", "total_inactive_file"), ("memory.current", "inactive_file")):
            text = _text(directory / name).strip()
            if text.isdigit():
                memory = max(0, int(text) - _values(_text(directory / "memory.stat")).get(cache, 0))
        text = _text(directory / "cpuacct.usage").strip()
        if text.isdigit():
            cpu_s = int(text) / 1e9
        used_us = _values(_text(directory / "cpu.stat")).get("usage_usec")
        if used_us is not None:
            cpu_s = used_us / 1e6
    return Usage(memory, cpu_s)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _values(text: str) -> dict[str, int]:
    """Numbers by name, as in memory.stat."""
    pairs = (line.partition(" ") for line in text.splitlines())
    return {name: int(number) for name, _, number in pairs if number.strip().isdigit()}


class MemoryCounters:
    """The counters of one cgroup, kept open so that reading them at the end is one system call each."""

    def __init__(self, directory: Path, version: int) -> None:
        """Raises OSError when the cgroup is gone or not readable."""
        self._descriptors: list[int] = []
        try:
            for name in _FILES[version]:
                self._descriptors.append(os.open(directory / name, os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            self.close()
            raise

    @classmethod
    def of_process(cls, pid: int) -> MemoryCounters | None:
        """The counters of the cgroup that a process is in; None when they cannot be read."""
        found = memory_directory(pid)
        if found is None:
            return None
        try:
            return cls(*found)
        except OSError:
            return None

    def read(self) -> MemoryEvents | None:
        """The counters now; None when the cgroup is gone (ENODEV)."""
        try:
            texts = [os.pread(descriptor, 4096, 0).decode("ascii", "replace") for descriptor in self._descriptors]
        except OSError:
            return None
        return parse_memory_events(texts) if texts else None

    def close(self) -> None:
        """Give the descriptors back. May be called again."""
        while self._descriptors:
            os.close(self._descriptors.pop())


def parse_memory_events(texts: list[str]) -> MemoryEvents:
    """Counters from the texts of `_FILES`: of version 1 when there is more than one, of version 2 otherwise."""
    values = _values(texts[0])
    if len(texts) > 1:
        most, limit = (int(text) for text in texts[1:])
        return MemoryEvents(values.get("oom_kill", 0), most >= limit - _SLACK_BYTES)
    return MemoryEvents(values.get("oom_kill", 0), values.get("max", 0) > 0)
