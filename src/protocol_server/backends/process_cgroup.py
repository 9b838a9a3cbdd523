"""Cgroups of sandboxes that are plain processes: limits where the host lets the server make some, version 1 and 2.

Version 1 has a tree per controller, and a group may be made wherever the server may write. Version 2 has one tree in
which processes live in leaves only: the server moves itself into a leaf of the group that systemd delegated to it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from protocol_server.cgroup import MemoryCounters
from protocol_server.config import Runtime

MIB: Final = 1024 * 1024
_PERIOD_US: Final = 100_000
#: bubblewrap itself: the process that waits, and the first process of the namespace.
_OWN_PROCESSES: Final = 2
#: What the server's unit makes in the server's own groups on hosts with version 1, which delegates nothing by itself.
_DELEGATED: Final = "plcontainer"
_CONTROLLERS: Final = ("memory", "pids", "cpu")
#: Version 1 alone counts CPU time in a tree of its own, where that is not the controller cpu's.
_COUNTERS: Final = ("cpuacct",)
_REMOVE_S: Final = 2.0


@dataclass(frozen=True)
class Group:
    """One sandbox's directories, one per controller in version 1 and one in all in version 2."""

    directories: tuple[Path, ...]
    memory: Path | None
    version: int

    @property
    def entrances(self) -> tuple[Path, ...]:
        """The files through which a process enters, by writing 0."""
        return tuple(directory / "cgroup.procs" for directory in self.directories)

    def counters(self) -> MemoryCounters | None:
        """The memory counters; they stay until the group is removed."""
        if self.memory is None:
            return None
        try:
            return MemoryCounters(self.memory, self.version)
        except OSError:
            return None

    def processes(self) -> set[int]:
        """Everything that is in the group."""
        found: set[int] = set()
        for entrance in self.entrances:
            with contextlib.suppress(OSError):
                found.update(int(line) for line in entrance.read_text(encoding="ascii").split())
        return found

    def remove(self) -> None:
        """Remove the group, whose processes are dead or dying. Raises OSError when they do not go."""
        deadline = time.monotonic() + _REMOVE_S
        for directory in self.directories:
            while True:
                try:
                    directory.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError as error:
                    if error.errno != errno.EBUSY or time.monotonic() > deadline:
                        raise
                    time.sleep(0.005)


class Cgroups:
    """Where groups of sandboxes can be made on this host."""

    def __init__(self, parents: Mapping[str, Path], version: int) -> None:
        """`parents` are directories by controller; those of version 2 are all the same."""
        self.parents = dict(parents)
        self.version = version

    @property
    def missing(self) -> tuple[str, ...]:
        """Controllers whose limits cannot be set."""
        return tuple(name for name in _CONTROLLERS if name not in self.parents)

    def _group(self, name: str) -> Group:
        directories = tuple(dict.fromkeys(parent / name for parent in self.parents.values()))
        memory = self.parents.get("memory")
        return Group(directories, memory / name if memory is not None else None, self.version)

    def find(self, name: str) -> Group:
        """The group called `name`, whether it is there or not."""
        return self._group(name)

    def make(self, name: str, runtime: Runtime) -> Group:
        """A group with the limits of a runtime. Raises OSError."""
        group = self._group(name)
        try:
            for directory in group.directories:
                directory.mkdir(exist_ok=True)
            for controller, parent in self.parents.items():
                for file, value in _limits(controller, self.version, runtime):
                    _write_limit(parent / name / file, value)
        except OSError:
            with contextlib.suppress(OSError):
                group.remove()
            raise
        return group


def _limits(controller: str, version: int, runtime: Runtime) -> list[tuple[str, str]]:
    """Files and what is written to them, in order. Swap is not added to memory."""
    memory, quota = runtime.memory_mb * MIB, round(runtime.cpus * _PERIOD_US)
    pids = str(runtime.pids + _OWN_PROCESSES)
    if version == 1:
        return {
            "memory": [("memory.limit_in_bytes", str(memory)), ("memory.memsw.limit_in_bytes", str(memory))],
            "pids": [("pids.max", pids)],
            "cpuacct": [],
            "cpu": [
                ("cpu.shares", str(runtime.cpu_shares)),
                ("cpu.cfs_period_us", str(_PERIOD_US)),
                ("cpu.cfs_quota_us", str(quota)),
            ],
        }[controller]
    # The mapping of shares to weights that container runtimes use.
    weight = 1 + ((min(runtime.cpu_shares, 262144) - 2) * 9999) // 262142
    return {
        "memory": [("memory.max", str(memory)), ("memory.swap.max", "0")],
        "pids": [("pids.max", pids)],
        "cpu": [("cpu.weight", str(weight)), ("cpu.max", f"{quota} {_PERIOD_US}")],
    }[controller]


def _write_limit(file: Path, value: str) -> None:
    try:
        file.write_text(value, encoding="ascii")
    except FileNotFoundError:
        # Kernels without accounting of swap have no file for it.
        if ".memsw." not in file.name and ".swap." not in file.name:
            raise


def slice_path(parent: str, group: str) -> PurePosixPath:
    """The path of a slice as systemd nests them: a-b.slice lies in a.slice. Other names are taken as they are."""
    name = f"{parent.removesuffix('.slice')}-{group}.slice" if group else parent
    if not name.endswith(".slice") or "/" in name:
        return PurePosixPath(name.strip("/") or ".")
    parts = name.removesuffix(".slice").split("-")
    return PurePosixPath(*("-".join(parts[: length + 1]) + ".slice" for length in range(len(parts))))


def find_cgroups(parent: str, group: str = "", proc: Path = Path("/proc/self")) -> Cgroups:
    """Where the server may make groups: in `parent` or its resource group, in its own group without one."""
    own, mounts = _own_paths(proc), _mounts(proc)
    inside = slice_path(parent, group) if parent else None
    parents: dict[str, Path] = {}
    for controller in (*_CONTROLLERS, *_COUNTERS):
        if controller not in mounts or controller not in own:
            continue
        root, mount = mounts[controller]
        path = PurePosixPath(own[controller])
        below = path.relative_to(root) if path.is_relative_to(root) else PurePosixPath()
        directory = mount / (inside if inside is not None else below)
        # Where the server's own group is not its to change, there may be one that was made for it.
        for candidate in (directory,) if inside is not None else (directory, directory / _DELEGATED):
            if os.access(candidate, os.W_OK) and os.access(candidate / "cgroup.procs", os.W_OK):
                parents[controller] = candidate
                break
    if parents or "" not in mounts:
        return Cgroups(parents, 1)
    root, mount = mounts[""]
    path = PurePosixPath(own.get("", "/"))
    below = path.relative_to(root) if path.is_relative_to(root) else PurePosixPath()
    directory = mount / (inside if inside is not None else below)
    try:
        return _delegated(directory, own_group=inside is None)
    except OSError:
        return Cgroups({}, 2)


def _delegated(directory: Path, *, own_group: bool) -> Cgroups:
    """Version 2: a directory whose groups have controllers. Raises OSError where it is not the server's to change."""
    if own_group and directory.name == "server":
        # An earlier server of this group has moved, and systemd starts the next one beside it; or this one has already.
        directory = directory.parent
    offered = (directory / "cgroup.controllers").read_text(encoding="ascii").split()
    wanted = [name for name in _CONTROLLERS if name in offered]
    if own_group:
        leaf = directory / "server"
        leaf.mkdir(exist_ok=True)
        (leaf / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
    (directory / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in wanted), encoding="ascii")
    return Cgroups(dict.fromkeys(wanted, directory), 2)


def _own_paths(proc: Path) -> dict[str, str]:
    """The group that the server is in, by controller; version 2 is the empty name."""
    paths = {}
    for line in (proc / "cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            paths[controller] = path
    return paths


def _mounts(proc: Path) -> dict[str, tuple[PurePosixPath, Path]]:
    """Root and mount point of each controller's tree; version 2 is the empty name."""
    found: dict[str, tuple[PurePosixPath, Path]] = {}
    for line in (proc / "mountinfo").read_text(encoding="utf-8").splitlines():
        left, _, right = line.partition(" - ")
        before, after = left.split(), right.split()
        if len(before) < 5 or len(after) < 3 or after[0] not in ("cgroup", "cgroup2"):
            continue
        for controller in ("",) if after[0] == "cgroup2" else tuple(after[2].split(",")):
            if controller in ("", *_CONTROLLERS, *_COUNTERS):
                found.setdefault(controller, (PurePosixPath(before[3]), Path(before[4])))
    return found


def delegate(user: str, proc: Path = Path("/proc/self")) -> None:
    """Make groups of version 1 that `user` may fill, inside of those that this process is in. Needs root."""
    account = pwd.getpwnam(user)
    own, mounts = _own_paths(proc), _mounts(proc)
    for controller in (*_CONTROLLERS, *_COUNTERS):
        if controller not in mounts or controller not in own:
            continue
        root, mount = mounts[controller]
        path = PurePosixPath(own[controller])
        directory = mount / (path.relative_to(root) if path.is_relative_to(root) else PurePosixPath()) / _DELEGATED
        directory.mkdir(exist_ok=True)
        for place in (directory, directory / "cgroup.procs"):
            os.chown(place, account.pw_uid, account.pw_gid)


if __name__ == "__main__":
    delegate(sys.argv[1])
