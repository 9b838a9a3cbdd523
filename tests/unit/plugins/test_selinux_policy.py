"""The module selinux_policy, on hosts that are made of files."""

from __future__ import annotations

import bz2
import errno
import hashlib
import json
import os
from pathlib import Path

import pytest
from plugins.module_utils import host_selinux
from plugins.modules import selinux_policy

CIL = b"(type plcontainer_sandbox_t)"
KNOWN = {host_selinux.CONTAINER, selinux_policy.DOMAIN}


class Host:
    """A host's files, and the contexts that its loaded policy knows."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.known = set(KNOWN)
        self.modules = root / "var/lib/selinux/default/active/modules/400"
        write = os.write

        def checked(descriptor: int, data: bytes) -> int:
            if data.rstrip(b"\0").decode() not in self.known:
                raise OSError(errno.EINVAL, "Invalid argument")
            return write(descriptor, data)

        monkeypatch.setattr(os, "write", checked)
        self.file("etc/selinux/config", "# comment\nSELINUX=enforcing\nSELINUXTYPE=default\n")
        self.file("sys/fs/selinux/enforce", "1")
        self.file("sys/fs/selinux/context", "")
        self.file("usr/share/selinux/packages/plcontainer/plcontainer.sha256", hashlib.sha256(CIL).hexdigest() + "\n")
        self.store(bz2.compress(CIL))

    def file(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def store(self, cil: bytes) -> None:
        (self.modules / "plcontainer").mkdir(parents=True, exist_ok=True)
        (self.modules / "plcontainer/cil").write_bytes(cil)

    def look(self) -> selinux_policy.State:
        return selinux_policy.look([], self.root)

    def differences(self, mode: str = "enforcing") -> list[str]:
        return selinux_policy.differences(self.look(), mode)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)


def test_a_host_that_is_as_asked(host: Host) -> None:
    assert host.look().reason == ""
    assert host.differences() == []
    assert host.differences("auto") == []
    host.store(CIL)
    assert host.differences() == [], "an uncompressed store is the same"


def test_a_host_without_selinux_is_left_alone(tmp_path: Path) -> None:
    state = selinux_policy.look([], tmp_path)
    assert state.reason == "the kernel of this host runs without SELinux"
    assert selinux_policy.differences(state, "auto") == []
    assert json.loads(selinux_policy.record(state, "auto")) == {
        "asked": "auto",
        "state": "unavailable",
        "reason": state.reason,
    }
    assert json.loads(selinux_policy.record(state, "disabled"))["state"] == "off"


def test_a_policy_without_containers(host: Host) -> None:
    host.known = set()
    assert host.look().reason == "the policy default of this host knows no containers"
    assert host.differences() == []


def test_a_container_has_no_selinux_of_its_own(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs(host.root)

    class ReadOnly:
        f_flag = real.f_flag | os.ST_RDONLY

    monkeypatch.setattr(os, "statvfs", lambda _: ReadOnly)
    assert host.look().kernel == "disabled"


def test_a_module_that_was_replaced_or_removed(host: Host) -> None:
    host.store(bz2.compress(CIL + b" ; by hand"))
    assert host.differences() == ["the SELinux module plcontainer is not the one of its package"]
    host.store(b"BZh but not bzip2")
    assert host.look().module == "other"
    (host.modules / "plcontainer/cil").unlink()
    assert host.differences() == ["the SELinux module plcontainer is not installed"]
    assert host.differences("disabled") == []


def test_a_module_that_the_kernel_has_not_read(host: Host) -> None:
    host.known = {host_selinux.CONTAINER}
    assert host.differences() == ["the kernel has not loaded the SELinux module plcontainer"]


def test_modes(host: Host) -> None:
    host.file("sys/fs/selinux/enforce", "0")
    assert host.differences() == ["SELinux is permissive"]
    assert host.differences("auto") == []
    assert json.loads(selinux_policy.record(host.look(), "auto"))["state"] == "permissive"
    host.file("etc/selinux/config", "SELINUX=permissive\nSELINUXTYPE=default\n")
    assert "SELinux will be permissive after a restart of the host" in host.differences()
    assert host.differences("permissive") == ["our SELinux domains are confined"]
    (host.modules / "plcontainer_permissive").mkdir()
    assert host.differences("permissive") == []
    assert host.differences("auto") == ["our SELinux domains are permissive"]
    assert host.differences("disabled") == ["the SELinux module plcontainer is installed"]


def test_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conf").touch()
    program = tmp_path / "bin/restorecon"
    program.parent.mkdir()
    program.write_text(
        '#!/bin/sh\nshift\nfor path; do echo "Would relabel $path from x:y:etc_t:s0 to x:y:z_t:s0"; done\necho other\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    assert selinux_policy.mislabelled([str(tmp_path / "gone")]) == []
    assert selinux_policy.mislabelled([str(tmp_path / "conf"), str(tmp_path / "gone")]) == [str(tmp_path / "conf")]
