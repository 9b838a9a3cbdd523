"""The module storage_volumes: what it refuses, what it takes for a difference, and the units it wants."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from plugins.modules import storage_volumes
from plugins.modules.storage_volumes import Findings, look, unit_name, unit_text

DEVICE = {"path": "/srv/data", "device": "/dev/disk"}
OURS = {"TYPE": "xfs", "UUID": "1-2", "LABEL": "caisson"}
NUMBER = "259:1"


class Made(storage_volumes.Host):
    """A host below a directory, with one block device."""

    def __init__(self, root: Path) -> None:
        self.answer: tuple[int, dict[str, str]] = (2, {})
        super().__init__(str(root), lambda _device: self.answer)
        self.mounted()
        self.write("/dev/disk", "\0" * 4096)
        self.write("/sys/devices/nvme/nvme0n1/dev", NUMBER)
        self.link(f"/sys/dev/block/{NUMBER}", "/sys/devices/nvme/nvme0n1")
        self.path("/srv").mkdir()

    def number(self, device: str) -> str | None:
        status = self.path(device).stat()
        return NUMBER if stat.S_ISREG(status.st_mode) else None

    def write(self, name: str, text: str) -> Path:
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def link(self, name: str, target: str) -> None:
        self.path(name).parent.mkdir(parents=True, exist_ok=True)
        self.path(name).symlink_to(self.path(target))

    def mounted(self, *lines: str) -> None:
        self.write(
            "/proc/self/mountinfo", "".join(f"{line}\n" for line in ("1 0 8:1 / / rw - ext4 /dev/sda1 rw", *lines))
        )

    def found(self, *volumes: dict[str, Any], allow_loop: bool = False) -> tuple[list[dict[str, Any]], Findings]:
        self._allow_loop = allow_loop
        return look(self, list(volumes), [])

    def finished(self, volume: dict[str, Any]) -> None:
        """Leave a host as a run leaves it."""
        (known,), _ = self.found(volume)
        self.path(volume["path"]).mkdir(parents=True, exist_ok=True)
        self.write(f"/etc/systemd/system/{known['unit']}", known["text"])
        self.link(f"/etc/systemd/system/local-fs.target.requires/{known['unit']}", "/etc/systemd/system")
        self.mounted(f"2 1 {NUMBER} / {volume['path']} rw,noatime - xfs /dev/disk rw,prjquota")


@pytest.fixture
def host(tmp_path: Path) -> Made:
    return Made(tmp_path)


def only(out: Findings) -> str:
    assert len(out.problems) == 1, out
    return out.problems[0]


def test_an_empty_device(host: Made) -> None:
    _, out = host.found(DEVICE)
    assert only(out) == "/dev/disk is empty; make_file_system: true makes an xfs there"
    (volume,), out = host.found({**DEVICE, "make_file_system": True})
    assert out.problems == []
    assert volume["needs_file_system"] is True
    assert volume["make_options"] == "-L caisson"
    assert out.differences == ["/srv/data: /dev/disk has no file system yet", "/srv/data: not mounted"]


def test_from_a_file_system_to_a_host_that_is_as_wanted(host: Made) -> None:
    host.answer = (0, OURS)
    wanted = {**DEVICE, "options": ["noatime", "prjquota"]}
    (volume,), out = host.found(wanted)
    assert out.differences == [
        "/srv/data: /etc/systemd/system/srv-data.mount is not there",
        "/srv/data: not mounted",
    ]
    assert "What=/dev/disk/by-uuid/1-2\n" in volume["text"]
    host.finished(wanted)
    (volume,), out = host.found(wanted)
    assert (out.problems, out.differences, volume["mounted"]) == ([], [], True)
    _, out = host.found({**wanted, "options": ["noatime", "noexec"]})
    assert out.differences == [
        "/srv/data: /etc/systemd/system/srv-data.mount is another one",
        "/srv/data: mounted without noexec",
    ]
    host.path("/etc/systemd/system/local-fs.target.requires/srv-data.mount").unlink()
    assert host.found(wanted)[1].differences == ["/srv/data: not mounted when the host starts"]


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (
            (0, {"TYPE": "ext4", "UUID": "1"}),
            "/dev/disk holds ext4, not xfs; it is left as it is. wipefs makes it empty",
        ),
        ((0, {"TYPE": "LVM2_member"}), "/dev/disk holds LVM2_member, not xfs; "),
        ((0, {"PTTYPE": "gpt"}), "/dev/disk holds partitions (gpt), not xfs; "),
        ((0, {}), "/dev/disk holds partitions (unknown), not xfs; "),
        ((8, {}), "/dev/disk holds traces of more than one thing"),
        ((4, {}), "/dev/disk cannot be read by blkid (status 4)"),
        ((0, {**OURS, "LABEL": "payroll"}), "/dev/disk holds an xfs that is not ours (no label caisson)"),
    ],
)
def test_devices_that_hold_something(host: Made, answer: tuple[int, dict[str, str]], problem: str) -> None:
    host.answer = answer
    volumes, out = host.found({**DEVICE, "make_file_system": True})
    assert only(out).startswith(problem)
    assert volumes == [], "nothing may be made there"


def test_what_is_adopted(host: Made) -> None:
    host.answer = (0, {"TYPE": "xfs", "UUID": "1-2"})
    assert host.found({**DEVICE, "adopt": True})[1].problems == []
    host.finished({**DEVICE, "adopt": True})
    assert host.found(DEVICE)[1].problems == [], "its unit says that it was mounted here before"


def test_a_device_that_cannot_be_read_is_not_empty(host: Made) -> None:
    host.write("/dev/disk", "")
    assert only(host.found({**DEVICE, "make_file_system": True})[1]) == "/dev/disk has no size"
    host.path("/dev/disk").unlink()
    assert only(host.found(DEVICE)[1]) == "/dev/disk cannot be had: No such file or directory"
    host.path("/dev/disk").mkdir()
    assert only(host.found(DEVICE)[1]) == "/dev/disk is no block device"


def test_a_device_in_use(host: Made) -> None:
    host.write("/sys/devices/nvme/nvme0n1/holders/dm-0", "")
    assert only(host.found(DEVICE)[1]) == "/dev/disk is part of /dev/dm-0"
    host.path("/sys/devices/nvme/nvme0n1/holders/dm-0").unlink()
    host.mounted(f"2 1 {NUMBER} / /mnt rw - xfs /dev/disk rw")
    assert only(host.found(DEVICE)[1]) == "/dev/disk is mounted at /mnt"


@pytest.mark.parametrize("chain", ["itself", "partition", "mapping", "partition of a mapping"])
def test_loop_devices_are_found_through_what_lies_on_them(host: Made, chain: str) -> None:
    node = host.path(f"/sys/dev/block/{NUMBER}")
    node.unlink()
    host.write("/sys/devices/virtual/block/loop3/dev", "7:3")
    host.write("/sys/devices/virtual/block/loop3/loop3p1/partition", "1")
    host.link("/sys/devices/virtual/block/dm-0/slaves/loop3p1", "/sys/devices/virtual/block/loop3/loop3p1")
    host.write("/sys/devices/virtual/block/dm-0/dm-0p1/partition", "1")
    places = {
        "itself": "loop3",
        "partition": "loop3/loop3p1",
        "mapping": "dm-0",
        "partition of a mapping": "dm-0/dm-0p1",
    }
    host.link(f"/sys/dev/block/{NUMBER}", f"/sys/devices/virtual/block/{places[chain]}")
    wanted = {**DEVICE, "make_file_system": True}
    assert only(host.found(wanted)[1]).startswith("/dev/disk is on the loop device /dev/loop3")
    assert host.found(wanted, allow_loop=True)[1].problems == []


def test_a_directory_on_a_loop_device(host: Made) -> None:
    directory = host.path("/srv/large")
    directory.mkdir()
    number = directory.stat().st_dev
    host.write("/sys/devices/virtual/block/loop3/dev", "")
    host.link(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}", "/sys/devices/virtual/block/loop3")
    wanted = {"path": "/srv/data", "directory": "/srv/large"}
    assert only(host.found(wanted)[1]).startswith("/srv/large is on the loop device /dev/loop3")


def test_a_directory_that_is_bound(host: Made) -> None:
    wanted = {"path": "/srv/data", "directory": "/srv/large/data", "options": ["noexec"]}
    (volume,), out = host.found(wanted)
    assert out.problems == []
    assert "Type=none\nOptions=bind,noexec\n" in volume["text"]
    assert "RequiresMountsFor=/srv/large/data\n" in volume["text"]
    host.write("/srv/large/data/payroll", "")
    assert only(host.found(wanted)[1]).startswith("/srv/large/data is not empty and not ours; ")
    assert host.found({**wanted, "adopt": True})[1].problems == []
    host.write(f"/etc/systemd/system/{volume['unit']}", volume["text"])
    assert host.found(wanted)[1].problems == [], "an earlier run has bound it"


def test_what_is_in_the_way(host: Made) -> None:
    host.answer = (0, OURS)
    host.write("/srv/data/17/main", "")
    assert only(host.found(DEVICE)[1]).startswith("/srv/data is not empty, and what is mounted there would hide")
    host.mounted("2 1 8:2 / /srv/data rw - ext4 /dev/sdb rw")
    assert only(host.found(DEVICE)[1]) == "/srv/data has /dev/sdb (ext4) mounted on it already"
    host.mounted()
    host.path("/srv/data/17/main").unlink()
    host.path("/srv/data/17").rmdir()
    host.path("/srv/data").rmdir()
    host.link("/srv/data", "/srv")
    assert only(host.found(DEVICE)[1]) == "/srv/data is no directory"


@pytest.mark.parametrize(
    ("volume", "problem"),
    [
        ({"path": "srv", "tmpfs_mb": 1}, "'srv' is not an absolute path"),
        ({"path": "/srv/../etc", "tmpfs_mb": 1}, "'/srv/../etc' is not an absolute path"),
        ({"path": "/srv\n[Mount]", "tmpfs_mb": 1}, "'/srv\\n[Mount]' is not an absolute path"),
        ({"path": "/", "tmpfs_mb": 1}, "'/' is not an absolute path"),
        ({"path": "/proc/x", "tmpfs_mb": 1}, "/proc/x is the system's own"),
        ({"path": "/srv/a"}, "/srv/a: one of device, directory, tmpfs_mb is needed"),
        ({"path": "/srv/a", "tmpfs_mb": 1, "device": "/dev/disk"}, "/srv/a: one of device, directory, tmpfs_mb"),
        ({"path": "/srv/a", "tmpfs_mb": 1, "size": 2}, "/srv/a: unknown size; known are adopt, "),
        ({"path": "/srv/a", "directory": "/srv/a/b"}, "/srv/a: /srv/a/b is not a place beside it"),
        ({"path": "/srv/a/b", "directory": "/srv/a"}, "/srv/a/b: /srv/a is not a place beside it"),
    ],
)
def test_volumes_that_make_no_sense(host: Made, volume: dict[str, Any], problem: str) -> None:
    assert only(host.found(volume)[1]).startswith(problem)


def test_two_volumes_in_one_place(host: Made) -> None:
    host.answer = (0, OURS)
    host.link("/dev/other-name", "/dev/disk")
    _, out = host.found(DEVICE, {**DEVICE, "path": "/srv/b", "device": "/dev/other-name"})
    assert only(out) == "/dev/other-name is in two volumes"
    assert (
        only(host.found({"path": "/srv/a", "tmpfs_mb": 1}, {"path": "/srv/a", "tmpfs_mb": 2})[1])
        == "/srv/a is in two volumes"
    )


def test_free_space(host: Made) -> None:
    free = os.statvfs(host.root).f_bavail * os.statvfs(host.root).f_frsize / 2**30

    def told(least: float, warn: float, *volumes: dict[str, Any]) -> Findings:
        return look(host, list(volumes), [{"path": "/srv/deep/er", "least_gb": least, "warn_gb": warn}])[1]

    assert told(0, 0) == Findings()
    (warning,) = told(0, free * 2).warnings
    assert warning.startswith("storage: /srv/deep/er: ")
    assert warning.endswith(f" GiB free, {free * 2:g} would be good")
    assert only(told(free * 2, 0)).endswith(f" GiB free, {free * 2:g} are wanted")
    # What is to be mounted there has the space.
    assert told(free * 2, 0, {"path": "/srv/deep", "tmpfs_mb": 1}).problems == []


@pytest.mark.parametrize(
    "path", ["/var/lib/postgresql", "/srv/a-b", "/srv/.hidden", "/.hidden", "/srv/a_b.c", "/srv/x@y:z", "/srv/a+b"]
)
def test_names_of_units_are_systemd_s(path: str) -> None:
    done = subprocess.run(
        ["systemd-escape", "--path", "--suffix=mount", path], capture_output=True, text=True, check=True
    )
    assert unit_name(path) == done.stdout.strip()


def test_quotas_need_a_file_system_with_them(host: Made) -> None:
    wanted = {**DEVICE, "make_file_system": True, "file_system": "ext4", "options": ["prjquota"]}
    assert host.found(wanted)[0][0]["make_options"] == "-L caisson -O quota,project"


def test_memory() -> None:
    text = unit_text({"path": "/srv/shuffle", "tmpfs_mb": 64}, "tmpfs")
    assert "What=tmpfs\nWhere=/srv/shuffle\nType=tmpfs\nOptions=size=64m,nodev,nosuid\n" in text


def test_as_ansible_runs_it(tmp_path: Path) -> None:
    def run(**options: Any) -> dict[str, Any]:
        asked = json.dumps({"ANSIBLE_MODULE_ARGS": options})
        command = [sys.executable, storage_volumes.__file__]
        done = subprocess.run(command, input=asked, capture_output=True, text=True, check=False)
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    good = run(volumes=[{"path": f"{tmp_path}/a", "tmpfs_mb": 1}], directories=[])
    assert good["changed"] is False
    assert good["volumes"][0]["mounted"] is False
    bad = run(volumes=[{"path": f"{tmp_path}/a", "device": "/dev/null"}])
    assert bad["failed"] is True
    assert bad["msg"] == "storage: /dev/null is no block device"
