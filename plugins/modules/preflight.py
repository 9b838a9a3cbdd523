#!/usr/bin/python
"""Tell everything that keeps a host from becoming a segment host, all at once, and change nothing."""

from __future__ import annotations

DOCUMENTATION = r"""
module: preflight
short_description: Check that a host can become a segment host
description:
  - Measures the host and compares it with what is asked. Changes nothing.
  - Fails once, with every problem that was found. What is worth knowing but stops nothing is a warning.
options:
  systems:
    description: Systems that are supported, as C(Debian 13).
    type: list
    elements: str
    required: true
  untested_systems:
    description: Systems that are let through with a warning.
    type: list
    elements: str
    default: []
  kernel_minimum:
    description: Lowest kernel version, as C(5.10).
    type: str
    required: true
  cgroup_controllers:
    description: Controllers that sandboxes are limited by.
    type: list
    elements: str
    required: true
  directories:
    description: Directories that will hold data. One that does not exist yet is judged by the nearest above it.
    type: list
    elements: str
    required: true
  disk_gb:
    description: Free space that the file system of each directory needs, in GiB.
    type: float
    required: true
  allow_loop_devices:
    description: Let a loop device be behind a directory.
    type: bool
    default: false
  memory_mb:
    description: Memory that the host needs, in MiB.
    type: int
    required: true
  ports:
    description: TCP ports that must be free, or held by the process that is named with them.
    type: list
    elements: dict
    default: []
    suboptions:
      port:
        description: The port.
        type: int
        required: true
      process:
        description: Name of the process that may hold it.
        type: str
        required: true
  control_time:
    description: Clock of the control node, in seconds since 1970.
    type: float
    required: true
  clock_skew_s:
    description: Largest difference between the two clocks, in seconds.
    type: float
    required: true
  clock_unsynchronized:
    description: What a clock that nothing keeps right is.
    type: str
    choices: [refuse, warn, ignore]
    default: warn
  runc_minimum:
    description: Lowest version of the Debian package C(runc). Empty for none.
    type: str
    default: ""
  runc_policy:
    description: What an older runc is.
    type: str
    choices: [refuse, warn]
    default: refuse
author:
  - Caisson
"""

EXAMPLES = r"""
- name: Check the host
  preflight:
    systems: [Debian 12, Debian 13]
    kernel_minimum: "5.10"
    cgroup_controllers: [cpu, memory, pids]
    directories: [/var/lib/postgresql, /var/lib/docker]
    disk_gb: 5
    memory_mb: 1024
    ports: [{port: 5432, process: postgres}]
    control_time: "{{ now(utc=true).timestamp() }}"
    clock_skew_s: 30
"""

RETURN = r"""
problems:
  description: What stops the host from being used, one line each.
  type: list
  elements: str
  returned: always
notes:
  description: What is worth knowing but stops nothing, one line each.
  type: list
  elements: str
  returned: always
"""

import ctypes
import json
import os
import re
import shlex
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.host_memory import memory_bytes
from ansible.module_utils.origin import begin

# adjtimex(2) returns this when nothing keeps the clock right.
TIME_ERROR = 5
# size of struct timex with room to spare; only the return value is read
TIMEX_BYTES = 512
# A clock before this (2025-01-01) was never set.
EARLIEST = 1735689600
LISTEN = "0A"


@dataclass
class Findings:
    """Lines for the person who runs the playbook."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, severity: str, line: str) -> None:
        """Add ``line`` as what ``severity`` says: refuse, warn or ignore."""
        if severity == "refuse":
            self.problems.append(line)
        elif severity == "warn":
            self.notes.append(line)


@dataclass(frozen=True)
class Mount:
    """One line of /proc/self/mountinfo."""

    point: str
    kind: str
    source: str
    options: frozenset[str]


class Host:
    """The host as its files show it. Tests give another ``root``."""

    def __init__(self, root: str = "/") -> None:
        self.root = Path(root)

    def path(self, name: str) -> Path:
        """Return where the file ``name`` of the host is."""
        return self.root / name.lstrip("/")

    def read(self, name: str) -> str:
        """Return the text of a file, empty when it is not there or not readable."""
        try:
            return self.path(name).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def mounts(self) -> list[Mount]:
        """Return what is mounted, in the order in which it was mounted."""
        found = []
        for line in self.read("/proc/self/mountinfo").splitlines():
            left, _, right = line.partition(" - ")
            before, after = left.split(" "), right.split(" ")
            if len(before) < 6 or len(after) < 3:
                continue
            point = before[4].replace("\\040", " ")
            found.append(Mount(point, after[0], after[1], frozenset(after[2].split(","))))
        return found


def check_system(host: Host, systems: list[str], untested: list[str], out: Findings) -> None:
    """Check the distribution, systemd and what Ansible itself needs."""
    release: dict[str, str] = {}
    for line in host.read("/etc/os-release").splitlines():
        key, separator, value = line.partition("=")
        if separator:
            release[key] = " ".join(shlex.split(value))
    name = f"{release.get('NAME', 'unknown').split(' ')[0]} {release.get('VERSION_ID', '')}".strip()
    if name in untested:
        out.notes.append(f"system: {name} should work but is not tested")
    elif name not in systems:
        out.problems.append(f"system: {name} is not supported, only {', '.join(systems)}")
    if not host.path("/run/systemd/system").is_dir():
        out.problems.append("system: systemd is not the first process; the services here are systemd units")
    if not any(host.path("/usr/lib/python3/dist-packages").glob("apt_pkg*.so")):
        out.problems.append("system: the package python3-apt is missing; Ansible installs packages through it")


def check_kernel(host: Host, minimum: str, out: Findings) -> None:
    """Check the kernel's version and the features that containers are made of."""

    def numbers(version: str) -> list[int]:
        return [int(part) for part in re.findall(r"\d+", version)[:2]]

    release = host.read("/proc/sys/kernel/osrelease").strip()
    if numbers(release) < numbers(minimum):
        out.problems.append(f"kernel: {release or 'unknown'} is older than {minimum}")
    if not re.search(r"\boverlay$", host.read("/proc/filesystems"), re.MULTILINE):
        modules = host.path(f"/lib/modules/{release}/kernel/fs/overlayfs")
        if not any(modules.glob("overlay.ko*")):
            out.problems.append("kernel: no overlay file system; Docker keeps its images on it")
    missing = [name for name in ("ipc", "mnt", "net", "pid", "uts") if not host.path(f"/proc/self/ns/{name}").exists()]
    if missing:
        out.problems.append(f"kernel: no {', '.join(missing)} namespaces")
    if not re.search(r"^Seccomp:", host.read("/proc/self/status"), re.MULTILINE):
        out.problems.append("kernel: no seccomp")


def check_cgroups(host: Host, controllers: list[str], out: Findings) -> None:
    """Check that one cgroup hierarchy, v1 or v2, has every controller."""
    mounts = host.mounts()
    unified = [mount.point for mount in mounts if mount.kind == "cgroup2"]
    legacy: set[str] = set()
    for mount in mounts:
        if mount.kind == "cgroup":
            legacy |= mount.options
    on_v2: set[str] = set()
    for point in unified:
        on_v2 |= set(host.read(f"{point}/cgroup.controllers").split())

    if "/sys/fs/cgroup" in unified:
        missing = [name for name in controllers if name not in on_v2]
        if missing:
            out.problems.append(
                f"cgroups: version 2 without {', '.join(missing)}; see cgroup_disable= on the kernel command line"
            )
        check_cgroup_driver(host, out)
        return
    if not legacy:
        out.problems.append("cgroups: nothing is mounted at /sys/fs/cgroup")
        return
    # Where both are mounted Docker takes version 1 and sees no controller that version 2 holds.
    for name in controllers:
        if name in legacy:
            continue
        if name in on_v2:
            out.problems.append(
                f"cgroups: {name} is on version 2 while Docker will use version 1; "
                "boot with systemd.unified_cgroup_hierarchy=1, or with 0"
            )
        else:
            out.problems.append(f"cgroups: version 1 without {name}; boot with cgroup_enable={name}")
    swap = re.search(r"^SwapTotal:\s+(\d+)", host.read("/proc/meminfo"), re.MULTILINE)
    counters = host.path("/sys/fs/cgroup/memory")
    if swap and int(swap[1]) > 0 and "memory" in legacy and not any(counters.glob("memory.memsw.*")):
        out.notes.append(
            "cgroups: swap is on but not counted, a sandbox can use it beyond its limit; boot with swapaccount=1"
        )


def check_cgroup_driver(host: Host, out: Findings) -> None:
    """Warn when Docker would write into the one tree of version 2 that systemd owns."""
    try:
        options = json.loads(host.read("/etc/docker/daemon.json") or "{}").get("exec-opts", [])
    except (ValueError, AttributeError):
        out.notes.append("cgroups: /etc/docker/daemon.json cannot be read as JSON")
        return
    if "native.cgroupdriver=cgroupfs" in options:
        out.notes.append(
            "cgroups: Docker uses the driver cgroupfs beside systemd on version 2; two writers of one tree"
        )


def existing_parent(path: Path) -> Path:
    """Return ``path`` or the nearest directory above it that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def block_devices(host: Host, device: str) -> set[str]:
    """Return the names of the block device ``device`` (major:minor) and of all that lie below it."""
    node = host.path(f"/sys/dev/block/{device}")
    if not node.exists():
        return set()
    names, pending = set(), [node.resolve()]
    while pending:
        current = pending.pop()
        if current.name in names:
            continue
        names.add(current.name)
        if (current / "partition").exists():
            pending.append(current.parent)
        if (current / "slaves").is_dir():
            pending.extend(slave.resolve() for slave in (current / "slaves").iterdir())
    return names


def device_of(host: Host, directory: Path, mounts: list[Mount]) -> tuple[str, str]:
    """Return the device (major:minor) behind a directory and the kind of its file system."""
    number = directory.stat().st_dev
    inside = f"/{directory.resolve().relative_to(host.root.resolve()).as_posix()}".removesuffix("/.")
    best = Mount("", "", "", frozenset())
    for mount in mounts:
        if (inside + "/").startswith(mount.point.rstrip("/") + "/") and len(mount.point) >= len(best.point):
            best = mount
    # btrfs and others show a number of their own; the mounted device tells the real one
    if os.major(number) == 0 and best.source.startswith("/dev/"):
        try:
            number = host.path(best.source).stat().st_rdev
        except OSError:
            name = Path(best.source).name
            return host.read(f"/sys/class/block/{name}/dev").strip(), best.kind
    return f"{os.major(number)}:{os.minor(number)}", best.kind


def check_disk(host: Host, directories: list[str], disk_gb: float, allow_loop: bool, out: Findings) -> None:
    """Check free space, and that no loop device or overlay is behind a directory that holds data."""
    mounts = host.mounts()
    short: dict[str, list[str]] = {}
    for directory in directories:
        there = existing_parent(host.path(directory))
        device, kind = device_of(host, there, mounts)
        loops = sorted(name for name in block_devices(host, device) if re.match(r"loop\d", name))
        if loops and not allow_loop:
            out.problems.append(
                f"disk: {directory} is on the loop device /dev/{loops[0]}, which loses data and is slow; give it a disk"
            )
        if kind == "overlay" and Path(directory).name in ("docker", "containerd"):
            out.problems.append(
                f"disk: {directory} is on an overlay file system, on which Docker cannot lay another; give it a volume"
            )
        space = os.statvfs(there)
        free = space.f_bavail * space.f_frsize / 2**30
        if free < disk_gb:
            short.setdefault(f"{free:.1f} GiB free, {disk_gb:g} are needed", []).append(directory)
    out.problems.extend(f"disk: {', '.join(names)}: {text}" for text, names in short.items())


def check_memory(host: Host, memory_mb: int, out: Findings) -> None:
    """Check memory, the smaller of what the machine has and what a cgroup leaves of it."""
    total = memory_bytes(host.root) // 2**20
    if total < memory_mb:
        out.problems.append(f"memory: {total} MiB, {memory_mb} are needed")


def listeners(host: Host) -> dict[int, set[str]]:
    """Return each TCP port that something listens on with the inodes of its sockets."""
    found: dict[int, set[str]] = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in host.read(table).splitlines()[1:]:
            columns = line.split()
            if len(columns) > 9 and columns[3] == LISTEN:
                found.setdefault(int(columns[1].rpartition(":")[2], 16), set()).add(columns[9])
    return found


def owners(host: Host, inodes: set[str]) -> set[str]:
    """Return the names of the processes that hold one of these sockets."""
    wanted, names = {f"socket:[{inode}]" for inode in inodes}, set()
    for process in host.path("/proc").glob("[0-9]*"):
        try:
            links = {str(link.readlink()) for link in (process / "fd").iterdir()}
        except OSError:
            continue  # it ended meanwhile
        if links & wanted:
            names.add((process / "comm").read_text(encoding="utf-8").strip())
    return names


def check_ports(host: Host, ports: list[dict[str, Any]], out: Findings) -> None:
    """Check that each port is free or held by the process it is meant for."""
    held = listeners(host)
    for wanted in ports:
        port, process = wanted["port"], wanted["process"]
        if port not in held:
            continue
        strangers = owners(host, held[port]) or {"a process outside of this host's view"}
        if process not in strangers:
            out.problems.append(f"ports: {port} is needed by {process} and held by {', '.join(sorted(strangers))}")


def clock_is_synchronized() -> bool:
    """Tell whether something keeps the kernel's clock right."""
    library = ctypes.CDLL(None, use_errno=True)
    return bool(library.adjtimex(ctypes.create_string_buffer(TIMEX_BYTES)) != TIME_ERROR)


def check_clock(now: float, control: float, skew: float, synchronized: bool, *, severity: str, out: Findings) -> None:
    """Check the clock against sense and against the control node's (all in seconds)."""
    if now < EARLIEST:
        out.problems.append(f"clock: it says {time.strftime('%Y-%m-%d', time.gmtime(now))}; it was never set")
    elif abs(now - control) > skew:
        way = "ahead of" if now > control else "behind"
        out.problems.append(f"clock: {abs(now - control):.0f} s {way} the control node's, at most {skew:g} are allowed")
    if not synchronized:
        out.add(severity, "clock: nothing keeps it right; run systemd-timesyncd or chrony")


def check_runc(installed: str, minimum: str, is_older: bool, severity: str, out: Findings) -> None:
    """Check the package's version: Debian mends holes without changing what runc itself says."""
    if installed and minimum and is_older:
        out.add(severity, f"runc: {installed} is older than {minimum}; upgrade the package")


def runc_version(minimum: str) -> tuple[str, bool]:
    """Return the installed version of the package runc (empty: none) and whether it is older than ``minimum``."""
    query = ["dpkg-query", "--show", "--showformat=${db:Status-Status} ${Version}", "runc"]
    status, _, version = subprocess.run(query, capture_output=True, text=True, check=False).stdout.partition(" ")
    if status != "installed" or not minimum:
        return "", False
    compared = subprocess.run(["dpkg", "--compare-versions", version, "lt", minimum], check=False)
    return version, compared.returncode == 0


def packages() -> list[str]:
    """Return the names of the packages that are installed."""
    query = ["dpkg-query", "--show", "--showformat=${db:Status-Status} ${Package}\\n"]
    listing = subprocess.run(query, capture_output=True, text=True, check=False).stdout
    return [name for status, _, name in (line.partition(" ") for line in listing.splitlines()) if status == "installed"]


def report(problems: list[str]) -> str:
    """Return one readable message with all problems."""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return "\n".join([f"This host cannot be a segment host: {count}.", *(f"  - {line}" for line in problems)])


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "systems": {"type": "list", "elements": "str", "required": True},
            "untested_systems": {"type": "list", "elements": "str", "default": []},
            "kernel_minimum": {"type": "str", "required": True},
            "cgroup_controllers": {"type": "list", "elements": "str", "required": True},
            "directories": {"type": "list", "elements": "str", "required": True},
            "disk_gb": {"type": "float", "required": True},
            "allow_loop_devices": {"type": "bool", "default": False},
            "memory_mb": {"type": "int", "required": True},
            "ports": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {"port": {"type": "int", "required": True}, "process": {"type": "str", "required": True}},
            },
            "control_time": {"type": "float", "required": True},
            "clock_skew_s": {"type": "float", "required": True},
            "clock_unsynchronized": {"type": "str", "choices": ["refuse", "warn", "ignore"], "default": "warn"},
            "runc_minimum": {"type": "str", "default": ""},
            "runc_policy": {"type": "str", "choices": ["refuse", "warn"], "default": "refuse"},
        },
        supports_check_mode=True,
    )
    asked, host, out, now = module.params, Host(), Findings(), time.time()
    check_system(host, asked["systems"], asked["untested_systems"], out)
    check_kernel(host, asked["kernel_minimum"], out)
    check_cgroups(host, asked["cgroup_controllers"], out)
    check_disk(host, asked["directories"], asked["disk_gb"], asked["allow_loop_devices"], out)
    check_memory(host, asked["memory_mb"], out)
    check_ports(host, asked["ports"], out)
    severity = asked["clock_unsynchronized"]
    check_clock(now, asked["control_time"], asked["clock_skew_s"], clock_is_synchronized(), severity=severity, out=out)
    installed, is_older = runc_version(asked["runc_minimum"])
    check_runc(installed, asked["runc_minimum"], is_older, asked["runc_policy"], out)

    for line in out.notes:
        module.warn(line)
    if out.problems:
        module.fail_json(msg=report(out.problems), problems=out.problems, notes=out.notes)
    if not module.check_mode:
        # the first thing on a host: from here on it is changed
        begin(packages())
    module.exit_json(changed=False, problems=[], notes=out.notes)


if __name__ == "__main__":
    main()
