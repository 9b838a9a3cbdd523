"""The module preflight on hosts made of files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from plugins.module_utils import host_memory
from plugins.modules import preflight

MIB = 2**20
V1 = """\
30 23 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
"""
V1_MEMORY = "33 30 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
BESIDE = "34 30 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
V2 = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
CONTROLLERS = ["cpu", "memory", "pids"]


class Made(preflight.Host):
    """A host below a directory."""

    def write(self, name: str, text: str) -> None:
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


@pytest.fixture
def host(tmp_path: Path) -> Made:
    return Made(str(tmp_path))


@pytest.fixture
def out() -> preflight.Findings:
    return preflight.Findings()


def test_a_supported_system(host: Made, out: preflight.Findings) -> None:
    host.write("/etc/os-release", 'NAME="Debian GNU/Linux"\nVERSION_ID="13"\n')
    host.write("/usr/lib/python3/dist-packages/apt_pkg.cpython-313-x86_64-linux-gnu.so", "")
    host.path("/run/systemd/system").mkdir(parents=True)
    preflight.check_system(host, ["Debian 12", "Debian 13"], [], out)
    assert out == preflight.Findings()


def test_another_system_without_systemd(host: Made, out: preflight.Findings) -> None:
    host.write("/etc/os-release", 'NAME="Fedora Linux"\nVERSION_ID=41\n')
    preflight.check_system(host, ["Debian 13"], [], out)
    assert [line.split(";")[0] for line in out.problems] == [
        "system: Fedora 41 is not supported, only Debian 13",
        "system: systemd is not the first process",
        "system: the package python3-apt is missing",
    ]


def test_an_untested_system_is_a_note(host: Made, out: preflight.Findings) -> None:
    host.write("/etc/os-release", 'NAME="Ubuntu"\nVERSION_ID="24.04"\n')
    preflight.check_system(host, ["Debian 13"], ["Ubuntu 24.04"], out)
    assert out.notes == ["system: Ubuntu 24.04 should work but is not tested"]
    assert not any("supported" in line for line in out.problems)


def kernel(host: Made, release: str, filesystems: str) -> None:
    host.write("/proc/sys/kernel/osrelease", f"{release}\n")
    host.write("/proc/filesystems", filesystems)
    host.write("/proc/self/status", "Name:\tx\nSeccomp:\t0\n")
    for name in ("ipc", "mnt", "net", "pid", "uts"):
        host.write(f"/proc/self/ns/{name}", "")


@pytest.mark.parametrize("release", ["5.10.0-33-amd64", "6.1.0", "10.0-rc1"])
def test_a_kernel_that_is_new_enough(host: Made, out: preflight.Findings, release: str) -> None:
    kernel(host, release, "nodev\tproc\n\text4\nnodev\toverlay\n")
    preflight.check_kernel(host, "5.10", out)
    assert out.problems == []


def test_an_overlay_module_counts(host: Made, out: preflight.Findings) -> None:
    kernel(host, "6.1.0", "\text4\n")
    host.write("/lib/modules/6.1.0/kernel/fs/overlayfs/overlay.ko.xz", "")
    preflight.check_kernel(host, "5.10", out)
    assert out.problems == []


def test_an_old_kernel_that_lacks_everything(host: Made, out: preflight.Findings) -> None:
    host.write("/proc/sys/kernel/osrelease", "5.9.16\n")
    preflight.check_kernel(host, "5.10", out)
    assert [line.split(";")[0] for line in out.problems] == [
        "kernel: 5.9.16 is older than 5.10",
        "kernel: no overlay file system",
        "kernel: no ipc, mnt, net, pid, uts namespaces",
        "kernel: no seccomp",
    ]


def test_cgroups_version_1(host: Made, out: preflight.Findings) -> None:
    host.write("/proc/self/mountinfo", V1 + V1_MEMORY + BESIDE)
    host.write("/sys/fs/cgroup/unified/cgroup.controllers", "\n")
    preflight.check_cgroups(host, CONTROLLERS, out)
    assert out == preflight.Findings()


def test_cgroups_version_1_without_memory(host: Made, out: preflight.Findings) -> None:
    host.write("/proc/self/mountinfo", V1)
    preflight.check_cgroups(host, CONTROLLERS, out)
    assert out.problems == ["cgroups: version 1 without memory; boot with cgroup_enable=memory"]


def test_cgroups_mixed(host: Made, out: preflight.Findings) -> None:
    host.write("/proc/self/mountinfo", V1 + BESIDE)
    host.write("/sys/fs/cgroup/unified/cgroup.controllers", "memory io\n")
    preflight.check_cgroups(host, CONTROLLERS, out)
    assert len(out.problems) == 1
    assert out.problems[0].startswith("cgroups: memory is on version 2 while Docker will use version 1")


def test_cgroups_version_2(host: Made, out: preflight.Findings) -> None:
    host.write("/proc/self/mountinfo", V2)
    host.write("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n")
    preflight.check_cgroups(host, CONTROLLERS, out)
    assert out == preflight.Findings()


def test_cgroups_version_2_without_pids(host: Made, out: preflight.Findings) -> None:
    host.write("/proc/self/mountinfo", V2)
    host.write("/sys/fs/cgroup/cgroup.controllers", "cpu memory\n")
    host.write("/etc/docker/daemon.json", '{"exec-opts": ["native.cgroupdriver=cgroupfs"]}')
    preflight.check_cgroups(host, CONTROLLERS, out)
    assert [line.split(";")[0] for line in out.problems] == ["cgroups: version 2 without pids"]
    assert [line.split(";")[0] for line in out.notes] == [
        "cgroups: Docker uses the driver cgroupfs beside systemd on version 2"
    ]


def test_no_cgroups_at_all(host: Made, out: preflight.Findings) -> None:
    preflight.check_cgroups(host, CONTROLLERS, out)
    assert out.problems == ["cgroups: nothing is mounted at /sys/fs/cgroup"]


def test_swap_that_is_not_counted_is_a_note(host: Made, out: preflight.Findings) -> None:
    host.write("/proc/self/mountinfo", V1 + V1_MEMORY)
    host.write("/proc/meminfo", "SwapTotal:  1024 kB\n")
    preflight.check_cgroups(host, CONTROLLERS, out)
    assert out.problems == []
    assert len(out.notes) == 1


def device(host: Made, number: str, path: str, *, partition: bool = False, slaves: list[str] | None = None) -> Path:
    """Make a block device in /sys as the kernel lays it out."""
    folder = host.path(f"/sys/devices/{path}")
    folder.mkdir(parents=True, exist_ok=True)
    if partition:
        (folder / "partition").write_text("1\n", encoding="utf-8")
    for slave in slaves or []:
        (folder / "slaves").mkdir(exist_ok=True)
        (folder / "slaves" / Path(slave).name).symlink_to(host.path(f"/sys/devices/{slave}"))
    link = host.path(f"/sys/dev/block/{number}")
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(folder)
    return folder


def test_devices_below_a_device(host: Made) -> None:
    device(host, "7:0", "virtual/block/loop0")
    device(host, "259:1", "virtual/block/loop0/loop0p1", partition=True)
    device(host, "8:0", "pci/block/sda")
    device(host, "8:1", "pci/block/sda/sda1", partition=True)
    device(host, "253:0", "virtual/block/dm-0", slaves=["pci/block/sda/sda1", "virtual/block/loop0/loop0p1"])
    assert preflight.block_devices(host, "8:1") == {"sda", "sda1"}
    assert preflight.block_devices(host, "253:0") == {"dm-0", "sda1", "sda", "loop0p1", "loop0"}
    assert preflight.block_devices(host, "0:42") == set()


@pytest.fixture
def on_loop_device(host: Made) -> Made:
    """A host whose directories are all on a volume that lies on a loop device."""
    number = os.stat(host.root).st_dev  # noqa: PTH116
    if os.major(number) == 0:
        host.write("/proc/self/mountinfo", "25 1 0:25 / / rw - btrfs /dev/mapper/data rw\n")
        host.write("/sys/class/block/data/dev", "253:0\n")
        name = "253:0"
    else:
        name = f"{os.major(number)}:{os.minor(number)}"
    device(host, "7:3", "virtual/block/loop3")
    device(host, name, "virtual/block/dm-7", slaves=["virtual/block/loop3"])
    return host


def test_a_loop_device_is_refused(on_loop_device: Made, out: preflight.Findings) -> None:
    preflight.check_disk(on_loop_device, ["/var/lib/docker"], 0, allow_loop=False, out=out)
    assert [line.split(",")[0] for line in out.problems] == ["disk: /var/lib/docker is on the loop device /dev/loop3"]


def test_a_loop_device_may_be_let_through(on_loop_device: Made, out: preflight.Findings) -> None:
    preflight.check_disk(on_loop_device, ["/var/lib/docker"], 0, allow_loop=True, out=out)
    assert out.problems == []


def test_a_full_disk_names_the_directories_once(host: Made, out: preflight.Findings) -> None:
    preflight.check_disk(host, ["/var/lib/docker", "/var/lib/postgresql"], 2.0**40, allow_loop=False, out=out)
    assert len(out.problems) == 1
    assert out.problems[0].startswith("disk: /var/lib/docker, /var/lib/postgresql: ")
    assert out.problems[0].endswith(" are needed")


def test_docker_cannot_live_on_an_overlay(host: Made, out: preflight.Findings) -> None:
    host.write(
        "/proc/self/mountinfo",
        "25 1 0:25 / / rw - overlay overlay rw\n26 25 8:1 / /var/lib/containerd rw - ext4 /dev/sda1 rw\n",
    )
    host.path("/var/lib/containerd").mkdir(parents=True)
    preflight.check_disk(
        host, ["/var/lib/docker", "/var/lib/containerd", "/var/lib/postgresql"], 0, allow_loop=False, out=out
    )
    assert len(out.problems) == 1
    assert "/var/lib/docker is on an overlay" in out.problems[0]


def test_memory_of_the_machine(host: Made, out: preflight.Findings) -> None:
    host.write("/proc/meminfo", "MemTotal:  1048576 kB\n")
    assert host_memory.memory_bytes(host.root) == 1024 * MIB
    preflight.check_memory(host, 1024, out)
    assert out.problems == []
    preflight.check_memory(host, 1025, out)
    assert out.problems == ["memory: 1024 MiB, 1025 are needed"]


@pytest.mark.parametrize(
    ("membership", "file"),
    [("9:memory:/docker/x\n", "memory/docker/memory.limit_in_bytes"), ("0::/docker/x\n", "docker/memory.max")],
)
def test_memory_that_a_cgroup_above_leaves(host: Made, membership: str, file: str) -> None:
    host.write("/proc/meminfo", "MemTotal:  1048576 kB\n")
    host.write("/proc/self/cgroup", f"3:pids:/docker/x\n{membership}")
    host.write(f"/sys/fs/cgroup/{file}", f"{256 * MIB}\n")
    assert host_memory.memory_bytes(host.root) == 256 * MIB


def test_memory_without_a_limit(host: Made) -> None:
    host.write("/proc/meminfo", "MemTotal:  1048576 kB\n")
    host.write("/proc/self/cgroup", "0::/x\n")
    host.write("/sys/fs/cgroup/x/memory.max", "max\n")
    assert host_memory.memory_bytes(host.root) == 1024 * MIB


def listening(host: Made, port: int, inode: str) -> None:
    head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    tail = "00000000:00000000 00:00000000 00000000   0        0"
    row = f"   0: 0100007F:{port:04X} 00000000:0000 0A {tail} {inode} 1 0 100\n"
    connected = f"   1: 0100007F:{port + 1:04X} 00000000:0000 01 {tail} 9 1 0 100\n"
    host.write("/proc/net/tcp", head + row + connected)


def process(host: Made, pid: int, name: str, inode: str) -> None:
    host.write(f"/proc/{pid}/comm", f"{name}\n")
    folder = host.path(f"/proc/{pid}/fd")
    folder.mkdir()
    (folder / "5").symlink_to(f"socket:[{inode}]")


def test_a_port_that_is_free_or_ours(host: Made, out: preflight.Findings) -> None:
    listening(host, 5000, "77")
    process(host, 10, "postgres", "77")
    process(host, 11, "sshd", "78")
    wanted = [{"port": 5000, "process": "postgres"}, {"port": 5001, "process": "postgres"}]
    preflight.check_ports(host, wanted, out)
    assert out.problems == []


def test_a_port_that_somebody_holds(host: Made, out: preflight.Findings) -> None:
    listening(host, 5000, "77")
    process(host, 10, "nginx", "77")
    preflight.check_ports(host, [{"port": 5000, "process": "postgres"}], out)
    assert out.problems == ["ports: 5000 is needed by postgres and held by nginx"]


def test_a_port_that_nobody_in_sight_holds(host: Made, out: preflight.Findings) -> None:
    listening(host, 5000, "77")
    preflight.check_ports(host, [{"port": 5000, "process": "postgres"}], out)
    assert out.problems == ["ports: 5000 is needed by postgres and held by a process outside of this host's view"]


NOW = 1_800_000_000.0


def test_a_clock_that_is_right(out: preflight.Findings) -> None:
    preflight.check_clock(NOW, NOW + 29, 30, True, severity="refuse", out=out)
    assert out == preflight.Findings()


@pytest.mark.parametrize(
    ("now", "word"), [(NOW + 90, "90 s ahead of"), (NOW - 90, "90 s behind"), (86400.0, "1970-01-02")]
)
def test_a_clock_that_is_wrong(out: preflight.Findings, now: float, word: str) -> None:
    preflight.check_clock(now, NOW, 30, True, severity="refuse", out=out)
    assert len(out.problems) == 1
    assert word in out.problems[0]


@pytest.mark.parametrize(("severity", "problems", "notes"), [("refuse", 1, 0), ("warn", 0, 1), ("ignore", 0, 0)])
def test_a_clock_that_nothing_keeps_right(out: preflight.Findings, severity: str, problems: int, notes: int) -> None:
    preflight.check_clock(NOW, NOW, 30, False, severity=severity, out=out)
    assert (len(out.problems), len(out.notes)) == (problems, notes)


def test_runc(out: preflight.Findings) -> None:
    preflight.check_runc("", "1.1.5-2", False, "refuse", out)
    preflight.check_runc("1.1.5-2", "1.1.5-2", False, "refuse", out)
    assert out == preflight.Findings()
    preflight.check_runc("1.1.5-1", "1.1.5-2", True, "refuse", out)
    assert out.problems == ["runc: 1.1.5-1 is older than 1.1.5-2; upgrade the package"]


def test_all_problems_are_in_one_message() -> None:
    assert preflight.report(["a", "b"]).splitlines() == [
        "This host cannot be a segment host: 2 problems.",
        "  - a",
        "  - b",
    ]
    assert "1 problem." in preflight.report(["a"])
