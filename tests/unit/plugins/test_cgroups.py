"""The module cgroups and what it sets limits with, on trees of cgroups that are files."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from plugins.module_utils import slice_limits, systemd_limits
from plugins.module_utils.slice_limits import LimitError, Limits, Tree
from plugins.modules import cgroups

NO_LIMIT_1 = "9223372036852776960\n"
SANDBOXES = "sandboxes.slice"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def host(root: Path, first_process: str) -> Tree:
    write(root / "proc/1/cgroup", first_process)
    write(root / "sys/devices/system/cpu/online", "0-3\n")
    for size in (2048, 1048576):
        (root / f"sys/kernel/mm/hugepages/hugepages-{size}kB").mkdir(parents=True)
    return Tree(root)


def hugetlb(directory: Path, word: str, unlimited: str) -> None:
    for label in ("2MB", "1GB"):
        for kind in ("", "rsvd."):
            write(directory / f"hugetlb.{label}.{kind}{word}", unlimited)


@pytest.fixture
def one(tmp_path: Path) -> Tree:
    """A host that is a container, with cgroups of version 1."""
    tree = host(tmp_path, "2:memory:/docker/abc\n1:name=systemd:/docker/abc/init.scope\n0::/docker/abc\n")
    for name in ("cpuset/docker/abc", f"cpuset/docker/abc/{SANDBOXES}"):
        write(tree.mount / name / "cpuset.cpus", "0-3\n")
        write(tree.mount / name / "cpuset.mems", "0\n")
    hugetlb(tree.mount / "hugetlb/docker/abc" / SANDBOXES, "limit_in_bytes", NO_LIMIT_1)
    return tree


@pytest.fixture
def two(tmp_path: Path) -> Tree:
    """A machine with cgroups of version 2."""
    write(tmp_path / "sys/fs/cgroup/cgroup.controllers", "cpuset cpu memory pids hugetlb\n")
    write(tmp_path / "sys/fs/cgroup/cgroup.subtree_control", "cpu memory pids\n")
    tree = host(tmp_path, "0::/init.scope\n")
    hugetlb(tree.mount / SANDBOXES, "max", "max\n")
    return tree


def value(tree: Tree, name: str, label: str = "2MB.limit_in_bytes") -> str:
    return (tree.directory("hugetlb", name) / f"hugetlb.{label}").read_text().strip()


def test_lists_of_processors() -> None:
    assert slice_limits.cpus("0-2,5\n") == {0, 1, 2, 5}
    assert slice_limits.cpus("") == frozenset()
    with pytest.raises(ValueError, match="many"):
        slice_limits.cpus("many")


def test_slices_nest_by_their_names() -> None:
    assert slice_limits.slice_path("a-b.slice") == Path("a.slice/a-b.slice")


def test_version_1(one: Tree) -> None:
    wanted = Limits(SANDBOXES, hugepages_mb=5, cpuset="0-1")
    assert one.version == 1
    assert len(slice_limits.differences(one, wanted)) == 5
    slice_limits.set_limits(one, wanted)
    assert slice_limits.differences(one, wanted) == []
    # whole pages
    assert (value(one, SANDBOXES), value(one, SANDBOXES, "1GB.rsvd.limit_in_bytes")) == (str(4 * 2**20), "0")
    assert (one.directory("cpuset", SANDBOXES) / "cpuset.cpus").read_text() == "0,1\n"


def test_version_2(two: Tree) -> None:
    wanted = Limits(SANDBOXES, hugepages_mb=0, cpuset="0-1")
    assert two.version == 2
    assert len(slice_limits.differences(two, wanted)) == 4
    slice_limits.set_limits(two, wanted)
    assert slice_limits.differences(two, wanted) == []
    assert (two.mount / "cgroup.subtree_control").read_text() == "+hugetlb\n"
    # these are systemd's
    assert not (two.mount / SANDBOXES / "cpuset.cpus").exists()


def test_a_group_inside_of_a_slice_has_no_processor_that_the_slice_lacks(one: Tree) -> None:
    inner = write(one.directory("cpuset", SANDBOXES) / "inner/cpuset.cpus", "0,3\n")
    slice_limits.set_limits(one, Limits(SANDBOXES, cpuset="0-1"))
    assert inner.read_text() == "0\n"


def test_a_limit_that_the_kernel_does_not_take(one: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slice_limits, "_write", lambda path, text: " (Device or resource busy)")
    with pytest.raises(
        LimitError, match=r"limit_in_bytes: 0 is wanted, the kernel keeps no limit \(Device or resource"
    ):
        slice_limits.set_limits(one, Limits(SANDBOXES, hugepages_mb=0))
    with pytest.raises(LimitError, match=r"processors \[2\] are wanted, the kernel keeps \[0, 1, 2, 3\]"):
        slice_limits._bind(one.directory("cpuset", SANDBOXES), frozenset({2}))


def test_a_slice_that_is_not_active(two: Tree) -> None:
    with pytest.raises(LimitError, match=r"is other\.slice active"):
        slice_limits.set_limits(two, Limits("other.slice", hugepages_mb=0))


def test_a_kernel_without_the_controller(two: Tree) -> None:
    (two.mount / "cgroup.controllers").write_text("cpu memory\n")
    slice_limits.set_limits(two, Limits(SANDBOXES, hugepages_mb=0))
    with pytest.raises(LimitError, match="no controller hugetlb"):
        slice_limits.set_limits(two, Limits(SANDBOXES, hugepages_mb=2))


def test_the_program(one: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    assert slice_limits.main([SANDBOXES, "--hugepages-mb", "2"], one.root) == 0
    assert value(one, SANDBOXES) == str(2 * 2**20)
    assert slice_limits.main(["x.slice", "--hugepages-mb", "2"], one.root) == 1
    assert "is x.slice active?" in capsys.readouterr().err


FILES = {"docker": "/etc/docker.json", "containerd": "/etc/containerd.toml", "kubelet": "/etc/kubelet.yaml"}
TEXTS = {
    "docker": {
        "systemd": '{"exec-opts": ["native.cgroupdriver=systemd"]}',
        "cgroupfs": '{"exec-opts": ["native.cgroupdriver=cgroupfs"]}',
    },
    "containerd": {
        "systemd": '[plugins."io.containerd.grpc.v1.cri"]\n  SystemdCgroup = true\n',
        "cgroupfs": '[plugins."io.containerd.grpc.v1.cri"]\n  SystemdCgroup = false\n',
    },
    "kubelet": {"systemd": "cgroupDriver: systemd\n", "cgroupfs": "kind: KubeletConfiguration\n"},
}


def mixed(root: Path, version: int = 2, **drivers: str) -> str:
    for name, driver in drivers.items():
        write(root / FILES[name].lstrip("/"), TEXTS[name].get(driver, driver))
    return cgroups.mixed_drivers(FILES, version, root)


@pytest.mark.parametrize("driver", ["systemd", "cgroupfs"])
def test_drivers_that_agree(tmp_path: Path, driver: str) -> None:
    assert mixed(tmp_path) == ""
    assert mixed(tmp_path, docker=driver, containerd=driver, kubelet=driver) == ""


@pytest.mark.parametrize("odd", ["docker", "containerd", "kubelet"])
@pytest.mark.parametrize(("driver", "other"), [("systemd", "cgroupfs"), ("cgroupfs", "systemd")])
def test_one_that_differs_is_refused_in_one_line(tmp_path: Path, odd: str, driver: str, other: str) -> None:
    drivers = {**dict.fromkeys(FILES, driver), odd: other}
    said = mixed(tmp_path, 2, **drivers)
    assert f"{odd} ({FILES[odd]}): {other}" in said
    assert "\n" not in said


def test_what_docker_does_unless_told(tmp_path: Path) -> None:
    assert mixed(tmp_path, version=2, docker="{}", kubelet="systemd") == ""
    assert "docker (/etc/docker.json): cgroupfs" in mixed(tmp_path, version=1, docker="{}", kubelet="systemd")


def test_a_containerd_that_nobody_asks_for_pods(tmp_path: Path) -> None:
    assert mixed(tmp_path, docker="systemd", containerd="cgroupfs") == ""
    assert "containerd" in mixed(tmp_path, kubelet="systemd")
    assert mixed(tmp_path, containerd='disabled_plugins = ["cri"]\n') == ""
    assert mixed(tmp_path, containerd="version = 2\n") == ""


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ({"name": "sandboxes"}, "sandboxes is no slice"),
        ({"name": SANDBOXES, "cpuset": "2-7"}, "the processors 2-7 are asked for, the host has 0-3"),
        ({"name": SANDBOXES, "cpuset": "some"}, "some is no list of processors"),
        ({"name": "postgresql.slice", "services": "postgresql@*", "hugepages_mb": 8}, "needs cgroup version 2"),
    ],
)
def test_what_is_refused(one: Tree, entry: dict[str, Any], complaint: str) -> None:
    said = cgroups.problems({"slices": [entry], "configurations": {}}, one)
    assert len(said) == 1
    assert complaint in said[0]


def test_services_outside_of_their_slice(one: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    write(one.root / "proc/1/status", "Cpus_allowed_list:\t0-3\n")
    write(one.root / "proc/7/status", "Cpus_allowed_list:\t0-3\n")
    units = [
        {"Id": "a", "ControlGroup": "/docker/abc/system.slice/a", "MainPID": "7"},
        {"Id": "b", "ControlGroup": "/docker/abc/postgresql.slice/b", "MainPID": "7"},
    ]
    monkeypatch.setattr(cgroups, "_running", lambda pattern: units)
    entry = {"name": "postgresql.slice", "services": "postgresql@*"}
    assert cgroups.misplaced(entry, one) == ["a"]
    # version 1: the processors are the service's own
    assert cgroups.misplaced({**entry, "cpuset": "1"}, one) == ["a", "b"]
    assert json.dumps(cgroups.limits(entry, one)) == "null"


SHOWN = {
    "Id": SANDBOXES,
    "ActiveState": "active",
    "MemoryMax": str(64 * 2**20 + 5),
    "MemorySwapMax": "0",
    "TasksMax": "70",
    "CPUQuotaPerSecUSec": "1.500000s",
    "CPUWeight": "200",
}
UNLIMITED = {
    **SHOWN,
    **dict.fromkeys(("MemoryMax", "MemorySwapMax", "TasksMax", "CPUQuotaPerSecUSec"), "infinity"),
    "CPUWeight": "[not set]",
}
#: What the kernel has when systemd has told it, by version.
TOLD = {
    1: {
        "memory": ("memory.limit_in_bytes", str(64 * 2**20), "9223372036854771712"),
        "pids": ("pids.max", "70", "max"),
        "cpu": ("cpu.cfs_quota_us", "150000", "-1"),
        "cpu,": ("cpu.shares", "2048", "1024"),
    },
    2: {
        "memory": ("memory.max", str(64 * 2**20), "max"),
        "memory,": ("memory.swap.max", "0", "max"),
        "pids": ("pids.max", "70", "max"),
        "cpu": ("cpu.max", "150000 100000", "max 100000"),
        "cpu,": ("cpu.weight", "200", "100"),
    },
}


@pytest.mark.parametrize("version", ["one", "two"])
def test_limits_that_systemd_has_not_told_the_kernel(
    version: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree: Tree = request.getfixturevalue(version)
    shown = dict(UNLIMITED)
    monkeypatch.setattr(systemd_limits, "_shown", lambda slices: [shown])
    assert systemd_limits.untold(tree, [SANDBOXES]) == []  # no file, no limit
    shown |= SHOWN
    told = TOLD[tree.version]
    assert len(systemd_limits.untold(tree, [SANDBOXES])) == len(told)
    for controller, (file, limited, _) in told.items():
        write(tree.directory(controller.rstrip(","), SANDBOXES) / file, f"{limited}\n")
    assert systemd_limits.untold(tree, [SANDBOXES]) == []
    shown |= UNLIMITED
    found = systemd_limits.untold(tree, [SANDBOXES])
    assert [(limit.path.name, limit.wanted) for limit in found] == [
        (file, unlimited) for file, _, unlimited in told.values()
    ]
    assert {"MemoryMax=infinity", "TasksMax=infinity", "CPUQuota=", "CPUWeight="} <= {
        limit.assignment for limit in found
    }
    assert f"{64 * 2**20}, not " in str(found[0])


def test_times_as_systemd_prints_them() -> None:
    assert [systemd_limits.microseconds(text) for text in ("1.500000s", "333.300ms", "1min 30s")] == [
        1500000,
        333300,
        90000000,
    ]


def test_what_systemd_writes_to_set_a_limit_does_not_stay(one: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    drop_ins = one.root / systemd_limits.RUNTIME / f"{SANDBOXES}.d"
    monkeypatch.setattr(systemd_limits, "_shown", lambda slices: [SHOWN])
    commands = []

    def systemctl(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command[1:])
        if command[1] == "set-property":
            write(drop_ins / "50-TasksMax.conf", "")
            for controller, (file, limited, _unlimited) in TOLD[1].items():
                write(one.directory(controller.rstrip(","), SANDBOXES) / file, f"{limited}\n")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", systemctl)
    of_an_operator = write(drop_ins / "50-CPUWeight.conf", "[Slice]\nCPUWeight=200\n")
    systemd_limits.tell(one, systemd_limits.untold(one, [SANDBOXES]))
    assert commands[0][:3] == ["set-property", "--runtime", SANDBOXES]
    assert "CPUQuota=150%" in commands[0]
    assert commands[1:] == [["daemon-reload"]]
    assert [*drop_ins.iterdir()] == [of_an_operator]


def test_a_limit_of_systemd_that_the_kernel_does_not_take(one: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd_limits, "_shown", lambda slices: [SHOWN])
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 0, "", ""))
    with pytest.raises(LimitError, match=r"pids\.max: max, not 70 as systemd has it.*does not take it"):
        systemd_limits.tell(one, systemd_limits.untold(one, [SANDBOXES]))
