"""The role storage from an empty device to databases on it, on a host that is a container with a loop device.

The role refuses loop devices by itself; no other device can be had on a machine without spare disks. udev, which names
devices by the UUID of their file system, does not run in containers: a unit of the test stands in for it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from builder.description import image_releases
from builder.images import build_image
from builder.project import ROOT
from tests.support.segment_host import recap, wait_until

MIB = 2**20
PLACE = "/var/lib/databases"
PLAYBOOK = """\
- hosts: all
  gather_facts: false
  roles: [storage]
"""
WATCH = """\
[Path]
PathChanged={device}
"""
NAME = """\
[Service]
Type=oneshot
ExecStartPre=/bin/mkdir -p /dev/disk/by-uuid
ExecStart=/bin/sh -c 'u=$(blkid --probe -o value -s UUID {device}) && ln -sf {device} /dev/disk/by-uuid/$u'
"""

pytestmark = pytest.mark.skipif(os.geteuid() != 0 or shutil.which("losetup") is None, reason="needs root and losetup")


def run(*command: str, check: bool = True) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=check).stdout


@dataclass
class Host:
    """A host, and an empty device that is the only one it has."""

    name: str
    device: str
    scratch: Path

    def inside(self, *command: str, check: bool = True) -> str:
        return run("docker", "exec", self.name, *command, check=check).strip()

    def play(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run the role, with a volume on the device that has `options` and the rest of the role's options."""
        settings = {name: options.pop(name) for name in [*options] if name.startswith("storage_")}
        volume = {"path": PLACE, "device": self.device, "options": ["noatime", "nosuid"], **options}
        (self.scratch / "site.yml").write_text(PLAYBOOK)
        variables = {
            "ansible_connection": "community.docker.docker",
            "ansible_python_interpreter": "/usr/bin/python3",
            "storage_volumes": [volume],
            "storage_least_gb": 0.1,
            "storage_warn_gb": 0.1,
            "storage_allow_loop_devices": True,
            **settings,
        }
        program = str(Path(sys.executable).parent / "ansible-playbook")
        output = {"ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default", "ANSIBLE_CALLBACK_RESULT_FORMAT": "json"}
        return subprocess.run(
            [program, "-i", f"{self.name},", str(self.scratch / "site.yml"), "-e", json.dumps(variables), *arguments],
            cwd=ROOT, env={**os.environ, **output},
            capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def changed(self, *arguments: str, **options: Any) -> int:
        """How much a run, which must go well, has changed."""
        done = self.play(*arguments, **options)
        assert done.returncode == 0, done.stdout + done.stderr
        return recap(done.stdout)[self.name]["changed"]

    def refused(self, **options: Any) -> str:
        """Why a run is refused, which must leave the device as it is."""
        before = self.digest()
        done = self.play(**options)
        assert done.returncode != 0, done.stdout
        assert recap(done.stdout)[self.name]["changed"] == 0
        assert self.digest() == before
        found = re.search(r'"problems": (\[.*?\])', done.stdout, re.DOTALL)
        assert found, done.stdout + done.stderr
        (problem,) = json.loads(found[1])
        return str(problem)

    def digest(self) -> str:
        with Path(self.device).open("rb") as stream:
            return hashlib.sha256(stream.read(8 * MIB)).hexdigest()


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    if "\txfs\n" not in Path("/proc/filesystems").read_text():
        pytest.skip("the kernel has no xfs")
    scratch = tmp_path_factory.mktemp("storage")
    name = f"storage-{secrets.token_hex(4)}"
    image = build_image("lab_host", image_releases("lab_host")[-1], say=print)
    image.load()
    disk = scratch / "disk"
    with disk.open("wb") as file:
        file.truncate(400 * MIB)
    with ExitStack() as stack:
        device = run("losetup", "--find", "--show", str(disk)).strip()
        stack.callback(run, "losetup", "--detach", device)
        run("docker", "network", "create", name)
        stack.callback(run, "docker", "network", "rm", name)
        legacy = ["SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1", "systemd.unified_cgroup_hierarchy=0"]
        version_2 = run("docker", "info", "--format", "{{.CgroupVersion}}").strip() == "2"
        stack.callback(run, "docker", "rm", "--force", "--volumes", name, check=False)
        run(
            "docker", "run", "--detach", "--name", name, "--network", name, "--device", device,
            *(f"--cap-add={one}" for one in ("SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE")),
            "--security-opt=seccomp=unconfined", "--security-opt=apparmor=unconfined", "--cgroupns=host",
            "--volume=/sys/fs/cgroup:/sys/fs/cgroup:rw", "--tmpfs=/run", "--tmpfs=/tmp:exec,mode=1777",
            image.id, "/sbin/init", *(() if version_2 else legacy),
        )  # fmt: skip
        made = Host(name, device, scratch)
        wait_until(lambda: made.inside("systemctl", "is-system-running", check=False) == "running", 60, "it is up")
        for unit, text in (("name_device.path", WATCH), ("name_device.service", NAME)):
            command = ["docker", "exec", "-i", name, "tee", f"/run/systemd/system/{unit}"]
            subprocess.run(command, input=text.format(device=device), text=True, check=True, capture_output=True)
        made.inside("systemctl", "daemon-reload")
        made.inside("systemctl", "start", "name_device.path")
        yield made
        # A mounted device cannot be given back.
        made.inside("umount", PLACE, check=False)


def test_1_an_empty_device_is_refused_without_a_word_on_it(host: Host) -> None:
    loop = host.refused(make_file_system=True, storage_allow_loop_devices=False)
    assert loop == f"{host.device} is on the loop device {host.device}, slow and easily lost; give it a disk"
    assert host.refused() == f"{host.device} is empty; make_file_system: true makes an xfs there"


def test_2_check_mode_makes_nothing(host: Host) -> None:
    before = host.digest()
    assert host.changed("--check", make_file_system=True) > 0
    assert host.digest() == before


def test_3_it_is_made_mounted_and_then_left_alone(host: Host) -> None:
    assert host.changed(make_file_system=True, mode="0750") > 0
    kind, options = host.inside("findmnt", "--noheadings", "--output", "FSTYPE,OPTIONS", PLACE).split()
    assert kind == "xfs"
    assert {"noatime", "nosuid"} <= set(options.split(","))
    assert host.inside("stat", "-c", "%a", PLACE) == "750"
    assert host.inside("blkid", "--probe", "-o", "value", "-s", "LABEL", host.device) == "caisson"
    for arguments in ((), ("--check",)):
        assert host.changed(*arguments, make_file_system=True, mode="0750") == 0


def test_4_what_was_written_is_there_after_the_host_forgot_all_about_it(host: Host) -> None:
    host.inside("sh", "-c", f"echo kept > {PLACE}/file")
    unit = host.inside("systemd-escape", "--path", "--suffix=mount", PLACE)
    host.inside("systemctl", "disable", "--now", unit)
    host.inside("rm", f"/etc/systemd/system/{unit}")
    assert host.changed(make_file_system=True) > 0, "our label tells that it is ours"
    assert host.inside("cat", f"{PLACE}/file") == "kept"


def test_5_other_options_are_taken_over_while_it_is_mounted(host: Host) -> None:
    before = host.inside("stat", "-c", "%i", f"{PLACE}/file")
    assert host.changed(options=["noatime", "nosuid", "nodev"]) > 0
    assert "nodev" in host.inside("findmnt", "--noheadings", "--output", "OPTIONS", PLACE)
    assert host.inside("stat", "-c", "%i", f"{PLACE}/file") == before
    assert host.changed(options=["noatime", "nosuid", "nodev"]) == 0


def test_6_too_little_space_is_told(host: Host) -> None:
    answer = host.refused(options=["noatime", "nosuid", "nodev"], storage_thresholds={PLACE: {"least_gb": 1}})
    assert answer.startswith(f"{PLACE}: 0.")
    assert answer.endswith(" GiB free, 1 are wanted")


def test_7_what_holds_something_else_is_left_as_it_is(host: Host) -> None:
    host.inside("umount", PLACE)
    run("wipefs", "--all", host.device)
    run("mkswap", host.device)
    answer = host.refused(make_file_system=True, adopt=True)
    assert answer == f"{host.device} holds swap, not xfs; it is left as it is. wipefs makes it empty"
